//! The futures: what `wait_async` and `wait_owned` return.

use std::fmt;
use std::future::Future;
use std::mem::needs_drop;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::task::{Context, Poll};

use crate::stored;
use crate::sync::AtomicU32;
use crate::tasks::{Holder, Queue, Waiter};
use crate::waits::hooks::{self, Identity, Kind, Place, State, Target};
use crate::word::{Generation, Word};

/// The queue of an event that consists of nothing else. It shares the ownership with the other
/// `Arc`s of the event.
#[inline]
pub(crate) fn queue_of<E>(event: Arc<E>, queue: impl FnOnce(&E) -> &Queue) -> Arc<Queue> {
    const { assert!(size_of::<E>() == size_of::<Queue>() && align_of::<E>() == align_of::<Queue>()) }
    const { assert!(needs_drop::<E>() == needs_drop::<Queue>(), "the last owner may run the destructor of a queue") }
    assert!(ptr::eq(Arc::as_ptr(&event).cast(), queue(&event)), "the event is its queue");
    // SAFETY: the pointer comes from `into_raw`, and the value behind it is a queue: the assertion
    // has found one at its address. The two types have the same size and alignment.
    unsafe { Arc::from_raw(Arc::into_raw(event).cast::<Queue>()) }
}

/// A wait for an `Event`, whatever holds the event.
pub(crate) struct EventWait<H: Holder> {
    waiter: Waiter<H>,
}

impl<H: Holder> EventWait<H> {
    #[inline]
    pub(crate) fn new(holder: H, place: Option<Place>) -> EventWait<H> {
        let generation = generation(holder.queue());
        EventWait { waiter: Waiter::new(holder, generation, place) }
    }

    #[inline]
    fn waiter(self: Pin<&mut Self>) -> Pin<&mut Waiter<H>> {
        // SAFETY: structural pinning of the only field: it is not moved out of anywhere, and
        // EventWait is neither packed nor has a Drop of its own, nor is Unpin while Waiter is not.
        unsafe { self.map_unchecked_mut(|wait| &mut wait.waiter) }
    }

    fn target(&self) -> Target {
        target(&self.waiter, Kind::Event)
    }

    /// The wait is over.
    #[inline]
    pub(crate) fn end_record(&self) {
        self.waiter.end_record();
    }

    /// If it is recorded: as a wait until the event is unset.
    #[allow(dead_code, reason = "for events between processes")]
    pub(crate) fn record_as_until_unset(&self) {
        let (_, slot, owner) = self.waiter.to_record();
        if slot.is_used() {
            hooks::until_unset(slot, owner);
        }
    }

    #[allow(dead_code, reason = "for events between processes")]
    pub(crate) fn holder(&self) -> &H {
        self.waiter.holder()
    }

    /// The wait begins anew, with this call.
    #[allow(dead_code, reason = "for events between processes")]
    pub(crate) fn restart(self: Pin<&mut Self>) {
        let generation = generation(self.waiter.queue());
        self.waiter().restart(generation);
    }

    pub(crate) fn is_released(&self) -> bool {
        self.waiter.is_released()
            || Word::from_bits(self.waiter.queue().word.load(Acquire)).releases(self.waiter.generation())
    }

    #[inline]
    pub(crate) fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // A drained node is released. The word need not be read, which other processors may be
        // writing.
        if self.waiter.is_released() {
            return Poll::Ready(());
        }
        self.poll_word(context)
    }

    // Not inlined, so that a poll of a released wait does not save registers for this.
    #[inline(never)]
    fn poll_word(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiter = self.waiter();
        let generation = waiter.generation();
        if Word::from_bits(waiter.queue().word.load(Acquire)).releases(generation) {
            // The generation decides. A drain that is not done yet may still find the node, and
            // wake needlessly.
            return Poll::Ready(());
        }
        let polled = waiter.as_mut().poll(context.waker(), |word| admit(word, generation));
        outcome(polled, &waiter, Kind::Event, context)
    }
}

#[inline]
fn generation(queue: &Queue) -> Generation {
    Word::from_bits(queue.word.load(Acquire)).generation()
}

