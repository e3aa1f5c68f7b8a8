//! [`AutoResetEvent`]: the methods. Its state is in [`stored`], its waiters are in [`tasks`](crate::tasks).

#![forbid(unsafe_code)]

use std::fmt;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::pin::pin;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::park::block_on;
use crate::stored;
use crate::sync::const_new;
use crate::tasks::Queue;
use crate::wait::AutoResetWait;
use crate::waits::hooks::{self, Kind, Place, Recorded, State, Target, What};

/// An event that releases one waiter at a time: each [`set`](AutoResetEvent::set) releases exactly
/// one waiter. Without waiters, one release is stored for the next wait.
///
/// It is like Windows' auto-reset event, for threads and async tasks.
///
/// # The contract
///
/// * A `set` releases one waiter, or is stored; a second `set` while one is stored changes nothing.
/// * **First in, first out**, for threads and tasks in one queue. A release is given to the first
///   waiter; no later wait can take it.
/// * A release that was given to a wait which is then dropped, or times out, is handed on to the
///   next waiter.
/// * No user code runs under a lock, as with [`Event`](crate::Event).
///
/// # Memory ordering
///
/// Everything that happened before a `set` is visible after the wait that it released; also if the
/// `set` found a stored release, which the wait then took.
///
/// # Complexity
///
/// An event has 16 bytes and allocates nothing, and `new` is `const`. (A thread makes one
/// allocation for its first blocking wait, and keeps it.) Everything but `Debug` takes constant
/// time.
///
/// # Signal handlers and real-time threads
///
/// Only [`is_set`](AutoResetEvent::is_set) and [`clear`](AutoResetEvent::clear) may be called in a
/// signal handler. All waiters are in a list that a spin lock protects, so a `set` deadlocks when
/// the handler has interrupted a thread that holds this lock. Instead, let the handler write to a
/// pipe or an eventfd, and let the thread that reads it call `set` (the crate signal-hook does the
/// first half).
///
/// The lock has no priority inheritance: a thread with a real-time priority may wait for a
/// preempted thread.
///
/// # Forks
///
/// The child of a fork must not use an event that other threads of the parent use, except by `is_set`
/// and `clear`: one of them may have held the lock at the moment of the fork, and then a `set` or a wait
/// in the child never returns.
///
/// # Examples
///
/// A worker that waits for messages:
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use std::thread;
/// use tantara::AutoResetEvent;
///
/// let inbox = Arc::new((Mutex::new(Vec::new()), AutoResetEvent::new()));
/// let worker = thread::spawn({
///     let inbox = Arc::clone(&inbox);
///     move || {
///         loop {
///             inbox.1.wait();
///             // One release may stand for several messages: take them all.
///             for message in std::mem::take(&mut *inbox.0.lock().unwrap()) {
///                 if message == "stop" { return; }
///             }
///         }
///     }
/// });
/// inbox.0.lock().unwrap().push("stop");
/// inbox.1.set();
/// worker.join().unwrap();
/// ```
pub struct AutoResetEvent {
    queue: Queue,
}

impl AutoResetEvent {
    const_new! {
        /// A new event, unset.
        #[must_use]
        pub fn new() -> Self {
            Self { queue: Queue::new(stored::EMPTY) }
        }
    }

    /// Whether a release is stored, at this moment.
    #[inline]
    #[must_use]
    pub fn is_set(&self) -> bool {
        stored::is_stored(&self.queue)
    }

    /// Releases the first waiter. Without waiters, stores the release for the next wait.
    ///
    /// # Panics
    ///
    /// Only if the waker panics. The release was given before.
    ///
    /// # Signal handlers
    ///
    /// Do not call it in a signal handler: see
    /// [above](AutoResetEvent#signal-handlers-and-real-time-threads).
    #[inline]
    #[track_caller]
    pub fn set(&self) {
        self.set_from(Location::caller());
    }

    /// [`set`](AutoResetEvent::set), by a call at that place.
    #[inline]
    pub(crate) fn set_from(&self, place: Place) {
        stored::give(&self.queue, place);
    }

