//! Sleeping on a word and waking sleepers: one file per platform.
//!
//! Each has the same three functions, with the same contract:
//!
//! * `wait(word, expected, deadline)` sleeps if `word` still is `expected`, until a wake-up call for `word`, until the
//!   deadline, or until it is interrupted. It may return early. Comparing the word and falling asleep are one step
//!   with respect to every `wake_*` that follows a change of the word. [`TimedOut`] is returned only if the deadline
//!   has passed or the wait was given up.
//! * `wake_one(word)` and `wake_all(word)` wake one or all sleepers on `word`.
//!
//! [`spin`] decides whether to spin before sleeping. On Linux, `shared.rs` and `files.rs` have what events between
//! processes need.

#[cfg(linux_native)]
#[path = "linux.rs"]
mod platform;
#[cfg(not(linux_native))]
#[path = "portable.rs"]
mod platform;
pub(crate) mod spin;

pub(crate) use platform::*;

/// The deadline of a sleep has passed, or it was [given up](crate::interruptible).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimedOut;

/// Why a sleep has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "only a futex distinguishes them")]
pub(crate) enum Awake {
    /// A wake-up call, a change of the word, or a spurious wake-up.
    Called,
    /// The time has passed.
    TimedOut,
    /// A signal handler has run.
    Interrupted,
}
