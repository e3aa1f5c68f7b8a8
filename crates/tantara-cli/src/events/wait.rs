//! `tantara wait`.

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tantara::{all, any};

use crate::events::args::Wait;
use crate::events::place::{Event, Place};
use crate::events::text;
use crate::failure::Failure;
use crate::output;

/// After so long a person wants to know what is going on.
const PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(place: Place, wait: Wait, began: Instant) -> Result<(), Failure> {
    let is_poll = wait.timeout.is_some_and(|timeout| timeout.is_zero());
    // What is held in a cluster ends with the wait, and not with the command that this may become.
    let released = if is_poll { look(place, &wait) } else { wait_for(place, &wait, began) }?;
    let Some(index) = released else { return Err(Failure::timed_out()) };
    if wait.any && !wait.quiet {
        output::line(format_args!("{}", wait.names[index]));
        output::flush();
    }
    match wait.command.split_first() {
        Some((program, arguments)) => Err(become_command(program, arguments)),
        None => Ok(()),
    }
}

/// Without waiting, the index of one that is set, if any will do, else whatever. Nothing is made.
fn look(place: Place, wait: &Wait) -> Result<Option<usize>, Failure> {
    for (index, name) in wait.names.iter().enumerate() {
        if place.is_set(name)? == wait.any {
            return Ok(wait.any.then_some(index));
        }
    }
    Ok((!wait.any).then_some(0))
}

/// The index of the one that released, if any will do, else whatever. Nothing, after the timeout, which is said.
fn wait_for(place: Place, wait: &Wait, began: Instant) -> Result<Option<usize>, Failure> {
    let place = Arc::new(place);
    let deadline = wait.timeout.map(|timeout| began.checked_add(timeout));
    let events = place.open_all(&wait.names)?;
    let patience = (!wait.quiet && std::io::stderr().is_terminal()).then(|| Patience::new(&place, &wait.names));
    let _outages = place.report_outages();
    // A deadline beyond all clocks is none.
    let released = wait_until(&events, wait.any, deadline.flatten())?;
    if let Some(patience) = patience {
        patience.end();
    }
    if released.is_none() && !wait.quiet {
        let unset = events.iter().zip(&wait.names).filter(|(event, _)| !event.seems_set());
        let unset = text::some_of(unset.map(|(_, name)| name.as_str()));
        let what = if unset.is_empty() { String::new() } else { format!(": {unset} not set") };
        output::note(format_args!("timed out after {}{what}", text::length(wait.timeout.unwrap_or_default())));
    }
    Ok(released)
}

/// The index of the one that released, if `is_any`, else whatever. A cluster that cannot be reached when the wait
/// begins is tried until the deadline.
fn wait_until(events: &[Event], is_any: bool, deadline: Option<Instant>) -> Result<Option<usize>, Failure> {
    loop {
        match wait_once(events, is_any, deadline) {
            Err(failure) if failure.may_pass() && deadline.is_some_and(|deadline| Instant::now() < deadline) => {
                thread::sleep(Duration::from_millis(100));
            }
            outcome => return outcome,
        }
    }
}

/// The index of the one that released, if `is_any`, else whatever.
fn wait_once(events: &[Event], is_any: bool, deadline: Option<Instant>) -> Result<Option<usize>, Failure> {
    let done = |done: bool| done.then_some(0);
    if let [event] = events {
        return event.wait_until(deadline).map(done);
    }
    let waitables = events.iter().map(Event::waitable);
    let outcome = match deadline {
        None if is_any => any(waitables).try_wait().map(Some),
        Some(deadline) if is_any => any(waitables).try_wait_deadline(deadline),
        None => all(waitables).try_wait().map(|()| Some(0)),
        Some(deadline) => all(waitables).try_wait_deadline(deadline).map(done),
    };
    outcome.map_err(Failure::of_event)
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
    fn new(place: &Arc<Place>, names: &[String]) -> Patience {
        let is_over = Arc::new(Mutex::new(false));
        let speaker = {
            let (is_over, names) = (Arc::clone(&is_over), names.to_vec());
            // Not kept: the wait may end by becoming a command, and what it holds in a cluster must end before.
            let place = Arc::downgrade(place);
            move || {
                thread::sleep(PATIENCE);
                // Asked before the last look at whether it is over: a cluster takes its time.
                let Some(place) = place.upgrade() else { return };
                let known = place.names();
                let Ok(events) = place.open_all(&names) else { return };
                let is_over = is_over.lock().unwrap_or_else(PoisonError::into_inner);
                if *is_over {
                    return;
                }
                let unset = events.iter().zip(&names).filter(|(event, _)| !event.seems_set());
                let unset: Vec<_> = unset.map(|(_, name)| name.as_str()).collect();
                let mut text = format!("waiting for {} in {}", text::some_of(unset.iter().copied()), place.shown());
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
fn others(events: &[Event]) -> String {
    let mut waiters: Vec<_> = events.iter().flat_map(Event::other_waiters).collect();
    waiters.sort();
    waiters.dedup_by_key(|waiter| (waiter.pid, waiter.host.clone()));
    if waiters.is_empty() {
        return "; nobody else does".into();
    }
    let said: Vec<String> = waiters.iter().map(text::waiter).collect();
    format!("; so {} {}", if said.len() == 1 { "does" } else { "do" }, text::some_of(said.iter().map(String::as_str)))
}
