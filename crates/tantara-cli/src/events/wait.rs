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

/// The time after which a wait on a terminal says what it waits for.
const SILENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(place: Place, wait: Wait, began: Instant) -> Result<(), Failure> {
    let is_poll = wait.timeout.is_some_and(|timeout| timeout.is_zero());
    // Both functions take `place`, so that the connection to a cluster ends before `become_command`.
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

/// Without waiting or creating events: the index of an event that is set with `--any`, any index without it; `None` if
/// the condition does not hold.
fn look(place: Place, wait: &Wait) -> Result<Option<usize>, Failure> {
    for (index, name) in wait.names.iter().enumerate() {
        if place.is_set(name)? == wait.any {
            return Ok(wait.any.then_some(index));
        }
    }
    Ok((!wait.any).then_some(0))
}

/// The index of the event that released the wait with `--any`, any index without it. `None` after the timeout, which is
/// reported.
fn wait_for(place: Place, wait: &Wait, began: Instant) -> Result<Option<usize>, Failure> {
    let place = Arc::new(place);
    let deadline = wait.timeout.map(|timeout| began.checked_add(timeout));
    let events = place.open_all(&wait.names)?;
    let notice = (!wait.quiet && std::io::stderr().is_terminal()).then(|| Notice::new(&place, &wait.names));
    let _outages = place.report_outages();
    // A deadline that no clock reaches is none.
    let released = wait_until(&events, wait.any, deadline.flatten())?;
    if let Some(notice) = notice {
        notice.cancel();
    }
    if released.is_none() && !wait.quiet {
        let unset = events.iter().zip(&wait.names).filter(|(event, _)| !event.seems_set());
        let unset = text::some_of(unset.map(|(_, name)| name.as_str()));
        let what = if unset.is_empty() { String::new() } else { format!(": {unset} not set") };
        output::note(format_args!("timed out after {}{what}", text::length(wait.timeout.unwrap_or_default())));
    }
    Ok(released)
}

/// As [`wait_once`], but retries until the deadline if the cluster cannot be reached when the wait begins.
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

/// The index of the event that released the wait if `is_any`, else any index. `None` after the deadline.
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

/// Replaces this process. Returns only if that fails.
fn become_command(program: &OsString, arguments: &[OsString]) -> Failure {
    let error = Command::new(program).args(arguments).exec();
    let program = program.to_string_lossy();
    match error.kind() {
        ErrorKind::NotFound => Failure::command_not_found(format!("{program}: command not found")),
        _ => Failure::command_not_executable(format!("{program}: cannot be executed: {error}")),
    }
}

/// Says, after a while, what the process waits for. A thread of its own does this beside the wait.
struct Notice {
    is_over: Arc<Mutex<bool>>,
}

impl Notice {
    fn new(place: &Arc<Place>, names: &[String]) -> Notice {
        let is_over = Arc::new(Mutex::new(false));
        let print = {
            let (is_over, names) = (Arc::clone(&is_over), names.to_vec());
            // Weak, because the connection to a cluster must end before the process becomes a command.
            let place = Arc::downgrade(place);
            move || {
                thread::sleep(SILENCE);
                // Before `is_over` is locked, because the answer of a cluster takes a while.
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
                // A misspelt name creates a new event, so offer a similar one.
                let others: Vec<String> = known.iter().filter(|known| !names.contains(known)).cloned().collect();
                if let [name] = unset[..]
                    && let Some(nearest) = text::nearest(name, &others)
                {
                    text.push_str(&format!(" (there is also {nearest})"));
                }
                output::note(format_args!("{text}"));
            }
        };
        // The wait continues even if no thread can be started.
        let _ = thread::Builder::new().name("notice".into()).spawn(print);
        Notice { is_over }
    }

    fn cancel(self) {
        *self.is_over.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }
}

/// Says who else waits.
fn others(events: &[Event]) -> String {
    let mut waiters: Vec<_> = events.iter().flat_map(Event::other_waiters).collect();
    waiters.sort();
    waiters.dedup_by_key(|waiter| (waiter.pid, waiter.host.clone()));
    if waiters.is_empty() {
        return "; nobody else does".into();
    }
    let waiters: Vec<String> = waiters.iter().map(text::waiter).collect();
    let verb = if waiters.len() == 1 { "does" } else { "do" };
    format!("; so {verb} {}", text::some_of(waiters.iter().map(String::as_str)))
}
