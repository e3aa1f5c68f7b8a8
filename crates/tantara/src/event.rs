//! [`Event`]: the methods. Its state is in [`word`](crate::word), its waiting tasks in [`tasks`](crate::tasks).

#![forbid(unsafe_code)]

use std::fmt;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::sync::const_new;
use crate::sys;
use crate::tasks::Queue;
use crate::wait::{self, Wait};
use crate::waits::hooks::{self, Kind, Place, State, Target, What};
use crate::word::{Generation, Word};

/// A flag that threads and tasks wait for: [`set`](Event::set) raises it and releases **everyone**
/// who waits, [`clear`](Event::clear) lowers it, [`wait`](Event::wait) returns once it is set.
///
/// It starts unset. It is like Python's `threading.Event` and Windows' manual-reset event. Threads
/// and async tasks can wait for the same event, under any runtime or none.
///
/// # The contract
///
/// * **Level.** A wait on a set event returns at once, without a system call.
/// * **No lost signal.** Every wait that had begun when `set` took effect is released, even if a
///   `clear` follows before the waiter runs. (Re-reading a flag after a condition variable or a
///   `Notify` loses such signals.)
/// * **No false signal.** A wait is released only if the event was set at some moment of the wait.
/// * **New waits are not affected.** A wait that begins after `set(); clear();` is not released by
///   it, and a `set` returns even while new waits keep beginning.
/// * **No user code runs under a lock.** Wakers are cloned, woken and dropped outside of it. A
///   waker may use the event that wakes it, and if one panics, all others are woken nevertheless.
///
/// # Memory ordering
///
/// Everything that a thread did before `set` is visible after every wait that this `set` released,
/// and to threads that observe it with [`is_set`](Event::is_set); also if the event was set
/// already.
///
/// Stated more precisely: `set` and `clear` are acquire-release operations, and every observation
/// is an acquire operation, on one atomic that is only ever modified by read-modify-write
/// operations. So each observation, and each `clear`, synchronizes with every `set` before it in
/// the modification order. Sequential consistency with other atomics is not promised.
///
/// # Complexity
///
/// An event has 16 bytes, allocates nothing, and `new` is `const`. `is_set` is one load. Without
/// waiters, `set` and `clear` are one atomic operation each. With waiters, `set` makes one system
/// call for all threads (on Linux a second one after every 16th `set`), and takes time linear in
/// the number of tasks. On Linux that call wakes one thread, and each thread that was woken wakes
/// four more, so `set` takes no longer for a thousand threads than for one.
///
/// # Limits
///
/// The generation is a counter that wraps around. A wait would miss a signal only if the event were
/// set and cleared exactly 2^29 times (or a multiple of that) during a single sleep of the waiter, or
/// between the creation of a future and its first poll. (`all` polls an event for the first time when
/// those before it in the list are released.)
///
/// # Signal handlers and real-time threads
///
/// | | in a signal handler |
/// |---|---|
/// | [`is_set`](Event::is_set), [`clear`](Event::clear) | safe: one atomic operation |
/// | [`set`](Event::set) | safe on Linux, if only threads ever wait for it, by its blocking methods, and unrecorded |
/// | everything else | not safe |
///
/// Threads that block in `wait`, `wait_timeout` or `wait_deadline` need no lock. Tasks,
/// [`any`](crate::any) and [`all`](crate::all) wait in a list that a spin lock protects. If one of
/// them waits for the event, or has waited since the last `set`, a `set` in a signal handler
/// deadlocks if the handler has interrupted a thread that holds this lock. It also calls wakers,
/// few of which are safe in a handler. Instead, let the handler write to a pipe or an eventfd, and
/// let the thread that reads it call `set` (the crate signal-hook does the first half). Or use a
/// `SharedEvent`, whose `set` is safe there.
///
/// While [waits are recorded](mod@crate::waits), a `set` takes locks of the record too, and allocates; and
/// the recorded wait of a thread counts as that of a task. Labels change nothing.
///
/// The lock has no priority inheritance. As long as only threads wait, by the blocking methods, no
/// thread needs it. Threads are woken in the order of the priorities with which they fell asleep,
/// so a thread with a real-time priority is delayed only by the setting thread and by waiters of
/// its own or a higher priority.
///
/// # Forks
///
/// Parent and child have an event each. If only threads ever wait for it, by its blocking methods, the
/// child may use its own. Otherwise another thread of the parent may have held the lock of the list at
/// the moment of the fork, and then a `set` or a wait in the child never returns. To signal each other,
/// they need a `SharedEvent`.
///
/// # Examples
///
/// A pulse is not lost, even if it is over before the waiter runs:
///
/// ```
/// use tantara::Event;
///
/// let event = Event::new();
/// let waiting = event.wait_async();   // 1. a wait begins
/// event.set();                        // 2. the event is set,
/// event.clear();                      // 3. and cleared before the waiter runs:
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
    /// One load, no lock. If it is `true`, all that happened before the `set` is visible.
    #[inline]
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.word().is_set()
    }

    /// Raises the flag and releases all threads and tasks that wait. Setting a set event changes
    /// nothing.
    ///
    /// # Memory ordering
    ///
    /// Everything that the caller did before is visible to every thread and task that is released
    /// by it, or observes the event set.
    ///
    /// # Fairness
    ///
    /// Tasks are woken in the order in which they were first polled. A waker that blocks delays the
    /// tasks behind it.
    ///
    /// On Linux threads wake one another: `set` wakes one before it wakes the tasks, and each
    /// thread that was woken wakes four more before anything else. A woken thread may be preempted
    /// before it has done so, or stopped by a debugger or a signal handler. Then it delays threads
    /// that fell asleep after it, but none of a higher priority. Elsewhere `set` wakes all threads
    /// at once.
    ///
    /// # Panics
    ///
    /// Only if a task's waker panics: all other waiters are woken first, and then the panic
    /// propagates.
    ///
    /// # Signal handlers
    ///
    /// Do not call it in a signal handler if a task, `any` or `all` ever waits for the event: see
    /// [above](Event#signal-handlers-and-real-time-threads).
    #[inline]
    #[track_caller]
    pub fn set(&self) {
        self.set_from(Location::caller());
    }

    /// [`set`](Event::set), by a call at that place.
    #[inline]
    pub(crate) fn set_from(&self, place: Place) {
        let mut before = self.word();
        while self.queue.word.compare_exchange(before.bits(), before.set().bits(), AcqRel, Relaxed).is_err() {
            before = self.word_after_a_pause();
        }
        if before.owes_a_wake() || (sys::HAS_GROUPS && before.has_overdue_groups()) {
            self.release(before, place);
        }
    }

    /// Other threads are changing the word. Every change moves its cache line to their processor, so
    /// all get more done if a thread that has lost the line leaves it to them for a while.
    #[cold]
    fn word_after_a_pause(&self) -> Word {
        sys::spin::pause();
        self.word()
    }

    #[cold]
    fn release(&self, before: Word, place: Place) {
        let (word, generation) = (&self.queue.word, before.generation());
        if before.has_tasks() && State::now().records() {
            self.note(before, place);
        }
        if before.has_threads() {
            sys::wake_group(word, generation.group(), sys::FIRST);
        }
        if sys::HAS_GROUPS && before.has_overdue_groups() && self.queue.sleepers.any() {
            sys::wake_group(word, before.overdue_groups(), sys::ALL);
        }
        if before.has_tasks() {
            self.queue.release_up_to(generation);
        }
    }

    /// While waits are recorded, notes the `set` that found this word.
    #[cold]
    #[inline(never)]
    fn note(&self, before: Word, place: Place) {
        let in_vain = !before.has_threads() && self.queue.is_empty();
        hooks::set(self.queue.subject(Kind::Event), Some(before.generation()), in_vain, place);
    }

    /// Lowers the flag. Clearing an unset event changes nothing. Waits that were released stay
    /// released.
    ///
    /// # Memory ordering
    ///
    /// Everything that happened before a `set` that this call undoes is visible to the caller.
    #[inline]
    pub fn clear(&self) {
        self.queue.word.fetch_and(Word::ALL_BUT_SET, AcqRel);
    }

    /// How many threads and tasks wait at this moment, up to about 65,000. Not part of the public
    /// API: the Python package uses it.
    #[doc(hidden)]
    pub fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Blocks the thread until the event is set. Returns at once if it is.
    ///
    /// # Blocking
    ///
    /// The thread first spins for some microseconds, because a signal from another processor often
    /// comes that soon, and yields the processor once to threads that could send one. (It skips what
    /// has failed lately.) Then it sleeps in the kernel. In async code use [`wait_async`](Event::wait_async).
    #[inline]
    #[track_caller]
    pub fn wait(&self) {
        if !self.is_set() {
            self.wait_cold(Deadline::Never, Location::caller());
        }
    }

    /// Blocks until the event is set, or for at most `timeout`: `true` if it was released, `false`
    /// if the time passed first. On a tie, released wins.
    ///
    /// # Blocking
    ///
    /// The clock is [`Instant`]'s: monotonic. Zero is a poll. [`Duration::MAX`] waits for ever. A
    /// wait that timed out changes nothing.
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
    #[must_use = "`false`: the time passed before the event was set"]
    #[track_caller]
    pub fn wait_timeout(&self, timeout: Duration) -> bool {
        self.is_set() || self.wait_cold(Deadline::after(timeout), Location::caller())
    }

    /// Blocks until the event is set, or until `deadline` at the latest: `true` if it was released,
    /// `false` if the deadline passed first. On a tie, released wins; a deadline in the past is a
    /// poll.
    ///
    /// # Blocking
    ///
    /// See [`wait_timeout`](Event::wait_timeout).
    #[inline]
    #[must_use = "`false`: the time passed before the event was set"]
    #[track_caller]
    pub fn wait_deadline(&self, deadline: Instant) -> bool {
        self.is_set() || self.wait_cold(Deadline::At(deadline), Location::caller())
    }

    /// A future that is ready once the event is set, or was set since the future was made.
    ///
    /// It allocates nothing, is `Send`, and works under any runtime. It borrows the event; see
    /// [`wait_owned`](Event::wait_owned) for one that does not.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future at any moment affects no other wait. A `set` counts from this call on,
    /// not from the first poll: one between the two releases the future even if a `clear` follows
    /// it.
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
    #[track_caller]
    pub fn wait_async(&self) -> Wait<'_> {
        Wait::new(&self.queue, Some(Location::caller()))
    }

    #[cold]
    fn wait_cold(&self, deadline: Deadline, place: Place) -> bool {
        let first = self.word();
        let generation = first.generation();
        if first.releases(generation) {
            return true;
        }
        if deadline.has_passed() {
            return self.word().releases(generation);
        }
        let sleep = || self.sleep(generation, deadline, place);
        // Do not spin when other threads sleep already: the next `set` needs a system call anyway.
        if first.has_threads() {
            return sleep();
        }
        sys::spin::until(deadline, || self.word().releases(generation)) || sys::spin::noting_sleep(sleep)
    }

    /// Sleeps until the word releases `generation`, or the deadline passes.
    ///
    /// On Linux the threads of a generation wake one another. These invariants imply that no thread
    /// is left asleep:
    ///
    /// 1. No thread falls asleep in a generation that was released: the futex compares the word.
    /// 2. The `set` that released sleepers makes a wake-up call for their group, after it has
    ///    changed the word.
    /// 3. Each call wakes a thread, unless the group is empty.
    /// 4. A thread that has slept and is released makes a call for four before anything else,
    ///    whatever ended its sleep. (On Linux a sleep that a signal or a deadline ends consumes no
    ///    call, but gVisor may report them after a call.) So the sleepers of a released generation
    ///    become fewer until there are none (by 1 none are added), and until then another call
    ///    follows.
    /// 5. A thread may omit its call only if no thread is counted as asleep, or if an earlier call
    ///    has found the group empty. Sleepers are counted before they write to the word, so a
    ///    thread that sees the release sees the count.
    /// 6. A thread that was woken but is not released, because it sleeps in a later generation of
    ///    the same group, makes no call: such threads would wake one another without end. The
    ///    threads that it should have woken are woken by the `set` between the two generations that
    ///    wakes the whole group (invariant 3 of [`word`](crate::word)).
    fn sleep(&self, generation: Generation, deadline: Deadline, place: Place) -> bool {
        let (word, group, state) = (&self.queue.word, generation.group(), State::now());
        let _recorded = if state.is_idle() { None } else { self.record(state, generation, deadline, place) };
        let sleeper = self.queue.sleepers.enter();
        loop {
            let now = self.word();
            if now.releases(generation) {
                return true;
            }
            let asleep = now.with_threads().bits();
            // A `set` either finds THREADS and wakes this thread, or makes this exchange fail. It
            // is made even if THREADS is on, because it tells all who see the word later that this
            // thread is counted.
            if word.compare_exchange(now.bits(), asleep, AcqRel, Relaxed).is_err() {
                continue;
            }
            let awake = sys::wait_in_group(word, asleep, group, deadline);
            let now = self.word();
            if now.releases(generation) {
                // This thread may have consumed a wake-up call, so it must make the next one before
                // anything else.
                drop(sleeper);
                self.wake_next(generation, now);
                return true;
            }
            if awake.ends_the_wait(deadline) {
                // On a tie, released wins: `gives_up` may have set the event.
                return self.word().releases(generation);
            }
        }
    }

    #[cold]
    fn record(&self, state: State, began: Generation, deadline: Deadline, place: Place) -> Option<hooks::Recorded> {
        if !hooks::records(state) {
            return None;
        }
        hooks::meet(self.queue.subject(Kind::Event));
        // The `set` that ends the wait is noted.
        wait::note_sets(&self.queue);
        let target = Target::of_event(hooks::address(&self.queue), began);
        Some(hooks::sleeps(What::One(target), place, deadline))
    }

    /// Wakes the next threads of a generation that was released, unless all are awake. The caller
    /// saw the word `now` after its own sleep.
    fn wake_next(&self, generation: Generation, now: Word) {
        let all_awake = now.with_all_awake(generation);
        if !sys::HAS_GROUPS || all_awake == Some(now) || !self.queue.sleepers.any() {
            return;
        }
        let word = &self.queue.word;
        let was_last = sys::wake_group(word, generation.group(), sys::NEXT);
        // Nobody can fall asleep in this generation any more, so what is true now stays true.
        if let (true, Some(all_awake)) = (was_last, all_awake) {
            let _ = word.compare_exchange(now.bits(), all_awake.bits(), AcqRel, Relaxed);
        }
    }

    /// `set` and `clear` in one step: everyone who waits is released, and no thread observes the
    /// event set.
    #[allow(dead_code, reason = "for events between processes")]
    #[track_caller]
    pub(crate) fn pulse(&self) {
        let pulse = |bits| Some(Word::from_bits(bits).set().bits() & Word::ALL_BUT_SET);
        if let Ok(before) = self.queue.word.fetch_update(AcqRel, Relaxed, pulse) {
            self.release(Word::from_bits(before), Location::caller());
        }
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Whether tasks wait. Threads that block do not count.
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

// A panic of a waker leaves an event in a valid state: state and queue are consistent before wakers
// run.
impl UnwindSafe for Event {}
impl RefUnwindSafe for Event {}

/// Says whether it is set, and how many threads and tasks wait (of each, up to about 65,000 are
/// counted).
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Event").field("set", &self.is_set()).field("waiting", &self.waiting()).finish()
    }
}

#[cfg(all(test, loom))]
mod tests {
    use super::*;
    use crate::wait::{EventWait, queue_of};
    use std::sync::Arc;
    use std::task::{Context, Waker};

    /// The wait begins anew while the drain that has released it may still be under way.
    #[test]
    fn loom_a_wait_that_begins_anew_is_released_by_the_next_pulse_only() {
        loom::model(|| {
            let event = Arc::new(Event::new());
            let mut wait = Box::pin(EventWait::new(queue_of(Arc::clone(&event), Event::queue), None));
            let mut is_ready = |begins_anew: bool| {
                if begins_anew {
                    wait.as_mut().restart();
                }
                wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
            };
            assert!(!is_ready(false));
            let setter = loom::thread::spawn({
                let event = Arc::clone(&event);
                move || event.pulse()
            });
            let was_ready = is_ready(false);
            assert!(!was_ready || !is_ready(true), "released twice by one pulse");
            setter.join().unwrap();
            assert!(is_ready(false) != was_ready, "released twice by one pulse, or not at all");
            event.pulse();
            assert!(is_ready(false), "the second pulse was missed");
        });
    }
}
