//! [`any`] and [`all`]: waiting for one, or for each, of many events.

#![forbid(unsafe_code)]

use std::fmt;
use std::future::{Future, poll_fn};
use std::panic::Location;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use crate::auto_reset::AutoResetEvent;
use crate::deadline::Deadline;
use crate::error::{Error, or_panic};
use crate::event::Event;
use crate::park::{block_on, block_on_resting};
use crate::slots::sealed::{IntoSlot, Seal, Sealed};
use crate::slots::{Slot, Slots, Waitable};
use crate::stored;
use crate::wait::{self, AutoResetWait, Wait};
use crate::waits::hooks::{Kind, Subject, Target, What};

impl Waitable for Event {}
impl Sealed for Event {
    fn slot(&self, _: Seal) -> Slot<'_> {
        Slot::Event(Wait::new(self.queue(), None))
    }

    fn subject(&self, _: Seal) -> Option<Subject<'_>> {
        Some(self.queue().subject(Kind::Event))
    }

    fn note_sets(&self, _: Seal) {
        wait::note_sets(self.queue());
    }
}

impl Waitable for AutoResetEvent {}
impl Sealed for AutoResetEvent {
    fn slot(&self, _: Seal) -> Slot<'_> {
        Slot::AutoReset(AutoResetWait::new(self.queue(), None))
    }

    fn subject(&self, _: Seal) -> Option<Subject<'_>> {
        Some(self.queue().subject(Kind::AutoReset))
    }

    fn note_sets(&self, _: Seal) {
        stored::note_all(self.queue());
    }
}

/// Waits for the first of many events: the answer is the index of one that released.
///
/// `events` is anything that iterates over references to events: an array, a slice, a `&Vec`, an
/// iterator. Or it iterates over `Arc`s of events, or over handles (`SharedEvent`, `ClusterEvent`),
/// which the wait then owns: such an `Any<'static>` can be spawned, stored and returned. To mix
/// kinds, use `&dyn `[`Waitable`] or `Arc<dyn Waitable>`. There is no limit on their number. Of
/// several that are released at the same time, the one with the lowest index is reported; the
/// release of an [`AutoResetEvent`] is consumed only if it is the one that is reported.
///
/// The wait begins with this call: an [`Event`] that is set and cleared before the first poll
/// counts. The wait is queued at an `AutoResetEvent` with the first poll. `any` of no events is
/// never released.
///
/// # Cancel safety
///
/// Dropping it, or a timeout, loses nothing: a release that an `AutoResetEvent` had given is handed
/// on.
///
/// # Signal handlers
///
/// While it waits, none of its [`Event`]s and [`AutoResetEvent`]s may be set in a signal handler:
/// see [`Event`](Event#signal-handlers-and-real-time-threads).
///
/// # Complexity
///
/// One allocation, or two if the wait owns the events; time linear in the number of events.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tantara::{Event, any};
///
/// let doors = [Event::new(), Event::new(), Event::new()];
/// assert_eq!(any(&doors).wait_timeout(Duration::from_millis(1)), None);
/// doors[2].set();
/// assert_eq!(any(&doors).wait(), 2);
/// assert_eq!(pollster::block_on(any(&doors)), 2);
/// ```
///
/// A wait that owns its events:
///
/// ```
/// use std::sync::Arc;
/// use tantara::{Any, Event, any};
///
/// struct Worker {
///     wake_up: Any<'static>,
/// }
///
/// let (job, shutdown) = (Arc::new(Event::new()), Arc::new(Event::new()));
/// let worker = Worker { wake_up: any([job, Arc::clone(&shutdown)]) };
/// shutdown.set();
/// assert_eq!(worker.wake_up.wait(), 1);
/// ```
#[track_caller]
pub fn any<'a, E: IntoSlot<'a>>(events: impl IntoIterator<Item = E>) -> Any<'a> {
    Any { slots: Slots::new(events, Location::caller()), done: false }
}