/// Called under the queue's lock, before a task of this generation is queued: turns TASKS on, or
/// returns `false` if the wait is released.
///
/// Either a `set` finds TASKS on and drains afterwards, or this finds the `set`'s generation. If
/// TASKS is on already, the load suffices: a `set` that it does not see takes the lock later, and
/// finds the task.
#[inline]
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

/// While waits are recorded, makes an `Event` note its sets: the next `set` looks for tasks.
pub(crate) fn note_sets(queue: &Queue) {
    // The bit stays on if the record knows the event already.
    if !Word::from_bits(queue.word.load(Relaxed)).has_tasks() {
        queue.word.fetch_or(Word::TASKS_BIT, AcqRel);
    }
}

fn target<H: Holder>(waiter: &Waiter<H>, kind: Kind) -> Target {
    let own = Identity::new(hooks::address(waiter.queue()), kind);
    waiter.holder().identity().unwrap_or(own).target(waiter.generation())
}

/// The outcome of a poll. A wait that was appended is recorded, if waits are.
#[inline]
fn outcome<H: Holder>(polled: Option<bool>, waiter: &Waiter<H>, kind: Kind, context: &Context<'_>) -> Poll<()> {
    let Some(is_appended) = polled else { return Poll::Ready(()) };
    if is_appended {
        let state = State::now();
        if !state.is_idle() {
            record(state, waiter, kind, context);
        }
    }
    Poll::Pending
}

/// Records a wait that was queued, if waits are recorded.
#[cold]
#[inline(never)]
fn record<H: Holder>(state: State, waiter: &Waiter<H>, kind: Kind, context: &Context<'_>) {
    let (place, slot, owner) = waiter.to_record();
    // A wait that has begun anew is recorded already.
    let Some(place) = place.filter(|_| !slot.is_used() && hooks::records(state)) else { return };
    // The handle of an event outside of the process removes what the record knows of it.
    if waiter.holder().identity().is_none() {
        hooks::meet(waiter.queue().subject(kind));
    }
    if kind == Kind::AutoReset {
        stored::note_all(waiter.queue());
    }
    slot.set(hooks::queued(owner, target(waiter, kind), place, context.waker()));
}

/// The future of [`Event::wait_async`](crate::Event::wait_async): ready once the event is set, or
/// was set since the future was made.
///
/// It is 56 bytes and allocates nothing. Its task is queued with the first poll. A `set` counts
/// from the creation of the future, because the future remembers the state of the event at that
/// moment.
///
/// # Cancel safety
///
/// Dropping it at any moment removes it from the queue, and affects no other wait.
///
/// # Memory ordering
///
/// All that happened before the `set` that released the future is visible to the task once the
/// future is ready.
///
/// # Fairness
///
/// Tasks are woken in the order in which they were first polled.
///
/// A future that was ready stays ready, however often it is polled.
#[must_use = "a future does nothing until it is awaited"]
pub struct Wait<'a> {
    wait: EventWait<&'a Queue>,
}

impl<'a> Wait<'a> {
    #[inline]
    pub(crate) fn new(queue: &'a Queue, place: Option<Place>) -> Wait<'a> {
        Wait { wait: EventWait::new(queue, place) }
    }

    pub(crate) fn target(&self) -> Target {
        self.wait.target()
    }

    /// For `any` and `all`: the wait is about to be recorded.
    pub(crate) fn begin_record(&self) {
        let queue = self.wait.waiter.queue();
        hooks::meet(queue.subject(Kind::Event));
        note_sets(queue);
    }
}

impl Future for Wait<'_> {
    type Output = ();

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: structural pinning of the only field, as in `EventWait::waiter`.
        let mut wait = unsafe { self.map_unchecked_mut(|this| &mut this.wait) };
        let outcome = wait.as_mut().poll(context);
        if outcome.is_ready() {
            wait.end_record();
        }
        outcome
    }
}

