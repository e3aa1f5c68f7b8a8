//! Sleeping on a word and waking those who sleep: one file per platform.
//!
//! Each offers the same three functions, which promise the same:
//!
//! * `wait(word, expected, deadline)` sleeps if `word` still holds `expected`, until a wake-up call for `word`, until
//!   the deadline, until it is interrupted, or for no reason at all: the caller looks again. The look at the word and
//!   the falling asleep are one step for every `wake_*` that follows a change of the word. [`TimedOut`] is said only
//!   when the deadline has passed.
//! * `wake_one(word)`, `wake_all(word)` wake one or all who sleep on `word`.
//!
//! And beside them [`spin`], which decides whether looking again a few times is worth more than sleeping at once; and
//! on Linux what events between processes need: `shared.rs` and `files.rs`.

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

/// Why the kernel has ended a sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(dead_code, reason = "only the kernel's futex tells")]
pub(crate) enum Awake {
    /// By a wake-up call, because the word has changed, or for no reason at all.
    Called,
    /// The time has passed.
    TimedOut,
    /// A signal's handler has run.
    Interrupted,
}
