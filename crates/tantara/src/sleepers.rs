//! How many threads sleep on a word, in two bytes.
//!
//! `Debug` shows the count, and a woken thread reads it to decide whether it has to wake others. So
//! the count must not be zero while a thread sleeps. Sleepers that do not fit into two bytes are
//! counted for all events together.

#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use crate::sync::{AtomicU16, const_new};

/// The number of threads that sleep on one word, or are about to, or were just woken.
///
/// Everything is relaxed. A sleeper is counted before it writes to its word, so whoever acquires a
/// later value of that word sees it counted.
#[derive(Debug)]
pub(crate) struct Sleepers(AtomicU16);

/// The sleepers of all events that did not fit into their event's own count.
static OTHERS: AtomicU32 = AtomicU32::new(0);

/// A thread that is counted, until this is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Sleeper<'a> {
    sleepers: &'a Sleepers,
    has_own_count: bool,
}

impl Sleepers {
    const_new! {
        pub(crate) fn new() -> Self {
            Self(AtomicU16::new(0))
        }
    }

    /// Counts the calling thread.
    pub(crate) fn enter(&self) -> Sleeper<'_> {
        let has_own_count = self.0.fetch_update(Relaxed, Relaxed, |count| count.checked_add(1)).is_ok();
        if !has_own_count {
            OTHERS.fetch_add(1, Relaxed);
        }
        Sleeper { sleepers: self, has_own_count }
    }

    /// Whether a thread may be asleep. `false` is certain.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Relaxed) > 0 || OTHERS.load(Relaxed) > 0
    }

    /// For `Debug`: at most 65,535.
    pub(crate) fn count(&self) -> usize {
        self.0.load(Relaxed).into()
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        if self.has_own_count {
            self.sleepers.0.fetch_sub(1, Relaxed);
        } else {
            OTHERS.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_overlooked_when_the_count_is_full() {
        let sleepers = Sleepers(AtomicU16::new(u16::MAX - 1));
        let last = sleepers.enter();
        let beyond = [sleepers.enter(), sleepers.enter()];
        assert_eq!(sleepers.count(), usize::from(u16::MAX));
        // All leave that have an own count.
        drop(last);
        sleepers.0.store(0, Relaxed);
        assert!(sleepers.any(), "two still sleep");
        drop(beyond);
        assert_eq!(sleepers.count(), 0);
    }
}
