//! What the events call when a wait begins or ends, or when they are set.
//!
//! While nothing is recorded, the events only call [`State::now`], once for each wait that is
//! queued or sleeps. A `set` calls nothing here and takes no lock of the record, whether or not
//! events have labels.
//!
//! While waits are recorded, an event of which something is known keeps a bit of its word that makes its
//! next `set` take the slow path, where it is noted: the one that makes it look for tasks, or one for
//! that purpose. So a `set` of another event costs nothing more.

#![forbid(unsafe_code)]

use std::panic::Location;
use std::ptr;
use std::sync::Arc;
use std::task::Waker;

use crate::deadline::Deadline;
use crate::waits::known;
use crate::waits::known::Act;
#[allow(unused_imports, reason = "for events between processes")]
pub(crate) use crate::waits::known::Count;
pub(crate) use crate::waits::known::{Mark, Subject};
use crate::waits::last_hold::LastHold;
use crate::waits::start;
use crate::waits::store::{self, Beginning};
pub(crate) use crate::waits::store::{Kind, Place, Recorded, SlotIndex, SlotIndexCell, Target, What};
use crate::waits::switch;
pub(crate) use crate::waits::switch::State;
use crate::word::Generation;

/// The identity of an event, for a wait.
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

/// A wait for an event in memory is about to be recorded. Discards what was known of another event
/// at that address.
pub(crate) fn meet(event: Subject<'_>) {
    known::meet(event);
}

/// A task was queued, and waits are recorded.
#[cold]
#[inline(never)]
pub(crate) fn queued(owner: usize, target: Target, place: Place, waker: &Waker) -> SlotIndex {
    let task = Some(waker.data().addr());
    store::insert(Beginning { owner, what: What::One(target), place, deadline: None, task }).0
}

/// A thread is about to sleep, and waits are recorded.
#[inline]
pub(crate) fn sleeps(what: What, place: Place, deadline: Deadline) -> Recorded {
    store::record(Beginning { owner: 0, what, place, deadline: deadline.instant(), task: None })
}

/// A task has polled a wait for several events, and waits are recorded.
#[cold]
pub(crate) fn polled(what: What, place: Place, waker: &Waker) -> Recorded {
    store::record(Beginning { owner: 0, what, place, deadline: None, task: Some(waker.data().addr()) })
}

/// A recorded wait has ended.
#[cold]
#[inline(never)]
pub(crate) fn ended(slot: &SlotIndexCell, owner: usize) {
    store::remove(slot.take(), owner);
}

/// While waits are recorded, an event with waiters, or a known one, was set, and has released waits of
/// that generation, if it has generations. `in_vain` if nobody waited.
#[cold]
#[inline(never)]
pub(crate) fn set(event: Subject<'_>, generation: Option<Generation>, in_vain: bool, place: Place) {
    known::set(event, generation, in_vain, place);
}

/// A recorded wait is one until its event is unset.
#[allow(dead_code, reason = "for events between processes")]
#[cold]
pub(crate) fn until_unset(slot: &SlotIndexCell, owner: usize) {
    store::note_until_unset(slot.get(), owner);
}

/// If waits are recorded, gives an event the path of its file, and the name by which it was opened,
/// unless it has a label. Otherwise does nothing.
#[allow(dead_code, reason = "for events between processes")]
pub(crate) fn introduce(event: Identity, name: impl FnOnce() -> (String, Option<String>)) {
    if is_wanted() {
        known::name(outside(event), name);
    }
}

/// An event that lies outside of the process, of which something is known until its handle is dropped.
pub(crate) fn outside(event: Identity) -> Subject<'static> {
    switch::note_known();
    Subject { address: event.address, kind: event.kind, mark: None }
}

/// Whether the waits are recorded; if the environment says so, from now on.
pub(crate) fn is_wanted() -> bool {
    let state = State::now();
    !state.is_idle() && records(state)
}

/// Events between processes are counted outside: see [`Count`].
#[allow(dead_code, reason = "for events between processes")]
pub(crate) fn count_by(event: Identity, count: Count) {
    known::count_by(outside(event), count);
}

/// This thread holds an event. Returns the number of the hold; zero if it is not recorded.
#[allow(dead_code, reason = "for events between processes")]
pub(crate) fn hold(event: Identity, place: Place) -> u64 {
    hold_by(event, Act::now(place))
}

/// The thread of that act holds an event. Returns the number of the hold.
pub(crate) fn hold_by(event: Identity, act: Act) -> u64 {
    known::hold(outside(event), act)
}

/// A wait for an event outside of this process ends by a `set` of another one, which stands for it.
pub(crate) fn stands_for(event: Subject<'_>, other: Identity) {
    known::stands_for(event, other.target(Generation::NONE));
}

/// The last hold of an event outside of this process, if it has ended.
pub(crate) fn note_last_hold(address: usize, hold: Option<LastHold>) {
    known::note_last_hold(address, hold.map(Arc::new));
}

/// A hold has ended, if it is recorded.
pub(crate) fn release(address: usize, number: u64) {
    if number != 0 {
        known::keep(address, number);
    }
}

/// While waits are recorded, a wait has consumed a release of an auto-reset event.
#[cold]
#[inline(never)]
pub(crate) fn taken(event: Subject<'_>, place: Place) {
    known::take(event, place);
}

/// Gives an event a label. If waits are recorded, `note_sets` makes it note its sets from now on.
pub(crate) fn label(event: Subject<'_>, label: &str, note_sets: impl FnOnce()) {
    known::label(event, label);
    if is_wanted() {
        note_sets();
    }
}

/// While waits are recorded, this thread has declared to set an event. Returns the number of the
/// declaration, which is not zero. `may_move`: another thread may keep it. `note_sets` makes the
/// event note its sets from now on.
pub(crate) fn declare(event: Subject<'_>, place: Place, may_move: bool, note_sets: impl FnOnce()) -> u64 {
    let number = known::declare(event, place, may_move);
    note_sets();
    number
}

/// The declaration was kept: the event is being set.
pub(crate) fn keep(event: Subject<'_>, number: u64, place: Place) {
    known::keep(event.address, number);
    if State::now().records() {
        // For an `Event`, the `set` tells whether anybody waits.
        known::set(event, None, event.kind == Kind::Event, place);
    }
}

/// The declaration was given up.
#[track_caller]
pub(crate) fn give_up(address: usize, number: u64) {
    let place = Location::caller();
    known::give_up(address, number, State::now().records().then_some(place));
}

/// An event with a mark that is on is dropped.
#[cold]
#[inline(never)]
pub(crate) fn forget(address: usize) {
    known::forget(address);
}

/// A handle of an event outside of the process is dropped.
pub(crate) fn dropped(address: usize) {
    if State::now().knows() {
        known::forget(address);
    }
}
