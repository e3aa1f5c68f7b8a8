//! The state word of an [`AutoResetEvent`](crate::AutoResetEvent), and how a release is taken and given.
//!
//! | bit | name | meaning |
//! |---|---|---|
//! | 0 | STORED | one release is kept for the next who comes |
//! | 1 | LISTED | the queue may hold waiters, so a release goes through it |
//!
//! Invariants: STORED implies not LISTED, for a release is stored only when nobody waits, and nobody waits while one
//! is stored. LISTED is switched on and off under the queue's lock alone; it may be on while the queue is empty.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::task::Waker;

use crate::sync::AtomicU32;
use crate::tasks::Queue;
use crate::wakers::wake_from_drop;

pub(crate) const EMPTY: u32 = 0b00;
const STORED: u32 = 0b01;
const LISTED: u32 = 0b10;

#[inline]
pub(crate) fn is_stored(queue: &Queue) -> bool {
    queue.word.load(Acquire) & STORED != 0
}

/// Takes the stored release, if there is one.
#[inline]
pub(crate) fn take(queue: &Queue) -> bool {
    is_stored(queue) && queue.word.compare_exchange(STORED, EMPTY, AcqRel, Acquire).is_ok()
}

/// Gives one release: to the first in line, or to the store, which holds one.
#[inline]
pub(crate) fn give(queue: &Queue) {
    if !store(queue)
        && let Some(first) = release_first(queue)
    {
        first.wake();
    }
}

/// Gives one release in a destructor: without panicking, and without recursion when the waker drops the next wait.
pub(crate) fn hand_on(queue: &Queue) {
    if !store(queue)
        && let Some(first) = release_first(queue)
    {
        wake_from_drop(first);
    }
}

/// Stores one release, unless somebody may stand in line.
#[inline]
fn store(queue: &Queue) -> bool {
    // A full store is written again all the same: what came before this call must be visible to whoever takes it.
    queue.word.fetch_update(AcqRel, Acquire, |word| (word & LISTED == 0).then_some(STORED)).is_ok()
}

fn release_first(queue: &Queue) -> Option<Waker> {
    // LISTED changes under the lock alone, and while it is on nothing else changes the word.
    queue.release_one(|word| _ = word.swap(EMPTY, AcqRel), |word| _ = word.swap(STORED, AcqRel))
}

/// Asked under the queue's lock: must this one stand in line? If not, it has just taken the stored release.
pub(crate) fn admit(word: &AtomicU32) -> bool {
    word.fetch_update(AcqRel, Acquire, |word| match word {
        STORED => Some(EMPTY),
        _ => Some(LISTED),
    }) != Ok(STORED)
}
