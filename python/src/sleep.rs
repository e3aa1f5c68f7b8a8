//! How a thread of Python's blocks: without the interpreter, so that Ctrl-C ends it, and not all at once when it ends.
//!
//! A crowd that is released at once wants the interpreter's lock at once. Who finds it taken goes to sleep again, and
//! each who is done wakes the next, mostly on another processor, which takes longer than what each has to do. So those
//! who come back go through a [`DOOR`], one by one. Who finds it closed lets others run, and tries again a few times:
//! no sleep, no wake-up call. (Measured: 200 threads are out in 0.4 of the time.)

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::yield_now;
use std::time::Duration;

use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyCFunction;

/// The thread that handles Python's signals, by its pthread's number.
static MAIN_THREAD: AtomicUsize = AtomicUsize::new(0);

fn this_thread() -> usize {
    // SAFETY: takes nothing and always succeeds.
    (unsafe { libc::pthread_self() }) as usize
}

/// Called once, when the module is imported, by whatever thread.
pub(crate) fn know_main_thread(py: Python<'_>) -> PyResult<()> {
    let main: usize = py.import("threading")?.call_method0("main_thread")?.getattr("ident")?.extract()?;
    MAIN_THREAD.store(main, Relaxed);
    // In the child of a fork the one thread that is left is the main one.
    let forked = PyCFunction::new_closure(py, None, None, |_, _| {
        MAIN_THREAD.store(this_thread(), Relaxed);
        DOOR.store(false, Relaxed);
        crate::forked::note();
    })?;
    let arguments = pyo3::types::PyDict::new(py);
    arguments.set_item("after_in_child", forked)?;
    py.import("os")?.call_method("register_at_fork", (), Some(&arguments))?;
    Ok(())
}

/// Runs `waits` while others run Python. Gives what it yields, and the exception that a signal's handler has raised
/// meanwhile: then the wait is over, released or not.
pub(crate) fn without_interpreter<R: Send>(py: Python<'_>, waits: impl FnOnce() -> R + Send) -> (R, PyResult<()>) {
    // Only the main thread runs handlers; the others need not wake up for signals.
    if this_thread() != MAIN_THREAD.load(Relaxed) {
        return (detached(py, waits), Ok(()));
    }
    let outcome = detached(py, || tantara::interruptible(handlers_raise, waits));
    (outcome, PyErr::take(py).map_or(Ok(()), Err))
}

/// Runs the handlers of signals that have come. An exception that one raises is left in the thread's error indicator.
fn handlers_raise() -> bool {
    Python::try_attach(|py| {
        // Asked again, where one has.
        PyErr::occurred(py) || py.check_signals().map_err(|error| error.restore(py)).is_err()
    })
    .unwrap_or(false)
}

/// Runs a future to its end while others run Python; unless a signal's handler raises an exception, which drops it.
pub(crate) fn finish<F>(py: Python<'_>, future: F) -> PyResult<F::Output>
where
    F: Future<Output: Send> + Send,
{
    let (output, raised) = without_interpreter(py, || block_on(future));
    raised.and_then(|()| output.ok_or_else(|| PyKeyboardInterrupt::new_err(())))
}

/// `None` if it was interrupted.
fn block_on<F: Future>(future: F) -> Option<F::Output> {
    struct Call(tantara::Event);

    impl Wake for Call {
        fn wake(self: Arc<Self>) {
            self.0.set();
        }
    }

    let call = Arc::new(Call(tantara::Event::new()));
    let waker = Waker::from(Arc::clone(&call));
    let mut future = pin!(future);
    loop {
        call.0.clear();
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        if !call.0.wait_timeout(Duration::MAX) {
            return None;
        }
    }
}

/// Closed while a thread goes through, to take the interpreter's lock. Nothing depends on it but speed.
static DOOR: AtomicBool = AtomicBool::new(false);

/// How often one who finds it closed tries before it goes through all the same.
const TRIES: u32 = 16;

fn detached<R: Send>(py: Python<'_>, waits: impl FnOnce() -> R + Send) -> R {
    let (outcome, has_closed) = py.detach(|| {
        let outcome = waits();
        let has_closed = (0..TRIES).any(|_| {
            let was_open = !DOOR.load(Relaxed) && !DOOR.swap(true, Acquire);
            if !was_open {
                yield_now();
            }
            was_open
        });
        (outcome, has_closed)
    });
    if has_closed {
        DOOR.store(false, Release);
    }
    outcome
}
