//! The arguments of the subcommands for events, and their help texts.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Command, Subcommand, ValueHint};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};

use crate::events::place::PlaceArgs;
use crate::events::tcp::Target;
use crate::events::{check, conditions, text};
use crate::failure::Failure;

/// The end of every help text.
macro_rules! exit_codes {
    ($own:literal) => {
        concat!(
            "\nExit codes: ",
            $own,
            "2 bad usage or bad input (nothing was done); 125 tantara itself failed. ",
            "A signal ends the process as that signal (process 1 of a container: with 128 plus its number); on ",
            "Windows, Ctrl-C ends it with 0xC000013A."
        )
    };
}

#[derive(Subcommand, Debug)]
pub(crate) enum Action {
    /// Set events and release everyone who waits for them
    ///
    /// An event that does not exist is created, so set and wait may come in either order. Setting an event that is set
    /// changes nothing but its note. With a command, the events are set once it has succeeded.
    #[command(after_long_help = concat!("\
Examples:
  tantara set db-ready               releases current and later waits
  tantara set db-ready cache-ready   several, from left to right
  tantara set migrated -- ./migrate  if ./migrate succeeds
  tantara set built --else failed -- make
                                     one of the two, by the result
  tantara set stop --note 'disk full'
                                     wait, ls and watch show the reason

A note is a line of at most 64 bytes of UTF-8. It belongs to this set: a later set replaces or removes it.

The command counts as failed if its exit code is not 0, if a signal ends it, or if it cannot be run. tantara passes \
signals on to it, as tantara hold does, waits for its end, and then sets the events, or that of --else. If tantara \
itself is killed by SIGKILL, nothing is set. Events of tantara hold are cleared even then.
", exit_codes!("0 set; with a command, that of the command, or 128 plus the number of the signal that ended it (HUP, \
INT and TERM end tantara as well), 126 if it cannot be executed, 127 if it is not found; ")))]
    Set(Set),

    /// Clear events, so that later waits block
    ///
    /// A wait that was released stays released. An event that does not exist is created.
    #[command(after_long_help = concat!("\
Examples:
  tantara clear db-ready
", exit_codes!("0 cleared; ")))]
    Clear(Names),

    /// Set and clear events in one step, which releases only those who wait now
    #[command(after_long_help = concat!("\
Examples:
  tantara pulse tick                releases those who wait now
  tantara pulse retry --note 'new certificate'
                                    wait, ls and watch show the reason
", exit_codes!("0 done; ")))]
    Pulse(Pulse),

    Wait(Wait),

    Hold(Hold),

    /// Exit with 0 if all of the events are set, with 1 if not
    ///
    /// An event that does not exist is not set, and is not created.
    #[command(after_long_help = concat!("\
Examples:
  tantara is-set db-ready && echo yes
  tantara is-set db-ready cache-ready && echo both
  until tantara is-set -q db-ready; do work; done
", exit_codes!("0 all are set; 1 not all are; ")))]
    IsSet(IsSet),

    /// List events: name, state, last set, and who waits since when
    ///
    /// Without names, all events are listed. A wait is listed once it has lasted for 50 milliseconds, or for 4
    /// milliseconds per event if it waits for many. Processes of other PID namespaces, such as other containers, are
    /// listed without process ID and command. If a process records its waits (see tantara ps), the list also shows how
    /// many there are, and where in the code the oldest began. The last set is listed with its note.
    #[command(after_long_help = concat!("\
Examples:
  tantara ls
  tantara ls db-ready cache-ready    an error if one does not exist
  tantara ls --json | jq -r '.[] | select(.state == \"set\") | .name'
", exit_codes!("0 listed; ")))]
    Ls {
        /// The events
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete_name))]
        names: Vec<String>,

        /// Print a JSON array, with an object for each event
        #[arg(long)]
        json: bool,
    },

    /// Show who waits for what inside of processes that record their waits
    ///
    /// A process records the waits of its threads and tasks if it was started with TANTARA_WAITS=1, or if it has called
    /// tantara::waits::record. Waits at the same line of the code for events of the same names share a line. The output
    /// may be a quarter of a second old, or older if the process has very many waits.
    #[command(after_long_help = concat!("\
