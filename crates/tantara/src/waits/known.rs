//! What is known of events beside their waits: labels, who set them last, who has declared to set
//! them.
//!
//! An event is known by its address, so what is known ends when the event is dropped. An event in
//! memory has a [`Mark`], which is on once something is known of it: a new event at the address of
//! one that was moved away has none. The mark is turned on under the lock of the event's shard,
//! together with the removal of what is left there; so if several threads record something of a new
//! event, none removes what another has recorded. No user code runs under the locks here, and no
//! other lock is taken under them.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use crate::sync::lock;
use crate::sys::process::{self, GENERATIONS};
use crate::waits::last_hold::LastHold;
use crate::waits::store::{Kind, Place, Source, Target};
use crate::waits::threads::{self, Own, Thread};
use crate::word::Generation;

/// Whether something is known of an event: a part of the event. (Not one of loom's atomics: models
/// record nothing.)
#[derive(Debug)]
pub(crate) struct Mark(AtomicBool);

impl Mark {
    pub(crate) const fn new() -> Mark {
        Mark(AtomicBool::new(false))
    }

    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.0.load(Relaxed)
    }
}

/// An event of which something is noted.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    pub(crate) address: usize,
    pub(crate) kind: Kind,
    /// `None` if the event lies outside of the process: what is known of it ends with its handle.
    pub(crate) mark: Option<&'a Mark>,
}

impl Subject<'_> {
    /// Removes what is left from another event, unless something is known of this one. The caller
    /// holds the lock of the shard.
    fn claim(self, shard: &mut Map) {
        if self.mark.is_some_and(|mark| !mark.is_on() && !mark.0.swap(true, Relaxed)) {
            shard.remove(&self.address);
        }
    }
}

/// An action of a thread on an event, and its time.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) place: Source,
    pub(crate) thread: Arc<Thread>,
    /// By the record's clock.
    pub(crate) at: Duration,
    /// Of a declaration: another thread may keep it, because its value owns what it needs.
    pub(crate) may_move: bool,
}

impl Act {
    pub(crate) fn now(place: Place) -> Act {
        Act { place: Source::of(place), thread: threads::this_thread(), at: process::clock(), may_move: false }
    }
}

/// How often an event between processes was set so far, if it is set now or at the next `set`: the first
/// or the second number. Its own `set` is called in signal handlers too and notes nothing, and others
/// set it; so what is noted here holds only as long as this number stays the same.
#[derive(Clone)]
pub(crate) struct Count(Arc<dyn Fn() -> (u32, u32) + Send + Sync>);

impl Count {
    #[allow(dead_code, reason = "for events between processes")]
    pub(crate) fn new(count: impl Fn() -> (u32, u32) + Send + Sync + 'static) -> Count {
        Count(Arc::new(count))
    }
}

impl fmt::Debug for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0)().0.fmt(f)
    }
}

/// What is known of an event.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) kind: Kind,
    pub(crate) label: Option<Arc<str>>,
    pub(crate) last_set: Option<Act>,
    /// Nobody waited for it then, nor at an earlier `set`.
    in_vain: bool,
    /// Somebody waited for it when it was set.
    was_awaited: bool,
    /// The generation that the last `set` has released.
    pub(crate) released: Option<Generation>,
    /// It was asked for its name and for the path of its file.
    is_introduced: bool,
    pub(crate) path: Option<Arc<str>>,
    /// Who has declared to set it, and has not done so.
    pub(crate) setters: Vec<(u64, Act)>,
    /// Who holds it.
    pub(crate) holders: Vec<(u64, Act)>,
    pub(crate) count: Option<Count>,
    /// How often it had been set when `last_set` or `abandoned` was noted.
    as_of: u32,
    /// The last of them was given up.
    pub(crate) abandoned: Option<Act>,
    /// The last wait that consumed a release of an auto-reset event.
    pub(crate) taken: Option<Act>,
    /// The last hold of an event between machines, if it has ended.
    pub(crate) last_hold: Option<Arc<LastHold>>,
    /// The event outside of the process for which it stands: a wait for that ends by a `set` of this one.
    pub(crate) stands_for: Option<Target>,
}

type Map = BTreeMap<usize, Known>;
const SHARDS: usize = 16;
static KNOWN: [[Mutex<Map>; SHARDS]; GENERATIONS] =
    [const { [const { Mutex::new(BTreeMap::new()) }; SHARDS] }; GENERATIONS];

