//! The slots of which `any` and `all` consist, and the trait of events that make one: [`Waitable`].

use std::fmt;
use std::future::Future;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::external::{External, Found, InPlace};
use crate::park::Rest;
use crate::sys::Words;
use crate::wait::{AutoResetWait, Wait};
use crate::waits::hooks::{self, Identity, Kind, Place, Recorded, State, Subject, Target, What};
use crate::word::Generation;

/// What [`any`](crate::any) and [`all`](crate::all) can wait for. The trait is sealed: events
/// implement it. `&dyn Waitable` mixes kinds that are borrowed, `Arc<dyn Waitable>` kinds that are
/// owned.
///
/// ```
/// use std::sync::Arc;
/// use tantara::{Any, AutoResetEvent, Event, Waitable, any};
///
/// let (shutdown, job) = (Arc::new(Event::new()), Arc::new(AutoResetEvent::new()));
/// job.set();
/// assert_eq!(any([&shutdown as &dyn Waitable, &job]).wait(), 1);
///
/// let owned: [Arc<dyn Waitable>; 2] = [shutdown.clone(), job];
/// let next: Any<'static> = any(owned);    // to be spawned, stored or returned
/// shutdown.set();
/// assert_eq!(pollster::block_on(next), 0);
/// ```
pub trait Waitable: sealed::Sealed + Send + Sync + UnwindSafe + RefUnwindSafe {}

pub(crate) mod sealed {
    use crate::waits::hooks::Subject;

    /// How a wait for several events begins at one of them.
    pub trait Sealed {
        /// Begins a wait.
        fn slot(&self, seal: Seal) -> super::Slot<'_>;

        /// The identity of the event in the record of waits.
        fn subject(&self, _: Seal) -> Option<Subject<'_>> {
            None
        }

        /// Makes the event note its sets, while waits are recorded.
        fn note_sets(&self, _: Seal) {}
    }

    /// What `any` and `all` iterate over: references to events, `Arc`s of events, and handles.
    #[diagnostic::on_unimplemented(
        message = "`any` and `all` cannot wait for `{Self}`",
        label = "neither a reference to an event, nor an `Arc` of one, nor a handle"
    )]
    pub trait IntoSlot<'a> {
        /// Begins a wait, and adds it.
        fn add_to(self, slots: &mut super::Collected<'a>, seal: Seal);
    }

    /// Only this crate can make one, so only this crate can call these methods.
    #[derive(Debug)]
    pub struct Seal(pub(crate) ());
}
use sealed::{IntoSlot, Seal, Sealed};

/// References, boxes and `Arc`s of events can be waited for like the events.
macro_rules! waitable_through {
    ($($pointer:ty),*) => {$(
        impl<W: Waitable + ?Sized> Waitable for $pointer {}
        impl<W: Waitable + ?Sized> Sealed for $pointer {
            fn slot(&self, seal: Seal) -> Slot<'_> {
                (**self).slot(seal)
            }

            fn subject(&self, seal: Seal) -> Option<Subject<'_>> {
                (**self).subject(seal)
            }

            fn note_sets(&self, seal: Seal) {
                (**self).note_sets(seal);
            }
        }
    )*};
}

waitable_through!(&W, Box<W>, Arc<W>);

impl<'a, W: Waitable + ?Sized> IntoSlot<'a> for &'a W {
    fn add_to(self, slots: &mut Collected<'a>, seal: Seal) {
        slots.add(self.slot(seal));
    }
}

impl<'a, W: Waitable + 'static> IntoSlot<'a> for Arc<W> {
    fn add_to(self, slots: &mut Collected<'a>, seal: Seal) {
        slots.add_owned(self, seal);
    }
}

/// An event can be sent and shared; a type may say so once more.
macro_rules! owned_slots_of {
    ($($waitable:ty),*) => {$(
        impl<'a> IntoSlot<'a> for Arc<$waitable> {
            fn add_to(self, slots: &mut Collected<'a>, seal: Seal) {
                slots.add_owned(self, seal);
            }
        }
    )*};
}

owned_slots_of!(dyn Waitable, dyn Waitable + Send, dyn Waitable + Sync, dyn Waitable + Send + Sync);

