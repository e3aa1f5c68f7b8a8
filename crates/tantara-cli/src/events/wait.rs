//! `tantara wait`.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tantara::{all, any};

use crate::events::aim::Aim;
use crate::events::args::Wait;
use crate::events::awaited::Awaited;
use crate::events::conditions::{self, Condition, Kind};
use crate::events::place::{Event, Place};
use crate::events::{hint, text, why};
use crate::failure::Failure;
use crate::lock::lock;
use crate::{output, system};

pub(crate) type Conditions = Vec<Arc<Condition>>;

/// The time after which a wait on a terminal says what it waits for.
const SILENCE: Duration = Duration::from_secs(1);

/// Checks the command line, and begins to observe the conditions.
pub(crate) fn prepare(wait: &Wait) -> Result<Conditions, Failure> {
    if wait.names.is_empty() && wait.aim() != Aim::Set {
        return Err(Failure::usage(
            "--unset and --next are about events, and no NAME is given; see tantara wait --help",
        ));
    }
    let processes = wait.pid.iter().map(|&pid| Kind::Pid(pid));
    let files = wait.file.iter().map(|path| Kind::File(path.clone()));
    let servers = wait.tcp.iter().map(|target| Kind::Tcp(target.clone()));
    conditions::begin(processes.chain(files).chain(servers), wait.quiet)
}

