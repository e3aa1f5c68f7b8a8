//! [`Event`]: the verbs. Its state is in [`word`](crate::word), its waiting tasks in [`tasks`](crate::tasks).

#![forbid(unsafe_code)]

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::sync::const_new;
use crate::sys;
use crate::tasks::Queue;
use crate::wait::Wait;
use crate::word::{Ticket, Word};

/// A flag that threads and tasks wait for: [`set`](Event::set) raises it and releases **everyone** who waits,
/// [`clear`](Event::clear) lowers it, [`wait`](Event::wait) returns once it is set.
///
/// It starts unset. It is Python's `threading.Event` and Windows' manual-reset event, for threads and async tasks
/// alike, on the same object, under any runtime or none.
///
/// # The contract
///
/// * **Level.** A wait on a set event returns at once, without a system call.
/// * **No lost signal.** Everyone who was waiting when `set` took effect is released, even if a `clear` follows
///   before they run. (A flag beside a condition variable, or a re-read after `Notify`, loses exactly these.)
/// * **No false signal.** A wait says "released" only if the event was set at some moment of the wait.
/// * **Newcomers wait.** Whoever begins to wait after `set(); clear();` is not released by it, and a `set` ends even
///   while others keep coming.
/// * **Foreign code never runs under a lock.** Wakers are cloned, woken and dropped outside; a waker may use the
///   event it is woken by, and one that panics robs nobody else of the wake-up.
///
/// # Memory ordering
///
/// All that a thread did before `set` is visible to everyone whose wait was released by it, or who saw it with
/// [`is_set`](Event::is_set); also if the event was set already.
///
/// Stated more precisely: `set` and `clear` are acquire-release operations, and every observation is an acquire
/// operation, on one atomic that is only ever modified by read-modify-write operations. So each observation, and each
/// `clear`, synchronizes with every `set` before it in the modification order. Sequential consistency with other
/// atomics is not promised.
///
/// # Complexity
///
/// 16 bytes, no allocation, `const` to make. `is_set` is one load; `set` and `clear` with nobody waiting are one
/// atomic operation each; `set` with waiters is one system call for all the threads, and linear in the number of
/// tasks.
///
/// # Limits
///
/// The generation is a counter that wraps around. A waiter could be misled only if the event were set and cleared
/// exactly 2^29 times (or a multiple of that) while that waiter slept and did not run once.
///
/// # Signal handlers and real-time threads
///
/// | | in a signal handler |
/// |---|---|
/// | [`is_set`](Event::is_set), [`clear`](Event::clear) | safe: one atomic operation |
/// | [`set`](Event::set) | safe on Linux, if only threads wait for the event, by its own blocking methods |
/// | everything else | not safe |
///
/// Threads that block in `wait`, `wait_timeout` or `wait_deadline` need no lock. Tasks, [`any`](crate::any) and
/// [`all`](crate::all) wait in a list that a spin lock protects. If one of them waits for the event, a `set` in a
/// signal handler deadlocks when the handler has interrupted a thread that holds this lock; and it calls wakers, few of
/// which are safe there. Instead, let the handler write to a pipe or an eventfd, and let the thread that reads it call
/// `set` (the crate signal-hook does the first half). Or use a `SharedEvent`, whose `set` is safe there.
///
/// For the same reason a thread with a real-time priority never waits for a preempted thread as long as only threads
/// wait, by the blocking methods. The lock has no priority inheritance.
///
/// # Examples
///
/// A flag beside a condition variable forgets; an event does not. Here the signal is already over when the waiter
/// runs:
///
/// ```
/// use tantara::Event;
///
/// let event = Event::new();
/// let waiting = event.wait_async();   // 1. someone begins to wait
/// event.set();                        // 2. the signal comes,
/// event.clear();                      // 3. and is gone before the waiter runs:
/// pollster::block_on(waiting);        // 4. re-reading a flag here would wait for ever
/// ```
///
/// In a `static`, shared by threads:
///
/// ```
/// use std::thread;
/// use tantara::Event;
///
/// static DOORS_OPEN: Event = Event::new();
///
/// let guests: Vec<_> = (0..4).map(|_| thread::spawn(|| DOORS_OPEN.wait())).collect();
/// DOORS_OPEN.set();
/// for guest in guests {
///     guest.join().unwrap();
/// }
/// ```
pub struct Event {
    queue: Queue,
}

impl Event {
    const_new! {
        /// A new event, unset.
        ///
        /// It is `const`, so an event can live in a `static`.
        #[must_use]
        pub fn new() -> Self {
            Self { queue: Queue::new(Word::NEW.bits()) }
        }
    }

    #[inline]
    fn word(&self) -> Word {
        Word::from_bits(self.queue.word.load(Acquire))
    }

