//! How a model runs: under loom, which tries every interleaving, or on real threads, many times.

#[cfg(loom)]
mod imp {
    pub(crate) use loom::cell::UnsafeCell;
    pub(crate) use loom::future::block_on;
    pub(crate) use loom::sync::Arc;
    pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering};
    pub(crate) use loom::thread;

    /// A timeout that may pass before or after anything else. Loom has no clock: a sleep with a deadline times out
    /// after others had a chance to run. The deadline must be far away in real time.
    pub(crate) const SOON: std::time::Duration = std::time::Duration::from_secs(1 << 20);

    /// Checks `model` under every interleaving, or with `bound`, with at most this many preemptions.
    pub(crate) fn explore(bound: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = bound;
        builder.check(model);
    }
}

#[cfg(not(loom))]
mod imp {
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicUsize, Ordering};
    pub(crate) use std::thread;

    /// A timeout that may pass before or after anything else happens.
    pub(crate) const SOON: std::time::Duration = std::time::Duration::from_micros(20);

    /// Polls whenever the future was woken. It uses only atomics of its own, because ThreadSanitizer does not see the
    /// synchronisation in the standard library's mutexes.
    pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
        let mut future = Box::pin(future);
        let (counter, waker) = super::WakeCounter::new();
        let mut heard = 0;
        loop {
            if let std::task::Poll::Ready(output) = super::poll(&mut future, &waker) {
                return output;
            }
            while counter.wakes() == heard {
                thread::yield_now();
            }
            heard = counter.wakes();
        }
    }

    /// Runs `model` many times.
    pub(crate) fn explore(_: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
        let rounds = std::env::var("TANTARA_STRESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok());
        for _ in 0..rounds.unwrap_or(if cfg!(miri) { 10 } else { 2_000 }) {
            model();
        }
    }

    /// `std`'s cell behind loom's interface, for data that only the event under test protects.
    #[derive(Debug)]
    pub(crate) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(std::cell::UnsafeCell::new(value))
        }

        pub(crate) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
            f(self.0.get())
        }

        pub(crate) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
            f(self.0.get())
        }
    }
}

pub(crate) use imp::*;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};

/// A value that is never dropped, so that waits may borrow it without a lifetime.
pub(crate) fn leaked<T: Sync + 'static>(value: T) -> &'static T {
    let value: &'static T = Box::leak(Box::new(value));
    #[cfg(miri)]
    {
        // Keep a reference, because Miri reports memory without one as a leak.
        static LEAKED: std::sync::Mutex<Vec<&'static dyn Sync>> = std::sync::Mutex::new(Vec::new());
        LEAKED.lock().unwrap().push(value);
    }
    value
}

/// A value without synchronisation. Reading it before it was written is a data race, which loom and ThreadSanitizer
/// report, and gives a wrong value, which the model reports.
#[derive(Debug)]
pub(crate) struct Letter(UnsafeCell<u32>);

// SAFETY: none, and that is the point: the models claim that the event under test orders all access, and loom checks
// it.
unsafe impl Sync for Letter {}

impl Letter {
    pub(crate) fn new() -> Letter {
        Letter(UnsafeCell::new(0))
    }

    pub(crate) fn write(&self) {
        // SAFETY: according to the model no thread reads yet.
        self.0.with_mut(|letter| unsafe { *letter = 1 });
    }

    pub(crate) fn read(&self) {
        // SAFETY: the model claims that the writer is done.
        let letter = self.0.with(|letter| unsafe { *letter });
        assert_eq!(letter, 1, "released before the signal was given");
    }
}

/// Counts how often it was woken.
#[derive(Debug)]
pub(crate) struct WakeCounter(AtomicUsize);

struct CountingWaker(Arc<WakeCounter>);

impl Wake for CountingWaker {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl WakeCounter {
    pub(crate) fn new() -> (Arc<WakeCounter>, Waker) {
        let counter = Arc::new(WakeCounter(AtomicUsize::new(0)));
        (Arc::clone(&counter), Waker::from(std::sync::Arc::new(CountingWaker(counter))))
    }

    pub(crate) fn wakes(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

/// Polls once.
pub(crate) fn poll<F: Future>(future: &mut Pin<Box<F>>, waker: &Waker) -> Poll<F::Output> {
    future.as_mut().poll(&mut Context::from_waker(waker))
}
