//! Atomics, cells and the queue's lock, from the standard library or from loom. Only this file and
//! [`sys`](crate::sys), which chooses a backend, depend on loom.
//!
//! Loom runs a test under every interleaving that the memory model allows, and needs its own
//! atomics for that. This file hides the differences, so that the rest of the crate is written
//! once.

#![forbid(unsafe_code)]

#[cfg(not(loom))]
mod backend {
    pub(crate) use std::hint::spin_loop;
    #[cfg(target_has_atomic = "64")]
    #[allow(unused_imports, reason = "for events between processes")]
    pub(crate) use std::sync::atomic::AtomicU64;
    #[allow(unused_imports, reason = "for events between processes")]
    pub(crate) use std::sync::atomic::fence;
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32};
    pub(crate) use std::thread::yield_now;
    pub(crate) use std::thread_local as per_thread;

    pub(crate) use crate::lock::Lock;

    /// Whether to spin before sleeping.
    pub(crate) const SPINS: bool = true;
    /// How many wakers a drain takes before it releases the lock to wake them.
    pub(crate) const BATCH: usize = 32;
    /// Into how many groups the sleepers of an event are divided: one for each bit of a futex's
    /// set.
    pub(crate) const GROUPS: u32 = 32;

    /// `std`'s cell behind loom's interface.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        #[inline]
        pub(crate) const fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        #[inline]
        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        #[inline]
        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }

    /// What the portable backend needs.
    #[cfg(not(any(linux_native, windows_native, freebsd_native)))]
    pub(crate) mod condvar {
        use std::time::Instant;

        pub(crate) use std::sync::{Condvar, Mutex, MutexGuard};

        /// How many buckets there are.
        pub(crate) const BUCKETS: usize = 64;

        /// Waits for a call, or until `deadline`. Returns whether the deadline has passed.
        pub(crate) fn wait_until<'a, T>(
            _: &'a Mutex<T>,
            condvar: &Condvar,
            guard: MutexGuard<'a, T>,
            deadline: Instant,
        ) -> (MutexGuard<'a, T>, bool) {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return (guard, true);
            };
            let (guard, _) = condvar.wait_timeout(guard, left).unwrap();
            // On some systems the timer and the clock differ by microseconds.
            (guard, Instant::now() >= deadline)
        }

        macro_rules! process_wide {
            (static ref $name:ident: $ty:ty = $init:expr;) => {
                static $name: std::sync::LazyLock<$ty> = std::sync::LazyLock::new(|| $init);
            };
        }
        pub(crate) use process_wide;
    }

    /// Sleeps until that time from now has passed, or a little less.
    ///
    /// `std::thread::sleep` begins anew after each signal, with what is left and the slack of the
    /// timer. If signals come faster than the slack, it never ends. The sleep of a condition
    /// variable ends at a moment.
    pub(crate) fn sleep(nap: std::time::Duration) {
        let mutex = std::sync::Mutex::new(());
        drop(std::sync::Condvar::new().wait_timeout(super::lock(&mutex), nap));
    }

    /// Sequentially consistent operations need no fence.
    #[inline]
    #[allow(dead_code, reason = "for events between processes")]
    pub(crate) fn fence_in_models() {}

    /// Declares a constructor that is `const`, except under loom, whose atomics cannot be made in a
    /// `const`.
    macro_rules! const_new {
        ($(#[$attr:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) -> Self $body:block) => {
            $(#[$attr])* $vis const fn $name($($arg: $ty),*) -> Self $body
        };
    }
    pub(crate) use const_new;
}

#[cfg(loom)]
mod backend {
    pub(crate) use loom::cell::UnsafeCell;
    #[cfg(test)]
    pub(crate) use loom::sync::atomic::AtomicBool;
    pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, fence};
    pub(crate) use loom::thread::yield_now;

    use loom::sync::Mutex;

    /// Spinning adds interleavings and no behaviour.
    pub(crate) const SPINS: bool = false;
    /// Small, so that models of three tasks cross the boundary between batches.
    pub(crate) const BATCH: usize = 2;
    /// Small, so that models of a few pulses use each group twice.
    pub(crate) const GROUPS: u32 = 4;

    /// Has no effect that another thread could see.
    pub(crate) fn spin_loop() {}

    /// Loom treats sequentially consistent operations as acquire and release, but knows the fence.
    pub(crate) fn fence_in_models() {
        fence(std::sync::atomic::Ordering::SeqCst);
    }

    /// Loom has no clock.
    pub(crate) fn sleep(_: std::time::Duration) {
        yield_now();
    }

    /// Loom's mutex instead of [`crate::lock::Lock`], which has a model of its own.
    #[derive(Debug)]
    pub(crate) struct Lock(Mutex<()>);

    impl Lock {
        pub(crate) fn new() -> Self {
            Self(Mutex::new(()))
        }

        pub(crate) fn lock(&self) -> loom::sync::MutexGuard<'_, ()> {
            self.0.lock().unwrap()
        }
    }

    /// What the portable backend needs.
    pub(crate) mod condvar {
        use std::time::Instant;

        pub(crate) use loom::lazy_static as process_wide;
        pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};

        /// One, because addresses differ between runs, and loom needs identical runs.
        pub(crate) const BUCKETS: usize = 1;

        /// Loom has no clock: the others may run, and then the time has passed. That explores a
        /// timeout at every point of their execution.
        pub(crate) fn wait_until<'a, T>(
            mutex: &'a Mutex<T>,
            _: &Condvar,
            guard: MutexGuard<'a, T>,
            _: Instant,
        ) -> (MutexGuard<'a, T>, bool) {
            drop(guard);
            loom::thread::yield_now();
            (mutex.lock().unwrap(), true)
        }
    }

    /// Loom's thread-locals know no `const` initialisers.
    macro_rules! per_thread {
        ($(#[$attr:meta])* static $name:ident: $ty:ty = const $init:block) => {
            loom::thread_local! { $(#[$attr])* static $name: $ty = $init }
        };
    }
    pub(crate) use per_thread;

    macro_rules! const_new {
        ($(#[$attr:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) -> Self $body:block) => {
            $(#[$attr])* $vis fn $name($($arg: $ty),*) -> Self $body
        };
    }
    pub(crate) use const_new;
}

pub(crate) use backend::*;

/// Locks a mutex, poisoned or not: the data that such mutexes protect here is valid at every
/// moment.
#[allow(dead_code, reason = "for events between processes")]
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