fn shard(address: usize) -> Option<MutexGuard<'static, Map>> {
    process::own(&KNOWN).map(|shards| lock(&shards[shard_of(address)]))
}

/// By the upper bits of a product, which depend on all bits of the address: events that lie a power of
/// two apart use different shards.
fn shard_of(address: usize) -> usize {
    let mixed = (address as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed >> (u64::BITS - SHARDS.ilog2())) as usize
}

/// Removes what is known of the event's address, unless it is known of this event.
pub(crate) fn meet(event: Subject<'_>) {
    if event.mark.is_some_and(|mark| !mark.is_on()) {
        if let Some(mut shard) = shard(event.address) {
            event.claim(&mut shard);
        }
    }
}

/// Changes what is known of an event. Creates an entry if nothing was known.
fn change<T>(event: Subject<'_>, change: impl FnOnce(&mut Known) -> T) -> Option<T> {
    let Subject { address, kind, .. } = event;
    let nothing = || Known {
        kind,
        label: None,
        last_set: None,
        in_vain: false,
        was_awaited: false,
        released: None,
        is_introduced: false,
        path: None,
        setters: Vec::new(),
        holders: Vec::new(),
        count: None,
        as_of: 0,
        abandoned: None,
        taken: None,
        last_hold: None,
        stands_for: None,
    };
    let mut shard = shard(address)?;
    event.claim(&mut shard);
    let known = shard.entry(address).or_insert_with(nothing);
    if known.kind != kind {
        *known = nothing();
    }
    Some(change(known))
}

/// Gives an event a label.
pub(crate) fn label(event: Subject<'_>, label: &str) {
    let label = Arc::from(label);
    change(event, |known| known.label = Some(label));
}

/// Gives an event the label and the path that `name` returns, unless it has a label.
#[allow(dead_code, reason = "for events between processes")]
pub(crate) fn name(event: Subject<'_>, name: impl FnOnce() -> (String, Option<String>)) {
    let address = event.address;
    if shard(address).is_some_and(|shard| shard.get(&address).is_none_or(|known| !known.is_introduced)) {
        let (label, path) = name();
        let (label, path) = (Arc::from(label), path.map(Arc::from));
        change(event, |known| {
            known.label.get_or_insert(label);
            (known.path, known.is_introduced) = (path, true);
        });
    }
}

/// Notes that an event was set: see [`hooks`](crate::waits::hooks::set).
pub(crate) fn set(event: Subject<'_>, generation: Option<Generation>, in_vain: bool, place: Place) {
    let counted = if event.kind == Kind::Shared { count(event.address) } else { None };
    let as_of = counted.map(|(_, next)| next);
    let note = |known: &mut Known| {
        known.as_of = as_of.unwrap_or(known.as_of);
        known.was_awaited |= !in_vain;
        known.in_vain = !known.was_awaited;
        known.released = generation.or(known.released);
        known.abandoned = None;
    };
    act(event, place, |known| &mut known.last_set, note);
}

/// Notes that a wait has consumed the release of an auto-reset event.
pub(crate) fn take(event: Subject<'_>, place: Place) {
    act(event, place, |known| &mut known.taken, |_| ());
}

/// Notes an act of this thread, and what follows from it. The last one is likely to be this thread's, too.
/// Then that is changed, and no reference to the thread is counted.
fn act(event: Subject<'_>, place: Place, last: impl Fn(&mut Known) -> &mut Option<Act>, note: impl Fn(&mut Known)) {
    let (place, at, number) = (Source::of(place), process::clock(), Own::get().number);
    let is_done = change(event, |known| match last(known) {
        Some(act) if act.thread.number == number => {
            (act.place, act.at, act.may_move) = (place, at, false);
            note(known);
            true
        }
        _ => false,
    });
    if is_done == Some(false) {
        let act = Act { place, thread: threads::this_thread(), at, may_move: false };
        change(event, |known| {
            *last(known) = Some(act);
            note(known);
        });
    }
}

/// The number of a declaration or of a hold.
fn next_number() -> u64 {
    // Not of 64 bits, which some processors lack.
    static NEXT: AtomicUsize = AtomicUsize::new(1);
    NEXT.fetch_add(1, Relaxed) as u64
}

/// Notes that an event is held, by that act. Returns the number of the hold.
pub(crate) fn hold(event: Subject<'_>, act: Act) -> u64 {
    let number = next_number();
    change(event, |known| known.holders.push((number, act)));
    number
}

