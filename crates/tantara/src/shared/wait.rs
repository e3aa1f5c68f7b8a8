//! The futures of a [`SharedEvent`](crate::SharedEvent): they wait for the handle's local event,
//! which the [`reactor`] notifies when the word has changed, and decide by the word.

use std::fmt;
use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::external::{External, Found};
use crate::protocol::target::{Aim, Target};
use crate::protocol::word::Word;
use crate::shared::handle::{ANONYMOUS_NAP, Handle, SHORTEST_NAP};
use crate::shared::reactor;
use crate::shared::registry::Mark;
use crate::sys::shared::BLIND;
use crate::tasks::{Holder, Queue};
use crate::wait::EventWait;
use crate::waits::hooks::{Identity, Place};

/// The state of a [`SharedEvent`](crate::SharedEvent) at one moment. The default is the state of a
/// new event.
///
/// Two states are equal if the event was neither set, cleared nor removed in between.
#[derive(Clone, Copy)]
pub struct State(Word);

impl PartialEq for State {
    fn eq(&self, other: &State) -> bool {
        self.essence() == other.essence()
    }
}

impl Eq for State {}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.essence().hash(hasher);
    }
}

impl Default for State {
    fn default() -> State {
        State(Word::from_bits(0))
    }
}

impl State {
    pub(crate) fn new(word: Word) -> State {
        State(word)
    }

    /// Whether it was set.
    #[must_use]
    pub fn is_set(self) -> bool {
        self.0.is_set()
    }

    /// Whether it was removed, or lost.
    #[must_use]
    pub fn is_removed(self) -> bool {
        self.0.is_gone()
    }

    /// How often the event was set between an earlier moment and this one, modulo 2^26. 0 if the
    /// event was lost, because that is not known then.
    #[must_use]
    pub fn sets_since(self, earlier: State) -> u32 {
        if self.0.is_lost() { 0 } else { self.0.sets_since(earlier.0) }
    }

    /// What [`Changed`] compares. The other bits of the word say who sleeps.
    fn essence(self) -> (u32, bool) {
        (self.0.counter(), self.0.is_gone())
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("set", &self.is_set()).field("removed", &self.is_removed()).finish()
    }
}

/// How a wait holds the handle of its event: by a reference, or by shared ownership.
///
/// # Safety
///
/// `handle` returns the same handle each time.
pub(crate) unsafe trait HoldsHandle {
    fn handle(&self) -> &Arc<Handle>;
}

// SAFETY: the `Arc` is borrowed, so nobody replaces it.
unsafe impl HoldsHandle for &Arc<Handle> {
    fn handle(&self) -> &Arc<Handle> {
        self
    }
}

// SAFETY: it is the same `Arc` until it is dropped.
unsafe impl HoldsHandle for Arc<Handle> {
    fn handle(&self) -> &Arc<Handle> {
        self
    }
}

/// Waits for changes of a handle's word.
struct Listening<H: HoldsHandle> {
    /// Begins anew after each notification.
    notified: EventWait<Listener<H>>,
    /// In a box, because few waits need it.
    aside: Option<Box<Aside>>,
}

/// What a thread that blocks does without a reactor thread.
enum Aside {
    Alone(Alone),
    /// It has slept on the word by itself, among others, for a while.
    Marked(Mark),
}

/// No reactor thread could be started for a thread that blocks. It polls every [`BLIND`], and does
/// the periodic work of a reactor thread itself.
struct Alone {
    since: Instant,
    /// When to check the file, and to try again to start a reactor thread.
    next_look: Instant,
}

/// Holds the local event. It is dropped after the wait has left the queue of that event. When the
/// last listener leaves, it removes the mark that shows waiting tasks.
struct Listener<H: HoldsHandle>(H);

// SAFETY: the handle is the same each time (`HoldsHandle`). The `Arc` keeps it, and with it the
// queue of its event, in its place, and excludes exclusive access to it.
unsafe impl<H: HoldsHandle> Holder for Listener<H> {
    #[inline]
    fn queue(&self) -> &Queue {
        self.0.handle().local_event.queue()
    }

    fn identity(&self) -> Option<Identity> {
        Some(self.0.handle().identity())
    }
}

impl<H: HoldsHandle> Drop for Listener<H> {
    fn drop(&mut self) {
        let handle = self.0.handle();
        if handle.is_marked_for_listeners() && !handle.local_event.has_listeners() {
            handle.leave_for_listeners();
        }
    }
}

