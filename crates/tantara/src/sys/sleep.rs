//! The outcome of a sleep, and the longest duration of one.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::interrupt;
use crate::sync;

/// A wake-up call for all sleepers.
pub(crate) const ALL: i32 = i32::MAX;

/// The deadline of a sleep has passed, or it was [given up](crate::interruptible).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimedOut;

/// Why a sleep has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "only a futex distinguishes them")]
pub(crate) enum Awake {
    /// A wake-up call.
    Called,
    /// A change of the word before the sleep, or no reason at all.
    Early,
    /// The time has passed.
    TimedOut,
    /// A signal handler has run, or may have.
    Interrupted,
}

impl Awake {
    /// Whether a wait that was not released is over: its time has passed, or it is
    /// [given up](crate::interruptible).
    pub(crate) fn ends_the_wait(self, deadline: Deadline) -> bool {
        match self {
            Awake::TimedOut => true,
            Awake::Interrupted => interrupt::gives_up(deadline),
            Awake::Called | Awake::Early => false,
        }
    }
}

/// How long to sleep if the system refuses to wait for a wake-up call.
const REFUSED_NAP: Duration = Duration::from_millis(1);

/// The system has no memory for a sleep, or a sandbox forbids it. Sleeps without a wake-up call, so
/// that the caller does not spin. No signal ends such a sleep, so each counts as interrupted.
#[cold]
#[allow(dead_code, reason = "Windows and the portable backend refuse nothing")]
pub(crate) fn refused(nap: Option<Duration>) -> Awake {
    sync::sleep(nap.map_or(REFUSED_NAP, |nap| nap.min(REFUSED_NAP)));
    Awake::Interrupted
}

/// The longest sleep with a time: a year. Some systems add the time to their clock, which may
/// overflow.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// One sleep of a wait, on a system that takes a time to sleep and returns after it: `sleep` gets
/// the time for which it may sleep, which is not zero. `TimedOut` says that the deadline has passed.
///
/// The time is relative and computed anew for each sleep, so early returns do not add up.
#[allow(dead_code, reason = "the portable backend sleeps until a moment")]
pub(crate) fn sleep_until(deadline: Deadline, sleep: impl FnOnce(Option<Duration>) -> Awake) -> Awake {
    let left = match deadline.instant() {
        None => None,
        Some(deadline) => {
            let left = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero());
            let Some(left) = left else { return Awake::TimedOut };
            Some(left)
        }
    };
    let longest = interrupt::longest_sleep(deadline);
    let nap = left.into_iter().chain(longest).min().map(|nap| nap.min(LONGEST));
    match sleep(nap) {
        // A signal may have come just before the sleep.
        Awake::TimedOut if nap != left => Awake::Interrupted,
        // The timer of some systems is ahead of the clock.
        Awake::TimedOut if !deadline.has_passed() => Awake::Early,
        awake => awake,
    }
}
