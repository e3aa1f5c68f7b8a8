//! `Event`: what `threading.Event` is.

use pyo3::exceptions::{PyDeprecationWarning, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::forked::Own;
use crate::held::Held;
use crate::seconds;
use crate::sleep::without_interpreter;
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

/// What a class of Python's refuses that has no `__init__`: arguments.
pub(crate) fn refuse_arguments(
    class: &Bound<'_, PyType>,
    arguments: &Bound<'_, PyTuple>,
    keywords: Option<&Bound<'_, PyDict>>,
) -> PyResult<()> {
    if arguments.is_empty() && keywords.is_none_or(PyDictMethods::is_empty) {
        return Ok(());
    }
    let py = class.py();
    let init = pyo3::intern!(py, "__init__");
    // A subclass that has one takes what it likes.
    if class.getattr(init)?.is(&py.get_type::<PyAny>().getattr(init)?) {
        return Err(PyTypeError::new_err(format!("{}() takes no arguments", class.name()?)));
    }
    Ok(())
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
        let (released, raised) = without_interpreter(py, || self.event().wait_timeout(limit));
        raised.map(|()| released)
    }
}

/// And `is_set` and `wait`, which are in [`quick`](crate::quick).
#[pymethods]
impl Event {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*arguments, **keywords), text_signature = "()")]
    fn new(
        class: &Bound<'_, PyType>,
        arguments: &Bound<'_, PyTuple>,
        keywords: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Event> {
        refuse_arguments(class, arguments, keywords)?;
        Ok(Event::unset())
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
    fn set(&self) {
        self.event().set();
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
        let held = vec![Held::Event(slf.clone().unbind())];
        task::coroutine(slf.py(), held, Aim::All, timeout)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        form(slf.as_any(), slf.get().event().is_set())
    }

    /// What CPython's threading calls in the child of a fork. There is nothing to do: every event begins anew there.
    fn _at_fork_reinit(&self) {}
}
