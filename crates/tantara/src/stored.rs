//! The state word of an [`AutoResetEvent`](crate::AutoResetEvent), and how a release is taken and
//! given.
//!
//! | bit | name | meaning |
//! |---|---|---|
//! | 0 | STORED | one release is kept for the next wait |
//! | 1 | LISTED | the queue may hold waiters, so a release goes through it |
//!
//! Invariants: STORED implies not LISTED, because a release is stored only without waiters, and no
//! wait begins while one is stored. LISTED changes under the queue's lock only, and may be on while
//! the queue is empty.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::task::Waker;

use crate::sync::AtomicU32;
use crate::tasks::Queue;
use crate::waits::hooks::{self, Place, State, Target};
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

/// Gives one release: to the first waiter, or to the store, which holds one. It is given by a call
/// at that place.
#[inline]
pub(crate) fn give(queue: &Queue, place: Place) {
    if let Some(first) = store_or_release(queue, Some(place)) {
        first.wake();
    }
}

/// As [`give`], for a destructor: it does not panic, nor recurse when the waker drops the next
/// wait.
pub(crate) fn hand_on(queue: &Queue) {
    if let Some(first) = store_or_release(queue, None) {
        wake_from_drop(first);
    }
}

/// The waker of the waiter that was released, unless the release was stored.
#[inline]
fn store_or_release(queue: &Queue, place: Option<Place>) -> Option<Waker> {
    if store(queue) { None } else { release_first(queue, place) }
}

/// Stores one release, unless the queue may hold waiters.
#[inline]
fn store(queue: &Queue) -> bool {
    // A full store is written again: all that happened before this call must be visible to the wait
    // that takes it.
    queue.word.fetch_update(AcqRel, Acquire, |word| (word & LISTED == 0).then_some(STORED)).is_ok()
}

fn release_first(queue: &Queue, place: Option<Place>) -> Option<Waker> {
    let state = State::now();
    if let Some(place) = place.filter(|_| !state.is_idle()) {
        hooks::set(state, Target::of_auto_reset(hooks::address(queue)), false, place);
    }
    // LISTED changes under the lock only, and while it is on nothing else changes the word.
    queue.release_one(|word| _ = word.swap(EMPTY, AcqRel), |word| _ = word.swap(STORED, AcqRel))
}

/// Called under the queue's lock. Whether the waiter must be queued; if not, it has taken the
/// stored release.
pub(crate) fn admit(word: &AtomicU32) -> bool {
    word.fetch_update(AcqRel, Acquire, |word| match word {
        STORED => Some(EMPTY),
        _ => Some(LISTED),
    }) != Ok(STORED)
}
