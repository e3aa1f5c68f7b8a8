//! How a thread of Python's blocks: without the interpreter, interrupted by signals, and not where that would stop
//! other greenlets.
//!
//! A crowd that is released at once wants the interpreter's lock at once. Who finds it taken goes to sleep again, and
//! each who is done wakes the next, mostly on another processor, which takes longer than what each has to do. So those
//! who come back go through a [`DOOR`], one by one. Who finds it closed lets others run, and tries again a few times:
//! no sleep, no wake-up call. (Measured: 200 threads are out in 0.4 of the time.)

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::yield_now;
use std::time::Duration;

use pyo3::exceptions::{PyKeyboardInterrupt, PyTypeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::forked;

/// Called at each import: notes forks from then on. Whichever interpreter forks, and however: Python's own
/// `os.register_at_fork` is for the interpreter that calls it alone.
pub(crate) fn watch_forks() -> PyResult<()> {
    extern "C" fn in_child() {
        DOOR.store(false, Relaxed);
        forked::note();
    }

    static WATCHED: OnceLock<i32> = OnceLock::new();
    // SAFETY: the function stays where it is, for Python unloads no module, and only stores to atomics.
    let error = *WATCHED.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(in_child)) });
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error).into()) }
}

/// Whether this thread, in this interpreter, is the one that runs the handlers of Python's signals.
fn runs_handlers(py: Python<'_>) -> bool {
    /// The answer, and what it holds for: the number of forks, after which another thread may be the main one, and the
    /// interpreter.
    type Known = (u32, usize, bool);
    thread_local! {
        static KNOWN: Cell<Option<Known>> = const { Cell::new(None) };
    }

    // SAFETY: the thread is attached to an interpreter.
    let interpreter = unsafe { ffi::PyInterpreterState_Get() } as usize;
    if let Some((forks, known, answer)) = KNOWN.get()
        && (forks, known) == (forked::count(), interpreter)
    {
        return answer;
    }
    // `threading.main_thread()` is whichever thread imported `threading` first, so CPython itself is asked. It refuses
    // everybody else with a ValueError before it looks at the handler, which is none.
    let refused = || py.import("_signal")?.getattr("signal")?.call1((libc::SIGTERM, py.None()));
    let answer = refused().is_err_and(|error| error.is_instance_of::<PyTypeError>(py));
    KNOWN.set(Some((forked::count(), interpreter, answer)));
    answer
}

/// What a wait with a limit comes to.
pub(crate) trait Outcome: Send {
    /// Whether there is more to tell than that the time has passed.
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

/// Blocks in `wait`, which is given its limit, while others run Python. If a signal's handler raises meanwhile, the
/// wait is over and `pass_on` gets what it has come to. Where it would block other greenlets, nothing waits.
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
    match without_interpreter(py, || wait(limit)) {
        (outcome, Ok(())) => Ok(outcome),
        (outcome, Err(raised)) => {
            pass_on(outcome);
            Err(raised)
        }
    }
}

/// The error to raise if greenlets take turns on this thread.
fn hub(py: Python<'_>) -> PyResult<Option<PyErr>> {
    // SAFETY: the thread is attached; the answer is borrowed from the interpreter, which outlives this.
    let modules = unsafe { Borrowed::from_ptr(py, ffi::PyImport_GetModuleDict()) };
    // Both gevent and eventlet have imported it.
    if !modules.cast::<PyDict>()?.contains(pyo3::intern!(py, "greenlet"))? {
        return Ok(None);
    }
    let refusal = py.import("tantara._greenlets")?.getattr("refusal")?.call0()?;
    Ok((!refusal.is_none()).then(|| PyErr::from_value(refusal)))
}

/// Runs `waits` while others run Python. Gives what it yields, and the exception that a signal's handler has raised
/// meanwhile: then the wait is over, released or not.
fn without_interpreter<R: Send>(py: Python<'_>, waits: impl FnOnce() -> R + Send) -> (R, PyResult<()>) {
    // A wait that can be interrupted wakes up once in a second, which is for the one thread that can be.
    if !runs_handlers(py) {
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
