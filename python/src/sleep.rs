//! How a thread of Python's blocks: without the interpreter, and so that Ctrl-C ends it.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

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
    let forked = PyCFunction::new_closure(py, None, None, |_, _| MAIN_THREAD.store(this_thread(), Relaxed))?;
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
        return (py.detach(waits), Ok(()));
    }
    let outcome = py.detach(|| tantara::interruptible(handlers_raise, waits));
    (outcome, PyErr::take(py).map_or(Ok(()), Err))
}

/// Runs the handlers of signals that have come. An exception that one raises is left in the thread's error indicator.
fn handlers_raise() -> bool {
    Python::try_attach(|py| py.check_signals().map_err(|error| error.restore(py)).is_err()).unwrap_or(false)
}