impl<H: HoldsHandle> Listening<H> {
    fn new(handle: H, place: Option<Place>) -> Listening<H> {
        Listening { notified: EventWait::new(Listener(handle), place), aside: None }
    }

    fn handle(&self) -> &Arc<Handle> {
        self.notified.holder().0.handle()
    }

    /// Ready once `is_over` returns something for the word and the number of repeats. `blocks` if a
    /// thread blocks on it.
    fn poll<T>(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        blocks: bool,
        is_over: impl Fn(Word, u32) -> Option<T>,
    ) -> Poll<Result<T, Error>> {
        loop {
            let (seen, repeats) = (self.handle().known_seen(), self.handle().repeats());
            if let Some(over) = is_over(seen, repeats) {
                return Poll::Ready(Ok(over));
            }
            if self.as_mut().notified().poll(context).is_ready() {
                self.as_mut().notified().restart();
                continue;
            }
            // A change of the word from here on notifies this task. An earlier one is found by the
            // reactor thread, which compares with `seen`, or below.
            if let Err(error) = self.as_mut().register(seen, repeats, blocks) {
                return Poll::Ready(Err(error));
            }
            let handle = self.handle();
            if handle.other_listeners.load(Relaxed) > 0 {
                // The reactor thread may sleep already, and only until the event is cleared.
                let now = handle.word();
                if handle.announce_sleep(now, handle.seen(now)).is_none() {
                    continue;
                }
                // Between the announcement and the look at `repeats`: see `signal::count_repeat`.
                fence(SeqCst);
            }
            return match is_over(handle.known_seen(), handle.repeats()) {
                Some(over) => Poll::Ready(Ok(over)),
                None => Poll::Pending,
            };
        }
    }

    /// Makes sure that this is polled again when the word is no longer `seen`. A thread that blocks
    /// can do without a reactor thread.
    fn register(self: Pin<&mut Self>, seen: Word, repeats: u32, blocks: bool) -> Result<(), Error> {
        // SAFETY: `aside` is not pinned: there is no pinned reference to it. Nothing is moved out
        // of `notified`.
        let Listening { notified, aside } = unsafe { self.get_unchecked_mut() };
        let handle = notified.holder().0.handle();
        let alone = match aside.as_deref() {
            Some(Aside::Alone(alone)) => Some(alone),
            _ => None,
        };
        if alone.is_some_and(|alone| Instant::now() < alone.next_look) {
            return Ok(());
        }
        let since = alone.map(|alone| alone.since);
        match reactor::register(handle, seen, repeats) {
            Ok(()) => leave(aside.take(), handle),
            Err(error) if !blocks => return Err(error),
            Err(_) => {
                let now = Instant::now();
                if let Some(since) = since {
                    handle.enter_for_listeners(seen, now - since);
                    handle.check_place();
                }
                let next_look = now + if since.is_none() { ANONYMOUS_NAP } else { SHORTEST_NAP };
                let alone = Aside::Alone(Alone { since: since.unwrap_or(now), next_look });
                leave(aside.replace(Box::new(alone)), handle);
            }
        }
        Ok(())
    }

    fn is_alone(&self) -> bool {
        matches!(self.aside.as_deref(), Some(Aside::Alone(_)))
    }

    fn notified(self: Pin<&mut Self>) -> Pin<&mut EventWait<Listener<H>>> {
        // SAFETY: structural pinning of this one field: it is not moved out of anywhere, Listening
        // is not packed and has no Drop of its own, and is not Unpin because EventWait is not.
        unsafe { self.map_unchecked_mut(|listening| &mut listening.notified) }
    }
}

/// A wait for a `SharedEvent`, whatever holds its handle.
pub(crate) struct HandleWait<H: HoldsHandle> {
    listening: Listening<H>,
    /// `None` if the event was gone already: nothing releases such a wait.
    target: Option<Target>,
}

/// A thread that slept by itself is no longer shown.
fn leave(aside: Option<Box<Aside>>, handle: &Handle) {
    if let Some(Aside::Marked(mark)) = aside.map(|aside| *aside) {
        handle.leave(mark);
    }
}

impl<H: HoldsHandle> HandleWait<H> {
    #[inline]
    pub(crate) fn new(handle: H, aim: Aim, place: Option<Place>) -> HandleWait<H> {
        let (word, repeats) = (handle.handle().known_seen(), handle.handle().repeats());
        let target = (!word.is_gone()).then(|| Target::new(aim, word, repeats));
        if target.is_some_and(Target::is_other) {
            handle.handle().other_listeners.fetch_add(1, Relaxed);
        }
        HandleWait { listening: Listening::new(handle, place), target }
    }

