//! The recorded waits: shards of slots, each under a mutex of its own.
//!
//! A wait takes a free slot of its thread's shard, and frees it when it ends, on whatever thread
//! that is. So waits of different threads rarely contend for a lock, and a reader holds each lock
//! for [`CHUNK`] slots at a time. No user code runs under these locks, and no other lock is taken
//! under them.
//!
//! The child of a fork uses other shards than its parent, because another thread of the parent may
//! have held a lock at the moment of the fork.

#![forbid(unsafe_code)]

use std::panic::Location;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::sync::lock;
use crate::sys::process::{self, GENERATIONS};
use crate::waits::origin::{self, OtherPlace};
use crate::waits::threads::Own;
use crate::word::Generation;

/// A place in the code of Rust.
pub(crate) type Place = &'static Location<'static>;

/// A place in the code.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source {
    Rust(Place),
    Other(&'static OtherPlace),
}

impl Source {
    /// The place of a call by Rust, or by another language.
    pub(crate) fn of(place: Place) -> Source {
        origin::current().map_or(Source::Rust(place), |origin| Source::Other(origin.place))
    }

    /// Tells it from others.
    pub(crate) fn address(self) -> usize {
        match self {
            Source::Rust(place) => std::ptr::from_ref(place).addr(),
            Source::Other(place) => std::ptr::from_ref(place).addr(),
        }
    }
}

/// The kind of an event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Kind {
    Event,
    AutoReset,
    #[allow(dead_code, reason = "for events between processes")]
    Shared,
    Cluster,
}

/// An event that is waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Target {
    /// Where it lies, or where its handle does.
    pub(crate) address: usize,
    pub(crate) kind: Kind,
    /// In which generation the wait began, if the kind has some.
    pub(crate) generation: Generation,
    /// Whether it waits until the event is unset.
    pub(crate) until_unset: bool,
}

impl Target {
    pub(crate) fn of_event(address: usize, generation: Generation) -> Target {
        Target { address, kind: Kind::Event, generation, until_unset: false }
    }

    pub(crate) fn of_auto_reset(address: usize) -> Target {
        Target { address, kind: Kind::AutoReset, generation: Generation::NONE, until_unset: false }
    }
}

/// What a wait waits for.
#[derive(Clone, Debug)]
pub(crate) enum What {
    One(Target),
    Any(Box<[Target]>),
    All(Box<[Target]>),
}

impl What {
    pub(crate) fn targets(&self) -> &[Target] {
        match self {
            What::One(target) => std::slice::from_ref(target),
            What::Any(targets) | What::All(targets) => targets,
        }
    }
}

/// A wait.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) what: What,
    pub(crate) place: Source,
    /// By the record's clock, as the deadline is.
    pub(crate) since: Duration,
    pub(crate) deadline: Option<Duration>,
    /// The number of the thread that blocks, or that polled the task first.
    pub(crate) thread: u32,
    /// The task, if it is one: tells it from others.
    pub(crate) task: Option<usize>,
    /// The task's name, if it has one.
    pub(crate) task_name: Option<Arc<str>>,
    /// Differs from that of every other wait of this process.
    pub(crate) serial: u64,
}

/// Where a wait is recorded: a shard and a slot in it, in 24 bits. Zero if it is not recorded.
///
/// The first byte has its highest bit on, so a look at it tells whether there is a record. Below are
/// six bits of the shard and one of the slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SlotIndex([u8; 3]);

impl SlotIndex {
    pub(crate) const NONE: SlotIndex = SlotIndex([0; 3]);

    #[inline]
    pub(crate) fn is_some(self) -> bool {
        self.0[0] != 0
    }

    fn new(shard: usize, slot: usize) -> SlotIndex {
        let first = 0x80 | shard << 1 | slot >> 16;
        SlotIndex([first as u8, (slot >> 8) as u8, slot as u8])
    }

    fn shard_and_slot(self) -> (usize, usize) {
        let [a, b, c] = self.0.map(usize::from);
        (a >> 1 & (SHARDS - 1), (a & 1) << 16 | b << 8 | c)
    }
}

/// Where a wait keeps the index of its record. Only the owner of the wait uses it. (It is made of
/// atomics so that it takes no unsafe code, and not of loom's, because no other thread has access.)
#[derive(Debug)]
pub(crate) struct SlotIndexCell([AtomicU8; 3]);

impl SlotIndexCell {
    #[inline]
    pub(crate) fn new() -> SlotIndexCell {
        SlotIndexCell([const { AtomicU8::new(0) }; 3])
    }

    /// Whether the wait is recorded.
    #[inline]
    pub(crate) fn is_used(&self) -> bool {
        self.0[0].load(Relaxed) != 0
    }

    pub(crate) fn get(&self) -> SlotIndex {
        SlotIndex([0, 1, 2].map(|at: usize| self.0[at].load(Relaxed)))
    }

