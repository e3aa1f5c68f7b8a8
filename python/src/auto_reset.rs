//! `AutoResetEvent`: releases one at a time.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::event::{form, refuse_copying};
use crate::forked::Own;
use crate::held::Held;
use crate::seconds;
use crate::sleep::blocking;
use crate::task::{self, Aim};

/// An event that releases one at a time, and lowers itself by doing so.
///
/// Each set() releases exactly one who waits, thread or asyncio task, first come, first served. With nobody waiting it
/// stays set, once, for the next who comes. A release that was given to a wait which is then cancelled or interrupted
/// passes on to the next.
///
///     >>> from tantara import AutoResetEvent
///     >>> turnstile = AutoResetEvent()
///     >>> turnstile.set()
///     >>> turnstile.wait(), turnstile.wait(timeout=0)
///     (True, False)
#[pyclass(module = "tantara", subclass, frozen, weakref, dict)]
pub(crate) struct AutoResetEvent {
    event: Own<tantara::AutoResetEvent>,
}

impl AutoResetEvent {
    pub(crate) fn event(&self) -> &tantara::AutoResetEvent {
        self.event.get()
    }
}

#[pymethods]
impl AutoResetEvent {
    /// Arguments are for `__init__`, which a subclass may have of its own.
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords), text_signature = "()")]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> AutoResetEvent {
        AutoResetEvent { event: Own::new(tantara::AutoResetEvent::new()) }
    }

    /// Begin unset; called again, begin anew. Who waits goes on waiting.
    fn __init__(&self) {
        self.event().clear();
    }

    /// Return True if a release is stored at this moment. Nobody waits then.
    fn is_set(&self) -> bool {
        self.event().is_set()
    }

    /// Release the first in line; with nobody waiting, store the release for the next who comes.
    fn set(&self, py: Python<'_>) {
        task::delivering(py, || self.event().set());
    }

    /// Take a stored release back.
    fn clear(&self) {
        self.event().clear();
    }

    /// Block until a release is given to this thread, or for at most timeout seconds.
    ///
    /// Return True if it was released, False if the time passed first. None waits without a limit; nought or less only
    /// looks. Ctrl-C ends the wait.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let limit = seconds::limit(timeout)?;
        if self.event().wait_timeout(std::time::Duration::ZERO) {
            return Ok(true);
        }
        if limit.is_zero() {
            return Ok(false);
        }
        let pass_on = |released: bool| {
            if released {
                self.event().set();
            }
        };
        blocking(py, limit, |limit| self.event().wait_timeout(limit), pass_on)
    }

    /// Wait in asyncio: await turnstile.wait_async().
    ///
    /// Return True if it was released, False if timeout seconds passed first. Its place in the line counts from the
    /// call. It may be cancelled at any moment.
    #[pyo3(signature = (timeout = None))]
    fn wait_async<'py>(slf: &Bound<'py, Self>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let held = [Held::AutoReset(slf.clone().unbind())];
        task::coroutine(slf.py(), held, Aim::All, timeout)
    }

    /// How many threads and tasks wait at this moment.
    #[getter]
    fn waiting(&self) -> usize {
        self.event().waiting()
    }

    fn __getstate__(slf: &Bound<'_, Self>) -> PyResult<()> {
        refuse_copying(slf.as_any())
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        form(slf.as_any(), slf.get().event().is_set())
    }
}