/// Waits for each of many events: it is released when every one of them was released at some moment
/// of the wait.
///
/// It latches: an [`Event`] that was set and cleared again while others were still awaited counts.
/// The releases of [`AutoResetEvent`]s are consumed only when the last event is released; if the
/// wait is dropped or times out before that, they are handed on.
///
/// `events` is as with [`any`]. `all` of no events is released at once.
///
/// # Deadlocks
///
/// A wait for all keeps each release of an `AutoResetEvent` from the moment at which it is given.
/// (Windows' `WaitForMultipleObjects` takes none until it can take all of them.) Others who wait
/// for the same events cannot have that release until this wait ends, and this wait may need one
/// that others have consumed:
///
/// * Two waits for all of the same events may each get a release that the other needs. Neither ends
///   until there is another `set`, or one of them times out.
/// * A plain `wait` for A beside one wait for all of A and B: this wait is given the release of A
///   and keeps it until B is set. Meanwhile the plain `wait` hangs although A was set; and if its
///   thread is the one that sets B, neither wait ends.
///
/// If several threads or tasks wait for the same auto-reset events, use timeouts, or make the wait
/// for all the only one.
///
/// An `AutoResetEvent` that is listed twice is waited for twice, and takes two releases.
///
/// # Cancel safety
///
/// Dropping it, a timeout, or an error loses nothing: the releases that it was given are handed on.
///
/// # Signal handlers
///
/// While it waits, none of its [`Event`]s and [`AutoResetEvent`]s may be set in a signal handler:
/// see [`Event`](Event#signal-handlers-and-real-time-threads).
///
/// # Complexity
///
/// One allocation, or two if the wait owns the events; time linear in the number of events, however
/// many of them are set one by one. If some of them lie outside of this process, each of their
/// releases, and of those of the [`AutoResetEvent`]s, takes time linear in the number of events
/// that are still awaited.
///
/// # Examples
///
/// ```
/// use std::thread;
/// use tantara::{Event, all};
///
/// let parts = [Event::new(), Event::new()];
/// thread::scope(|scope| {
///     let both = all(&parts);
///     for part in &parts {
///         scope.spawn(|| { part.set(); part.clear(); });
///     }
///     both.wait();
/// });
/// ```
#[track_caller]
pub fn all<'a, E: IntoSlot<'a>>(events: impl IntoIterator<Item = E>) -> All<'a> {
    All { slots: Slots::new(events, Location::caller()), released: 0, is_queued: false, done: false }
}

/// What [`Any`] and [`All`] have in common: how a thread blocks on them.
trait Many<'a> {
    type Output;

    /// What it waits for.
    const WHAT: fn(Box<[Target]>) -> What;

    fn slots(&mut self) -> &mut Slots<'a>;

    #[track_caller]
    fn poll_slots(&mut self, context: &mut Context<'_>) -> Poll<Result<Self::Output, Error>>;

    #[track_caller]
    fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Result<Self::Output, Error>> {
        let outcome = self.poll_slots(context);
        if outcome.is_pending() {
            self.slots().note_pending(Self::WHAT, context);
        }
        outcome
    }

    /// Blocks until it is ready, or until the deadline. After the deadline, asks the events that
    /// have to decide whether they were released in time.
    fn block(&mut self, deadline: Deadline) -> Option<Result<Self::Output, Error>> {
        self.slots().prepare_to_block(deadline);
        let outcome = block_on_resting(
            |context| {
                self.slots().begin_pass();
                match self.poll_outcome(context) {
                    Poll::Ready(outcome) => Ok(outcome),
                    Poll::Pending => Err(self.slots().rest()),
                }
            },
            deadline,
        );
        if outcome.is_some() {
            return outcome;
        }
        let deciding = self.slots().decide();
        if deciding.is_empty() {
            return None;
        }
        block_on(pin!(poll_fn(|context| self.slots().poll_decided(&deciding, context))), Deadline::Never);
        block_on(pin!(poll_fn(|context| self.poll_outcome(context))), Deadline::Poll)
    }
}