    /// Takes the index out.
    pub(crate) fn take(&self) -> SlotIndex {
        let index = self.get();
        self.set(SlotIndex::NONE);
        index
    }

    pub(crate) fn set(&self, index: SlotIndex) {
        self.0.iter().zip(index.0).for_each(|(own, byte)| own.store(byte, Relaxed));
    }
}

const SHARDS: usize = 64;
/// How many slots a shard has at most. Few in its own tests, which fill it.
const MOST: usize = if cfg!(test) { 1 << 3 } else { 1 << 17 };
/// How many slots a reader looks at while it holds a lock.
const CHUNK: usize = 512;

enum Slot {
    /// The next free slot; zero if there is none. No wait uses slot zero.
    Free(u32),
    Used {
        owner: usize,
        record: Record,
    },
}

#[repr(align(128))]
struct Shard(Mutex<Slots>);

struct Slots {
    slots: Vec<Slot>,
    free: u32,
    serial: u64,
}

impl Shard {
    const fn new() -> Shard {
        Shard(Mutex::new(Slots { slots: Vec::new(), free: 0, serial: 0 }))
    }
}

static SHARDS_OF: [[Shard; SHARDS]; GENERATIONS] = [const { [const { Shard::new() }; SHARDS] }; GENERATIONS];

fn shards() -> Option<&'static [Shard; SHARDS]> {
    process::own(&SHARDS_OF)
}

/// The record of a wait, as the wait begins it.
pub(crate) struct Beginning {
    /// Its address, which tells the wait from others for as long as it lasts. Zero if it may move.
    pub(crate) owner: usize,
    pub(crate) what: What,
    pub(crate) place: Place,
    pub(crate) deadline: Option<Instant>,
    pub(crate) task: Option<usize>,
}

impl Slots {
    #[inline]
    fn is_full(&self) -> bool {
        self.free == 0 && self.slots.len() == MOST
    }

    /// Uses a slot of a shard that is not full.
    #[inline]
    fn insert(&mut self, used: Slot) -> usize {
        let free = self.free as usize;
        if let Some(slot @ &mut Slot::Free(next)) = self.slots.get_mut(free).filter(|_| free != 0) {
            *slot = used;
            self.free = next;
            return free;
        }
        if self.slots.is_empty() {
            self.slots.push(Slot::Free(0));
        }
        self.slots.push(used);
        self.slots.len() - 1
    }
}

/// Records a wait. Returns its index, and its owner, which is the wait's number if it has no address.
/// `NONE` if there are too many waits.
#[inline]
pub(crate) fn insert(beginning: Beginning) -> (SlotIndex, usize) {
    let Some(shards) = shards() else { return (SlotIndex::NONE, 0) };
    let (own, since) = (Own::get(), process::clock());
    let Beginning { owner, what, place, deadline, task } = beginning;
    let deadline = deadline.map(|at| since + at.saturating_duration_since(Instant::now()));
    let origin = origin::current();
    let place = origin.as_ref().map_or(Source::Rust(place), |origin| Source::Other(origin.place));
    let task_name = origin.and_then(|origin| origin.task);
    if task.is_some() {
        own.note_task();
    }
    let mut shard = own.number as usize % SHARDS;
    let mut slots = lock(&shards[shard].0);
    if slots.is_full() {
        drop(slots);
        let Some(other) = with_room(shards, shard) else { return (SlotIndex::NONE, 0) };
        (shard, slots) = other;
    }
    slots.serial += 1;
    let serial = slots.serial * SHARDS as u64 + shard as u64;
    let owner = if owner == 0 { (serial as usize) << 1 | 1 } else { owner };
    // Wakers without data are not told apart.
    let task = task.map(|task| if task == 0 { serial as usize } else { task });
    let record = Record { what, place, since, deadline, thread: own.number, task, task_name, serial };
    let slot = slots.insert(Slot::Used { owner, record });
    (SlotIndex::new(shard, slot), owner)
}

/// The next shard that is not full. If all are, the wait is counted as one that is not recorded.
#[cold]
fn with_room(shards: &'static [Shard; SHARDS], full: usize) -> Option<(usize, MutexGuard<'static, Slots>)> {
    let mut others = (1..SHARDS).map(|step| (full + step) % SHARDS).map(|shard| (shard, lock(&shards[shard].0)));
    let found = others.find(|(_, slots)| !slots.is_full());
    if found.is_none() {
        MISSED.fetch_add(1, Relaxed);
    }
    found
}

/// How many waits were not recorded because there were too many. Of this process and those that it was
/// forked from.
static MISSED: AtomicUsize = AtomicUsize::new(0);

#[cfg_attr(not(shared_events), allow(dead_code, reason = "for what is published"))]
pub(crate) fn missed() -> usize {
    MISSED.load(Relaxed)
}

