//! `tantara wait`.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tantara::{Error, SharedEvent, all, any};

use crate::events::{Place, Wait, text};
use crate::exit::Failure;
use crate::output;

/// After so long a person wants to know what is going on.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(place: &Place, wait: Wait) -> Result<(), Failure> {
    let deadline = wait.timeout.map(|timeout| Instant::now().checked_add(timeout));
    let events = place.open_all(&wait.names)?;
    let patience = (!wait.quiet && std::io::stderr().is_terminal()).then(|| Patience::new(place, &wait.names, &events));
    // A deadline beyond all clocks is none.
    let released = wait_until(&events, wait.any, deadline.flatten()).map_err(Failure::of_event)?;
    if let Some(patience) = patience {
        patience.end();
    }
    let Some(index) = released else {
        let timeout = wait.timeout.unwrap_or_default();
        if !wait.quiet && !timeout.is_zero() {
            let unset = events.iter().zip(&wait.names).filter(|(event, _)| !event.is_set());
            let unset = text::some_of(unset.map(|(_, name)| name.as_str()));
            let what = if unset.is_empty() { String::new() } else { format!(": {unset} not set") };
            output::note(format_args!("timed out after {}{what}", text::length(timeout)));
        }
        return Err(Failure::timed_out());
    };
    if wait.any && !wait.quiet {
        output::line(format_args!("{}", wait.names[index]));
        output::flush();
    }
    match wait.command.split_first() {
        Some((program, arguments)) => Err(become_command(program, arguments)),
        None => Ok(()),
    }
}

/// The index of the one that released, if `is_any`, else whatever.
fn wait_until(events: &[SharedEvent], is_any: bool, deadline: Option<Instant>) -> Result<Option<usize>, Error> {
    let done = |done: bool| done.then_some(0);
    match (events, deadline) {
        ([event], None) => event.try_wait().map(|()| Some(0)),
        ([event], Some(deadline)) => event.try_wait_deadline(deadline).map(done),
        (_, None) if is_any => any(events).try_wait().map(Some),
        (_, Some(deadline)) if is_any => any(events).try_wait_deadline(deadline),
        (_, None) => all(events).try_wait().map(|()| Some(0)),
        (_, Some(deadline)) => all(events).try_wait_deadline(deadline).map(done),
    }
}

/// Does not return if all is well.
fn become_command(program: &OsString, arguments: &[OsString]) -> Failure {
    let error = Command::new(program).args(arguments).exec();
    let program = program.to_string_lossy();
    match error.kind() {
        ErrorKind::NotFound => Failure::command_not_found(format!("{program}: command not found")),
        _ => Failure::command_not_executable(format!("{program}: cannot be executed: {error}")),
    }
}

/// Says, after a while, what is waited for. The wait itself goes on undisturbed.
struct Patience {
    is_over: Arc<Mutex<bool>>,
}

impl Patience {
    fn new(place: &Place, names: &[String], events: &[SharedEvent]) -> Patience {
        let is_over = Arc::new(Mutex::new(false));
        let speaker = {
            let (is_over, events, names) = (Arc::clone(&is_over), events.to_vec(), names.to_vec());
            let directory = place.directory.clone();
            let known = place.names();
            move || {
                thread::sleep(PATIENCE);
                let is_over = is_over.lock().unwrap_or_else(PoisonError::into_inner);
                if *is_over {
                    return;
                }
                let unset = events.iter().zip(&names).filter(|(event, _)| !event.is_set());
                let unset: Vec<_> = unset.map(|(_, name)| name.as_str()).collect();
                let mut text =
                    format!("waiting for {} in {}", text::some_of(unset.iter().copied()), directory.display());
                text.push_str(&others(&events));
                // A slip of the pen makes a new event.
                let others: Vec<String> = known.iter().filter(|known| !names.contains(known)).cloned().collect();
                if let [name] = unset[..]
                    && let Some(nearest) = text::nearest(name, &others)
                {
                    text.push_str(&format!(" (there is also {nearest})"));
                }
                output::note(format_args!("{text}"));
            }
        };
        // Whether or not it can be said, the wait goes on.
        let _ = thread::Builder::new().name("patience".into()).spawn(speaker);
        Patience { is_over }
    }

    fn end(self) {
        *self.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// Who else waits.
fn others(events: &[SharedEvent]) -> String {
    let mut waiters: Vec<_> = events.iter().flat_map(|event| event.waiters().unwrap_or_default()).collect();
    waiters.retain(|waiter| waiter.pid != std::process::id());
    waiters.sort_by_key(|waiter| waiter.pid);
    waiters.dedup_by_key(|waiter| waiter.pid);
    if waiters.is_empty() {
        return "; nobody else does".into();
    }
    let said: Vec<String> = waiters.iter().map(text::waiter).collect();
    format!("; so {} {}", if said.len() == 1 { "does" } else { "do" }, text::some_of(said.iter().map(String::as_str)))
}
