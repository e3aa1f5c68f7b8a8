//! The queue's lock: one byte.
//!
//! It is held for at most one batch of list operations, and never while user code runs. It is
//! nearly always free. Locking is one compare-exchange, unlocking a plain store. A lock that wakes
//! its waiters must check on every unlock whether there are any, which costs a second atomic
//! operation. The waiters of this lock retry instead: a few times at once, then after `yield_now`,
//! then after sleeps of 20 µs to 1 ms.
//!
//! Because waiters sleep, a holder that was preempted by a waiter of higher priority gets the
//! processor. The wait is not bounded, because the scheduler decides when a preempted holder runs
//! again; see DESIGN.md. A signal handler must not take the lock, because it may have interrupted
//! the holder.

#![cfg_attr(not(test), forbid(unsafe_code))]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use crate::sync::{AtomicBool, SPINS, const_new, sleep, spin_loop, yield_now};

/// After how many tries a waiter yields between tries, and after how many it sleeps.
const SPINNING_TRIES: u32 = if SPINS { 6 } else { 0 };
const YIELDING_TRIES: u32 = SPINNING_TRIES + 10;
const SHORTEST_SLEEP: Duration = Duration::from_micros(20);
const LONGEST_SLEEP: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) struct Lock {
    locked: AtomicBool,
}

/// The lock, held. Dropping it unlocks.
#[derive(Debug)]
#[must_use]
pub(crate) struct LockGuard<'a>(&'a Lock);

impl Lock {
    const_new! {
        pub(crate) fn new() -> Self {
            Self { locked: AtomicBool::new(false) }
        }
    }

    #[inline]
    pub(crate) fn lock(&self) -> LockGuard<'_> {
        self.try_lock().unwrap_or_else(|| self.lock_contended())
    }

    #[inline]
    fn try_lock(&self) -> Option<LockGuard<'_>> {
        self.locked.compare_exchange(false, true, Acquire, Relaxed).ok().map(|_| LockGuard(self))
    }

    #[cold]
    fn lock_contended(&self) -> LockGuard<'_> {
        let mut tries = 0;
        let mut nap = SHORTEST_SLEEP;
        loop {
            tries += 1;
            if tries <= SPINNING_TRIES {
                (0..1 << tries).for_each(|_| spin_loop());
            } else if tries <= YIELDING_TRIES {
                yield_now();
            } else {
                sleep(nap);
                nap = LONGEST_SLEEP.min(nap * 2);
            }
            // Load first: a compare-exchange takes the cache line from the holder, which is about
            // to write to it.
            if !self.locked.load(Relaxed) {
                if let Some(guard) = self.try_lock() {
                    return guard;
                }
            }
        }
    }
}

impl Drop for LockGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.locked.store(false, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::UnsafeCell;
    use std::sync::Arc;

    struct Guarded {
        lock: Lock,
        count: UnsafeCell<u32>,
    }

    #[allow(unsafe_code, reason = "what the lock protects in the tests")]
    mod access {
        // SAFETY: `count` is touched under `lock` alone, which is what the tests check.
        unsafe impl Sync for super::Guarded {}

        impl super::Guarded {
            pub(super) fn add(&self, _guard: &super::LockGuard<'_>) {
                // SAFETY: the lock is held.
                self.count.with_mut(|count| unsafe { *count += 1 });
            }

            pub(super) fn count(&self) -> u32 {
                let _guard = self.lock.lock();
                // SAFETY: the lock is held.
                self.count.with(|count| unsafe { *count })
            }
        }
    }

    fn guarded() -> Arc<Guarded> {
        Arc::new(Guarded { lock: Lock::new(), count: UnsafeCell::new(0) })
    }

    /// A thread that gets the lock at the first try has the count to itself, and sees earlier
    /// changes. (Loom cannot follow a thread that tries without end.)
    #[cfg(loom)]
    #[test]
    fn loom_one_at_a_time() {
        loom::model(|| {
            let guarded = guarded();
            let add = |guarded: &Guarded| {
                let guard = guarded.lock.try_lock();
                guard.iter().for_each(|guard| guarded.add(guard));
                u32::from(guard.is_some())
            };
            let others = [(); 2].map(|()| {
                let guarded = Arc::clone(&guarded);
                loom::thread::spawn(move || add(&guarded) + add(&guarded))
            });
            let added = add(&guarded) + others.map(|other| other.join().unwrap()).iter().sum::<u32>();
            assert_eq!(guarded.count(), added);
        });
    }

    #[cfg(not(loom))]
    #[test]
    fn one_at_a_time_however_many_want_it() {
        let times = if cfg!(miri) { 50 } else { 20_000 };
        let guarded = guarded();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..times).for_each(|_| guarded.add(&guarded.lock.lock())));
            }
        });
        assert_eq!(guarded.count(), 8 * times);
    }

    /// Signals that come faster than the timer's slack keep `std::thread::sleep` asleep for ever.
    #[cfg(all(linux_native, not(any(loom, miri))))]
    #[test]
    fn a_waiter_gets_the_lock_while_signals_keep_coming() {
        use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

        static HAS_LOCKED: AtomicBool = AtomicBool::new(false);
        let lock = Lock::new();
        let guard = lock.lock();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let storm = storm::Storm::on_this_thread(Duration::from_micros(40));
                drop(lock.lock());
                drop(storm);
                HAS_LOCKED.store(true, SeqCst);
            });
            std::thread::sleep(Duration::from_millis(50));
            drop(guard);
            // A failure ends the process, because the waiter cannot be ended.
            let since = std::time::Instant::now();
            while !waiter.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
                if since.elapsed() > Duration::from_secs(60) {
                    eprintln!("the waiter sleeps on, though the lock is free");
                    std::process::abort();
                }
            }
        });
        assert!(HAS_LOCKED.load(SeqCst));
    }

    #[cfg(all(linux_native, not(any(loom, miri))))]
    #[allow(unsafe_code, reason = "the C library's timers")]
    mod storm {
        use std::time::Duration;

        /// Interrupts the thread that has made it, until it is dropped.
        pub(super) struct Storm(libc::timer_t);

        extern "C" fn handler(_: libc::c_int) {}

        impl Storm {
            pub(super) fn on_this_thread(period: Duration) -> Storm {
                let signal = libc::SIGRTMIN() + 6;
                // SAFETY: all-zero is a valid sigaction.
                let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
                // SAFETY: all-zero is a valid sigevent.
                let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
                action.sa_sigaction = handler as *const () as usize;
                event.sigev_notify = libc::SIGEV_THREAD_ID;
                event.sigev_signo = signal;
                // SAFETY: takes nothing.
                event.sigev_notify_thread_id = unsafe { libc::gettid() };
                let period = libc::timespec { tv_sec: 0, tv_nsec: period.subsec_nanos() as _ };
                let times = libc::itimerspec { it_interval: period, it_value: period };
                let mut timer = std::ptr::null_mut();
                // SAFETY: the action is valid for the call; the handler does nothing.
                assert_eq!(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }, 0);
                // SAFETY: both are valid for the call.
                assert_eq!(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) }, 0);
                // SAFETY: the timer was just made, and the times are valid for the call.
                assert_eq!(unsafe { libc::timer_settime(timer, 0, &times, std::ptr::null_mut()) }, 0);
                Storm(timer)
            }
        }

        impl Drop for Storm {
            fn drop(&mut self) {
                // SAFETY: the timer is ours, and is not used again.
                assert_eq!(unsafe { libc::timer_delete(self.0) }, 0);
            }
        }
    }
}