/// Notes that a thread has declared to set an event. Returns the number of the declaration.
pub(crate) fn declare(event: Subject<'_>, place: Place, may_move: bool) -> u64 {
    let (act, number) = (Act { may_move, ..Act::now(place) }, next_number());
    change(event, |known| {
        known.setters.push((number, act));
        known.abandoned = None;
    });
    number
}

/// The declaration was kept, or the hold has ended.
pub(crate) fn keep(address: usize, number: u64) {
    if let Some(known) = shard(address).as_mut().and_then(|shard| shard.get_mut(&address)) {
        known.setters.retain(|(other, _)| *other != number);
        known.holders.retain(|(other, _)| *other != number);
    }
}

/// Notes the last hold of an event outside of the process, if something is known of the event.
pub(crate) fn note_last_hold(address: usize, hold: Option<Arc<LastHold>>) {
    if let Some(known) = shard(address).as_mut().and_then(|shard| shard.get_mut(&address)) {
        known.last_hold = hold;
    }
}

/// Notes that a wait for another event ends by a `set` of this one.
pub(crate) fn stands_for(event: Subject<'_>, other: Target) {
    change(event, |known| known.stands_for = Some(other));
}

/// What is known of the events with a path that somebody has declared to set, or holds.
#[cfg_attr(not(shared_events), allow(dead_code, reason = "for what is published"))]
pub(crate) fn declared() -> Vec<(usize, Known)> {
    matching(|known| known.path.is_some() && !(known.setters.is_empty() && known.holders.is_empty()))
}

/// The declaration was given up, at that place; `None` if that is not recorded any more.
pub(crate) fn give_up(address: usize, number: u64, place: Option<Place>) {
    let (act, as_of) = (place.map(Act::now), count(address).map(|(now, _)| now));
    if let Some(known) = shard(address).as_mut().and_then(|shard| shard.get_mut(&address)) {
        if let Some(as_of) = as_of.filter(|now| *now != known.as_of) {
            known.last_set = None;
            known.as_of = as_of;
        }
        let before = known.setters.len();
        known.setters.retain(|(other, _)| *other != number);
        if known.setters.is_empty() && before > 0 {
            known.abandoned = act;
        }
    }
}

/// The record is turned on or off: who sets the events meanwhile is not noted, so what was noted of
/// earlier sets may be out of date. Labels and declarations stay.
pub(crate) fn forget_acts() {
    for shard in process::own(&KNOWN).into_iter().flatten() {
        for known in lock(shard).values_mut() {
            (known.last_set, known.abandoned, known.taken, known.last_hold) = (None, None, None, None);
            known.in_vain = false;
        }
    }
}

/// The event was dropped.
pub(crate) fn forget(address: usize) {
    let forgotten = shard(address).and_then(|mut shard| shard.remove(&address));
    drop(forgotten);
}

/// What is known of an event of that kind. If it stands for another, with what is known of that.
fn get(address: usize, kind: Kind) -> Option<Known> {
    let own = get_own(address, kind)?;
    let other = own.stands_for.and_then(|other| get_own(other.address, other.kind));
    Some(match other {
        // Whether it was abandoned is not known: others may set it.
        Some(Known { label, setters, holders, last_hold, .. }) => Known { label, setters, holders, last_hold, ..own },
        None => own,
    })
}

fn get_own(address: usize, kind: Kind) -> Option<Known> {
    let mut known = shard(address)?.get(&address).filter(|known| known.kind == kind)?.clone();
    // Not under the lock.
    if known.count.as_ref().is_some_and(|count| (count.0)().0 != known.as_of) {
        (known.last_set, known.abandoned) = (None, None);
    }
    Some(known)
}

/// The labelled events that were set last while nobody waited for them, the last one first.
pub(crate) fn set_in_vain(since: Duration) -> Vec<(usize, Known)> {
    const MOST: usize = 3;
    let is_recent = |known: &Known| known.last_set.as_ref().is_some_and(|set| set.at >= since);
    let mut found = matching(|known| known.in_vain && known.label.is_some() && is_recent(known));
    found.sort_by_key(|(_, known)| std::cmp::Reverse(known.last_set.as_ref().map(|set| set.at)));
    found.truncate(MOST);
    found
}