/// The future of [`Event::wait_owned`](crate::Event::wait_owned): a [`Wait`] that owns an `Arc` of
/// its event instead of borrowing it.
///
/// It is 56 bytes, allocates nothing, and is `Send + 'static`: it can be spawned, returned, and
/// stored in a struct. A `set` counts from the creation of the future.
///
/// # Cancel safety
///
/// Dropping it at any moment removes it from the queue, and affects no other wait. If it holds the
/// last `Arc` of the event, the event is freed with it.
///
/// # Memory ordering
///
/// All that happened before the `set` that released the future is visible to the task once the
/// future is ready.
///
/// # Fairness
///
/// Tasks are woken in the order in which they were first polled, whether they own the event or
/// borrow it.
///
/// A future that was ready stays ready, however often it is polled. It keeps its `Arc` until it is
/// dropped.
#[must_use = "a future does nothing until it is awaited"]
pub struct OwnedWait {
    wait: EventWait<Arc<Queue>>,
}

impl OwnedWait {
    #[inline]
    pub(crate) fn new(queue: Arc<Queue>, place: Place) -> OwnedWait {
        OwnedWait { wait: EventWait::new(queue, Some(place)) }
    }
}

impl Future for OwnedWait {
    type Output = ();

    #[inline]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: structural pinning of the only field, as in `EventWait::waiter`.
        let mut wait = unsafe { self.map_unchecked_mut(|this| &mut this.wait) };
        let outcome = wait.as_mut().poll(context);
        if outcome.is_ready() {
            wait.end_record();
        }
        outcome
    }
}

/// A wait for an `AutoResetEvent`, whatever holds the event.
pub(crate) struct AutoResetEventWait<H: Holder> {
    waiter: Waiter<H>,
}

impl<H: Holder> AutoResetEventWait<H> {
    #[inline]
    fn new(holder: H, place: Option<Place>) -> AutoResetEventWait<H> {
        AutoResetEventWait { waiter: Waiter::new(holder, Generation::NONE, place) }
    }

    #[inline]
    fn waiter(self: Pin<&mut Self>) -> Pin<&mut Waiter<H>> {
        // SAFETY: structural pinning of the only field: it is not moved out of anywhere,
        // AutoResetEventWait is not packed, its Drop does not move it, and it is not Unpin because
        // Waiter is not.
        unsafe { self.map_unchecked_mut(|wait| &mut wait.waiter) }
    }

    /// Ready once it has a release, which is handed on when it is dropped, unless it was claimed.
    #[inline]
    #[track_caller]
    fn poll_held(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        assert!(!self.waiter.is_claimed(), "AutoResetWait polled again after it was ready");
        if self.waiter.is_released() {
            return Poll::Ready(());
        }
        self.poll_queue(context)
    }

    // Not inlined, as `EventWait::poll_word`.
    #[inline(never)]
    fn poll_queue(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut waiter = self.waiter();
        if waiter.is_unlisted() && stored::take(waiter.queue(), waiter.to_record().0) {
            waiter.mark_released();
            return Poll::Ready(());
        }
        let polled = waiter.as_mut().poll(context.waker(), stored::admit);
        outcome(polled, &waiter, Kind::AutoReset, context)
    }

    #[inline]
    #[track_caller]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let outcome = self.as_mut().poll_held(context);
        if outcome.is_ready() {
            self.as_mut().waiter().claim();
            self.end_record();
        }
        outcome
    }

    /// The wait has consumed its release.
    fn end_record(&self) {
        let (place, slot, _) = self.waiter.to_record();
        if slot.is_used() {
            if let Some(place) = place {
                stored::note_taken(self.waiter.queue(), place);
            }
            self.waiter.end_record();
        }
    }

    fn is_released(&self) -> bool {
        self.waiter.is_released() || self.waiter.is_claimed()
    }
}

impl<H: Holder> Drop for AutoResetEventWait<H> {
    fn drop(&mut self) {
        self.waiter.withdraw();
        if self.waiter.is_released() {
            stored::hand_on(self.waiter.queue());
        }
    }
}

/// The future of [`AutoResetEvent::wait_async`](crate::AutoResetEvent::wait_async): ready once one
/// release was given to it.
///
/// It is queued with its first poll.
///
/// # Cancel safety
///
/// A future that is dropped after a release was given to it, but before it was ready, hands that
/// release on to the next waiter, or to the event, which stores it.
///
/// # Memory ordering
///
/// All that happened before the `set` whose release the future got is visible to the task once the
/// future is ready.
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
    wait: AutoResetEventWait<&'a Queue>,
}