Examples:
  TANTARA_WAITS=1 ./server &
  tantara ps                           all that record their waits
  tantara bank --pace 5 & sleep 3; tantara ps
                                       the bank records its waits, too
  tantara ps 4711                      one process
  tantara ps --json | jq '.[].groups[] | select(.abandoned)'

KNOWN tells which thread or process has declared to set the event (by set_on_drop) and which set it last; whether the \
event is abandoned, because the last one that had declared to set it has given up; and whether the wait was released \
but its task has not run since.
", exit_codes!("0 shown; ")))]
    Ps {
        /// The process
        #[arg(value_name = "PID", value_parser = conditions::pid, allow_negative_numbers = true)]
        pid: Option<u32>,

        /// Print a JSON array, with an object for each process
        #[arg(long)]
        json: bool,
    },

    /// Print a line for every change of events, as it happens
    ///
    /// Without names, all events are watched, also those that are created later. An event that does not exist may be
    /// watched. No set is missed, not even a pulse. Changes in quick succession may be merged into one line, which
    /// contains the number of sets.
    #[command(after_long_help = concat!("\
Examples:
  tantara watch
  tantara watch db-ready --json | while read -r change; do ...; done
  tantara watch job-done -n 3 --timeout 1h    three changes, or an hour

A line contains the time, the name, and one of set, cleared, pulsed (set and cleared again) and removed. For a set it \
also contains the process that made it, and the note. With --json a line is an object with at, name, change, state and \
sets (the number of sets that it reports). A set also has pid, note and, in a cluster, host, if they are known.
", exit_codes!("0 all lines of -n were printed, or standard output was closed; 124 timeout; ")))]
    Watch(Watch),

    /// Remove events; processes that wait for them get an error
    ///
    /// If one of the events does not exist, nothing is removed, unless --force is given.
    #[command(after_long_help = concat!("\
Examples:
  tantara rm db-ready
  tantara rm -f db-ready cache-ready    those that exist
  tantara rm --all                      all of the directory or namespace
", exit_codes!("0 removed; ")))]
    Rm(Rm),
}

#[derive(Args, Debug)]
pub(crate) struct Names {
    /// The events
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Set {
    /// The events
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,

    /// Set this event instead if the command fails
    #[arg(long = "else", value_name = "NAME", add = ArgValueCompleter::new(complete_name))]
    pub(crate) otherwise: Option<String>,

    #[command(flatten)]
    pub(crate) note: Note,

    /// The command to run first, and its arguments
    #[arg(value_name = "CMD", last = true)]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct Pulse {
    /// The events
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,

    #[command(flatten)]
    pub(crate) note: Note,
}

/// Why events are set.
#[derive(Args, Debug)]
pub(crate) struct Note {
    /// Say why, in at most 64 bytes: wait, ls and watch show it
    #[arg(long, value_name = "TEXT", value_hint = ValueHint::Other)]
    note: Option<String>,
}

impl Note {
    /// Fails if the text cannot be a note.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        check::note(self.text()).map_err(Failure::usage)
    }

    /// The text; empty if there is none.
    pub(crate) fn text(&self) -> &str {
        self.note.as_deref().unwrap_or_default()
    }
}

#[derive(Args, Debug)]
pub(crate) struct IsSet {
    /// The events
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,

    /// Print nothing but errors; do not mention events that do not exist
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Watch {
    /// The events
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,

    /// Print a JSON object in each line
    #[arg(long)]
    pub(crate) json: bool,

    /// End after N lines
    #[arg(long = "lines", short = 'n', value_name = "N", allow_negative_numbers = true,
          value_parser = lines)]
    pub(crate) most: Option<u64>,

    /// Exit with 124 after DUR: 30 (seconds), 1.5s, 500ms, 2m, 1h30m, 1d
    #[arg(long, value_name = "DUR", value_parser = text::duration, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct Rm {
    /// The events
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "force"],
          add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,

    /// Ignore events that do not exist
    #[arg(long, short)]
    pub(crate) force: bool,

    /// Remove all events of the directory, or of the namespace of the cluster
    #[arg(long, conflicts_with = "names")]
    pub(crate) all: bool,
}

