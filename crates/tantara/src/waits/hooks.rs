//! What the events call when a wait begins or ends, or when they are set.
//!
//! While nothing is recorded and no event has a label, [`State::now`] is all that they look at, once
//! for each wait that is queued or sleeps.
//!
//! An event of which something is known keeps the bit that makes its next `set` look for tasks. So
//! a `set` without waiters costs nothing more, and a `set` of a known event is noted. It also shows
//! that nothing known of the address is left from an event that was moved away: a new event has not
//! that bit.

#![forbid(unsafe_code)]

use std::panic::Location;
use std::ptr;
use std::task::Waker;

use crate::deadline::Deadline;
use crate::waits::known;
#[allow(unused_imports, reason = "for events between processes")]
pub(crate) use crate::waits::known::Count;
use crate::waits::start;
use crate::waits::store::{self, Beginning};
pub(crate) use crate::waits::store::{Kind, Place, Recorded, SlotIndex, SlotIndexCell, Target, What};
use crate::waits::switch;
pub(crate) use crate::waits::switch::State;
use crate::word::Generation;

/// By what an event is known, for a wait.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub(crate) address: usize,
    pub(crate) kind: Kind,
    /// Whether the wait is one until the event is unset.
    pub(crate) until_unset: bool,
}

impl Identity {
    pub(crate) fn new(address: usize, kind: Kind) -> Identity {
        Identity { address, kind, until_unset: false }
    }

    pub(crate) fn target(self, generation: Generation) -> Target {
        let Identity { address, kind, until_unset } = self;
        Target { address, kind, generation, until_unset }
    }
}

/// The address by which an event is known.
#[inline]
pub(crate) fn address<T>(event: &T) -> usize {
    ptr::from_ref(event).addr()
}

/// The waits are recorded; if the environment says so, from now on.
pub(crate) fn records(state: State) -> bool {
    if state.is_unasked() { start::ask() } else { state.records() && start::goes_on() }
}

/// A task was queued. `is_first`: no task or known event was there before.
#[cold]
#[inline(never)]
pub(crate) fn queued(
    state: State,
    owner: usize,
    target: Target,
    is_first: bool,
    place: Option<Place>,
    waker: &Waker,
) -> SlotIndex {
    if is_first && state.knows() {
        known::forget(target.address);
    }
    let Some(place) = place.filter(|_| records(state)) else { return SlotIndex::NONE };
    let task = Some(waker.data().addr());
    store::insert(Beginning { owner, what: What::One(target), place, deadline: None, task }).0
}

/// A thread is about to sleep.
#[cold]
#[inline(never)]
pub(crate) fn sleeps(state: State, what: What, place: Place, deadline: Deadline) -> Option<Recorded> {
    let deadline = deadline.instant();
    records(state).then(|| store::record(Beginning { owner: 0, what, place, deadline, task: None }))
}

/// A task has polled a wait for several events.
#[cold]
pub(crate) fn polled(state: State, what: What, place: Place, waker: &Waker) -> Option<Recorded> {
    let task = Some(waker.data().addr());
    records(state).then(|| store::record(Beginning { owner: 0, what, place, deadline: None, task }))
}

/// A recorded wait has ended.
#[cold]
#[inline(never)]
pub(crate) fn ended(slot: &SlotIndexCell, owner: usize) {
    store::remove(slot.take(), owner);
}

/// An event with waiters, or a known one, was set, and has released waits of that generation. `in_vain`
/// if nobody waited. Whether it stays known.
#[cold]
pub(crate) fn set(state: State, event: Target, in_vain: bool, place: Place) -> bool {
    if state.records() {
        let generation = (event.kind == Kind::Event).then_some(event.generation);
        known::set(event.address, event.kind, generation, in_vain, place);
        switch::note_known();
        return true;
    }
    state.knows() && known::is_known(event.address)
}

/// A recorded wait is one until its event is unset.
#[allow(dead_code, reason = "for events between processes")]
#[cold]
pub(crate) fn until_unset(slot: &SlotIndexCell, owner: usize) {
    store::note_until_unset(slot.get(), owner);
}

/// If waits are recorded, gives an event the name by which it was opened, unless it has a label, and its
/// file's path. Else nothing is known of it afterwards that was not before, so that a process that
/// records nothing stays idle.
#[allow(dead_code, reason = "for events between processes")]
pub(crate) fn introduce(event: Identity, name: impl FnOnce() -> (String, Option<String>)) {
    if is_wanted() {
        switch::note_known();
        known::name(event.address, event.kind, name);
    }
}

/// Whether the waits are recorded; if the environment says so, from now on.
#[allow(dead_code, reason = "for events between processes")]
pub(crate) fn is_wanted() -> bool {
    let state = State::now();
    !state.is_idle() && records(state)
}

/// Events between processes are counted outside: see [`Count`].
#[allow(dead_code, reason = "for events between processes")]
pub(crate) fn count_by(Identity { address, kind, .. }: Identity, count: Count) {
    known::count_by(address, kind, count);
}

/// Somebody holds an event. The number of the hold; zero if it is not recorded.
#[allow(dead_code, reason = "for events between processes")]
pub(crate) fn hold(Identity { address, kind, .. }: Identity, place: Place) -> u64 {
    known::hold(address, kind, place)
}

/// A hold has ended, if it is recorded.
#[allow(dead_code, reason = "for events between processes")]
pub(crate) fn release(address: usize, number: u64) {
    if number != 0 {
        known::keep(address, number);
    }
}

/// Whether anything is known of an event.
pub(crate) fn is_known(address: usize) -> bool {
    State::now().knows() && known::is_known(address)
}

/// A wait has used up a release of an auto-reset event.
#[cold]
pub(crate) fn taken(address: usize, place: Place) {
    known::take(address, place);
}

/// Notes something of an event, before its first wait too. `mark` is the event's `mark_known`. The
/// event is marked before, so that a first wait at the same time forgets nothing, and once more after,
/// because a `set` in between takes the mark off if it finds that nothing is known.
pub(crate) fn begin_to_know<T>(address: usize, mark: impl Fn() -> bool, note: impl FnOnce() -> T) -> T {
    switch::note_known();
    if !mark() {
        known::forget(address);
    }
    let noted = note();
    mark();
    noted
}

/// Somebody has declared to set an event. The number of the declaration; zero if it is not recorded.
pub(crate) fn declare(address: usize, kind: Kind, place: Place, mark: impl Fn() -> bool) -> u64 {
    let state = State::now();
    if state.is_idle() || !records(state) {
        return 0;
    }
    begin_to_know(address, mark, || known::declare(address, kind, place))
}

/// The declaration was kept: the event is being set.
pub(crate) fn keep(address: usize, kind: Kind, number: u64, place: Place) {
    known::keep(address, number);
    known::set(address, kind, None, false, place);
}

/// The declaration was given up.
#[track_caller]
pub(crate) fn give_up(address: usize, number: u64) {
    known::give_up(address, number, Location::caller());
}

/// An event is dropped.
#[inline]
pub(crate) fn dropped(address: usize) {
    if State::now().knows() {
        known::forget(address);
    }
}