/// The wait of this owner has ended.
#[inline]
pub(crate) fn remove(index: SlotIndex, owner: usize) {
    let Some(shards) = shards() else { return };
    let (shard, at) = index.shard_and_slot();
    let mut slots = lock(&shards[shard].0);
    let next = slots.free;
    // In the child of a fork, the slot may be another's.
    let Some(slot) = slots.slots.get_mut(at).filter(|slot| slot.is_of(owner)) else { return };
    let ended = std::mem::replace(slot, Slot::Free(next));
    slots.free = at as u32;
    drop(slots);
    drop(ended);
}

/// The wait of this owner, which has one event, waits until that is unset.
#[cfg_attr(not(shared_events), allow(dead_code, reason = "for events between processes"))]
pub(crate) fn note_until_unset(index: SlotIndex, owner: usize) {
    let Some(shards) = shards() else { return };
    let (shard, at) = index.shard_and_slot();
    if let Some(Slot::Used { owner: own, record }) = lock(&shards[shard].0).slots.get_mut(at) {
        if let (true, What::One(target)) = (*own == owner, &mut record.what) {
            target.until_unset = true;
        }
    }
}

impl Slot {
    fn is_of(&self, wait: usize) -> bool {
        matches!(self, Slot::Used { owner, .. } if *owner == wait)
    }
}

/// Records a wait that may move: its beginning names no owner.
pub(crate) fn record(beginning: Beginning) -> Recorded {
    debug_assert_eq!(beginning.owner, 0);
    let (index, owner) = insert(beginning);
    Recorded { index, owner, generation: process::generation() }
}

/// A wait that is recorded until this is dropped.
#[derive(Debug)]
pub(crate) struct Recorded {
    index: SlotIndex,
    owner: usize,
    generation: usize,
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if self.index.is_some() && self.generation == process::generation() {
            remove(self.index, self.owner);
        }
    }
}

/// How many waits have been recorded at the same time, at most.
pub(crate) fn capacity() -> usize {
    shards().into_iter().flatten().map(|shard| lock(&shard.0).slots.len()).sum()
}

/// Calls `each` with every recorded wait. A wait that begins or ends meanwhile may be among them.
pub(crate) fn for_each(mut each: impl FnMut(Record)) {
    let mut chunk = Vec::with_capacity(CHUNK);
    for shard in shards().into_iter().flatten() {
        let mut from = 0;
        loop {
            let slots = lock(&shard.0);
            let rest = slots.slots.get(from..).unwrap_or_default();
            let is_last = rest.len() <= CHUNK;
            chunk.extend(rest.iter().take(CHUNK).filter_map(|slot| match slot {
                Slot::Used { record, .. } => Some(record.clone()),
                Slot::Free(_) => None,
            }));
            drop(slots);
            chunk.drain(..).for_each(&mut each);
            if is_last {
                break;
            }
            from += CHUNK;
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn an_index_names_its_shard_and_slot() {
        for (shard, slot) in [(0, 1), (SHARDS - 1, MOST - 1), (17, 4711)] {
            let index = SlotIndex::new(shard, slot);
            assert!(index.is_some());
            assert_eq!(index.shard_and_slot(), (shard, slot));
        }
    }

    /// For tests that count.
    static ALONE: Mutex<()> = Mutex::new(());

    fn begin_at(owner: usize, place: Place) -> SlotIndex {
        let what = What::One(Target::of_event(0, Generation::NONE));
        insert(Beginning { owner, what, place, deadline: None, task: None }).0
    }

    #[test]
    fn slots_are_used_again_and_a_late_owner_removes_nothing() {
        let _alone = lock(&ALONE);
        let place = Location::caller();
        let begin = |owner| begin_at(owner, place);
        let count = || {
            let mut found = 0;
            for_each(|record| found += usize::from(record.place.address() == Source::Rust(place).address()));
            found
        };
        let (first, second) = (begin(1000), begin(2000));
        assert_ne!(first, second);
        remove(first, 1000);
        assert_eq!(begin(3000), first, "the slot is free");
        remove(first, 1000);
        assert_eq!(count(), 2, "that wait has ended before");
        remove(first, 3000);
        remove(second, 2000);
        assert_eq!(count(), 0);
    }

    #[test]
    fn a_full_shard_uses_others_and_what_no_shard_has_room_for_is_counted() {
        let _alone = lock(&ALONE);
        let place = Location::caller();
        let begin = |owner| begin_at(owner, place);
        let all = SHARDS * (MOST - 1);
        let indexes: Vec<_> = (1..all + 10).map(begin).collect();
        let recorded = indexes.iter().zip(1..).filter(|(index, _)| index.is_some());
        let recorded: BTreeMap<_, _> = recorded.map(|(index, owner)| (index.0, (*index, owner))).collect();
        assert_eq!((recorded.len(), missed()), (all, 9), "each has a slot of its own");
        let mut found = 0;
        for_each(|record| found += usize::from(record.place.address() == Source::Rust(place).address()));
        assert_eq!(found, recorded.len());
        recorded.into_values().for_each(|(index, owner)| remove(index, owner));
        assert!(begin(1).is_some());
    }
}