/// One event of an `any` or an `all`.
#[derive(Debug)]
pub enum Slot<'a> {
    /// Stays released once the event's generation has changed.
    Event(Wait<'a>),
    /// Keeps the release that it was given until it is claimed, or dropped and so handed on.
    AutoReset(AutoResetWait<'a>),
    /// Stays released.
    External(InPlace<'a>),
}

impl<'a> Slot<'a> {
    /// The slot of an event that lives outside of this process.
    pub fn external(wait: impl External + 'a) -> Slot<'a> {
        Slot::External(InPlace::new(wait))
    }

    /// The wait is about to be recorded: its event notes its sets from now on.
    fn begin_record(&self) {
        match self {
            Slot::Event(wait) => wait.begin_record(),
            Slot::AutoReset(wait) => wait.begin_record(),
            // `target` has passed its name to the record.
            Slot::External(_) => {}
        }
    }

    fn target(&self) -> Target {
        match self {
            Slot::Event(wait) => wait.target(),
            Slot::AutoReset(wait) => wait.target(),
            Slot::External(wait) => {
                let own = Identity::new(hooks::address(wait), Kind::Cluster);
                wait.get().identity().unwrap_or(own).target(Generation::NONE)
            }
        }
    }
}

/// The slots of an `any` or an `all` while they are collected.
pub struct Collected<'a> {
    slots: Vec<Slot<'a>>,
    /// See [`Slots`]. Declared after the slots, so dropped after them.
    owners: Vec<Arc<dyn Waitable>>,
}

impl<'a> Collected<'a> {
    /// Adds the slot of an event that outlives the wait, or that the slot itself keeps alive.
    pub fn add(&mut self, slot: Slot<'a>) {
        self.slots.push(slot);
    }

    /// Adds the slot of an event that lives at least as long as the slot, because its owner is kept
    /// too.
    fn add_owned(&mut self, owner: Arc<dyn Waitable>, seal: Seal) {
        let event = Arc::as_ptr(&owner);
        self.owners.push(owner);
        // SAFETY: the slot, for which the event is borrowed, is dropped before the owner: it is
        // pushed to `slots`, which stays beside `owners`, here and in `Slots`, and is dropped
        // first. Until then the event stays in its allocation, and nobody gets exclusive access to
        // it. (`slot` cannot tell this lifetime from a shorter one, and so cannot keep the
        // reference anywhere else.)
        let event: &'a dyn Waitable = unsafe { &*event };
        self.slots.push(event.slot(seal));
    }
}

impl fmt::Debug for Collected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.slots).finish()
    }
}

/// The slots of an `any` or an `all`, pinned side by side in one allocation.
pub(crate) struct Slots<'a> {
    slots: Pin<Box<[Slot<'a>]>>,
    /// The events that some of the slots borrow, if the wait owns them. Declared after the slots,
    /// so dropped after them.
    _owners: Vec<Arc<dyn Waitable>>,
    /// Whether one of them is external. Only an external slot may have to be polled before its turn
    /// more than once.
    has_externals: bool,
    blocks: bool,
    /// What a thread that blocks sleeps on, if it can.
    on_words: Option<OnWords>,
    record: Record,
}

/// How the wait is recorded, which is done when it is first found to be pending.
struct Record {
    place: Place,
    /// Until when a thread blocks.
    deadline: Option<Deadline>,
    is_done: bool,
    recorded: Option<Recorded>,
}

impl Record {
    fn new(place: Place) -> Record {
        Record { place, deadline: None, is_done: false, recorded: None }
    }
}

/// A thread that blocks sleeps on the words of external events itself, if they have words and these
/// fit, so that no other thread has to wake it. For all other events it is woken by its waker.
struct OnWords {
    words: Words,
    /// The slots whose words are among them.
    listed: Vec<bool>,
    /// How long to sleep at most.
    longest: Duration,
    /// Whether this pass over the slots is followed by a sleep. The first is not: it leaves no
    /// trace.
    sleeps: bool,
    began: Instant,
    /// How long after `began` to set the marks that show the wait, and to check whether the events
    /// still exist.
    next_look: Duration,
    /// If this pass does so: for how long the thread has waited.
    waited: Option<Duration>,
}

impl OnWords {
    /// After a sleep of 50 ms, as in a wait for one event, but not before a thousand times as long as
    /// the marks of all events take: 4 µs for each to be set and removed.
    const FIRST_LOOK: Duration = Duration::from_millis(50);
    const FIRST_LOOK_FOR_EACH: Duration = Duration::from_millis(4);
    const SECOND_LOOK: Duration = Duration::from_secs(1);
    const BETWEEN_LOOKS: Duration = Duration::from_secs(2);

    fn new(slots: usize) -> Option<OnWords> {
        Some(OnWords {
            words: Words::new(slots)?,
            listed: vec![false; slots],
            longest: Duration::MAX,
            sleeps: false,
            began: Instant::now(),
            next_look: OnWords::FIRST_LOOK.max(OnWords::FIRST_LOOK_FOR_EACH * slots as u32),
            waited: None,
        })
    }