    /// A thread that slept by itself is no longer counted.
    fn wake_up(&mut self) {
        if let Some(target) = self.target.as_mut().filter(|target| target.is_asleep()) {
            target.note_asleep(false);
            self.listening.handle().discount_sleeper();
        }
    }

    fn is_released(&self) -> bool {
        let handle = self.listening.handle();
        self.target.is_some_and(|target| target.is_reached(handle.seen(handle.word()), handle.repeats()))
    }

    fn poll_released(mut self: Pin<&mut Self>, context: &mut Context<'_>, blocks: bool) -> Poll<Result<(), Error>> {
        let target = self.target;
        let is_over = |word: Word, repeats: u32| {
            let is_released = target.is_some_and(|target| target.is_reached(word, repeats));
            (is_released || word.is_gone()).then_some((is_released, word))
        };
        // SAFETY: structural pinning, as above. The Drop of a `HandleWait` moves nothing.
        let listening = unsafe { self.as_mut().map_unchecked_mut(|wait| &mut wait.listening) };
        let polled = listening.poll(context, blocks, is_over);
        // SAFETY: nothing is moved out of it, and what is changed here is not pinned.
        unsafe { self.as_mut().get_unchecked_mut() }.wake_up();
        if polled.is_pending() && target.is_some_and(Target::is_until_unset) {
            self.listening.notified.record_as_until_unset();
        }
        polled.map(|over| {
            self.listening.notified.end_record();
            let ((is_released, word), handle) = (over?, self.listening.handle());
            if is_released { handle.check_whole() } else { Err(handle.gone(word)) }
        })
    }
}

impl<H: HoldsHandle> Drop for HandleWait<H> {
    fn drop(&mut self) {
        self.wake_up();
        let mark = self.listening.aside.take();
        leave(mark, self.listening.handle());
        if self.target.is_some_and(Target::is_other) {
            self.listening.handle().other_listeners.fetch_sub(1, Relaxed);
        }
    }
}

impl<H: HoldsHandle + Send + Sync> External for HandleWait<H> {
    fn poll_outcome(self: Pin<&mut Self>, context: &mut Context<'_>, blocks: bool) -> Poll<Result<bool, Error>> {
        self.poll_released(context, blocks).map_ok(|()| true)
    }

    fn poll_word(self: Pin<&mut Self>, sleeps: bool, mut waited: Option<Duration>) -> Found<'_> {
        // SAFETY: nothing is moved out of it, and what is changed here is not pinned.
        let HandleWait { listening: Listening { notified, aside }, target } = unsafe { self.get_unchecked_mut() };
        // A wait for the next `set` sleeps on two words.
        let Some(target) = target.as_mut().filter(|target| !target.is_other()) else { return Found::Nothing };
        let handle = notified.holder().0.handle();
        loop {
            let now = handle.known_word();
            let seen = handle.seen(now);
            if target.is_reached(seen, handle.repeats()) {
                return Found::Outcome(handle.check_whole().map(|()| true));
            }
            if seen.is_gone() {
                return Found::Outcome(Err(handle.gone(seen)));
            }
            if !sleeps {
                return Found::Word(&handle.page().word, now.bits(), Duration::MAX);
            }
            if !target.is_asleep() {
                target.note_asleep(true);
                handle.count_sleeper();
            }
            if let Some(waited) = waited.take() {
                if aside.is_none() {
                    *aside = handle.enter(seen, waited).map(|mark| Box::new(Aside::Marked(mark)));
                }
                // It takes several system calls, for each event.
                if waited >= SHORTEST_NAP {
                    handle.check_place();
                }
            } else if let Some(announced) = handle.announce_sleep(now, seen) {
                return Found::Word(&handle.page().word, announced.bits(), handle.longest_nap(Duration::MAX, seen));
            }
        }
    }

    fn needs_poll(&self) -> bool {
        self.listening.is_alone() || self.listening.notified.is_released() && !self.is_released()
    }

    fn identity(&self) -> Option<Identity> {
        let handle = self.listening.handle();
        Some(self.target.map_or_else(|| handle.identity(), |target| handle.identity_for(target)))
    }

    fn longest_sleep(&self) -> Option<Duration> {
        self.listening.is_alone().then_some(BLIND)
    }
}

impl<H: HoldsHandle> fmt::Debug for HandleWait<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedWait").field("released", &self.is_released()).finish_non_exhaustive()
    }
}

