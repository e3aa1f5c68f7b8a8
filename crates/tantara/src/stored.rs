//! The state word of an [`AutoResetEvent`](crate::AutoResetEvent), and how a release is taken and
//! given.
//!
//! | bit | name | meaning |
//! |---|---|---|
//! | 0 | STORED | one release is kept for the next wait |
//! | 1 | LISTED | the queue may hold waiters, so a release goes through it |
//! | 2 | NOTED | the record of waits notes each release that is given or taken, so neither is done by one step |
//!
//! Invariants: STORED implies not LISTED, because a release is stored only without waiters, and no
//! wait begins while one is stored. LISTED changes under the queue's lock only, and may be on while
//! the queue is empty. NOTED is turned on while waits are recorded. A `set` that finds it on after
//! the record was turned off turns it off.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::task::Waker;

use crate::sync::AtomicU32;
use crate::tasks::Queue;
use crate::waits::hooks::{self, Kind, Place, State};
use crate::wakers::{wake, wake_from_drop};

pub(crate) const EMPTY: u32 = 0b00;
const STORED: u32 = 0b01;
const LISTED: u32 = 0b10;
const NOTED: u32 = 0b100;

#[inline]
pub(crate) fn is_stored(queue: &Queue) -> bool {
    queue.word.load(Acquire) & STORED != 0
}

/// Takes the stored release, if there is one: for a wait that began at that place, if for any.
#[inline]
pub(crate) fn take(queue: &Queue, place: Option<Place>) -> bool {
    is_stored(queue)
        && match queue.word.compare_exchange(STORED, EMPTY, AcqRel, Acquire) {
            Ok(_) => true,
            Err(word) => word & NOTED != 0 && take_noted(queue, place),
        }
}

#[cold]
#[inline(never)]
fn take_noted(queue: &Queue, place: Option<Place>) -> bool {
    let take = |word| (word & STORED != 0).then_some(word & !STORED);
    let is_taken = queue.word.fetch_update(AcqRel, Acquire, take).is_ok();
    if let Some(place) = place.filter(|_| is_taken) {
        note_taken(queue, place);
    }
    is_taken
}

/// From now on, while waits are recorded, given and taken releases are noted.
pub(crate) fn note_all(queue: &Queue) {
    if !is_noted(queue) {
        queue.word.fetch_or(NOTED, AcqRel);
    }
}

/// Whether it is noted.
#[inline]
pub(crate) fn is_noted(queue: &Queue) -> bool {
    queue.word.load(Relaxed) & NOTED != 0
}

/// Notes that a call at that place, if at any, gives a release. The bit that stays on.
#[cold]
#[inline(never)]
fn note_given(queue: &Queue, place: Option<Place>) -> u32 {
    if let Some(place) = place {
        hooks::set(queue.subject(Kind::AutoReset), None, false, place);
    }
    NOTED
}

/// If waits are recorded, notes that a wait from that place has consumed a release.
#[cold]
#[inline(never)]
pub(crate) fn note_taken(queue: &Queue, place: Place) {
    if State::now().records() {
        hooks::taken(queue.subject(Kind::AutoReset), place);
    }
}

/// Gives one release: to the first waiter, or to the store, which holds one. It is given by a call
/// at that place.
#[inline]
pub(crate) fn give(queue: &Queue, place: Place) {
    if let Some(first) = store_or_release(queue, Some(place)) {
        wake(first);
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

/// Stores one release, unless the queue may hold waiters or the record notes it.
#[inline]
fn store(queue: &Queue) -> bool {
    // A full store is written again: all that happened before this call must be visible to the wait
    // that takes it.
    queue.word.fetch_update(AcqRel, Acquire, |word| (word & (LISTED | NOTED) == 0).then_some(STORED)).is_ok()
}

fn release_first(queue: &Queue, place: Option<Place>) -> Option<Waker> {
    let kept = if State::now().records() { note_given(queue, place) } else { EMPTY };
    // LISTED changes under the lock only, and while it is on nothing is stored.
    let store = |word| Some(word & kept | STORED);
    queue.release_one(|word| _ = word.fetch_and(kept, AcqRel), |word| _ = word.fetch_update(AcqRel, Acquire, store))
}

/// Called under the queue's lock. Whether the waiter must be queued; if not, it has taken the
/// stored release.
pub(crate) fn admit(word: &AtomicU32) -> bool {
    let admit = |word| Some(if word & STORED != 0 { word & !STORED } else { word | LISTED });
    word.fetch_update(AcqRel, Acquire, admit).is_ok_and(|before| before & STORED == 0)
}
