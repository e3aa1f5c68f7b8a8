//! The futures: what `wait_async` returns, and the slots of which `any` and `all` are made.

use std::fmt;
use std::future::Future;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::atomic::Ordering::{AcqRel, Acquire};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::error::Error;
use crate::external::{External, InPlace};
use crate::stored;
use crate::sync::AtomicU32;
use crate::tasks::{Queue, Waiter};
use crate::word::{Generation, Word};

/// The future of [`Event::wait_async`](crate::Event::wait_async): ready once the event is set, or was set since the
/// future was made.
///
/// It is 48 bytes and allocates nothing. Its task is queued with the first poll. A `set` counts from the creation of
/// the future, because the future remembers the state of the event at that moment.
///
/// # Cancel safety
///
/// Dropping it at any moment removes it from the queue, and affects no other wait.
///
/// # Memory ordering
///
/// All that happened before the `set` that released the future is visible to the task once the future is ready.
///
/// # Fairness
///
/// Tasks are woken in the order in which they were first polled.
///
/// A future that was ready stays ready, however often it is polled.
#[must_use = "a future does nothing until it is awaited"]
pub struct Wait<'a> {
    waiter: Waiter<'a>,
}

impl<'a> Wait<'a> {
    #[inline]
    pub(crate) fn new(queue: &'a Queue) -> Wait<'a> {
        let word = Word::from_bits(queue.word.load(Acquire));
        Wait { waiter: Waiter::new(queue, word.generation()) }
    }

    #[inline]
    fn waiter(self: Pin<&mut Self>) -> Pin<&mut Waiter<'a>> {
        // SAFETY: structural pinning of the only field: it is not moved out of anywhere, and Wait is neither packed
        // nor has a Drop of its own, nor is Unpin while Waiter is not.
        unsafe { self.map_unchecked_mut(|wait| &mut wait.waiter) }
    }

    pub(crate) fn is_released(&self) -> bool {
        self.waiter.is_released()
            || Word::from_bits(self.waiter.queue().word.load(Acquire)).releases(self.waiter.generation())
    }
}

// A panic leaves the futures in a valid state, as it does the events.
impl UnwindSafe for Wait<'_> {}
impl RefUnwindSafe for Wait<'_> {}
impl UnwindSafe for AutoResetWait<'_> {}
impl RefUnwindSafe for AutoResetWait<'_> {}

impl Future for Wait<'_> {
    type Output = ();

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waiter = self.waiter();
        // A drained node is released. The word need not be read, which other processors may be writing.
        if waiter.is_released() {
            return Poll::Ready(());
        }
        let generation = waiter.generation();
        if Word::from_bits(waiter.queue().word.load(Acquire)).releases(generation) {
            // The generation decides. A drain that is not done yet may still find the node, and wake needlessly.
            return Poll::Ready(());
        }
        waiter.poll(context.waker(), |word| admit(word, generation))
    }
}

/// Called under the queue's lock, before a task of this generation is queued: turns TASKS on, or returns `false` if the
/// wait is released.
///
/// Either a `set` finds TASKS on and drains afterwards, or this finds the `set`'s generation. If TASKS is on already,
/// the load suffices: a `set` that it does not see takes the lock later, and finds the task.
fn admit(word: &AtomicU32, generation: Generation) -> bool {
    let mut seen = word.load(Acquire);
    loop {
        let now = Word::from_bits(seen);
        if now.releases(generation) {
            return false;
        }
        if now.has_tasks() {
            return true;
        }
        match word.compare_exchange_weak(seen, now.with_tasks().bits(), AcqRel, Acquire) {
            Ok(_) => return true,
            Err(other) => seen = other,
        }
    }
}

impl fmt::Debug for Wait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wait").field("released", &self.is_released()).finish_non_exhaustive()
    }
}

/// The future of [`AutoResetEvent::wait_async`](crate::AutoResetEvent::wait_async): ready once one release was given
/// to it.
///
/// It is queued with its first poll.
///
/// # Cancel safety
///
/// A future that is dropped after a release was given to it, but before it was ready, hands that release on to the next
/// waiter, or to the event, which stores it.
///
/// # Memory ordering
///
/// All that happened before the `set` whose release the future got is visible to the task once the future is ready.
///
/// # Fairness
///
/// Releases are given in the order of the first polls.
///
/// # Panics
///
/// If it is polled again after it was ready.
#[must_use = "a future does nothing until it is awaited"]
pub struct AutoResetWait<'a> {
    waiter: Waiter<'a>,
}

impl<'a> AutoResetWait<'a> {
    #[inline]
    pub(crate) fn new(queue: &'a Queue) -> AutoResetWait<'a> {
        AutoResetWait { waiter: Waiter::new(queue, Generation::NONE) }
    }

    #[inline]
    fn waiter(self: Pin<&mut Self>) -> Pin<&mut Waiter<'a>> {
        // SAFETY: structural pinning of the only field: it is not moved out of anywhere, AutoResetWait is not packed,
        // its Drop does not move it, and it is not Unpin because Waiter is not.
        unsafe { self.map_unchecked_mut(|wait| &mut wait.waiter) }
    }

