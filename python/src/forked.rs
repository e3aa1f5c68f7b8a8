//! An event in the child of a fork: a new one in the place of the old, set if that was.
//!
//! The old one may be locked by a thread that the child does not have, and its line is full of such threads: a
//! turnstile would give its releases to them. So nobody touches it any more. It stays where it is, for waits that
//! began before the fork may still refer to it.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// How many forks there were before this process.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Called in the child of a fork, before anything of Python's runs there.
pub(crate) fn note() {
    FORKS.fetch_add(1, Relaxed);
}

/// How many there were by now. The same number, the same process.
#[inline]
pub(crate) fn count() -> u32 {
    FORKS.load(Relaxed)
}

/// An event of this process.
pub(crate) struct Own<T> {
    event: T,
    /// The process that it is of.
    forks: u32,
    /// The same for a child of that process.
    later: OnceLock<Box<Own<T>>>,
}

/// What can begin anew.
pub(crate) trait Like {
    /// One for which nobody waits, set as `self` is.
    fn like(&self) -> Self;
}

impl Like for tantara::Event {
    fn like(&self) -> Self {
        let new = tantara::Event::new();
        if self.is_set() {
            new.set();
        }
        new
    }
}

impl Like for tantara::AutoResetEvent {
    fn like(&self) -> Self {
        let new = tantara::AutoResetEvent::new();
        if self.is_set() {
            new.set();
        }
        new
    }
}

impl<T: Like> Own<T> {
    pub(crate) fn new(event: T) -> Own<T> {
        Own { event, forks: count(), later: OnceLock::new() }
    }

    #[inline]
    pub(crate) fn get(&self) -> &T {
        if self.forks == count() { &self.event } else { self.get_later() }
    }

    #[cold]
    fn get_later(&self) -> &T {
        self.later.get_or_init(|| Box::new(Own::new(self.event.like()))).get()
    }
}