/// Waits. `place` is `None` if there are only conditions.
pub(crate) fn run(place: Option<Place>, conditions: &Conditions, wait: &Wait, began: Instant) -> Result<(), Failure> {
    let is_poll = wait.timeout.is_some_and(|timeout| timeout.is_zero());
    if let Some(place) = &place
        && !wait.quiet
    {
        // A wait needs something to wait for.
        let first = usize::from(wait.pid.is_empty() && wait.file.is_empty() && wait.tcp.is_empty());
        if wait.command.is_empty()
            && let Some((name, line)) = hint::at_command(place, "wait", &wait.names, first)?
        {
            output::note(format_args!("waiting for an event {name}; to run the command {name}, write {line}"));
        }
    }
    // Both functions take `place`, so that the connection to a cluster ends before `become_command`.
    let released = if is_poll { look(place, conditions, wait) } else { wait_for(place, conditions, wait, began) }?;
    let Some(index) = released else { return Err(Failure::timed_out()) };
    if wait.any && !wait.quiet {
        match wait.names.get(index) {
            Some(name) => output::line_before_more(name.as_bytes()),
            None => output::line_before_more(&conditions[index - wait.names.len()].kind.as_option()),
        }
    }
    match wait.command.split_first() {
        Some((program, arguments)) => Err(system::become_command(program, arguments)),
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

/// Without waiting or creating events: the index of what holds with `--any`, any index without it; `None` if what is
/// waited for does not hold.
fn look(place: Option<Place>, conditions: &Conditions, wait: &Wait) -> Result<Option<usize>, Failure> {
    for index in 0..wait.names.len() + conditions.len() {
        let holds = match (&place, wait.names.get(index)) {
            (Some(place), Some(name)) => wait.aim().is_met_by(place.is_set(name)?),
            _ => conditions[index - wait.names.len()].holds_now(),
        };
        if holds == wait.any {
            if wait.any
                && let Some(place) = &place
            {
                report_found(place, wait, wait.names.get(index..=index).unwrap_or_default());
            }
            return Ok(wait.any.then_some(index));
        }
    }
    if !wait.any
        && let Some(place) = &place
    {
        report_found(place, wait, &wait.names);
    }
    Ok((!wait.any).then_some(0))
}

/// Says why these events are set.
fn report_found(place: &Place, wait: &Wait, names: &[String]) {
    if wait.quiet || wait.aim() == Aim::Unset {
        return;
    }
    let found = place.find_all(names).unwrap_or_default();
    why::report(names.iter().zip(&found).filter_map(|(name, event)| Some((name.as_str(), event.as_ref()?))));
}

/// The index of what released the wait with `--any`, any index without it. `None` after the timeout, which is reported.
fn wait_for(
    place: Option<Place>,
    conditions: &Conditions,
    wait: &Wait,
    began: Instant,
) -> Result<Option<usize>, Failure> {
    let place = place.map(Arc::new);
    let deadline = wait.timeout.map(|timeout| began.checked_add(timeout));
    let aim = wait.aim();
    let events = match &place {
        Some(place) => match open(place, conditions, wait)? {
            Some(events) => events,
            None => return first_missing(place, wait),
        },
        None => Vec::new(),
    };
    let is_noticed = !wait.quiet && std::io::stderr().is_terminal();
    let notice = is_noticed.then(|| Notice::new(place.as_ref(), &wait.names, aim, conditions));
    let _outages = place.as_ref().and_then(|place| place.report_outages());
    let mut awaited: Vec<_> = events.iter().map(|(_, event)| Awaited::Event(event, aim)).collect();
    awaited.extend(conditions.iter().map(|condition| Awaited::Condition(condition)));
    // A deadline beyond the range of the clock counts as no deadline.
    let released = wait_until(&awaited, wait.any, deadline.flatten())?;
    if let Some(notice) = notice {
        notice.cancel();
    }
    if released.is_none() && !wait.quiet {
        let failing = events.iter().filter(|(_, event)| !aim.is_met_by(event.seems_set()));
        let failing = text::some_of(failing.map(|(index, _)| wait.names[*index].as_str()));
        let mut what: Vec<String> = Vec::new();
        if !failing.is_empty() {
            what.push(format!("{failing} {}", aim.failing()));
        }
        what.extend(pending(conditions).map(Condition::failing));
        let colon = if what.is_empty() { "" } else { ": " };
        let after = text::length(wait.timeout.unwrap_or_default());
        output::note(format_args!("timed out after {after}{colon}{}", what.join("; ")));
    }
    if let Some(part) = released
        && !wait.quiet
        && aim != Aim::Unset
    {
        let released = events.iter().enumerate().filter(|(index, _)| !wait.any || *index == part);
        why::report(released.map(|(_, (index, event))| (&*wait.names[*index], event)));
    }
    let index_of = |part: usize| match events.get(part) {
        Some((index, _)) => *index,
        None => wait.names.len() + (part - events.len()),
    };
    Ok(released.map(index_of))
}

/// The conditions that have not held.
fn pending(conditions: &Conditions) -> impl Iterator<Item = &Condition> {
    conditions.iter().map(|condition| &**condition).filter(|condition| !condition.has_held.is_set())
}

/// The events to wait for, with their indices; `None` if none is left because those that do not exist are clear.
fn open(place: &Place, conditions: &Conditions, wait: &Wait) -> Result<Option<Vec<(usize, Event)>>, Failure> {
    if wait.aim() != Aim::Unset {
        return Ok(Some(place.open_all(&wait.names)?.into_iter().enumerate().collect()));
    }
    let found = place.find_all(&wait.names)?;
    let is_over = wait.any && found.iter().any(Option::is_none);
    let found: Vec<_> = found.into_iter().enumerate().filter_map(|(index, event)| Some((index, event?))).collect();
    let is_something_left = !found.is_empty() || !conditions.is_empty();
    Ok(Some(found).filter(|_| !is_over && is_something_left))
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

/// After a while, a thread of its own prints what the process waits for.
struct Notice {
    is_over: Arc<Mutex<bool>>,
}

impl Notice {
    fn new(place: Option<&Arc<Place>>, names: &[String], aim: Aim, conditions: &Conditions) -> Notice {
        let is_over = Arc::new(Mutex::new(false));
        let print = {
            let (is_over, names, conditions) = (Arc::clone(&is_over), names.to_vec(), conditions.clone());
            // Weak, because the connection to a cluster must end before the process becomes a command.
            let place = place.map(Arc::downgrade);
            move || {
                thread::sleep(SILENCE);
                // Before `is_over` is locked, because the answer of a cluster takes a while.
                let place = place.and_then(|place| place.upgrade());
                let of_events = place.and_then(|place| awaited_events(&place, &names, aim));
                let is_over = lock(&is_over);
                if *is_over {
                    return;
                }
                if let Some(text) = &of_events {
                    output::note(format_args!("{text}"));
                }
                let pending: Vec<String> = pending(&conditions).map(Condition::waiting).collect();
                if !pending.is_empty() {
                    let pending = text::some_of(pending.iter().map(String::as_str));
                    output::note(format_args!("waiting for {pending}"));
                }
            }
        };
        // The wait continues even if no thread can be started.
        let _ = thread::Builder::new().name("notice".into()).spawn(print);
        Notice { is_over }
    }

    fn cancel(self) {
        *lock(&self.is_over) = true;
    }
}

/// Says for which events the process waits, and who else does. `None` if they cannot be read.
fn awaited_events(place: &Place, names: &[String], aim: Aim) -> Option<String> {
    let known = place.names();
    let events = place.find_all(names).ok()?;
    let seems_set = |event: &Option<Event>| event.as_ref().is_some_and(Event::seems_set);
    let left = events.iter().zip(names).filter(|(event, _)| !aim.is_met_by(seems_set(event)));
    let left: Vec<_> = left.map(|(_, name)| name.as_str()).collect();
    let mut text = format!("{} {} in {}", aim.waiting(), text::some_of(left.iter().copied()), place.shown());
    text.push_str(&others(events.iter().flatten()));
    // A misspelt name creates a new event, so offer a similar one.
    let others: Vec<String> = known.iter().filter(|known| !names.contains(known)).cloned().collect();
    if let [name] = left[..]
        && aim != Aim::Unset
    {
        if let Some(nearest) = text::nearest(name, &others) {
            text.push_str(&format!(" (there is also {nearest})"));
        } else if let Some((what, option)) = conditions::seemingly(name) {
            text.push_str(&format!(" (to wait for a {what}, write {option} {name})"));
        }
    }
    Some(text)
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
