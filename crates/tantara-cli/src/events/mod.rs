//! The verbs for events between processes: what can be said, and where the events lie that they speak of.

mod list;
mod remove;
mod signal;
mod text;
mod wait;
mod watch;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use tantara::SharedEvent;

use crate::exit::Failure;

/// The tail of every help text.
macro_rules! exit_codes {
    ($own:literal) => {
        concat!(
            "\nExit codes: ",
            $own,
            "2 bad usage or bad input (nothing was done); 125 tantara itself failed. ",
            "A signal ends it as that signal."
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
    /// A waiter shows up when it has waited for a twentieth of a second.
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
    names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Name {
    /// The event
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete_name))]
    name: String,
}

/// Wait until events are set; then, if a command is given, become that command
///
/// It waits for all of the events, each of which must be set at some moment of the wait, or with --any for the first.
/// An event that does not exist yet is made, so it does not matter who comes first.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  tantara wait db-ready
  tantara wait db-ready --timeout 30s -- ./serve --port 80   never runs after a timeout
  tantara wait --any done failed                             prints which one it was
  tantara wait db-ready --timeout 0 || echo not yet          looks, and does not wait

Durations: 30 (seconds), 1.5s, 500ms, 2m, 1h30m.

The command replaces tantara: it has the same process id, and its exit code is its own.

Exit codes: 0 set; 124 the time has passed; 126 the command cannot be executed; 127 it is not found; 2 bad usage \
or bad input (nothing was waited for); 125 tantara itself failed, or an event was removed. A signal ends it as that \
signal.")]
pub(crate) struct Wait {
    /// The events
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(complete_name))]
    names: Vec<String>,

    /// Wait for the first of them, and print its name
    #[arg(long)]
    any: bool,

    /// Give up after DUR, with exit code 124: 30 (seconds), 1.5s, 500ms, 2m, 1h30m; 0 only looks
    #[arg(long, value_name = "DUR", value_parser = text::duration, allow_negative_numbers = true)]
    timeout: Option<Duration>,

    /// Say nothing but what went wrong
    #[arg(long, short)]
    quiet: bool,

    /// The command that this becomes when the wait is over, and its arguments
    #[arg(value_name = "CMD", last = true)]
    command: Vec<OsString>,
}

/// Where the events lie.
#[derive(Debug)]
pub(crate) struct Place {
    /// Named by the user, or the default.
    named: Option<PathBuf>,
    directory: PathBuf,
}

impl Place {
    /// The directory that was named, by an argument or by the environment. An empty variable is as good as none.
    fn new(named: Option<PathBuf>) -> Place {
        let variable = || std::env::var_os("TANTARA_DIR").filter(|path| !path.is_empty()).map(PathBuf::from);
        let named = named.or_else(variable);
        let directory = named.clone().unwrap_or_else(SharedEvent::default_directory);
        Place { named, directory }
    }

    fn open(&self, name: &str) -> Result<SharedEvent, Failure> {
        let opened = match &self.named {
            Some(directory) => SharedEvent::open_in(directory, name),
            None => SharedEvent::open(name),
        };
        opened.map_err(Failure::of_event)
    }

    /// All of them, or none: nothing has been done if one cannot be opened.
    fn open_all(&self, names: &[String]) -> Result<Vec<SharedEvent>, Failure> {
        names.iter().map(|name| self.open(name)).collect()
    }

    fn find(&self, name: &str) -> Result<Option<SharedEvent>, Failure> {
        SharedEvent::find_in(&self.directory, name).map_err(Failure::of_event)
    }

    /// What to say of a name that is unknown.
    fn unknown(&self, name: &str) -> String {
        let mut text = format!("there is no event {name} in {}", self.directory.display());
        if let Some(nearest) = text::nearest(name, &self.names()).filter(|nearest| *nearest != name) {
            text.push_str(&format!("; did you mean {nearest}?"));
        }
        text
    }

    fn names(&self) -> Vec<String> {
        names_in(&self.directory)
    }
}

/// The names of all events of a directory, as far as can be told quickly.
fn names_in(directory: &Path) -> Vec<String> {
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| SharedEvent::check_name(name).is_ok()).collect();
    names.sort_unstable();
    names
}

/// Completes the name of an event that exists.
fn complete_name(begun: &OsStr) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy();
    // The command line is not parsed yet while it is being completed.
    let mut words = std::env::args_os().skip_while(|word| word != "--dir");
    let place = Place::new(words.nth(1).map(PathBuf::from));
    place.names().into_iter().filter(|name| name.starts_with(&*begun)).map(CompletionCandidate::new).collect()
}

pub(crate) fn run(verb: Verb, directory: Option<PathBuf>) -> Result<(), Failure> {
    // Nothing happens unless every name can be.
    verb.names().iter().try_for_each(|name| SharedEvent::check_name(name)).map_err(Failure::of_event)?;
    let place = Place::new(directory);
    match verb {
        Verb::Set(Names { names }) => signal::run(&place, &names, SharedEvent::try_set),
        Verb::Clear(Names { names }) => signal::run(&place, &names, SharedEvent::try_clear),
        Verb::Pulse(Names { names }) => signal::run(&place, &names, signal::pulse),
        Verb::Wait(wait) => wait::run(&place, wait),
        Verb::IsSet(Name { name }) => signal::is_set(&place, &name),
        Verb::Ls { json } => list::run(&place, json),
        Verb::Watch { names, json } => watch::run(&place, &names, json),
        Verb::Rm(Names { names }) => remove::run(&place, &names),
    }
}

impl Verb {
    fn names(&self) -> &[String] {
        match self {
            Verb::Set(names) | Verb::Clear(names) | Verb::Pulse(names) | Verb::Rm(names) => &names.names,
            Verb::Wait(wait) => &wait.names,
            Verb::Watch { names, .. } => names,
            Verb::IsSet(name) => std::slice::from_ref(&name.name),
            Verb::Ls { .. } => &[],
        }
    }
}