    fn begin_pass(&mut self) {
        self.words.clear();
        self.listed.fill(false);
        let waited = self.began.elapsed();
        self.waited = (self.sleeps && waited >= self.next_look).then_some(waited);
        if self.waited.is_some() {
            let is_first = waited < OnWords::SECOND_LOOK;
            self.next_look = if is_first { OnWords::SECOND_LOOK } else { waited + OnWords::BETWEEN_LOOKS };
        }
        self.longest = self.next_look.saturating_sub(waited);
    }

    /// Polls the wait of a slot. `None` if it needs a waker.
    fn poll(&mut self, index: usize, wait: Pin<&mut (dyn External + '_)>) -> Option<Poll<Result<bool, Error>>> {
        match wait.poll_word(self.sleeps, self.waited) {
            Found::Outcome(outcome) => Some(Poll::Ready(outcome)),
            Found::Word(word, value, longest) => {
                self.longest = self.longest.min(longest);
                if !std::mem::replace(&mut self.listed[index], true) {
                    self.words.add(word, value);
                }
                Some(Poll::Pending)
            }
            Found::Nothing => None,
        }
    }
}

// A panic leaves the slots in a valid state, as it does the events.
impl UnwindSafe for Slots<'_> {}
impl RefUnwindSafe for Slots<'_> {}

impl<'a> Slots<'a> {
    pub(crate) fn new<E: IntoSlot<'a>>(events: impl IntoIterator<Item = E>, place: Place) -> Slots<'a> {
        let events = events.into_iter();
        let mut collected = Collected { slots: Vec::with_capacity(events.size_hint().0), owners: Vec::new() };
        events.for_each(|event| event.add_to(&mut collected, Seal(())));
        let Collected { slots, owners } = collected;
        let has_externals = slots.iter().any(|slot| matches!(slot, Slot::External(_)));
        let slots = slots.into_boxed_slice().into();
        let record = Record::new(place);
        Slots { slots, _owners: owners, has_externals, blocks: false, on_words: None, record }
    }

    /// Leaves the queues of all events, and releases those that the wait owns.
    pub(crate) fn leave(&mut self) {
        *self = Slots {
            slots: Box::into_pin(Box::default()),
            _owners: Vec::new(),
            has_externals: false,
            blocks: false,
            on_words: None,
            record: Record::new(self.record.place),
        };
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot<'a>> {
        self.slots.iter()
    }

    /// Whether the slot has to be polled before its turn, at least once: until then it misses
    /// releases, or errors.
    pub(crate) fn must_be_queued(&self, index: usize) -> bool {
        !matches!(self.slots[index], Slot::Event(_))
    }

    /// Whether one of the slots from `first` on has to be polled before its turn, once more.
    pub(crate) fn needs_poll(&self, first: usize) -> bool {
        self.on_words.is_some() || self.externals(first).any(External::needs_poll)
    }

    /// The wait is pending: records it, if waits are recorded.
    #[inline]
    pub(crate) fn note_pending(&mut self, what: fn(Box<[Target]>) -> What, context: &Context<'_>) {
        if !std::mem::replace(&mut self.record.is_done, true) {
            let state = State::now();
            if !state.is_idle() {
                self.note(state, what, context);
            }
        }
    }

    #[cold]
    fn note(&mut self, state: State, what: fn(Box<[Target]>) -> What, context: &Context<'_>) {
        if !hooks::records(state) {
            return;
        }
        self.slots.iter().for_each(Slot::begin_record);
        let what = what(self.slots.iter().map(Slot::target).collect());
        let Record { place, deadline, .. } = self.record;
        self.record.recorded = Some(match deadline {
            Some(deadline) => hooks::sleeps(what, place, deadline),
            None => hooks::polled(what, place, context.waker()),
        });
    }

    /// From now on a thread polls until the deadline, and blocks in between.
    pub(crate) fn prepare_to_block(&mut self, deadline: Deadline) {
        self.blocks = true;
        self.record.deadline = Some(deadline);
        let externals = self.externals(0).count();
        // If the reactor threads are needed for some, they wait for all: the thread would save little.
        self.on_words = if externals > 0 && Words::have_room_for(externals) { OnWords::new(self.len()) } else { None };
    }

    /// The thread that blocks is about to poll.
    pub(crate) fn begin_pass(&mut self) {
        if let Some(on_words) = &mut self.on_words {
            on_words.begin_pass();
        }
    }

