//! `tantara wait`.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tantara::{all, any};

use crate::events::aim::{Aim, Awaited};
use crate::events::args::Wait;
use crate::events::place::{Event, Place};
use crate::events::{program, text};
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

impl Wait {
    fn aim(&self) -> Aim {
        match (self.unset, self.next) {
            (true, _) => Aim::Unset,
            (_, true) => Aim::Next,
            _ => Aim::Set,
        }
    }
}

/// Without waiting or creating events: the index of an event that is set with `--any`, any index without it; `None` if
/// the condition does not hold.
fn look(place: Place, wait: &Wait) -> Result<Option<usize>, Failure> {
    for (index, name) in wait.names.iter().enumerate() {
        if wait.aim().is_met_by(place.is_set(name)?) == wait.any {
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
    let aim = wait.aim();
    let Some(events) = open(&place, wait)? else { return first_missing(&place, wait) };
    let notice = (!wait.quiet && std::io::stderr().is_terminal()).then(|| Notice::new(&place, &wait.names, aim));
    let _outages = place.report_outages();
    let awaited: Vec<_> = events.iter().map(|(_, event)| Awaited { event, aim }).collect();
    // A deadline that no clock reaches is none.
    let released = wait_until(&awaited, wait.any, deadline.flatten())?;
    if let Some(notice) = notice {
        notice.cancel();
    }
    if released.is_none() && !wait.quiet {
        let failing = events.iter().filter(|(_, event)| !aim.is_met_by(event.seems_set()));
        let failing = text::some_of(failing.map(|(index, _)| wait.names[*index].as_str()));
        let what = if failing.is_empty() { String::new() } else { format!(": {failing} {}", aim.failing()) };
        output::note(format_args!("timed out after {}{what}", text::length(wait.timeout.unwrap_or_default())));
    }
    Ok(released.map(|released| events[released].0))
}

/// The events to wait for, with their indices; `None` if none is left because those that do not exist are clear.
fn open(place: &Place, wait: &Wait) -> Result<Option<Vec<(usize, Event)>>, Failure> {
    if wait.aim() != Aim::Unset {
        return Ok(Some(place.open_all(&wait.names)?.into_iter().enumerate().collect()));
    }
    let found = place.find_all(&wait.names)?;
    let is_over = wait.any && found.iter().any(Option::is_none);
    let found: Vec<_> = found.into_iter().enumerate().filter_map(|(index, event)| Some((index, event?))).collect();
    Ok(Some(found).filter(|found| !is_over && !found.is_empty()))
}

/// The index of an event that does not exist.
fn first_missing(place: &Place, wait: &Wait) -> Result<Option<usize>, Failure> {
    let found = place.find_all(&wait.names)?;
    // It may have been created in the meantime; it was clear before that.
    Ok(Some(found.iter().position(Option::is_none).unwrap_or(0)))
}

/// As [`wait_once`], but retries until the deadline if the cluster cannot be reached when the wait begins.
fn wait_until(events: &[Awaited<'_>], is_any: bool, deadline: Option<Instant>) -> Result<Option<usize>, Failure> {
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
fn wait_once(events: &[Awaited<'_>], is_any: bool, deadline: Option<Instant>) -> Result<Option<usize>, Failure> {
    let done = |done: bool| done.then_some(0);
    if let [event] = events {
        return event.wait_until(deadline).map(done);
    }
    let outcome = match deadline {
        None if is_any => any(events).try_wait().map(Some),
        Some(deadline) if is_any => any(events).try_wait_deadline(deadline),
        None => all(events).try_wait().map(|()| Some(0)),
        Some(deadline) => all(events).try_wait_deadline(deadline).map(done),
    };
    outcome.map_err(Failure::of_event)
}

/// Replaces this process. Returns only if that fails.
fn become_command(program: &OsString, arguments: &[OsString]) -> Failure {
    program::failure(program, &Command::new(program).args(arguments).exec())
}

/// Says, after a while, what the process waits for. A thread of its own does this beside the wait.
struct Notice {
    is_over: Arc<Mutex<bool>>,
}

impl Notice {
    fn new(place: &Arc<Place>, names: &[String], aim: Aim) -> Notice {
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
                let Ok(events) = place.find_all(&names) else { return };
                let is_over = is_over.lock().unwrap_or_else(PoisonError::into_inner);
                if *is_over {
                    return;
                }
                let seems_set = |event: &Option<Event>| event.as_ref().is_some_and(Event::seems_set);
                let left = events.iter().zip(&names).filter(|(event, _)| !aim.is_met_by(seems_set(event)));
                let left: Vec<_> = left.map(|(_, name)| name.as_str()).collect();
                let mut text =
                    format!("{} {} in {}", aim.waiting(), text::some_of(left.iter().copied()), place.shown());
                text.push_str(&others(events.iter().flatten()));
                // A misspelt name creates a new event, so offer a similar one.
                let others: Vec<String> = known.iter().filter(|known| !names.contains(known)).cloned().collect();
                if let [name] = left[..]
                    && aim != Aim::Unset
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
fn others<'e>(events: impl Iterator<Item = &'e Event>) -> String {
    let mut waiters: Vec<_> = events.flat_map(Event::other_waiters).collect();
    waiters.sort();
    waiters.dedup_by_key(|waiter| (waiter.pid, waiter.host.clone()));
    if waiters.is_empty() {
        return "; nobody else does".into();
    }
    let waiters: Vec<String> = waiters.iter().map(text::waiter).collect();
    let verb = if waiters.len() == 1 { "does" } else { "do" };
    format!("; so {verb} {}", text::some_of(waiters.iter().map(String::as_str)))
}
