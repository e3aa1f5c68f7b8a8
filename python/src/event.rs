//! `Event`: what `threading.Event` is.

use pyo3::exceptions::{PyDeprecationWarning, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

use crate::forked::Own;
use crate::held::Held;
use crate::seconds;
use crate::sleep::blocking;
use crate::task::{self, Aim};

/// An event: a flag that threads and asyncio tasks wait for.
///
/// It takes the place of threading.Event, with the same methods, and can be awaited too. It starts unset; set() raises
/// the flag and releases everyone who waits, clear() lowers it, wait() blocks until it is set. Who waits when it is set
/// is released, even if it is cleared again before they run.
///
///     >>> from tantara import Event
///     >>> ready = Event()
///     >>> ready.wait(timeout=0.01)
///     False
///     >>> ready.set()
///     >>> ready.wait()
///     True
///
/// Every method may be called by any thread, and by a signal handler.
#[pyclass(module = "tantara", subclass, frozen, weakref, dict)]
pub(crate) struct Event {
    event: Own<tantara::Event>,
}

/// What `copy` and `pickle` are told about an event that lives in this process alone. A subclass that has a
/// `__getstate__` of its own can be copied.
pub(crate) fn refuse_copying(object: &Bound<'_, PyAny>) -> PyResult<()> {
    let class = object.get_type().qualname()?;
    Err(PyTypeError::new_err(format!(
        "cannot copy or pickle '{class}': whoever waits for this object would not be released by a copy. Use a \
         reference to the same object; to reach other processes, use a SharedEvent"
    )))
}

/// `<module.Class at 0x7f...: set>`
pub(crate) fn form(object: &Bound<'_, PyAny>, is_set: bool) -> PyResult<String> {
    let class = object.get_type();
    let state = if is_set { "set" } else { "unset" };
    Ok(format!("<{}.{} at {:#x}: {state}>", class.module()?, class.qualname()?, object.as_ptr() as usize))
}

impl Event {
    pub(crate) fn unset() -> Event {
        Event { event: Own::new(tantara::Event::new()) }
    }

    #[inline]
    pub(crate) fn event(&self) -> &tantara::Event {
        self.event.get()
    }

    /// `wait(timeout)`, which [`quick`](crate::quick) gives to Python.
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

/// And `is_set` and `wait`, which are in [`quick`](crate::quick).
#[pymethods]
impl Event {
    /// Arguments are for `__init__`, which a subclass may have of its own.
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords), text_signature = "()")]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> Event {
        Event::unset()
    }

    /// Begin unset; called again, begin anew. Who waits goes on waiting.
    fn __init__(&self) {
        self.event().clear();
    }

    /// Return True if the event is set at this moment. Deprecated: use is_set().
    #[pyo3(name = "isSet")]
    fn is_set_of_old(&self, py: Python<'_>) -> PyResult<bool> {
        let category = py.get_type::<PyDeprecationWarning>();
        PyErr::warn(py, &category, c"isSet() is deprecated, use is_set() instead", 1)?;
        Ok(self.event().is_set())
    }

    /// Raise the flag and release everyone who waits: threads, and tasks of any loop.
    ///
    /// Setting a set event changes nothing.
    fn set(&self, py: Python<'_>) {
        task::delivering(py, || self.event().set());
    }

    /// Lower the flag. Clearing an unset event changes nothing.
    fn clear(&self) {
        self.event().clear();
    }

    /// Wait in asyncio: await event.wait_async().
    ///
    /// Return True if it was released, False if timeout seconds passed first. The wait begins with the call: whoever
    /// sets the event from then on releases it, from any thread, even if it is cleared again. It may be cancelled at
    /// any moment.
    #[pyo3(signature = (timeout = None))]
    fn wait_async<'py>(slf: &Bound<'py, Self>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let held = [Held::Event(slf.clone().unbind())];
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

    /// What CPython's threading calls in the child of a fork. There is nothing to do: every event begins anew there.
    fn _at_fork_reinit(&self) {}
}
