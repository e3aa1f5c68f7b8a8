//! What is called of asyncio's loops.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use crate::call::{call, call_method, kept};

/// The running loop of asyncio, or None.
pub(crate) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    call(&kept(py, &OF_MAIN, c"asyncio.events", "_get_running_loop")?, ())
}

/// Whether this thread runs a task of that loop. Then the loop will look for scheduled calls before
/// it sleeps.
pub(crate) fn is_in_task(event_loop: &Bound<'_, PyAny>) -> PyResult<bool> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let current_task = kept(event_loop.py(), &OF_MAIN, c"asyncio.tasks", "current_task")?;
    Ok(!call(&current_task, (event_loop,))?.is_none())
}

/// Resumes the tasks of waits that are over.
pub(crate) fn resume(waits: &Bound<'_, PyList>) -> PyResult<()> {
    call(&run(waits.py())?, (waits,)).map(drop)
}

/// Resumes them in the loop's next pass.
pub(crate) fn resume_soon(event_loop: &Bound<'_, PyAny>, waits: &Bound<'_, PyList>) -> PyResult<()> {
    let py = event_loop.py();
    let run = run(py)?;
    let call_soon = || call_method(event_loop, pyo3::intern!(py, "call_soon"), [&run, waits.as_any()]).map(drop);
    // A signal handler may raise an exception within, before the call is scheduled or after. Waits
    // that were resumed already are not resumed again.
    call_soon().inspect_err(|_| drop(call_soon()))
}

/// `run` of `coroutine.rs`.
fn run(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    kept(py, &OF_MAIN, c"tantara._tantara", "run")
}