    /// What the thread that blocks does until the next poll.
    pub(crate) fn rest(&mut self) -> Rest {
        let longest = self.externals(0).filter_map(External::longest_sleep).min();
        let Some(on_words) = &mut self.on_words else { return longest.map_or(Rest::UntilCalled, Rest::For) };
        if !std::mem::replace(&mut on_words.sleeps, true) {
            return Rest::None;
        }
        let Some(next) = Words::new(on_words.listed.len()) else {
            // The kernel has refused the last sleep.
            self.on_words = None;
            return Rest::None;
        };
        let words = std::mem::replace(&mut on_words.words, next);
        Rest::OnWords(words, on_words.longest.min(longest.unwrap_or(Duration::MAX)))
    }

    /// The time has passed. Returns the slots that have to be ready before the timeout can be
    /// reported.
    pub(crate) fn decide(&mut self) -> Vec<usize> {
        let count = self.len();
        let decides = |index: &usize| match Slots::at(&mut self.slots, *index) {
            Projected::External(wait) => wait.decide(),
            _ => false,
        };
        (0..count).filter(decides).collect()
    }

    /// Ready when each of these slots is.
    pub(crate) fn poll_decided(&mut self, deciding: &[usize], context: &mut Context<'_>) -> Poll<()> {
        for index in deciding {
            if let Projected::External(wait) = Slots::at(&mut self.slots, *index) {
                let _ = ready!(wait.poll_outcome(context, true));
            }
        }
        Poll::Ready(())
    }

    /// Ready once the slot is released, or has failed. A release that was given to the slot stays
    /// in it until it is claimed.
    pub(crate) fn poll_held(&mut self, index: usize, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match Slots::at(&mut self.slots, index) {
            Projected::Event(wait) => wait.poll(context).map(Ok),
            Projected::AutoReset(wait) => wait.poll_held(context).map(Ok),
            Projected::External(mut wait) => {
                let on_words = self.on_words.as_mut().and_then(|on_words| on_words.poll(index, wait.as_mut()));
                match ready!(on_words.unwrap_or_else(|| wait.poll_outcome(context, self.blocks))) {
                    Ok(true) => Poll::Ready(Ok(())),
                    Ok(false) => Poll::Pending,
                    Err(error) => Poll::Ready(Err(error)),
                }
            }
        }
    }

    /// Consumes the release in the slot.
    pub(crate) fn claim(&mut self, index: usize) {
        let place = self.record.place;
        if let Projected::AutoReset(wait) = Slots::at(&mut self.slots, index) {
            wait.claim(place);
        }
    }

    /// The wait is over: its record ends, even if the future is kept.
    #[inline]
    pub(crate) fn end_record(&mut self) {
        self.record.recorded = None;
    }

    /// Those from `first` on.
    fn externals(&self, first: usize) -> impl Iterator<Item = &(dyn External + 'a)> {
        let slots = if self.has_externals { &self.slots[first..] } else { &[] };
        slots.iter().filter_map(|slot| match slot {
            Slot::External(wait) => Some(wait.get()),
            _ => None,
        })
    }

    fn at<'s>(slots: &'s mut Pin<Box<[Slot<'a>]>>, index: usize) -> Projected<'s, 'a> {
        // SAFETY: structural pinning: the element stays where it is; the slice is never moved out
        // of the pinned box.
        let slot = unsafe { slots.as_mut().map_unchecked_mut(|slots| &mut slots[index]) };
        // SAFETY: the reference is pinned again at once, in the variant it came from.
        match unsafe { slot.get_unchecked_mut() } {
            // SAFETY: structural pinning of the variant's field.
            Slot::Event(wait) => Projected::Event(unsafe { Pin::new_unchecked(wait) }),
            // SAFETY: as above.
            Slot::AutoReset(wait) => Projected::AutoReset(unsafe { Pin::new_unchecked(wait) }),
            // SAFETY: as above.
            Slot::External(wait) => Projected::External(unsafe { Pin::new_unchecked(wait) }.project()),
        }
    }
}

enum Projected<'s, 'a> {
    Event(Pin<&'s mut Wait<'a>>),
    AutoReset(Pin<&'s mut AutoResetWait<'a>>),
    External(Pin<&'s mut (dyn External + 'a)>),
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Without this delay, a wait of a tenth of a second for 127 events would take three times the
    /// processor time.
    #[test]
    fn marks_of_many_events_are_set_only_in_long_waits() {
        let first_look = |slots| OnWords::new(slots).map(|on_words| on_words.next_look.as_millis());
        if let Some(look) = first_look(1) {
            assert_eq!([Some(look), first_look(12), first_look(13), first_look(127)], [50, 50, 52, 508].map(Some));
        }
    }
}
