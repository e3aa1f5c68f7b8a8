//! The arguments of the subcommands for events, and their help texts.

use std::ffi::{OsStr, OsString};
use std::time::Duration;

use clap::{Args, Subcommand};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::events::place::PlaceArgs;
use crate::events::text;

/// The end of every help text.
macro_rules! exit_codes {
    ($own:literal) => {
        concat!(
            "\nExit codes: ",
            $own,
            "2 bad usage or bad input (nothing was done); 125 tantara itself failed. ",
            "A signal ends the process as that signal (process 1 of a container: with 128 plus its number)."
        )
    };
}

#[derive(Subcommand, Debug)]
pub(crate) enum Action {
    /// Set events and release everyone who waits for them
    ///
    /// An event that does not exist is created, so set and wait may come in either order. Setting an event that is set
    /// has no effect.
    #[command(after_long_help = concat!("\
Examples:
  tantara set db-ready                 releases those who wait now and those who wait later
  tantara set db-ready cache-ready     several, from left to right
", exit_codes!("0 set; ")))]
    Set(Names),

    /// Clear events, so that later waits block
    ///
    /// It does not affect waits that were released. An event that does not exist is created.
    #[command(after_long_help = concat!("\
Examples:
  tantara clear db-ready
", exit_codes!("0 cleared; ")))]
    Clear(Names),

    /// Set and clear events in one step, which releases only those who wait now
    #[command(after_long_help = concat!("\
Examples:
  tantara pulse tick                   releases those who wait now
", exit_codes!("0 done; ")))]
    Pulse(Names),

    Wait(Wait),

    Hold(Hold),

    /// Exit with 0 if an event is set, with 1 if not
    ///
    /// An event that does not exist is not set, and is not created.
    #[command(after_long_help = concat!("\
Examples:
  tantara is-set db-ready && echo yes
  until tantara is-set db-ready; do work; done
", exit_codes!("0 set; 1 not set; ")))]
    IsSet(Name),

    /// List events: name, state, last set, and who waits since when
    ///
    /// A wait is listed once it has lasted for 50 milliseconds. Processes of other PID namespaces, such as other
    /// containers, are listed without process ID and command.
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
    /// Without names, all events are watched, also those that are created later. An event that does not exist may be
    /// watched. Sets are never missed, not even pulses. Changes that follow each other too fast are merged into one
    /// line, which contains the number of sets.
    #[command(after_long_help = concat!("\
Examples:
  tantara watch
  tantara watch db-ready --json | while read -r change; do ...; done

A line contains the time, the name, and set, cleared, pulsed (set and cleared again) or removed. With --json it is an \
object with at, name, change, state and sets, the number of sets that the line reports.
", exit_codes!("0 standard output was closed; ")))]
    Watch {
        /// The events
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete_name))]
        names: Vec<String>,

        /// Print a JSON object in each line
        #[arg(long)]
        json: bool,
    },

    /// Remove events; processes that wait for them get an error
    ///
    /// Nothing is removed unless all of the events exist.
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

/// Wait until events are set, or clear; then, if a command is given, become that command
///
/// It waits for all of the events, each of which must be set at some moment of the wait, or with --any for the first.
/// An event that does not exist is created, so set and wait may come in either order. With --timeout 0 and with --unset
/// nothing is created.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  tantara wait db-ready
  tantara wait db-ready --timeout 30s -- ./serve --port 80   never runs after a timeout
  tantara wait --any done failed                             prints the name of the event that was set
  tantara wait db-ready --timeout 0 || echo not yet          checks without waiting
  tantara wait --unset maintenance -- ./report               as soon as nobody sets or holds it
  while tantara wait --next reload; do ./reload; done        for every set to come, also of a set event

Durations: 30 (seconds), 1.5s, 500ms, 2m, 1h30m, 1d.

A wait survives outages of the cluster; an outage of more than ten seconds is reported on standard error. Connecting \
is retried until --timeout, if it is given, and else until --connect-timeout. If it fails, the exit code is 125.

The command replaces tantara: it keeps the process ID, and its exit code is the exit code.

Exit codes: 0 set; 124 timeout; 126 the command cannot be executed; 127 the command is not found; 2 bad usage or bad \
input (nothing was done); 125 tantara itself failed, or an event was removed. A signal ends the process as that \
signal (process 1 of a container: with 128 plus its number).")]
pub(crate) struct Wait {
    /// The events
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,

    /// Wait for the first of the events, and print its name
    #[arg(long)]
    pub(crate) any: bool,

    /// Wait until the events are clear: neither set nor held
    #[arg(long, conflicts_with = "next")]
    pub(crate) unset: bool,

    /// Wait for a set that begins after the wait, also of an event that is set
    #[arg(long)]
    pub(crate) next: bool,

    /// Exit with 124 after DUR: 30 (seconds), 1.5s, 500ms, 2m, 1h30m, 1d; 0 does not wait
    #[arg(long, value_name = "DUR", value_parser = text::duration, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,

    /// Print nothing but errors
    #[arg(long, short)]
    pub(crate) quiet: bool,

    /// The command to become when the wait is over, and its arguments
    #[arg(value_name = "CMD", last = true)]
    pub(crate) command: Vec<OsString>,
}

/// Keep events set while a command runs
///
/// The events are set when the command starts, and clear when it or tantara ends, by any signal. An event that is held
/// several times, or that was also set, stays set until the last hold ends and it is cleared. A clear ends no hold.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  tantara hold db-up -- postgres -D data         db-up is set while postgres runs
  tantara hold maintenance -- ./upgrade          others run tantara wait --unset maintenance
  tantara hold busy -- sh -c 'sleep 10'

Signals are passed on to the command, but for those that its terminal sends to both. If tantara is killed by SIGKILL, \
which no process can pass on, the events are clear at once and the command goes on. With --etcd that takes up to ten \
seconds, and a hold that an outage of the cluster has ended begins again after it.

As process 1 of a container, tantara also collects orphaned processes that have ended.

Exit codes: that of the command, or 128 plus the number of the signal that ended it (HUP, INT and TERM end tantara as \
well); 126 the command cannot be executed; 127 it is not found (nothing was set); 2 bad usage or bad input (nothing \
was done); 125 tantara itself failed.")]
pub(crate) struct Hold {
    /// The events
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,

    /// The command to run, and its arguments
    #[arg(value_name = "CMD", last = true)]
    pub(crate) command: Vec<OsString>,
}

/// Completes the names of existing events.
fn complete_name(begun: &OsStr) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy();
    let names = PlaceArgs::of_unfinished_line(std::env::args_os()).known_names();
    names.into_iter().filter(|name| name.starts_with(&*begun)).map(CompletionCandidate::new).collect()
}

impl Action {
    /// The time limit of the whole command, if there is one.
    pub(crate) fn time_limit(&self) -> Option<Duration> {
        match self {
            Action::Wait(wait) => wait.timeout,
            _ => None,
        }
    }

    pub(crate) fn names(&self) -> &[String] {
        match self {
            Action::Set(names) | Action::Clear(names) | Action::Pulse(names) | Action::Rm(names) => &names.names,
            Action::Wait(wait) => &wait.names,
            Action::Hold(hold) => &hold.names,
            Action::Watch { names, .. } => names,
            Action::IsSet(name) => std::slice::from_ref(&name.name),
            Action::Ls { .. } => &[],
        }
    }
}
