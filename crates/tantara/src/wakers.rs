//! Wakes and drops wakers. They are user code, so this never happens under a queue's lock.
//!
//! Waking or dropping a waker may drop futures: the waker of a task whose executor has been closed
//! drops the task. The destructor of such a future calls the next waker: to hand a release on, to
//! drop the waker that the future left in the queue, or because a guard in it sets an event. A chain
//! of n waits would therefore take n nested calls. So [`Nested`] counts how deeply the calls of
//! destructors are nested on this thread. The first [`NESTED`] are made at once, because a waker may
//! run for long (an executor may poll inside of `wake`) and later waiters must not be delayed by
//! that. Deeper calls are queued, and the innermost of the calls that were made at once makes them
//! after its own waker has returned.

use std::any::Any;
use std::cell::Cell;
use std::mem::{ManuallyDrop, MaybeUninit};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::task::Waker;

use crate::sync::{BATCH, per_thread};

/// How many calls of user code from destructors may be nested, beside the one that makes the queued
/// calls.
const NESTED: u32 = 8;
/// The depth at which no user code runs: a destructor's `set` queues it.
const QUEUES: u32 = NESTED + 2;

per_thread! {
    /// How many of these calls are on the stack.
    static DEPTH: Cell<u32> = const { Cell::new(0) }
}

per_thread! {
    /// Calls that were too deeply nested. `ManuallyDrop`, so that the queue can be used until the
    /// thread ends, when executors in thread-locals are dropped. An empty queue has nothing to
    /// free.
    static LATER: ManuallyDrop<Cell<Vec<Call>>> = const { ManuallyDrop::new(Cell::new(Vec::new())) }
}

/// What a destructor does with a waker.
enum Call {
    Wake(Waker),
    Drop(Waker),
}

impl Call {
    fn make(self) {
        quietly(|| match self {
            Call::Wake(waker) => waker.wake(),
            Call::Drop(waker) => drop(waker),
        });
    }
}

/// Wakes a task to which a destructor hands a release on: without panicking, and with a bounded
/// number of nested calls.
#[inline]
pub(crate) fn wake_from_drop(waker: Waker) {
    call_from_drop(waker, Waker::wake, Call::Wake);
}

/// Drops the waker of a task that leaves the queue in a destructor: without panicking, and with a
/// bounded number of nested calls.
#[inline]
pub(crate) fn drop_from_drop(waker: Waker) {
    call_from_drop(waker, drop, Call::Drop);
}

/// `later` is `call` in the form that can be queued.
#[inline]
fn call_from_drop(waker: Waker, call: impl FnOnce(Waker), later: impl FnOnce(Waker) -> Call) {
    match Nested::enter() {
        Some(_nested) => quietly(|| call(waker)),
        None => queue(later(waker)),
    }
}

/// Sets an event for a destructor, with a bounded number of nested calls. A panic of a waker
/// propagates, unless the call was queued.
pub(crate) fn set_from_drop(set: impl FnOnce()) {
    let _nested = Nested::enter().unwrap_or_else(Nested::queue_calls);
    set();
}

/// Wakes a task that was released by a `set`.
#[inline]
pub(crate) fn wake(waker: Waker) {
    if queues_calls() { queue(Call::Wake(waker)) } else { waker.wake() }
}

/// A call of a destructor, counted until this is dropped.
struct Nested {
    before: u32,
}

impl Nested {
    /// `None` if the call has to be queued.
    #[inline]
    fn enter() -> Option<Nested> {
        // Only loom destroys this thread-local before the thread ends.
        let before = DEPTH.try_with(Cell::get).unwrap_or(0);
        (before <= NESTED).then(|| {
            set_depth(before + 1);
            Nested { before }
        })
    }

    /// Until this is dropped, [`set`s](set_from_drop) queue the calls of wakers.
    #[cold]
    fn queue_calls() -> Nested {
        let before = DEPTH.try_with(Cell::get).unwrap_or(0);
        set_depth(QUEUES);
        Nested { before }
    }
}

impl Drop for Nested {
    #[inline]
    fn drop(&mut self) {
        if self.before == NESTED {
            make_queued_calls();
        }
        set_depth(self.before);
    }
}

#[inline]
fn queues_calls() -> bool {
    DEPTH.try_with(Cell::get).is_ok_and(|depth| depth == QUEUES)
}

#[cold]
fn queue(call: Call) {
    let _ = LATER.try_with(|later| {
        let mut calls = later.take();
        calls.push(call);
        later.set(calls);
    });
}

#[cold]
fn make_queued_calls() {
    loop {
        let calls = LATER.try_with(|later| later.take()).unwrap_or_default();
        if calls.is_empty() {
            break;
        }
        calls.into_iter().for_each(Call::make);
    }
}

#[inline]
fn set_depth(depth: u32) {
    let _ = DEPTH.try_with(|kept| kept.set(depth));
}

/// Runs user code in a place that must not panic. The panic hook has reported the panic.
pub(crate) fn quietly(foreign: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(foreign)) {
        discard(panic);
    }
}

/// Drops the payload of a panic. If its destructor panics too, the payload of that second panic is
/// leaked, because its destructor could panic again, without end.
fn discard(panic: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(second);
    }
}

/// The wakers of one batch, and the first panic of any.
pub(crate) struct Wakers {
    /// Initialised from `woken` to `filled`; each is read once. Wakers that are never read would be
    /// leaked, but every batch that is filled is woken.
    batch: [MaybeUninit<Waker>; BATCH],
    filled: usize,
    woken: usize,
    panic: Option<Box<dyn Any + Send>>,
}

impl Wakers {
    pub(crate) fn new() -> Wakers {
        Wakers { batch: [const { MaybeUninit::uninit() }; BATCH], filled: 0, woken: 0, panic: None }
    }

    #[inline]
    pub(crate) fn push(&mut self, waker: Waker) {
        self.batch[self.filled].write(waker);
        self.filled += 1;
    }

    #[inline]
    fn pop_front(&mut self) -> Option<Waker> {
        if self.woken == self.filled {
            return None;
        }
        self.woken += 1;
        // SAFETY: it was written by `push`, since it lies below `filled`, and is read only now,
        // since `woken` has just passed it.
        Some(unsafe { self.batch[self.woken - 1].assume_init_read() })
    }

    /// Wakes all in order, and empties the batch.
    #[inline]
    pub(crate) fn wake(&mut self) {
        if queues_calls() {
            std::iter::from_fn(|| self.pop_front()).for_each(|waker| queue(Call::Wake(waker)));
        }
        loop {
            // Each iteration ends the batch or passes one waker that panics, so all are woken.
            let turn = catch_unwind(AssertUnwindSafe(|| {
                while let Some(waker) = self.pop_front() {
                    waker.wake();
                }
            }));
            match turn {
                Ok(()) => break,
                Err(panic) if self.panic.is_none() => self.panic = Some(panic),
                Err(panic) => discard(panic),
            }
        }
        (self.filled, self.woken) = (0, 0);
    }

    pub(crate) fn resume_panic(self) {
        if let Some(panic) = self.panic {
            resume_unwind(panic);
        }
    }
}
