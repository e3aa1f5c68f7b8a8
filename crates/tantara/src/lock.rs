//! The queue's lock: one byte.
//!
//! It is held for a handful of list operations, for at most one batch of them, and never while foreign code runs; so it is
//! almost always free, and what counts is what it costs then: one atomic exchange to take it and a plain store to give
//! it back. A lock whose waiters sleep until they are called must find out on unlocking whether anyone does, which costs
//! a second atomic operation every time. Ours look again instead: a few times at once, then after letting others run,
//! then after short sleeps, so that a holder that was preempted, even by a waiter of higher priority, gets its turn.

#![cfg_attr(not(test), forbid(unsafe_code))]

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::time::Duration;

use crate::sync::{AtomicBool, SPINS, const_new, sleep, spin_loop, yield_now};

/// Tries until a waiter lets other threads run in between, and until it sleeps in between.
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
        if self.locked.swap(true, Acquire) {
            self.lock_contended();
        }
        LockGuard(self)
    }

    #[cold]
    fn lock_contended(&self) {
        let mut tries = 0;
        let mut nap = SHORTEST_SLEEP;
        loop {
            tries += 1;
            if tries <= SPINNING_TRIES {
                // Only look meanwhile: an exchange would take the cache line from the holder.
                for _ in 0..1 << tries {
                    spin_loop();
                    if !self.locked.load(Relaxed) {
                        break;
                    }
                }
            } else if tries <= YIELDING_TRIES {
                yield_now();
            } else {
                sleep(nap);
                nap = LONGEST_SLEEP.min(nap * 2);
            }
            if !self.locked.swap(true, Acquire) {
                return;
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

    #[allow(unsafe_code, reason = "the very thing that the lock is there for")]
    mod access {
        // SAFETY: `count` is touched under `lock` alone, which is what the tests check.
        unsafe impl Sync for super::Guarded {}

        impl super::Guarded {
            pub(super) fn add(&self) {
                let _guard = self.lock.lock();
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

    #[cfg(loom)]
    #[test]
    fn loom_one_at_a_time() {
        // Two parties: three who yield to each other would never let the holder run, in loom's schedule.
        loom::model(|| {
            let guarded = guarded();
            let other = loom::thread::spawn({
                let guarded = Arc::clone(&guarded);
                move || {
                    guarded.add();
                    guarded.add();
                }
            });
            guarded.add();
            other.join().unwrap();
            assert_eq!(guarded.count(), 3);
        });
    }

    #[cfg(not(loom))]
    #[test]
    fn one_at_a_time_however_many_want_it() {
        let guarded = guarded();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..20_000).for_each(|_| guarded.add()));
            }
        });
        assert_eq!(guarded.count(), 160_000);
    }
}
