//! Where in the Python program a call is made, for the record of waits.

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use tantara::waits;

use crate::call::{call, import};

/// Runs `act`, which may begin waits or set events, as called from the line of Python that runs now.
/// That line is looked for only if waits are recorded. If a signal handler raises an exception
/// meanwhile, `act` does not run.
#[inline]
pub(crate) fn placed<R>(py: Python<'_>, act: impl FnOnce() -> R) -> PyResult<R> {
    if waits::is_wanted() { placed_cold(py, act) } else { Ok(act()) }
}

/// The file, the line, and the names of the thread and of the task of asyncio.
type Here = (String, u32, String, Option<String>);

#[cold]
fn placed_cold<R>(py: Python<'_>, act: impl FnOnce() -> R) -> PyResult<R> {
    let here = || call(&import(py, c"tantara._waits")?.getattr("here")?, ())?.extract::<Here>();
    match here() {
        Ok((file, line, thread, task)) => {
            waits::name_thread(|| thread);
            Ok(waits::with_origin(&file, line, task.as_deref(), act))
        }
        // At the end of the interpreter, or without frames.
        Err(error) if error.is_instance_of::<PyException>(py) => Ok(act()),
        Err(raised) => Err(raised),
    }
}
