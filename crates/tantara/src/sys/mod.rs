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

#[cfg(all(target_os = "linux", not(tantara_portable), not(loom)))]
#[path = "linux.rs"]
mod platform;
#[cfg(not(all(target_os = "linux", not(tantara_portable), not(loom))))]
#[path = "portable.rs"]
mod platform;

#[cfg(all(target_os = "linux", not(tantara_portable), not(loom)))]
pub(crate) mod files;
#[cfg(all(target_os = "linux", not(tantara_portable), not(loom)))]
pub(crate) mod shared;
#[cfg(loom)]
#[path = "shared_in_models.rs"]
pub(crate) mod shared;
pub(crate) mod spin;

pub(crate) use platform::{wait, wake_all, wake_one};

/// The deadline of a sleep has passed, or it was [given up](crate::interruptible).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TimedOut;

/// Why the kernel has ended a sleep.
#[cfg(any(all(target_os = "linux", not(tantara_portable)), loom))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Awake {
    /// By a wake-up call, because the word has changed, or for no reason at all.
    Called,
    /// The time has passed.
    TimedOut,
    /// A signal's handler has run.
    #[cfg_attr(loom, expect(dead_code, reason = "models know no signals"))]
    Interrupted,
}