/// A wait for the first of many events, made by [`any`]: block on it, or await it.
///
/// # Panics
///
/// As a future, if it is polled again after it was ready. Also if an event outside of the process
/// fails, for example because it was removed; the methods that begin with `try_` return an error
/// instead.
#[must_use = "it does nothing until it is waited for or awaited"]
pub struct Any<'a> {
    slots: Slots<'a>,
    done: bool,
}

impl Any<'_> {
    /// Blocks until one of the events is released, and returns its index.
    ///
    /// # Blocking
    ///
    /// For ever, if there are no events.
    #[track_caller]
    pub fn wait(self) -> usize {
        or_panic(self.try_wait())
    }

    /// Blocks for at most `timeout`: the index of an event that was released, or `None` if the time
    /// passed first. On a tie, released wins; zero is a poll.
    #[track_caller]
    #[must_use = "`None`: the time passed before an event was released"]
    pub fn wait_timeout(self, timeout: Duration) -> Option<usize> {
        or_panic(self.try_wait_timeout(timeout))
    }

    /// Blocks until `deadline` at the latest: the index of an event that was released, or `None` if
    /// the deadline passed first.
    #[track_caller]
    #[must_use = "`None`: the time passed before an event was released"]
    pub fn wait_deadline(self, deadline: Instant) -> Option<usize> {
        or_panic(self.try_wait_deadline(deadline))
    }

    /// [`wait`](Any::wait), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// If an event outside of the process fails, and none before it in the list is released.
    pub fn try_wait(mut self) -> Result<usize, Error> {
        loop {
            if let Some(outcome) = self.block(Deadline::Never) {
                return outcome;
            }
        }
    }

    /// [`wait_timeout`](Any::wait_timeout), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// As with [`try_wait`](Any::try_wait).
    pub fn try_wait_timeout(mut self, timeout: Duration) -> Result<Option<usize>, Error> {
        self.block(Deadline::after(timeout)).transpose()
    }

    /// [`wait_deadline`](Any::wait_deadline), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// As with [`try_wait`](Any::try_wait).
    pub fn try_wait_deadline(mut self, deadline: Instant) -> Result<Option<usize>, Error> {
        self.block(Deadline::At(deadline)).transpose()
    }

    /// To await it, with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// The future's, as with [`try_wait`](Any::try_wait).
    pub async fn try_wait_async(mut self) -> Result<usize, Error> {
        poll_fn(|context| self.poll_outcome(context)).await
    }
}

impl<'a> Many<'a> for Any<'a> {
    type Output = usize;
    const WHAT: fn(Box<[Target]>) -> What = What::Any;

    fn slots(&mut self) -> &mut Slots<'a> {
        &mut self.slots
    }

    #[track_caller]
    fn poll_slots(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        assert!(!self.done, "Any polled again after it was ready");
        for index in 0..self.slots.len() {
            if let Poll::Ready(outcome) = self.slots.poll_held(index, context) {
                let outcome = outcome.map(|()| index);
                if outcome.is_ok() {
                    self.slots.claim(index);
                }
                self.done = true;
                // Leave the other queues now. The caller may drop this much later.
                self.slots.leave();
                return Poll::Ready(outcome);
            }
        }
        Poll::Pending
    }
}

impl Future for Any<'_> {
    type Output = usize;

    #[track_caller]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<usize> {
        Poll::Ready(or_panic(ready!(self.poll_outcome(context))))
    }
}

/// A wait for each of many events, made by [`all`]: block on it, or await it.
///
/// # Panics
///
/// As a future, if it is polled again after it was ready. Also if an event outside of the process
/// fails, for example because it was removed; the methods that begin with `try_` return an error
/// instead.
#[must_use = "it does nothing until it is waited for or awaited"]
pub struct All<'a> {
    slots: Slots<'a>,
    /// The slots before this one are released.
    released: usize,
    /// Whether each slot was polled that must be queued.
    is_queued: bool,
    done: bool,
}

