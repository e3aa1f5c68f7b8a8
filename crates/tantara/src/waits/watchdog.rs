//! Reports waits that last too long, from a thread of its own.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fmt::Write;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU32, AtomicUsize};
use std::thread;
use std::time::{Duration, Instant};

use crate::deadline;
use crate::sync::lock;
use crate::sys::process::{self, GENERATIONS};
use crate::waits::fold;
use crate::waits::view::{self, Waiting};
use crate::wakers::quietly;

type Callback = Box<dyn FnMut(&Waiting) + Send>;

struct Watcher {
    limit: Duration,
    callback: Callback,
    reported: Reported,
}

/// The waits that were reported and have not ended, by their numbers, and when each began by the
/// record's clock, which nobody sets.
type Reported = HashMap<u64, (Waiting, Duration)>;

/// Those that the thread does not have.
static NEW: [Mutex<Vec<Watcher>>; GENERATIONS] = [const { Mutex::new(Vec::new()) }; GENERATIONS];

/// For how many milliseconds a wait may last until it is printed; zero if none is.
static PRINTED_AFTER: AtomicU32 = AtomicU32::new(0);

/// The shortest and the longest pause between two looks of the thread.
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// Calls `callback` for each wait that lasts longer than `limit`.
pub(crate) fn watch(limit: Duration, callback: Callback) {
    if let Some(new) = process::own(&NEW) {
        lock(new).push(Watcher { limit, callback, reported: HashMap::new() });
        start();
    }
}

/// Prints each wait that lasts longer than `limit` on standard error.
pub(crate) fn print(limit: Duration) {
    PRINTED_AFTER.store(limit.as_millis().try_into().unwrap_or(u32::MAX).max(1), Release);
    start();
}

/// In the child of a fork, starts to print again if the parent printed.
pub(crate) fn go_on() {
    if PRINTED_AFTER.load(Acquire) != 0 {
        start();
    }
}

/// Starts the thread, if it does not run in this process. If it cannot be started, nothing is
/// reported.
fn start() {
    /// One more than the number of forks before the process in which it was started.
    static STARTED_IN: AtomicUsize = AtomicUsize::new(0);
    let now = process::generation() + 1;
    if STARTED_IN.swap(now, Acquire) == now {
        return;
    }
    let started = process::start_thread("tantara-watchdog", || {
        let (mut watchers, mut printed) = (Vec::new(), HashMap::new());
        loop {
            if let Some(new) = process::own(&NEW) {
                watchers.append(&mut lock(new));
            }
            let began = Instant::now();
            let waits = view::waits();
            // Measured without the callbacks.
            let took = began.elapsed();
            watchers.iter_mut().for_each(|watcher: &mut Watcher| watcher.look(&waits));
            let limit = Duration::from_millis(PRINTED_AFTER.load(Acquire).into());
            let limits = watchers.iter().map(|watcher| watcher.limit);
            let shortest = limits.chain((!limit.is_zero()).then_some(limit)).min().unwrap_or(LONGEST);
            if !limit.is_zero() {
                print_late(limit, &waits, &mut printed);
            }
            thread::sleep(deadline::pause(took, (shortest / 10).clamp(SHORTEST, LONGEST)));
        }
    });
    if started.is_err() {
        STARTED_IN.store(0, Release);
    }
}

impl Watcher {
    fn look(&mut self, waits: &[Waiting]) {
        let Watcher { limit, callback, reported } = self;
        let ended = sort_out(waits, *limit, reported, |wait| quietly(|| callback(wait)));
        ended.iter().for_each(|wait| quietly(|| callback(wait)));
    }
}

/// Calls `late` for each wait that lasts longer than the limit and was not reported yet. Returns
/// those that were reported and have ended.
fn sort_out(
    waits: &[Waiting],
    limit: Duration,
    reported: &mut Reported,
    mut late: impl FnMut(&Waiting),
) -> Vec<Waiting> {
    let now = process::clock();
    let mut before = std::mem::take(reported);
    for wait in waits.iter().filter(|wait| wait.waited >= limit) {
        let known = before.remove(&wait.serial);
        if known.is_none() {
            late(wait);
        }
        let (since, began) =
            known.map_or((wait.since, now.saturating_sub(wait.waited)), |(wait, began)| (wait.since, began));
        reported.insert(wait.serial, (Waiting { since, ..wait.clone() }, began));
    }
    let ended = |(wait, began): (Waiting, Duration)| {
        let waited = now.saturating_sub(began).max(wait.waited);
        Waiting { has_ended: true, waited, ..wait }
    };
    before.into_values().map(ended).collect()
}

/// Prints a block of lines for each place where waits are late, and for each where they have ended.
fn print_late(limit: Duration, waits: &[Waiting], reported: &mut Reported) {
    let mut late = Vec::new();
    let ended = sort_out(waits, limit, reported, |wait| late.push(wait.clone()));
    let mut text = String::new();
    for (waits, what) in [(late, "like it"), (ended, "that began there")] {
        for group in fold::by_place(waits) {
            let rest = match group.len() {
                1 => String::new(),
                count => format!("\n  and {} more {what}", count - 1),
            };
            let _ = writeln!(text, "tantara: {}{rest}", group[0]);
        }
    }
    // One call, so that no other thread prints in between. An error is ignored: standard error may
    // be closed.
    let _ = io::Write::write_all(&mut io::stderr(), text.as_bytes());
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::waits::view::tests::wait_of;

    /// The system's clock may be set during a wait.
    #[test]
    fn the_length_of_a_wait_that_has_ended_does_not_depend_on_the_systems_clock() {
        let (hour, half_a_minute) = (Duration::from_secs(3600), Duration::from_secs(31));
        let wait = wait_of(half_a_minute, None);
        let (since, mut reported) = (wait.since, HashMap::new());
        let mut look = |waits: &[Waiting]| sort_out(waits, Duration::from_secs(30), &mut reported, |_| ());
        assert!(look(std::slice::from_ref(&wait)).is_empty());
        assert!(look(&[Waiting { since: since - hour, ..wait }]).is_empty());
        let ended = look(&[]).remove(0);
        assert!(ended.waited >= half_a_minute && ended.waited < hour, "{ended:?}");
        assert_eq!(ended.since, since, "as it was reported before");
    }
}
