//! `AutoResetEvent`: releases one at a time.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::event::{form, refuse_arguments};
use crate::forked::Own;
use crate::held::Held;
use crate::seconds;
use crate::sleep::without_interpreter;
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
    #[new]
    #[classmethod]
    #[pyo3(signature = (*arguments, **keywords), text_signature = "()")]
    fn new(
        class: &Bound<'_, PyType>,
        arguments: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<AutoResetEvent> {
        refuse_arguments(class, arguments, keywords)?;
        Ok(AutoResetEvent { event: Own::new(tantara::AutoResetEvent::new()) })
    }

    /// Return True if a release is stored at this moment. Nobody waits then.
    fn is_set(&self) -> bool {
        self.event().is_set()
    }

    /// Release the first in line; with nobody waiting, store the release for the next who comes.
    fn set(&self) {
        self.event().set();
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
        let (released, raised) = without_interpreter(py, || self.event().wait_timeout(limit));
        if raised.is_err() && released {
            self.event().set();
        }
        raised.map(|()| released)
    }

    /// Wait in asyncio: await turnstile.wait_async().
    ///
    /// Return True if it was released, False if timeout seconds passed first. Its place in the line counts from the
    /// call. It may be cancelled at any moment.
    #[pyo3(signature = (timeout = None))]
    fn wait_async<'py>(slf: &Bound<'py, Self>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let held = vec![Held::AutoReset(slf.clone().unbind())];
        task::coroutine(slf.py(), held, Aim::All, timeout)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        form(slf.as_any(), slf.get().event().is_set())
    }
}
