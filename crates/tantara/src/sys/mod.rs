//! Sleeping on a word and waking sleepers: one file per platform.
//!
//! Each has the same functions, with the same contract:
//!
//! * `wait_in_group(word, expected, groups, deadline)` sleeps if `word` still is `expected`, until
//!   a wake-up call for `word` and one of `groups`, until the deadline, or until it is interrupted.
//!   It may return early. Comparing the word and falling asleep are one step with respect to every
//!   `wake_*` that follows a change of the word. A group is one bit of 32. Whatever it returns, it
//!   may have consumed a wake-up call.
//! * `wake_one(word)` wakes one sleeper on `word`, of whatever group.
//! * `wake_group(word, groups, most)` wakes up to `most` sleepers of these groups, those of the
//!   highest priority first. `true` says that there were fewer.
//!
//! A platform without groups (`HAS_GROUPS` is `false`) wakes all sleepers on `word` instead.
//!
//! [`spin`] decides whether to spin before sleeping. The functions for events between processes, on
//! Linux, are in `shared.rs`, `files.rs` and `unforked.rs`. `process.rs` and `words.rs` have a file
//! with the same functions for systems without them.

#[cfg(linux_native)]
#[path = "linux.rs"]
mod platform;
#[cfg(windows_native)]
#[path = "windows.rs"]
mod platform;
#[cfg(apple_native)]
#[path = "apple.rs"]
mod platform;
#[cfg(freebsd_native)]
#[path = "freebsd.rs"]
mod platform;
#[cfg(not(any(linux_native, windows_native, apple_native, freebsd_native)))]
#[path = "portable.rs"]
mod platform;
mod sleep;
pub(crate) mod spin;

#[cfg(shared_events)]
pub(crate) mod files;
#[cfg_attr(not(shared_events), path = "process_elsewhere.rs")]
pub(crate) mod process;
#[cfg(any(shared_events, loom))]
#[cfg_attr(loom, path = "shared_in_models.rs")]
pub(crate) mod shared;
#[cfg(shared_events)]
#[cfg_attr(not(target_arch = "x86_64"), path = "no_ticks.rs")]
pub(crate) mod ticks;
#[cfg(shared_events)]
pub(crate) mod unforked;
#[cfg_attr(not(shared_events), path = "no_words.rs")]
mod words;

pub(crate) use platform::*;
pub(crate) use sleep::{ALL, Awake, TimedOut};
pub(crate) use words::Words;

use crate::deadline::Deadline;
use crate::sync::AtomicU32;

/// How many threads a `set` wakes.
pub(crate) const FIRST: i32 = 1;
/// How many each woken thread wakes in turn. In models, as few as possible.
pub(crate) const NEXT: i32 = if cfg!(loom) { 1 } else { 4 };

/// Sleeps as `wait_in_group` does, in all groups. [`TimedOut`] is returned only if the deadline has
/// passed or the wait was given up.
pub(crate) fn wait(word: &AtomicU32, expected: u32, deadline: Deadline) -> Result<(), TimedOut> {
    if wait_in_group(word, expected, u32::MAX, deadline).ends_the_wait(deadline) { Err(TimedOut) } else { Ok(()) }
}