/// Wait until events are set, or clear; then, if a command is given, become that command
///
/// It waits for all of the events, each of which must be set at some moment of the wait, or with --any for the first.
/// An event that does not exist is created, so set and wait may come in either order. With --timeout 0 and with --unset
/// nothing is created. It also waits for other conditions, with or without events: --pid, --file and --tcp.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Examples:
  tantara wait db-ready
  tantara wait db-ready --timeout 30s -- ./serve --port 80
                                    never runs it after a timeout
  tantara wait --any done failed    prints which of them was set
  tantara wait db-ready --timeout 0 || echo not yet
                                    looks, and does not wait
  tantara wait --unset maintenance -- ./report
                                    when it is neither set nor held
  while tantara wait --next reload; do ./reload; done
                                    again at each next set
  tantara wait --tcp db:5432 --timeout 1m -- ./serve
                                    once the database is up
  tantara wait --any done --pid $worker
                                    even if the worker crashes
  tantara wait migrated --file /run/app.sock --tcp cache:6379
                                    all three conditions

Durations: 30 (seconds), 1.5s, 500ms, 2m, 1h30m, 1d.

Conditions: each option may be given several times, and each must hold at some moment of the wait. --any prints a \
condition as an option, such as --pid=123 or --tcp=db:5432; no event can have such a name. --unset and --next apply \
to the events only. The process of --pid may belong to any user; one that does not exist counts as ended. inotify \
reports new files at once. Files that the kernel does not report, such as those of other machines in a network file \
system, are found within a minute. --tcp tries to connect until it succeeds, and closes the connection at once. It \
waits for up to three seconds for an answer, and tries again within a second, also if the host cannot be resolved. \
With --timeout 0 it tries once, for at most a second.

If an event was set with a note, the setter and the note are printed on standard error, unless --quiet is given. \
Scripts get the note of the last set by tantara ls NAME --json.

A wait survives outages of the cluster; an outage of more than ten seconds is reported on standard error. Connecting \
to the cluster is retried until --timeout, or without it until --connect-timeout. If it fails, the exit code is 125.

The command replaces tantara: it keeps the process ID, and its exit code is the exit code. On Windows, where no \
process can be replaced, tantara runs the command and exits with its code.

Exit codes: 0 released; 124 timeout; 126 the command cannot be executed; 127 the command is not found; 2 bad usage or \
bad input (nothing was done); 125 tantara itself failed, or an event was removed. A signal ends the process as that \
signal (process 1 of a container: with 128 plus its number); on Windows, Ctrl-C ends it with 0xC000013A.")]
pub(crate) struct Wait {
    /// The events
    #[arg(value_name = "NAME", required_unless_present_any = ["pid", "file", "tcp"],
          add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,

    /// Wait for the first of the events and conditions, and print which it was
    #[arg(long)]
    pub(crate) any: bool,

    /// Wait until the events are clear: neither set nor held
    #[arg(long, conflicts_with = "next")]
    pub(crate) unset: bool,

    /// Wait for the next set, even if the event is set already
    #[arg(long)]
    pub(crate) next: bool,

    /// Wait until the process has ended (Linux)
    #[arg(long, value_name = "PID", value_parser = conditions::pid, allow_negative_numbers = true)]
    pub(crate) pid: Vec<u32>,

    /// Wait until the file exists (Linux)
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(crate) file: Vec<PathBuf>,

    /// Wait until the server accepts connections
    #[arg(long, value_name = "HOST:PORT", value_parser = Target::parse)]
    pub(crate) tcp: Vec<Target>,

    /// Exit with 124 after DUR: 30 (seconds), 1.5s, 500ms, 2m, 1h30m, 1d; 0 does not wait
    #[arg(long, value_name = "DUR", value_parser = text::duration, allow_negative_numbers = true)]
    pub(crate) timeout: Option<Duration>,

    /// Print nothing but errors
    #[arg(long, short)]
    pub(crate) quiet: bool,

    /// The command to run in place of tantara after the wait, and its arguments
    #[arg(value_name = "CMD", last = true)]
    pub(crate) command: Vec<OsString>,
}

