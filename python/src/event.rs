//! `Event`: a replacement for `threading.Event`.

use pyo3::exceptions::{PyDeprecationWarning, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use tantara::Waitable;

use crate::empty_dict::Place;
use crate::forked::Own;
use crate::member::Member;
use crate::notifier::delivering;
use crate::seconds;
use crate::sleep::blocking;

/// An event: a flag that threads and asyncio tasks wait for.
///
/// It replaces threading.Event, has the same methods, and can be awaited too. It starts unset.
/// set() sets it and releases every waiter, clear() clears it, wait() blocks until it is set. set()
/// releases every waiter even if clear() follows before they run.
///
///     >>> from tantara import Event
///     >>> ready = Event()
///     >>> ready.wait(timeout=0.01)
///     False
///     >>> ready.set()
///     >>> ready.wait()
///     True
///
/// Any thread, and any signal handler of Python, may call every method.
#[pyclass(module = "tantara", subclass, frozen, weakref, dict)]
pub(crate) struct Event {
    event: Own<tantara::Event>,
}

/// Refuses to copy or pickle an event of this process. A subclass that defines `__getstate__` can
/// be copied.
pub(crate) fn refuse_copying(object: &Bound<'_, PyAny>) -> PyResult<()> {
    let class = object.get_type().qualname()?;
    Err(PyTypeError::new_err(format!(
        "cannot copy or pickle '{class}': setting a copy would not release those who wait for this object. Use a \
         reference to the same object, or a SharedEvent for several processes"
    )))
}

/// `<module.Class at 0x7f...: set>`
pub(crate) fn form(object: &Bound<'_, PyAny>, is_set: bool) -> PyResult<String> {
    let class = object.get_type();
    let state = if is_set { "set" } else { "unset" };
    Ok(format!("<{}.{} at {:#x}: {state}>", class.module()?, class.qualname()?, object.as_ptr() as usize))
}

impl Member for Py<Event> {
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
}

impl Event {
    pub(crate) fn unset() -> Event {
        Event { event: Own::new(tantara::Event::new()) }
    }

    #[inline]
    pub(crate) fn event(&self) -> &tantara::Event {
        self.event.get()
    }

    /// Gives it a name in the record of waits.
    pub(crate) fn label(&self, name: &str) {
        self.event.label(name);
    }

    /// `wait(timeout)`. `quick.rs` exports it to Python.
    pub(crate) fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        if self.event().is_set() {
            return Ok(true);
        }
        let limit = seconds::limit(timeout)?;
        if limit.is_zero() {
            return Ok(false);
        }
        blocking(py, limit, |limit| self.event().wait_timeout(limit), drop)
    }
}

/// The methods except `is_set`, `wait` and `wait_async`, which `quick.rs` adds.
#[pymethods]
impl Event {
    /// Ignores its arguments: they are for `__init__`, which a subclass may override.
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords), text_signature = "()")]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Event {
        Event::unset()
    }

    /// Clear the event. Called again, it does not end waits that have begun.
    fn __init__(slf: &Bound<'_, Self>) {
        static DICTIONARY: Place = Place::of_class();
        slf.get().event().clear();
        DICTIONARY.free_empty(slf);
    }

    /// Return True if the event is set. Deprecated: use is_set().
    #[pyo3(name = "isSet")]
    fn is_set_deprecated(&self, py: Python<'_>) -> PyResult<bool> {
        let category = py.get_type::<PyDeprecationWarning>();
        PyErr::warn(py, &category, c"isSet() is deprecated, use is_set() instead", 1)?;
        Ok(self.event().is_set())
    }

    /// Set the event and release every waiter: threads, and tasks of any loop.
    ///
    /// Setting an event that is set has no effect.
    fn set(&self, py: Python<'_>) -> PyResult<()> {
        delivering(py, || self.event().set())
    }

    /// Clear the event. Clearing an event that is unset has no effect.
    fn clear(&self) {
        self.event().clear();
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

    /// Called by CPython's threading module in the child of a fork. `Own` replaces the event there,
    /// so there is nothing to do.
    fn _at_fork_reinit(&self) {}
}
