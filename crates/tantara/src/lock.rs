//! The queue's lock: four bytes that sleep in the kernel, and count the event's sleeping threads in the bits that a lock
//! leaves free. It is what lets an [`Event`](crate::Event) be 16 bytes and still know how many wait.
//!
//! ```text
//!   31                                    2     1        0
//!  ┌──────────────────────────────────────┬─────────┬──────┐
//!  │ sleepers: threads asleep on the word │CONTENDED│LOCKED│
//!  └──────────────────────────────────────┴─────────┴──────┘
//! ```
//!
//! The lock is the three-state mutex of Ulrich Drepper's "Futexes Are Tricky" (2011): unlocked, locked, locked with
//! someone asleep. Whoever has slept takes it as CONTENDED, because others may still sleep. The count rides along; a
//! change of it under a thread that is about to sleep costs that thread one more look, nothing else.
//!
//! It is held for at most one batch of list operations and never while foreign code runs, so it needs no fairness.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::sync::{AtomicU32, SPINS, const_new, spin_loop};
use crate::sys;

const LOCKED: u32 = 0b01;
const CONTENDED: u32 = 0b10;
const SLEEPER: u32 = 0b100;

#[derive(Debug)]
pub(crate) struct Lock {
    state: AtomicU32,
}

/// The lock, held. Dropping it unlocks.
#[derive(Debug)]
#[must_use]
pub(crate) struct LockGuard<'a>(&'a Lock);

impl Lock {
    const_new! {
        pub(crate) fn new() -> Self {
            Self { state: AtomicU32::new(0) }
        }
    }

    #[inline]
    pub(crate) fn lock(&self) -> LockGuard<'_> {
        let state = self.state.load(Relaxed);
        if state & LOCKED != 0 || !self.try_take(state, LOCKED) {
            self.lock_contended();
        }
        LockGuard(self)
    }

    #[inline]
    fn try_take(&self, state: u32, bits: u32) -> bool {
        self.state.compare_exchange(state, state | bits, Acquire, Relaxed).is_ok()
    }

    #[cold]
    fn lock_contended(&self) {
        for _ in 0..SPINS {
            let state = self.state.load(Relaxed);
            if state & LOCKED == 0 && self.try_take(state, LOCKED) {
                return;
            }
            if state & CONTENDED != 0 {
                break;
            }
            spin_loop();
        }
        loop {
            let state = self.state.load(Relaxed);
            if state & LOCKED == 0 {
                if self.try_take(state, LOCKED | CONTENDED) {
                    return;
                }
                continue;
            }
            let contended = state | CONTENDED;
            if state == contended || self.state.compare_exchange(state, contended, Relaxed, Relaxed).is_ok() {
                // No deadline, so there is no outcome to look at.
                let _ = sys::wait(&self.state, contended, None);
            }
        }
    }

    /// How many threads sleep on the event's word now; a snapshot.
    pub(crate) fn sleepers(&self) -> u32 {
        self.state.load(Relaxed) / SLEEPER
    }

    pub(crate) fn sleeper_enters(&self) {
        self.state.fetch_add(SLEEPER, Relaxed);
    }

    pub(crate) fn sleeper_leaves(&self) {
        self.state.fetch_sub(SLEEPER, Relaxed);
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        let before = self.0.state.fetch_and(!(LOCKED | CONTENDED), Release);
        if before & CONTENDED != 0 {
            sys::wake_one(&self.0.state);
        }
    }
}
