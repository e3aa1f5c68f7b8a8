//! What is called of asyncio's loops.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

use crate::call::{call_method, call_with, contains, frame, kept};

/// The running loop of asyncio, or None.
pub(crate) fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    call_with(&kept(py, &OF_MAIN, c"asyncio.events", "_get_running_loop")?, [])
}

/// Whether that loop, which runs on this thread, will certainly look for scheduled calls before it
/// sleeps: whether it runs a task, or a callback that has called at most [`DEPTH`] functions.
pub(crate) fn is_awake(event_loop: &Bound<'_, PyAny>) -> PyResult<bool> {
    Ok(is_in_task(event_loop)? || is_in_callback(event_loop.py())?)
}

/// Whether that loop runs a task.
fn is_in_task(event_loop: &Bound<'_, PyAny>) -> PyResult<bool> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let tasks = kept(event_loop.py(), &OF_MAIN, c"tantara._tasks", "current_tasks")?;
    match tasks.cast::<PyDict>() {
        Ok(tasks) => contains(tasks, event_loop),
        Err(_) => Ok(!call_with(&tasks, [event_loop])?.is_none()),
    }
}

/// How many frames of Python are looked at. Less than it takes to run another loop within a
/// callback of the first, as programs do that patch asyncio.
const DEPTH: usize = 4;

/// Whether this thread runs a callback of a loop of asyncio. Handlers of signals and finalizers run
/// in frames too, above those of what they have interrupted.
fn is_in_callback(py: Python<'_>) -> PyResult<bool> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let run = kept(py, &OF_MAIN, c"tantara._tasks", "run_of_handle")?;
    let mut next = frame(py);
    for _ in 0..DEPTH {
        let Some(frame) = next else { return Ok(false) };
        if frame.getattr(pyo3::intern!(py, "f_code"))?.is(&run) {
            return Ok(true);
        }
        next = Some(frame.getattr(pyo3::intern!(py, "f_back"))?).filter(|frame| !frame.is_none());
    }
    Ok(false)
}

/// Resumes the tasks of one wait that is over, or of a list of them.
pub(crate) fn resume(waits: &Bound<'_, PyAny>) -> PyResult<()> {
    call_with(&run(waits.py())?, [waits]).map(drop)
}

/// Resumes them in the loop's next pass.
pub(crate) fn resume_soon(event_loop: &Bound<'_, PyAny>, waits: &Bound<'_, PyAny>) -> PyResult<()> {
    let py = event_loop.py();
    let run = run(py)?;
    let call_soon = || call_method(event_loop, pyo3::intern!(py, "call_soon"), [&run, waits]).map(drop);
    // A signal handler may raise an exception within, before the call is scheduled or after. Waits
    // that were resumed already are not resumed again.
    call_soon().inspect_err(|_| drop(call_soon()))
}

/// `run` of `coroutine.rs`.
fn run(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    kept(py, &OF_MAIN, c"tantara._tantara", "run")
}
