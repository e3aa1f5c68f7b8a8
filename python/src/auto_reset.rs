//! `AutoResetEvent`: each `set()` releases one waiter.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use tantara::Waitable;

use crate::coroutine::coroutine;
use crate::empty_dict::Place;
use crate::event::{form, refuse_copying};
use crate::forked::Own;
use crate::member::Member;
use crate::notifier::delivering;
use crate::seconds;
use crate::sleep::blocking;
use crate::task::Aim;

/// An event that releases one waiter for each set().
///
/// set() releases the thread or asyncio task that has waited longest. If nobody waits, one release
/// is stored for the next wait. If a released wait is cancelled or interrupted, its release goes to
/// the next waiter.
///
///     >>> from tantara import AutoResetEvent
///     >>> next_job = AutoResetEvent()
///     >>> next_job.set()
///     >>> next_job.wait(), next_job.wait(timeout=0)
///     (True, False)
#[pyclass(module = "tantara", subclass, frozen, weakref, dict)]
pub(crate) struct AutoResetEvent {
    event: Own<tantara::AutoResetEvent>,
}

impl Member for Py<AutoResetEvent> {
    fn waitable(&self) -> &dyn Waitable {
        self.get().event()
    }

    async fn wait(&self) -> Result<(), tantara::Error> {
        self.get().event().wait_async().await;
        Ok(())
    }

    fn object(&self) -> Option<&Py<PyAny>> {
        Some(self.as_any())
    }

    fn pass_on(&self) {
        self.get().event().set();
    }
}

impl AutoResetEvent {
    fn event(&self) -> &tantara::AutoResetEvent {
        self.event.get()
    }

    /// Gives it a name in the record of waits.
    pub(crate) fn label(&self, name: &str) {
        self.event.label(name);
    }
}

#[pymethods]
impl AutoResetEvent {
    /// Ignores its arguments: they are for `__init__`, which a subclass may override.
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords), text_signature = "()")]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> AutoResetEvent {
        AutoResetEvent { event: Own::new(tantara::AutoResetEvent::new()) }
    }

    /// Clear the event. Called again, it does not end waits that have begun.
    fn __init__(slf: &Bound<'_, Self>) {
        static DICTIONARY: Place = Place::of_class();
        slf.get().event().clear();
        DICTIONARY.free_empty(slf);
    }

    /// Return True if a release is stored. Then nobody waits.
    fn is_set(&self) -> bool {
        self.event().is_set()
    }

    /// Release the first waiter. If nobody waits, store the release for the next wait.
    fn set(&self, py: Python<'_>) -> PyResult<()> {
        delivering(py, || self.event().set())
    }

    /// Discard a stored release.
    fn clear(&self) {
        self.event().clear();
    }

    /// Block until this thread is released, for at most timeout seconds.
    ///
    /// Return True if the wait was released, False if the timeout expired. Without a timeout, wait
    /// for ever; with 0 or less, return at once. Ctrl-C interrupts the wait.
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

    /// wait() for async code: await event.wait_async().
    ///
    /// The call, not the await, determines the order among waiters. The wait may be cancelled at
    /// any time.
    #[pyo3(signature = (timeout = None))]
    fn wait_async<'py>(slf: &Bound<'py, Self>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        coroutine(slf.py(), || Ok(slf.clone().unbind()), Aim::All, timeout)
    }

    /// The number of threads and tasks that wait.
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
