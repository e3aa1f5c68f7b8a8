//! The arguments of the subcommands for events, and their help texts.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{Args, Subcommand};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::events::place::PlaceArgs;
use crate::events::text;

/// The tail of every help text.
macro_rules! exit_codes {
    ($own:literal) => {
        concat!(
            "\nExit codes: ",
            $own,
            "2 bad usage or bad input (nothing was done); 125 tantara itself failed. ",
            "A signal ends it as that signal (as process 1 of a container: with 128 plus its number)."
        )
    };
}
#[derive(Subcommand, Debug)]
pub(crate) enum Verb {
    /// Set events: everyone who waits for them is released
    ///
    /// An event that does not exist yet is made, so it does not matter who comes first. Setting a set event changes
    /// nothing.
    #[command(after_long_help = concat!("\
Examples:
  tantara set db-ready                 whoever waits goes on, and so does whoever comes later
  tantara set db-ready cache-ready     several, from left to right
", exit_codes!("0 set; ")))]
    Set(Names),

    /// Clear events: whoever comes from now on waits
    ///
    /// Nobody who was released is called back. An event that does not exist yet is made.
    #[command(after_long_help = concat!("\
Examples:
  tantara clear db-ready
", exit_codes!("0 cleared; ")))]
    Clear(Names),

    /// Set events and clear them at once: who waits now is released, who comes later waits
    #[command(after_long_help = concat!("\
Examples:
  tantara pulse tick                   everyone who waits goes on, once
", exit_codes!("0 done; ")))]
    Pulse(Names),

    Wait(Wait),

    /// Tell by the exit code whether an event is set
    ///
    /// An event that does not exist is not set.
    #[command(after_long_help = concat!("\
Examples:
  tantara is-set db-ready && echo yes
  until tantara is-set db-ready; do work; done
", exit_codes!("0 set; 1 not set; ")))]
    IsSet(Name),

    /// List the events: name, state, when and by whom it was last set, who waits and since when
    ///
    /// A waiter shows up when it has waited for a twentieth of a second. Processes of other PID namespaces (other
    /// containers) are shown without number and command.
    #[command(after_long_help = concat!("\
Examples:
  tantara ls
  tantara ls --json | jq -r '.[] | select(.state == \"set\") | .name'
", exit_codes!("0 listed; ")))]
    Ls {
        /// Print a JSON array, with an object for each event
        #[arg(long)]
        json: bool,
    },

    /// Print a line for every change of events, as it happens
    ///
    /// Without names: of all events, those that are made meanwhile included. An event that does not exist yet, or no
    /// more, is waited for. No set goes unseen, not even a pulse. Where several changes come faster than they can be
    /// told apart they are told in one line, which says how many sets were merged in it.
    #[command(after_long_help = concat!("\
Examples:
  tantara watch
  tantara watch db-ready --json | while read -r change; do ...; done

A line is: the time, the name, and set, cleared, pulsed (set, and cleared again) or removed. With --json it is an \
object with at, name, change, state, and sets: how many sets this line tells of.
", exit_codes!("0 nobody reads any more; ")))]
    Watch {
        /// The events
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete_name))]
        names: Vec<String>,

        /// Print a JSON object in each line
        #[arg(long)]
        json: bool,
    },

    /// Remove events: whoever waits for them is told so
    ///
    /// Nothing is removed unless all of them exist.
    #[command(after_long_help = concat!("\
Examples:
  tantara rm db-ready
", exit_codes!("0 removed; ")))]
    Rm(Names),
}

#[derive(Args, Debug)]
pub(crate) struct Names {
    /// The events
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Name {
    /// The event
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete_name))]
    pub(crate) name: String,
}

/// Wait until events are set; then, if a command is given, become that command
///
/// It waits for all of the events, each of which must be set at some moment of the wait, or with --any for the first.
/// An event that does not exist yet is made, so it does not matter who comes first; with --timeout 0 nothing is made.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  tantara wait db-ready
  tantara wait db-ready --timeout 30s -- ./serve --port 80   never runs after a timeout
  tantara wait --any done failed                             prints which one it was
  tantara wait db-ready --timeout 0 || echo not yet          looks, and does not wait

Durations: 30 (seconds), 1.5s, 500ms, 2m, 1h30m.

An event in a cluster outlasts that the cluster cannot be reached; after ten seconds of that, standard error says so.
With --timeout the cluster is tried to be reached until the time has passed (125 then), and without it for \
--connect-timeout.

The command replaces tantara: it has the same process id, and its exit code is its own.

Exit codes: 0 set; 124 the time has passed; 126 the command cannot be executed; 127 it is not found; 2 bad usage \
or bad input (nothing was waited for); 125 tantara itself failed, or an event was removed. A signal ends it as that \
signal (as process 1 of a container: with 128 plus its number).")]
pub(crate) struct Wait {
    /// The events
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,

    /// Wait for the first of them, and print its name
    #[arg(long)]
    pub(crate) any: bool,

    /// Give up after DUR, with exit code 124: 30 (seconds), 1.5s, 500ms, 2m, 1h30m; 0 only looks
    #[arg(long, value_name = "DUR", value_parser = text::duration, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,

    /// Say nothing but what went wrong
    #[arg(long, short)]
    pub(crate) quiet: bool,

    /// The command that this becomes when the wait is over, and its arguments
    #[arg(value_name = "CMD", last = true)]
    pub(crate) command: Vec<OsString>,
}

/// Completes the name of an event that exists.
fn complete_name(begun: &OsStr) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy();
    let names = PlaceArgs::of_unfinished_line(std::env::args_os()).known_names();
    names.into_iter().filter(|name| name.starts_with(&*begun)).map(CompletionCandidate::new).collect()
}

impl Verb {
    /// How long whoever asks is willing to wait for an answer at all.
    pub(crate) fn patience(&self) -> Option<Duration> {
        match self {
            Verb::Wait(wait) => wait.timeout,
            _ => None,
        }
    }

    pub(crate) fn names(&self) -> &[String] {
        match self {
            Verb::Set(names) | Verb::Clear(names) | Verb::Pulse(names) | Verb::Rm(names) => &names.names,
            Verb::Wait(wait) => &wait.names,
            Verb::Watch { names, .. } => names,
            Verb::IsSet(name) => std::slice::from_ref(&name.name),
            Verb::Ls { .. } => &[],
        }
    }
}