impl All<'_> {
    /// Blocks until each of the events was released.
    #[track_caller]
    pub fn wait(self) {
        or_panic(self.try_wait());
    }

    /// Blocks for at most `timeout`: `true` if each event was released, `false` if the time passed
    /// first. On a tie, released wins; zero is a poll.
    #[track_caller]
    #[must_use = "`false`: the time passed before all events were released"]
    pub fn wait_timeout(self, timeout: Duration) -> bool {
        or_panic(self.try_wait_timeout(timeout))
    }

    /// Blocks until `deadline` at the latest: `true` if each event was released, `false` if the
    /// deadline passed first.
    #[track_caller]
    #[must_use = "`false`: the time passed before all events were released"]
    pub fn wait_deadline(self, deadline: Instant) -> bool {
        or_panic(self.try_wait_deadline(deadline))
    }

    /// [`wait`](All::wait), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// If an event outside of the process fails before it was released.
    pub fn try_wait(mut self) -> Result<(), Error> {
        loop {
            if let Some(outcome) = self.block(Deadline::Never) {
                return outcome;
            }
        }
    }

    /// [`wait_timeout`](All::wait_timeout), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// As with [`try_wait`](All::try_wait).
    pub fn try_wait_timeout(mut self, timeout: Duration) -> Result<bool, Error> {
        self.block(Deadline::after(timeout)).transpose().map(|outcome| outcome.is_some())
    }

    /// [`wait_deadline`](All::wait_deadline), with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// As with [`try_wait`](All::try_wait).
    pub fn try_wait_deadline(mut self, deadline: Instant) -> Result<bool, Error> {
        self.block(Deadline::At(deadline)).transpose().map(|outcome| outcome.is_some())
    }

    /// To await it, with an error instead of a panic.
    ///
    /// # Errors
    ///
    /// The future's, as with [`try_wait`](All::try_wait).
    pub async fn try_wait_async(mut self) -> Result<(), Error> {
        poll_fn(|context| self.poll_outcome(context)).await
    }

    fn fail(&mut self, error: Error) -> Poll<Result<(), Error>> {
        self.done = true;
        // Hand the releases on and leave the queues now. The caller may drop this much later.
        self.slots.leave();
        Poll::Ready(Err(error))
    }
}

impl<'a> Many<'a> for All<'a> {
    type Output = ();
    const WHAT: fn(Box<[Target]>) -> What = What::All;

    fn slots(&mut self) -> &mut Slots<'a> {
        &mut self.slots
    }

    #[track_caller]
    fn poll_slots(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        assert!(!self.done, "All polled again after it was ready");
        let is_first = !std::mem::replace(&mut self.is_queued, true);
        if is_first || self.slots.needs_poll(self.released) {
            for index in self.released..self.slots.len() {
                if self.slots.must_be_queued(index) {
                    // A release stays in the slot.
                    if let Poll::Ready(Err(error)) = self.slots.poll_held(index, context) {
                        return self.fail(error);
                    }
                }
            }
        }
        // In order: every slot stays released, so each is polled until it is released and never
        // again. Of a thousand `Event`s, only the next one that is needed wakes this task. (The
        // others wake it once each: they are queued.)
        while self.released < self.slots.len() {
            let index = self.released;
            if let Err(error) = ready!(self.slots.poll_held(index, context)) {
                return self.fail(error);
            }
            self.released += 1;
        }
        for index in 0..self.slots.len() {
            self.slots.claim(index);
        }
        self.done = true;
        self.slots.end_record();
        Poll::Ready(Ok(()))
    }
}

impl Future for All<'_> {
    type Output = ();

    #[track_caller]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        or_panic(ready!(self.poll_outcome(context)));
        Poll::Ready(())
    }
}

impl fmt::Debug for Any<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.slots.iter()).finish()
    }
}

impl fmt::Debug for All<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.slots.iter()).finish()
    }
}