    /// Whether the event is set, at this moment.
    ///
    /// One load; no lock. If the answer is `true`, all that came before the `set` is visible.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.word().is_set()
    }

    /// Raises the flag and releases everyone who waits, threads and tasks. Setting a set event changes nothing.
    ///
    /// # Memory ordering
    ///
    /// What the caller did before is visible to everyone who observes the event set, or is released by it.
    ///
    /// # Fairness
    ///
    /// Sleeping threads first, all with one system call; then tasks, in the order in which they were first polled. A
    /// waker that blocks holds up the tasks behind it.
    ///
    /// # Panics
    ///
    /// Never by itself. If a task's waker panics, everyone else is woken first, and then the panic goes on.
    ///
    /// # Signal handlers
    ///
    /// Not to be called in one if a task, `any` or `all` waits for the event: see
    /// [above](Event#signal-handlers-and-real-time-threads).
    #[inline]
    pub fn set(&self) {
        let set = |bits| Some(Word::from_bits(bits).set().bits());
        if let Ok(before) = self.queue.word.fetch_update(AcqRel, Relaxed, set) {
            let before = Word::from_bits(before);
            if before.owes_a_wake() {
                self.release(before);
            }
        }
    }

    #[cold]
    fn release(&self, before: Word) {
        if before.has_threads() {
            sys::wake_all(&self.queue.word);
        }
        if before.has_tasks() {
            self.queue.release_cohort(before.ticket());
        }
    }

    /// Lowers the flag. Clearing an unset event changes nothing. Nobody who was released is called back.
    ///
    /// # Memory ordering
    ///
    /// What came before a `set` that this undoes is visible to the caller.
    #[inline]
    pub fn clear(&self) {
        self.queue.word.fetch_and(Word::ALL_BUT_SET, AcqRel);
    }

    /// How many threads and tasks wait at this moment (up to about 65,000 are counted). Not part of the public API: the
    /// Python package shows it.
    #[doc(hidden)]
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Blocks the thread until the event is set. Returns at once if it is.
    ///
    /// # Blocking
    ///
    /// The thread looks again for some microseconds, as long as that pays, because a signal from another processor is
    /// often that near; then it sleeps in the kernel. In async code use [`wait_async`](Event::wait_async).
    #[inline]
    pub fn wait(&self) {
        if !self.is_set() {
            self.wait_cold(Deadline::Never);
        }
    }

    /// Blocks until the event is set, or for at most `timeout`: `true` if it was released, `false` if the time passed
    /// first. On a tie, released wins.
    ///
    /// # Blocking
    ///
    /// The clock is [`Instant`]'s: monotonic. Zero is a poll. [`Duration::MAX`] waits for ever. A wait that timed out
    /// leaves no trace and changes nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use tantara::Event;
    ///
    /// let event = Event::new();
    /// assert!(!event.wait_timeout(Duration::from_millis(10)));
    /// event.set();
    /// assert!(event.wait_timeout(Duration::ZERO));
    /// ```
    #[inline]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.is_set() || self.wait_cold(Deadline::after(timeout))
    }

    /// Blocks until the event is set, or until `deadline` at the latest: `true` if it was released, `false` if the
    /// deadline passed first. On a tie, released wins; a deadline in the past is a poll.
    ///
    /// # Blocking
    ///
    /// See [`wait_timeout`](Event::wait_timeout).
    #[inline]
    pub fn wait_deadline(&self, deadline: Instant) -> bool {
        self.is_set() || self.wait_cold(Deadline::At(deadline))
    }

    /// A future that is ready once the event is set, or was set since the future was made.
    ///
    /// It allocates nothing, is `Send`, and works under any runtime.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any moment loses nothing for anyone else. The pulse guarantee counts from this call,
    /// not from the first poll: a `set` between the two is seen even if a `clear` follows it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tantara::Event;
    ///
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// let ready = Arc::new(Event::new());
    /// let waiter = tokio::spawn({
    ///     let ready = Arc::clone(&ready);
    ///     async move { ready.wait_async().await }
    /// });
    /// ready.set();
    /// waiter.await.unwrap();
    /// # });
    /// ```
    #[inline]
    pub fn wait_async(&self) -> Wait<'_> {
        Wait::new(&self.queue)
    }

    #[cold]
    fn wait_cold(&self, deadline: Deadline) -> bool {
        let first = self.word();
        let ticket = first.ticket();
        if first.releases(ticket) {
            return true;
        }
        if deadline.has_passed() {
            return self.word().releases(ticket);
        }
        let sleep = || self.queue.counting_sleeper(|| self.sleep(ticket, deadline));
        // Where others sleep already the next signal costs a system call anyhow, and a crowd that spins helps nobody.
        if first.has_threads() {
            return sleep();
        }
        sys::spin::until(deadline, || self.word().releases(ticket)) || sys::spin::noting_sleep(sleep)
    }

    /// Sleeps on the word until it releases `ticket`, or the deadline passes.
    fn sleep(&self, ticket: Ticket, deadline: Deadline) -> bool {
        loop {
            let now = self.word();
            if now.releases(ticket) {
                return true;
            }
            let asleep = now.with_threads();
            let (now, asleep) = (now.bits(), asleep.bits());
            // A `set` either finds THREADS and wakes us, or changes the word under this exchange.
            if now != asleep && self.queue.word.compare_exchange(now, asleep, AcqRel, Relaxed).is_err() {
                continue;
            }
            if sys::wait(&self.queue.word, asleep, deadline).is_err() {
                // The tie: whoever set it in the meantime wins.
                return self.word().releases(ticket);
            }
        }
    }

    /// `set` and `clear` in one step: it releases those who are listed, and nobody ever finds it set.
    #[allow(dead_code, reason = "for events between processes")]
    pub(crate) fn pulse(&self) {
        let pulse = |bits| Some(Word::from_bits(bits).set().bits() & Word::ALL_BUT_SET);
        if let Ok(before) = self.queue.word.fetch_update(AcqRel, Relaxed, pulse) {
            self.release(Word::from_bits(before));
        }
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Whether tasks wait. (Threads that block on the event itself do not count.)
    #[allow(dead_code, reason = "for events between processes")]
    pub(crate) fn has_listeners(&self) -> bool {
        !self.queue.is_empty()
    }
}

impl Default for Event {
    fn default() -> Self {
        Self::new()
    }
}

// A panic of a waker leaves an event in order: its state changes before wakers run, and the queue is consistent then.
impl UnwindSafe for Event {}
impl RefUnwindSafe for Event {}

/// Says whether it is set, and how many threads and tasks wait (of each, up to about 65,000 are counted).
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("set", &self.is_set()).field("waiting", &self.waiting()).finish()
    }
}