/// Keep events set while a command runs
///
/// The events are set when the command starts, and clear when it or tantara ends, by any signal. An event that is held
/// several times, or that was also set, stays set until the last hold ends and it is cleared. A clear ends no hold.
#[derive(Args, Debug)]
#[command(
    override_usage = "tantara hold <NAME>... -- <CMD>...",
    after_long_help = "\
Examples:
  tantara hold db-up -- postgres -D data  set while postgres runs
  tantara hold maintenance -- ./upgrade   see tantara wait --unset
  tantara hold busy -- sh -c 'sleep 10'

Signals are passed on to the command, except real-time signals, those that its terminal sends to both, and SIGTSTP, \
SIGTTIN, SIGTTOU and SIGCONT, which stop and continue tantara itself. On Windows, Ctrl-C reaches both, and tantara \
runs until the command ends. SIGKILL cannot be passed on: if it kills tantara, the events are clear at once, and the \
command goes on. With --etcd they are clear within ten seconds; if an outage of the cluster ends a hold, it begins \
again after the outage.

As process 1 of a container, tantara also passes on SIGTSTP, SIGTTIN, SIGTTOU and SIGCONT, and reaps orphaned \
processes.

Exit codes: that of the command, or 128 plus the number of the signal that ended it (HUP, INT and TERM end tantara as \
well); 126 the command cannot be executed; 127 it is not found (nothing was set); 2 bad usage or bad input (nothing \
was done); 125 tantara itself failed."
)]
pub(crate) struct Hold {
    /// The events
    #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(complete_name))]
    pub(crate) names: Vec<String>,

    /// The command to run, and its arguments
    #[arg(value_name = "CMD", last = true)]
    pub(crate) command: Vec<OsString>,
}

/// Parses a number of lines.
fn lines(text: &str) -> Result<u64, String> {
    let number = text.parse().ok().filter(|&number| number > 0);
    number.ok_or_else(|| "expected a whole number from 1 on".to_owned())
}

/// Completes the names of existing events.
fn complete_name(begun: &OsStr) -> Vec<CompletionCandidate> {
    let begun = begun.to_string_lossy();
    let names = PlaceArgs::of_unfinished_line(std::env::args_os()).known_names();
    names.into_iter().filter(|name| name.starts_with(&*begun)).map(CompletionCandidate::new).collect()
}

/// Of a subcommand without events.
static NO_NAMES: Vec<String> = Vec::new();

impl Action {
    /// The subcommand of this name, without its help, if it is one that scripts run often.
    pub(crate) fn frequent(name: &str) -> Option<Command> {
        Some(match name {
            "set" => Set::augment_args(Command::new("set")),
            "clear" => Names::augment_args(Command::new("clear")),
            "pulse" => Pulse::augment_args(Command::new("pulse")),
            "wait" => Wait::augment_args(Command::new("wait")),
            "hold" => Hold::augment_args(Command::new("hold")),
            "is-set" => IsSet::augment_args(Command::new("is-set")),
            _ => return None,
        })
    }

    /// The time limit of the whole command, if there is one.
    pub(crate) fn time_limit(&self) -> Option<Duration> {
        match self {
            Action::Wait(wait) => wait.timeout,
            Action::Watch(watch) => watch.timeout,
            _ => None,
        }
    }

    /// The names of events that were given.
    pub(crate) fn names(&self) -> impl Iterator<Item = &String> {
        let (names, one) = match self {
            Action::Clear(names) => (&names.names, None),
            Action::Pulse(pulse) => (&pulse.names, None),
            Action::Set(set) => (&set.names, set.otherwise.as_ref()),
            Action::Wait(wait) => (&wait.names, None),
            Action::Hold(hold) => (&hold.names, None),
            Action::Watch(watch) => (&watch.names, None),
            Action::IsSet(is_set) => (&is_set.names, None),
            Action::Ls { names, .. } => (names, None),
            Action::Ps { .. } => (&NO_NAMES, None),
            Action::Rm(rm) => (&rm.names, None),
        };
        names.iter().chain(one)
    }
}