    /// Ready once it has a release, which is handed on when it is dropped, unless it was claimed.
    #[track_caller]
    fn poll_held(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let waiter = self.waiter();
        assert!(!waiter.is_claimed(), "AutoResetWait polled again after it was ready");
        if waiter.is_unlisted() && stored::take(waiter.queue()) {
            waiter.mark_released();
            return Poll::Ready(());
        }
        waiter.poll(context.waker(), stored::admit)
    }
}

impl Future for AutoResetWait<'_> {
    type Output = ();

    #[track_caller]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let outcome = self.as_mut().poll_held(context);
        if outcome.is_ready() {
            self.waiter().claim();
        }
        outcome
    }
}

impl Drop for AutoResetWait<'_> {
    fn drop(&mut self) {
        self.waiter.withdraw();
        if self.waiter.is_released() {
            stored::hand_on(self.waiter.queue());
        }
    }
}

impl fmt::Debug for AutoResetWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let released = self.waiter.is_released() || self.waiter.is_claimed();
        f.debug_struct("AutoResetWait").field("released", &released).finish_non_exhaustive()
    }
}

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
}

/// The slots of an `any` or an `all`, pinned side by side in one allocation.
pub(crate) struct Slots<'a> {
    slots: Pin<Box<[Slot<'a>]>>,
    /// Whether any of them is external. Only such a slot may have to be polled before its turn more than once.
    has_externals: bool,
    blocks: bool,
}

impl<'a> Slots<'a> {
    pub(crate) fn new(slots: Box<[Slot<'a>]>) -> Slots<'a> {
        let has_externals = slots.iter().any(|slot| matches!(slot, Slot::External(_)));
        Slots { slots: slots.into(), has_externals, blocks: false }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot<'a>> {
        self.slots.iter()
    }

    /// Whether the slot has to be polled before its turn, at least once: until then it misses releases, or errors.
    pub(crate) fn must_be_queued(&self, index: usize) -> bool {
        !matches!(self.slots[index], Slot::Event(_))
    }

    /// Whether one of the slots from `first` on has to be polled before its turn, once more.
    pub(crate) fn needs_poll(&self, first: usize) -> bool {
        self.externals(first).any(External::needs_poll)
    }

    /// From now on a thread polls, and blocks in between.
    pub(crate) fn prepare_to_block(&mut self) {
        self.blocks = true;
    }

    /// How long to sleep until the next poll, if some slot's release may not wake the thread that blocks.
    pub(crate) fn longest_sleep(&self) -> Option<Duration> {
        self.externals(0).filter_map(External::longest_sleep).min()
    }

    /// The time has passed. The slots that have to be ready before that can be reported.
    pub(crate) fn decide(&mut self) -> Vec<usize> {
        let count = self.len();
        let decides = |index: &usize| match self.at(*index) {
            Projected::External(wait) => wait.decide(),
            _ => false,
        };
        (0..count).filter(decides).collect()
    }

    /// Ready when each of these slots is.
    pub(crate) fn poll_decided(&mut self, deciding: &[usize], context: &mut Context<'_>) -> Poll<()> {
        for index in deciding {
            if let Projected::External(wait) = self.at(*index) {
                let _ = ready!(wait.poll_outcome(context, true));
            }
        }
        Poll::Ready(())
    }

    /// Ready once the slot is released, or has failed. A release that was given to the slot stays in it until it is
    /// claimed.
    pub(crate) fn poll_held(&mut self, index: usize, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let blocks = self.blocks;
        match self.at(index) {
            Projected::Event(wait) => wait.poll(context).map(Ok),
            Projected::AutoReset(wait) => wait.poll_held(context).map(Ok),
            Projected::External(wait) => match ready!(wait.poll_outcome(context, blocks)) {
                Ok(true) => Poll::Ready(Ok(())),
                Ok(false) => Poll::Pending,
                Err(error) => Poll::Ready(Err(error)),
            },
        }
    }

    /// Uses up the release in the slot.
    pub(crate) fn claim(&mut self, index: usize) {
        if let Projected::AutoReset(wait) = self.at(index) {
            wait.waiter().claim();
        }
    }

    /// Those from `first` on.
    fn externals(&self, first: usize) -> impl Iterator<Item = &(dyn External + 'a)> {
        let slots = if self.has_externals { &self.slots[first..] } else { &[] };
        slots.iter().filter_map(|slot| match slot {
            Slot::External(wait) => Some(wait.get()),
            _ => None,
        })
    }

    fn at(&mut self, index: usize) -> Projected<'_, 'a> {
        // SAFETY: structural pinning: the element stays where it is; the slice is never moved out of the pinned box.
        let slot = unsafe { self.slots.as_mut().map_unchecked_mut(|slots| &mut slots[index]) };
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