    /// Discards the stored release. A release that was given to a waiter stays given.
    #[inline]
    pub fn clear(&self) {
        stored::take(&self.queue, None);
    }

    /// How many threads and tasks wait at this moment, up to about 65,000. Not part of the public
    /// API: the Python package uses it.
    #[doc(hidden)]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Blocks the thread until a release is given to it, and consumes the release.
    ///
    /// # Blocking
    ///
    /// The thread first spins for some microseconds, unless spinning has failed lately. Then it
    /// sleeps. In async code use [`wait_async`](AutoResetEvent::wait_async).
    #[inline]
    #[track_caller]
    pub fn wait(&self) {
        self.wait_until(|| Deadline::Never);
    }

    /// Blocks until a release is given to it, or for at most `timeout`: `true` if it was released,
    /// `false` if the time passed first. On a tie, released wins.
    ///
    /// # Blocking
    ///
    /// The clock is [`Instant`]'s: monotonic. Zero is a poll. [`Duration::MAX`] waits for ever.
    #[inline]
    #[must_use = "`false`: the time passed before a release was given"]
    #[track_caller]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait_until(|| Deadline::after(timeout))
    }

    /// Blocks until a release is given to it, or until `deadline` at the latest: `true` if it was
    /// released, `false` if the deadline passed first. On a tie, released wins; a deadline in the
    /// past is a poll.
    #[inline]
    #[must_use = "`false`: the time passed before a release was given"]
    #[track_caller]
    pub fn wait_deadline(&self, deadline: Instant) -> bool {
        self.wait_until(|| Deadline::At(deadline))
    }

    #[inline]
    #[track_caller]
    fn wait_until(&self, deadline: impl FnOnce() -> Deadline) -> bool {
        stored::take(&self.queue, Some(Location::caller())) || self.wait_cold(deadline(), Location::caller())
    }

    #[cold]
    fn wait_cold(&self, deadline: Deadline, place: Place) -> bool {
        // A poll is never queued. No release was stored, or another wait has taken it.
        if matches!(deadline, Deadline::Poll) {
            return false;
        }
        let state = State::now();
        let recorded = if state.is_idle() { None } else { self.record(state, deadline, place) };
        let is_released = block_on(pin!(AutoResetWait::new(&self.queue, None)), deadline).is_some();
        if is_released && recorded.is_some() {
            stored::note_taken(&self.queue, place);
        }
        is_released
    }

    #[cold]
    fn record(&self, state: State, deadline: Deadline, place: Place) -> Option<Recorded> {
        if !hooks::records(state) {
            return None;
        }
        hooks::meet(self.queue.subject(Kind::AutoReset));
        stored::note_all(&self.queue);
        let target = Target::of_auto_reset(hooks::address(&self.queue));
        Some(hooks::sleeps(What::One(target), place, deadline))
    }

    /// A future that is ready once a release was given to it.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped after a release was given to it hands the release on. The future is
    /// queued with its first poll.
    ///
    /// # Examples
    ///
    /// ```
    /// use tantara::AutoResetEvent;
    ///
    /// let event = AutoResetEvent::new();
    /// event.set();
    /// pollster::block_on(event.wait_async());
    /// assert!(!event.is_set());
    /// ```
    #[inline]
    #[track_caller]
    pub fn wait_async(&self) -> AutoResetWait<'_> {
        AutoResetWait::new(&self.queue, Some(Location::caller()))
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }
}

impl Default for AutoResetEvent {
    fn default() -> Self {
        Self::new()
    }
}

// A panic of a waker leaves an event in a valid state: the release is given, and the queue is
// consistent, before wakers run.
impl UnwindSafe for AutoResetEvent {}
impl RefUnwindSafe for AutoResetEvent {}

/// Shows whether a release is stored, and how many threads and tasks wait, up to about 65,000.
impl fmt::Debug for AutoResetEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AutoResetEvent").field("set", &self.is_set()).field("waiting", &self.waiting()).finish()
    }
}
