//! Under loom: the system calls of `shared.rs`, by the portable backend.

#![forbid(unsafe_code)]
#![allow(dead_code, reason = "only the models use it")]

use std::sync::atomic::Ordering::AcqRel;

use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::sync::AtomicU32;
use crate::sys::{ALL, Awake, TimedOut};

pub(crate) fn wait(word: &AtomicU32, expected: u32, nap: Option<Duration>) -> Awake {
    let deadline = nap.map_or(Deadline::Never, |nap| Deadline::At(Instant::now() + nap));
    match crate::sys::wait(word, expected, deadline) {
        Ok(()) => Awake::Called,
        Err(TimedOut) => Awake::TimedOut,
    }
}

pub(crate) fn wake_all(word: &AtomicU32) {
    super::platform::wake_group(word, u32::MAX, ALL);
}

/// Without a deadline.
pub(crate) fn wait_two(first: (&AtomicU32, u32), second: (&AtomicU32, u32), _: Duration) -> Awake {
    super::platform::wait_two(first, second);
    Awake::Called
}

/// In the kernel this is one step. The difference does not show, because a thread that goes to
/// sleep in between finds that the word has changed.
pub(crate) fn raise_and_wake_all(word: &AtomicU32, bits: u32) {
    word.fetch_or(bits, AcqRel);
    wake_all(word);
}

/// As above.
pub(crate) fn lower_and_wake_all(word: &AtomicU32, bits: u32) {
    word.fetch_and(!bits, AcqRel);
    wake_all(word);
}

/// As above.
pub(crate) fn add_and_wake_all(word: &AtomicU32, number: u32) {
    word.fetch_add(number, AcqRel);
    wake_all(word);
}
