//! Blocking waits of Python threads: without the interpreter's lock, interruptible by signals, and
//! refused where they would block other greenlets.
//!
//! Threads that are released together want the interpreter's lock together. A thread that finds it
//! taken sleeps again, and each thread that gives it back wakes the next, mostly on another
//! processor. That takes longer than the work of each thread. So released threads first take the
//! [`GATE`]. A thread that finds it taken yields and tries again a few times, without a sleep or a
//! system call that wakes it. Measured: 200 threads are released in 0.4 of the time.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::yield_now;
use std::time::Duration;

use pyo3::exceptions::{PyKeyboardInterrupt, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;

use crate::call::{call, import, is_imported};
use crate::forked;
use crate::placed::placed;

/// Registers a handler for forks, once in a process. Called at each import. Python's own
/// `os.register_at_fork` would only see forks of the interpreter that calls it.
#[cfg(unix)]
pub(crate) fn watch_forks() -> PyResult<()> {
    extern "C" fn in_child() {
        GATE.store(false, Relaxed);
        forked::note();
    }

    static WATCHED: std::sync::OnceLock<i32> = std::sync::OnceLock::new();
    // SAFETY: Python never unloads a module, so the function stays valid. It only stores to
    // atomics.
    let error = *WATCHED.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(in_child)) });
    if error == 0 { Ok(()) } else { Err(std::io::Error::from_raw_os_error(error).into()) }
}

/// There are no forks.
#[cfg(not(unix))]
pub(crate) fn watch_forks() -> PyResult<()> {
    Ok(())
}

/// Whether this thread runs Python's signal handlers in the current interpreter.
fn runs_handlers(py: Python<'_>) -> bool {
    /// The number of forks and the interpreter for which the answer is valid, and the answer. After
    /// a fork another thread may be the main thread.
    type Known = (u32, usize, bool);
    thread_local! {
        static KNOWN: Cell<Option<Known>> = const { Cell::new(None) };
    }

    // SAFETY: `py` shows that the thread is attached to an interpreter.
    let interpreter = unsafe { ffi::PyInterpreterState_Get() } as usize;
    if let Some((forks, known, answer)) = KNOWN.get()
        && (forks, known) == (forked::count(), interpreter)
    {
        return answer;
    }
    // `threading.main_thread()` is the thread that imported `threading` first, which need not be
    // the main thread. So try to set an invalid handler: in every other thread CPython raises
    // ValueError before it looks at the handler, and in the main thread TypeError.
    let refused = || py.import("_signal")?.getattr("signal")?.call1((libc::SIGTERM, py.None()));
    let answer = refused().is_err_and(|error| error.is_instance_of::<PyTypeError>(py));
    KNOWN.set(Some((forked::count(), interpreter, answer)));
    answer
}

/// The outcome of a wait with a time limit.
pub(crate) trait Outcome: Send {
    /// Whether the wait ended for another reason than the time limit.
    fn is_over(&self) -> bool;
}

impl Outcome for bool {
    fn is_over(&self) -> bool {
        *self
    }
}

impl<E: Send> Outcome for Result<bool, E> {
    fn is_over(&self) -> bool {
        !matches!(self, Ok(false))
    }
}

impl<E: Send> Outcome for Result<Option<usize>, E> {
    fn is_over(&self) -> bool {
        !matches!(self, Ok(None))
    }
}

/// Calls `wait`, which blocks for at most the limit that it is given, without the interpreter's
/// lock. If a signal handler raises an exception meanwhile, the wait ends and `pass_on` gets its
/// outcome. Fails instead of blocking where that would block other greenlets.
pub(crate) fn blocking<R: Outcome>(
    py: Python<'_>,
    limit: Duration,
    wait: impl Fn(Duration) -> R + Send + Sync,
    pass_on: impl FnOnce(R),
) -> PyResult<R> {
    if !limit.is_zero()
        && let Some(refusal) = hub(py)?
    {
        let looked = detached(py, || wait(Duration::ZERO));
        return if looked.is_over() { Ok(looked) } else { Err(refusal) };
    }
    match placed(py, || without_interpreter(py, || wait(limit)))? {
        (outcome, Ok(())) => Ok(outcome),
        (outcome, Err(raised)) => {
            pass_on(outcome);
            Err(raised)
        }
    }
}

/// The error to raise if this thread runs greenlets.
fn hub(py: Python<'_>) -> PyResult<Option<PyErr>> {
    // Both gevent and eventlet import it.
    if !is_imported(py, pyo3::intern!(py, "greenlet"))? {
        return Ok(None);
    }
    let refusal = call(&import(py, c"tantara._greenlets")?.getattr("refusal")?, ())?;
    Ok((!refusal.is_none()).then(|| PyErr::from_value(refusal)))
}

/// Runs `waits` without the interpreter's lock. Returns its result, and the exception that a signal
/// handler has raised meanwhile. An exception ends the wait, whether it was released or not.
fn without_interpreter<R: Send>(py: Python<'_>, waits: impl FnOnce() -> R + Send) -> (R, PyResult<()>) {
    // An interruptible wait wakes up once a second. Only the thread that runs signal handlers needs
    // that.
    if !runs_handlers(py) {
        return (detached(py, waits), Ok(()));
    }
    let outcome = detached(py, || tantara::interruptible(handlers_raise, waits));
    (outcome, PyErr::take(py).map_or(Ok(()), Err))
}

/// Runs pending signal handlers. An exception that one raises is left in the thread's error
/// indicator.
fn handlers_raise() -> bool {
    Python::try_attach(|py| {
        // Called again after a handler has raised.
        PyErr::occurred(py) || py.check_signals().map_err(|error| error.restore(py)).is_err()
    })
    .unwrap_or(false)
}

/// Blocks on a future without the interpreter's lock. If a signal handler raises an exception, the
/// future is dropped.
pub(crate) fn finish<F>(py: Python<'_>, future: F) -> PyResult<F::Output>
where
    F: Future<Output: Send> + Send,
{
    let (output, raised) = without_interpreter(py, || block_on(future));
    raised.and_then(|()| output.ok_or_else(|| PyKeyboardInterrupt::new_err(())))
}

/// Returns `None` if a signal handler has raised an exception.
fn block_on<F: Future>(future: F) -> Option<F::Output> {
    struct Notify(tantara::Event);

    impl Wake for Notify {
        fn wake(self: Arc<Self>) {
            self.0.set();
        }
    }

    let notify = Arc::new(Notify(tantara::Event::new()));
    let waker = Waker::from(Arc::clone(&notify));
    let mut future = pin!(future);
    loop {
        notify.0.clear();
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        if !notify.0.wait_timeout(Duration::MAX) {
            return None;
        }
    }
}

/// Taken by a thread while it acquires the interpreter's lock. It only affects speed.
static GATE: AtomicBool = AtomicBool::new(false);

/// How often a thread tries to take the gate before it continues without it.
const TRIES: u32 = 16;

fn detached<R: Send>(py: Python<'_>, waits: impl FnOnce() -> R + Send) -> R {
    let (outcome, has_gate) = py.detach(|| {
        let outcome = waits();
        let has_gate = (0..TRIES).any(|_| {
            let was_free = !GATE.load(Relaxed) && !GATE.swap(true, Acquire);
            if !was_free {
                yield_now();
            }
            was_free
        });
        (outcome, has_gate)
    });
    if has_gate {
        GATE.store(false, Release);
    }
    outcome
}