/// The future of [`SharedEvent::wait_async`](crate::SharedEvent::wait_async): ready once the event
/// is set, or was set since the future was made. Also that of
/// [`wait_unset_async`](crate::SharedEvent::wait_unset_async) and
/// [`wait_next_async`](crate::SharedEvent::wait_next_async).
///
/// # Cancel safety
///
/// Dropping it at any moment affects no other wait. A future that was ready stays ready.
///
/// # Errors
///
/// If the event was removed, or is removed while it is awaited, or if no reactor thread can be
/// started.
#[must_use = "a future does nothing until it is awaited"]
pub struct SharedWait<'a> {
    wait: HandleWait<&'a Arc<Handle>>,
}

impl<'a> SharedWait<'a> {
    #[inline]
    pub(crate) fn new(handle: &'a Arc<Handle>, aim: Aim, place: Option<Place>) -> SharedWait<'a> {
        SharedWait { wait: HandleWait::new(handle, aim, place) }
    }

    fn wait(self: Pin<&mut Self>) -> Pin<&mut HandleWait<&'a Arc<Handle>>> {
        // SAFETY: structural pinning, as above.
        unsafe { self.map_unchecked_mut(|this| &mut this.wait) }
    }
}

/// For the command and the Python package, which take such waits into `any` and `all`.
impl External for SharedWait<'_> {
    fn poll_outcome(self: Pin<&mut Self>, context: &mut Context<'_>, blocks: bool) -> Poll<Result<bool, Error>> {
        self.wait().poll_outcome(context, blocks)
    }

    fn poll_word(self: Pin<&mut Self>, sleeps: bool, waited: Option<Duration>) -> Found<'_> {
        self.wait().poll_word(sleeps, waited)
    }

    fn needs_poll(&self) -> bool {
        self.wait.needs_poll()
    }

    fn identity(&self) -> Option<Identity> {
        self.wait.identity()
    }

    fn longest_sleep(&self) -> Option<Duration> {
        self.wait.longest_sleep()
    }
}

impl Future for SharedWait<'_> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.wait().poll_released(context, false)
    }
}

impl fmt::Debug for SharedWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wait.fmt(f)
    }
}

/// The future of [`SharedEvent::wait_owned`](crate::SharedEvent::wait_owned): a [`SharedWait`] that
/// owns a handle of the event instead of borrowing it. It is `Send + 'static`: it can be spawned,
/// returned, and stored in a struct.
///
/// # Cancel safety
///
/// Dropping it at any moment affects no other wait. A future that was ready stays ready. If it is
/// the last that uses the opening of the event, the file is closed with it.
///
/// # Errors
///
/// If the event was removed, or is removed while it is awaited, or if no reactor thread can be
/// started.
#[must_use = "a future does nothing until it is awaited"]
pub struct OwnedSharedWait {
    wait: HandleWait<Arc<Handle>>,
}

impl OwnedSharedWait {
    #[inline]
    pub(crate) fn new(handle: Arc<Handle>, place: Place) -> OwnedSharedWait {
        OwnedSharedWait { wait: HandleWait::new(handle, Aim::Set, Some(place)) }
    }
}

impl Future for OwnedSharedWait {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        // SAFETY: structural pinning, as above.
        unsafe { self.map_unchecked_mut(|this| &mut this.wait) }.poll_released(context, false)
    }
}

impl fmt::Debug for OwnedSharedWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.wait.fmt(f)
    }
}

/// The future of [`SharedEvent::changed`](crate::SharedEvent::changed): ready with the new state,
/// once the event's state differs from an earlier one.
///
/// # Cancel safety
///
/// Dropping it at any moment affects no other wait.
#[must_use = "a future does nothing until it is awaited"]
pub struct Changed<'a> {
    listening: Listening<&'a Arc<Handle>>,
    since: State,
}

impl<'a> Changed<'a> {
    pub(crate) fn new(handle: &'a Arc<Handle>, since: State) -> Changed<'a> {
        Changed { listening: Listening::new(handle, None), since }
    }
}

impl Future for Changed<'_> {
    type Output = Result<State, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<State, Error>> {
        let since = self.since;
        // SAFETY: structural pinning, as above.
        let listening = unsafe { self.map_unchecked_mut(|changed| &mut changed.listening) };
        listening.poll(context, false, |word, _| (since != State(word)).then_some(State(word)))
    }
}

impl fmt::Debug for Changed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changed").field("since", &self.since).finish_non_exhaustive()
    }
}
