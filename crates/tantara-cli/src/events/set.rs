//! `tantara set`: at once, or by the result of a command.

use std::ffi::OsString;

use crate::events::args::Set;
use crate::events::change::Change;
use crate::events::hint;
use crate::events::place::Place;
use crate::failure::Failure;
use crate::output;
use crate::system::{self, Ended, Startable};

impl Set {
    /// Checks what the parser does not, before anything is done.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.note.check()?;
        match &self.otherwise {
            Some(name) if self.command.is_empty() => Err(Failure::usage(format!(
                "--else needs a command, which decides: tantara set NAME --else {name} -- CMD; see tantara set --help"
            ))),
            Some(name) if self.names.contains(name) => Err(Failure::usage(format!(
                "--else {name}: the event {name} would be set whether the command fails or not; name another one, \
                 or write CMD; tantara set {name}"
            ))),
            _ => Ok(()),
        }
    }

    fn change(&self) -> Change<'_> {
        Change::Set(self.note.text())
    }
}

pub(crate) fn run(place: Place, set: &Set) -> Result<(), Failure> {
    let Some(command) = set.command.split_first() else {
        // Warn, because nothing else shows that no command has run. A script may use such names on purpose.
        let hint = if output::is_watched() { hint::at_command(&place, "set", &set.names, 1)? } else { None };
        if let Some((name, line)) = hint {
            output::note(format_args!("setting an event {name}; to run the command {name} first, write {line}"));
        }
        return place.change(&set.names, set.change());
    };
    let status = run_command(&place, set, command)?;
    // The connection to a cluster ends before this process may end by a signal.
    drop(place);
    system::end_as(status)
}

/// Runs the command, and sets the events by its result.
fn run_command(place: &Place, set: &Set, command: (&OsString, &[OsString])) -> Result<Ended, Failure> {
    let failed = || place.change(set.otherwise.as_slice(), set.change());
    // The command cannot be run.
    let not_run = |failure: Failure| match failed() {
        Ok(()) => failure,
        Err(other) => other.after(&failure),
    };
    let command = Startable::new(command).map_err(not_run)?;
    // Report errors of the events before the command runs.
    if command.is_certain() {
        place.prepare(&set.names)?;
        place.prepare(set.otherwise.as_slice())?;
    }
    let mut running = command.start().map_err(not_run)?;
    let status = running.supervise();
    if status.is_success() {
        place.change(&set.names, set.change())?
    } else {
        failed()?
    }
    Ok(status)
}