fn matching(which: impl Fn(&Known) -> bool) -> Vec<(usize, Known)> {
    let of_shard = |shard: &Mutex<Map>| {
        let known = lock(shard);
        let found = known.iter().filter(|(_, known)| which(known));
        found.map(|(address, known)| (*address, known.clone())).collect::<Vec<_>>()
    };
    process::own(&KNOWN).into_iter().flatten().flat_map(of_shard).collect()
}

/// How often an event between processes was set.
fn count(address: usize) -> Option<(u32, u32)> {
    let count = shard(address)?.get(&address)?.count.clone()?;
    Some((count.0)())
}

/// Notes by what an event between processes is counted.
#[allow(dead_code, reason = "for events between processes")]
pub(crate) fn count_by(event: Subject<'_>, count: Count) {
    change(event, |known| known.count.get_or_insert(count).clone());
}

/// What is known of the events of some waits.
pub(crate) struct OfEvents(BTreeMap<(usize, Kind), Option<Known>>);

impl OfEvents {
    pub(crate) fn new<'a>(targets: impl Iterator<Item = &'a Target>) -> OfEvents {
        let mut all = BTreeMap::new();
        for Target { address, kind, .. } in targets {
            all.entry((*address, *kind)).or_insert_with(|| get(*address, *kind));
        }
        OfEvents(all)
    }

    pub(crate) fn get(&self, target: Target) -> Option<&Known> {
        self.0.get(&(target.address, target.kind))?.as_ref()
    }

    /// The event that users see: the one that this event stands for, if there is one.
    pub(crate) fn shown(&self, target: Target) -> Target {
        self.get(target).and_then(|known| known.stands_for).unwrap_or(target)
    }

    pub(crate) fn contains(&self, address: usize, kind: Kind) -> bool {
        self.0.contains_key(&(address, kind))
    }

    /// Whether the event has released a wait that began in that generation.
    pub(crate) fn has_released(&self, target: Target) -> bool {
        let released = self.get(target).and_then(|known| known.released).filter(|_| target.kind == Kind::Event);
        released.is_some_and(|released| target.generation.is_within(released))
    }
}

/// In the child of a fork: takes over the labels of the parent and its ancestors, as far as no other
/// thread was changing them at that moment.
pub(crate) fn inherit() {
    let now = process::generation();
    let Some(own) = KNOWN.get(now) else { return };
    // The nearest ones first. Some may have noted nothing, as when a daemon has forked twice.
    let ancestors = KNOWN[..now].iter().rev();
    for (own, parents) in ancestors.flat_map(|parents| own.iter().zip(parents)) {
        let parents = match parents.try_lock() {
            Ok(parents) => parents,
            Err(TryLockError::Poisoned(parents)) => parents.into_inner(),
            Err(TryLockError::WouldBlock) => continue,
        };
        let mut own = lock(own);
        for (address, known) in parents.iter().filter(|(_, known)| known.label.is_some()) {
            let (setters, holders) = (Vec::new(), Vec::new());
            let (last_set, abandoned, taken, last_hold) = (None, None, None, None);
            let bare = Known { setters, holders, last_set, abandoned, taken, last_hold, ..known.clone() };
            own.entry(*address).or_insert(bare);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::panic::Location;
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    /// Else a second thread could find the mark on, note something, and lose it to the first one's removal.
    #[test]
    fn a_mark_is_turned_on_in_one_step_with_the_removal_of_what_is_left() {
        let acts: [fn(Subject<'_>); 3] =
            [|event| label(event, "own"), meet, |event| set(event, None, true, Location::caller())];
        for act in acts {
            let mark = Mark::new();
            let event = Subject { address: std::ptr::from_ref(&mark).addr(), kind: Kind::Event, mark: Some(&mark) };
            label(Subject { mark: None, ..event }, "of another event");
            thread::scope(|scope| {
                let (begins, begun) = mpsc::channel();
                let held = shard(event.address);
                let thread = scope.spawn(move || {
                    begins.send(()).unwrap();
                    act(event);
                });
                begun.recv().unwrap();
                // It waits for the lock soon, or does so later: then this shows nothing.
                thread::sleep(Duration::from_millis(50));
                assert!(!mark.is_on(), "before the lock was taken");
                drop(held);
                thread.join().unwrap();
            });
            assert!(mark.is_on());
            let known = get(event.address, Kind::Event);
            assert_ne!(known.and_then(|known| known.label).as_deref(), Some("of another event"));
            forget(event.address);
        }
    }
}