impl<'a> AutoResetWait<'a> {
    #[inline]
    pub(crate) fn new(queue: &'a Queue, place: Option<Place>) -> AutoResetWait<'a> {
        AutoResetWait { wait: AutoResetEventWait::new(queue, place) }
    }

    pub(crate) fn target(&self) -> Target {
        target(&self.wait.waiter, Kind::AutoReset)
    }

    /// For `any` and `all`: the wait is about to be recorded.
    pub(crate) fn begin_record(&self) {
        let queue = self.wait.waiter.queue();
        hooks::meet(queue.subject(Kind::AutoReset));
        stored::note_all(queue);
    }

    #[inline]
    fn wait(self: Pin<&mut Self>) -> Pin<&mut AutoResetEventWait<&'a Queue>> {
        // SAFETY: structural pinning of the only field: it is not moved out of anywhere, and
        // AutoResetWait is neither packed nor has a Drop of its own, nor is Unpin while its field
        // is not.
        unsafe { self.map_unchecked_mut(|this| &mut this.wait) }
    }

    /// For `any` and `all`: ready once it has a release, which is handed on when it is dropped,
    /// unless it was claimed.
    #[track_caller]
    pub(crate) fn poll_held(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.wait().poll_held(context)
    }

    /// Consumes the release that it holds.
    pub(crate) fn claim(self: Pin<&mut Self>, place: Place) {
        let waiter = self.wait().waiter();
        if stored::is_noted(waiter.queue()) {
            stored::note_taken(waiter.queue(), place);
        }
        waiter.claim();
    }
}

impl Future for AutoResetWait<'_> {
    type Output = ();

    #[track_caller]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.wait().poll(context)
    }
}

/// The future of [`AutoResetEvent::wait_owned`](crate::AutoResetEvent::wait_owned): an
/// [`AutoResetWait`] that owns an `Arc` of its event instead of borrowing it.
///
/// It is 56 bytes, allocates nothing, and is `Send + 'static`. It is queued with its first poll.
///
/// # Cancel safety
///
/// A future that is dropped after a release was given to it, but before it was ready, hands that
/// release on to the next waiter, or to the event, which stores it; the event outlives that.
///
/// # Memory ordering
///
/// All that happened before the `set` whose release the future got is visible to the task once the
/// future is ready.
///
/// # Fairness
///
/// Releases are given in the order of the first polls, whether the futures own the event or borrow
/// it.
///
/// # Panics
///
/// If it is polled again after it was ready. It keeps its `Arc` until it is dropped.
#[must_use = "a future does nothing until it is awaited"]
pub struct OwnedAutoResetWait {
    wait: AutoResetEventWait<Arc<Queue>>,
}

impl OwnedAutoResetWait {
    #[inline]
    pub(crate) fn new(queue: Arc<Queue>, place: Place) -> OwnedAutoResetWait {
        OwnedAutoResetWait { wait: AutoResetEventWait::new(queue, Some(place)) }
    }
}

impl Future for OwnedAutoResetWait {
    type Output = ();

    #[track_caller]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // SAFETY: structural pinning of the only field, as in `AutoResetWait::wait`.
        unsafe { self.map_unchecked_mut(|this| &mut this.wait) }.poll(context)
    }
}

// A panic leaves the futures in a valid state, as it does the events.
impl<H: Holder> UnwindSafe for EventWait<H> {}
impl<H: Holder> RefUnwindSafe for EventWait<H> {}
impl<H: Holder> UnwindSafe for AutoResetEventWait<H> {}
impl<H: Holder> RefUnwindSafe for AutoResetEventWait<H> {}

fn debug(f: &mut fmt::Formatter<'_>, name: &str, is_released: bool) -> fmt::Result {
    f.debug_struct(name).field("released", &is_released).finish_non_exhaustive()
}

impl fmt::Debug for Wait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "Wait", self.wait.is_released())
    }
}

impl fmt::Debug for OwnedWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "OwnedWait", self.wait.is_released())
    }
}

impl fmt::Debug for AutoResetWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "AutoResetWait", self.wait.is_released())
    }
}

impl fmt::Debug for OwnedAutoResetWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "OwnedAutoResetWait", self.wait.is_released())
    }
}
