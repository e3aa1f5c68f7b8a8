//! Sleeping on a word and waking sleepers: one file per platform.
//!
//! Each has the same functions, with the same contract:
//!
//! * `wait(word, expected, deadline)` sleeps if `word` still is `expected`, until a wake-up call
//!   for `word`, until the deadline, or until it is interrupted. It may return early. Comparing the
//!   word and falling asleep are one step with respect to every `wake_*` that follows a change of
//!   the word. [`TimedOut`] is returned only if the deadline has passed or the wait was given up.
//! * `wait_in_group(word, expected, group, deadline)` does the same, and only wake-up calls for its
//!   group reach it. A group is one bit of 32. Whatever it returns, it may have used up a wake-up
//!   call. It does not call [`gives_up`](crate::interrupt::gives_up).
//! * `wake_one(word)` wakes one sleeper on `word`, of whatever group.
//! * `wake_group(word, groups, most)` wakes up to `most` sleepers of these groups, those of the
//!   highest priority first. `true` says that there were fewer.
//!
//! A platform without groups (`HAS_GROUPS` is `false`) wakes everybody instead.
//!
//! [`spin`] decides whether to spin before sleeping. On Linux, `shared.rs` and `files.rs` have what
//! events between processes need.

#[cfg(linux_native)]
#[path = "linux.rs"]
mod platform;
#[cfg(all(loom, not(tantara_portable)))]
#[path = "futex_in_models.rs"]
mod platform;
#[cfg(not(any(linux_native, all(loom, not(tantara_portable)))))]
#[path = "portable.rs"]
mod platform;
pub(crate) mod spin;

pub(crate) use platform::*;

use crate::deadline::Deadline;
use crate::interrupt;

/// How many threads a `set` wakes.
pub(crate) const FIRST: i32 = 1;
/// How many each of these wakes, and each of those in turn. In models as few as can be.
pub(crate) const NEXT: i32 = if cfg!(loom) { 1 } else { 4 };
/// All that there are.
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
