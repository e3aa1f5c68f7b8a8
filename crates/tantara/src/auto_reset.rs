//! [`AutoResetEvent`]: the verbs. Its state is in [`stored`], those who wait in
//! [`tasks`](crate::tasks).

#![forbid(unsafe_code)]

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::pin;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::park::block_on;
use crate::stored;
use crate::sync::const_new;
use crate::tasks::Queue;
use crate::wait::AutoResetWait;

/// An event that releases one at a time: each [`set`](AutoResetEvent::set) releases exactly one waiter, and lowers
/// itself by doing so. With nobody waiting it stays raised, once, for the next who comes.
///
/// It is Windows' auto-reset event, for threads and async tasks alike.
///
/// # The contract
///
/// * A `set` releases one waiter, or is stored; a second `set` while one is stored changes nothing.
/// * **First come, first served**, threads and tasks in one line. A release is handed to the first in line; nobody
///   who comes later can snatch it.
/// * A release that was handed to a wait which is then dropped, or times out, passes on to the next in line.
/// * Foreign code never runs under a lock, as with [`Event`](crate::Event).
///
/// # Memory ordering
///
/// All that happened before the `set` is visible to the one whom it released; also what happened before a `set` that
/// found one stored.
///
/// # Complexity
///
/// 16 bytes, `const` to make, no allocation (but one that a thread makes for its first blocking wait, and keeps).
/// Everything but `Debug` takes constant time.
///
/// # Signal handlers and real-time threads
///
/// Only [`is_set`](AutoResetEvent::is_set) and [`clear`](AutoResetEvent::clear) may be called in a signal handler.
/// Everyone waits in a list that a spin lock protects, so a `set` deadlocks when the handler has interrupted a thread
/// that holds this lock. Instead, let the handler write to a pipe or an eventfd, and let the thread that reads it call
/// `set` (the crate signal-hook does the first half).
///
/// The lock has no priority inheritance: a thread with a real-time priority may wait for a preempted thread.
///
/// # Examples
///
/// A worker that sleeps until there is work:
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
///             // One signal may stand for several letters: take them all.
///             for letter in std::mem::take(&mut *inbox.0.lock().unwrap()) {
///                 if letter == "stop" { return; }
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

    /// Whether a release is stored, at this moment. Nobody waits then.
    #[inline]
    pub fn is_set(&self) -> bool {
        stored::is_stored(&self.queue)
    }

    /// Releases the first in line; with nobody waiting, stores the release for the next who comes.
    ///
    /// # Panics
    ///
    /// Never by itself. The panic of a waker goes on after the release was given.
    ///
    /// # Signal handlers
    ///
    /// Not to be called in one: see [above](AutoResetEvent#signal-handlers-and-real-time-threads).
    #[inline]
    pub fn set(&self) {
        stored::give(&self.queue);
    }

    /// Takes a stored release back. A release that was given to a waiter stays given.
    #[inline]
    pub fn clear(&self) {
        stored::take(&self.queue);
    }

    /// How many threads and tasks wait at this moment (up to about 65,000 are counted). Not part of the public API: the
    /// Python package shows it.
    #[doc(hidden)]
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Blocks the thread until a release is given to it, and uses that up.
    ///
    /// # Blocking
    ///
    /// The thread looks again for some microseconds, as long as that pays, and then sleeps. In async code use
    /// [`wait_async`](AutoResetEvent::wait_async).
    #[inline]
    pub fn wait(&self) {
        self.wait_until(|| Deadline::Never);
    }

    /// Blocks until a release is given to it, or for at most `timeout`: `true` if it was released, `false` if the
    /// time passed first. On a tie, released wins.
    ///
    /// # Blocking
    ///
    /// The clock is [`Instant`]'s: monotonic. Zero is a poll. [`Duration::MAX`] waits for ever.
    #[inline]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.wait_until(|| Deadline::after(timeout))
    }

    /// Blocks until a release is given to it, or until `deadline` at the latest: `true` if it was released, `false`
    /// if the deadline passed first. On a tie, released wins; a deadline in the past is a poll.
    #[inline]
    pub fn wait_deadline(&self, deadline: Instant) -> bool {
        self.wait_until(|| Deadline::At(deadline))
    }

    #[inline]
    fn wait_until(&self, deadline: impl FnOnce() -> Deadline) -> bool {
        stored::take(&self.queue) || self.wait_cold(deadline())
    }

    #[cold]
    fn wait_cold(&self, deadline: Deadline) -> bool {
        // A poll does not stand in line. Nothing was stored, or another was quicker.
        !matches!(deadline, Deadline::Poll) && block_on(pin!(self.wait_async()), deadline).is_some()
    }

    /// A future that is ready once a release was given to it.
    ///
    /// # Cancel safety
    ///
    /// A future that is dropped with a release in its hands passes it on. Its place in the line counts from its first
    /// poll.
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
    pub fn wait_async(&self) -> AutoResetWait<'_> {
        AutoResetWait::new(&self.queue)
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

// A panic of a waker leaves an event in order: the release is given before wakers run, and the queue is consistent
// then.
impl UnwindSafe for AutoResetEvent {}
impl RefUnwindSafe for AutoResetEvent {}

/// Says whether a release is stored, and how many threads and tasks wait (up to about 65,000 are counted).
impl fmt::Debug for AutoResetEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AutoResetEvent").field("set", &self.is_set()).field("waiting", &self.waiting()).finish()
    }
}
