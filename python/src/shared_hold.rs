//! `SharedHold`: keeps an event between processes set until it is released or the process ends.

use std::sync::{Mutex, MutexGuard};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::error::refuse_pickling;
use crate::files;
use crate::locked::lock;

/// Keeps a SharedEvent set until it is released, or until the process ends. Returned by
/// SharedEvent.hold().
///
///     >>> from tantara import SharedEvent
///     >>> busy = SharedEvent()
///     >>> with busy.hold():
///     ...     busy.is_set()
///     True
///     >>> busy.is_set()
///     False
#[pyclass(module = "tantara", frozen, weakref)]
pub(crate) struct SharedHold {
    /// `None` once it is released.
    hold: Mutex<Option<files::Hold>>,
}

impl SharedHold {
    pub(crate) fn new(hold: files::Hold) -> SharedHold {
        SharedHold { hold: Mutex::new(Some(hold)) }
    }

    fn hold(&self) -> MutexGuard<'_, Option<files::Hold>> {
        lock(&self.hold)
    }
}

#[pymethods]
impl SharedHold {
    /// Release the hold. The event becomes unset, unless it is set or held by another process.
    /// Releasing twice is no error.
    fn release(&self, py: Python<'_>) {
        let hold = self.hold().take();
        // It may sleep for some milliseconds, if another process does the same.
        py.detach(|| drop(hold));
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if slf.get().hold().is_none() {
            return Err(PyValueError::new_err("the hold has been released"));
        }
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, py: Python<'_>, _exception: &Bound<'_, PyTuple>) {
        self.release(py);
    }

    fn __reduce__(&self) -> PyResult<()> {
        refuse_pickling("SharedHold")
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let state = if slf.get().hold().is_some() { "held" } else { "released" };
        format!("<SharedHold at {:#x} {state}>", slf.as_ptr() as usize)
    }
}

impl Drop for SharedHold {
    /// As `release`. If the interpreter has ended, the closure does not run, and the hold is dropped
    /// at the end of this function.
    fn drop(&mut self) {
        let mut hold = self.hold().take();
        if hold.is_some() {
            let _ = Python::try_attach(|py| py.detach(|| drop(hold.take())));
        }
    }
}
