//! The coroutine of a wait for an event that is set: one object, whose `await` ends at once.

use std::ffi::{CStr, c_void};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use pyo3::exceptions::PyStopIteration;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyTraceback, PyTuple, PyType};

use crate::call::{call, import, is_imported, is_main_interpreter, kept, modules};

/// Whether trio may run tasks of this process.
#[inline]
pub(crate) fn has_trio(py: Python<'_>) -> PyResult<bool> {
    // Other interpreters have modules of their own.
    if is_main_interpreter(py) { has_trio_in_main(py) } else { is_imported(py, pyo3::intern!(py, "trio")) }
}

#[inline]
fn has_trio_in_main(py: Python<'_>) -> PyResult<bool> {
    /// The number of modules when trio was last looked for in vain. The import of trio adds more
    /// than a hundred, and to count takes a third of the time of a look.
    static MODULES: AtomicUsize = AtomicUsize::new(0);

    let modules = modules(py)?;
    let count = modules.len();
    if count == MODULES.load(Relaxed) {
        return Ok(false);
    }
    let has_trio = modules.contains(pyo3::intern!(py, "trio"))?;
    if !has_trio {
        MODULES.store(count, Relaxed);
    }
    Ok(has_trio)
}

/// The coroutine of a wait for an event that is set. `None` if trio may run it, because trio expects
/// each `await` to be a checkpoint; while somebody has it; and in other interpreters than the main
/// one. Runs no Python code.
#[inline]
pub(crate) fn released(py: Python<'_>) -> Option<Py<PyAny>> {
    if !is_main_interpreter(py) || has_trio_in_main(py).unwrap_or(true) {
        return None;
    }
    let released = RELEASED.get(py)?;
    // Each wait is an object of its own: a program may keep several in a set.
    // SAFETY: the static holds a reference to the object.
    let is_free = unsafe { ffi::Py_REFCNT(released.as_ptr()) } == 1;
    is_free.then(|| released.clone_ref(py))
}

/// A coroutine like that of [`released`] in all other cases but one: if a task of trio may await it.
pub(crate) fn released_again(py: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let Some(released) = RELEASED.get(py).filter(|_| is_main_interpreter(py)) else { return Ok(None) };
    if has_trio(py)? && !call(&kept(py, &OF_MAIN, c"tantara._tasks", "is_in_asyncio")?, ())?.is_truthy()? {
        return Ok(None);
    }
    call(released.bind(py).get_type().as_any(), ()).map(Some)
}

static RELEASED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Makes what [`released`] returns, at the first import.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    if is_main_interpreter(py) && RELEASED.get(py).is_none() {
        let class = released_class(py)?;
        let _ = RELEASED.set(py, call(&class, ())?.unbind());
        let class = awaited_class(py)?;
        let _ = AWAITED.set(py, call(&class, ())?.unbind());
        // Threads that run beside each other would not see who else uses it.
        if py.version_info() >= (3, 12) && has_lock(py) {
            let stop = call(&py.get_type::<PyStopIteration>(), (true,))?;
            if let Some(offset) = offset_of_value(&stop)? {
                let _ = STOP.set(py, (stop.unbind(), offset));
            }
        }
    }
    Ok(())
}

/// A subclass of [`Released`] for which the interpreter's `await` takes [`AWAITED`]. A program that
/// calls `__await__` itself gets the coroutine.
fn released_class(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    unsafe extern "C" fn awaited(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
        // SAFETY: a thread that awaits is attached to the interpreter.
        let py = unsafe { Python::assume_attached() };
        let awaited = AWAITED.get(py).map_or(this, |awaited| awaited.as_ptr());
        // SAFETY: the caller holds a reference to `this`, and the static to the other one.
        unsafe { ffi::Py_IncRef(awaited) };
        awaited
    }

    unsafe extern "C" fn itself(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
        // SAFETY: the caller holds a reference to the object, which is its own iterator.
        unsafe { ffi::Py_IncRef(this) };
        this
    }

    let method = ffi::PyMethodDef {
        ml_name: c"__await__".as_ptr(),
        ml_meth: ffi::PyMethodDefPointer { PyCFunction: itself },
        // Beside the slot of that name.
        ml_flags: ffi::METH_NOARGS | ffi::METH_COEXIST,
        ml_doc: std::ptr::null(),
    };
    // CPython keeps a pointer to them. It is called once in a process.
    let methods = Box::leak(Box::new([method, ffi::PyMethodDef::zeroed()]));
    let await_slot = ffi::PyType_Slot { slot: ffi::Py_am_await, pfunc: awaited as *mut c_void };
    let methods = ffi::PyType_Slot { slot: ffi::Py_tp_methods, pfunc: methods.as_mut_ptr().cast() };
    subclass(py, c"tantara._tantara.Released", &py.get_type::<Released>(), [await_slot, methods])
}

/// A class whose `await` does without PyO3's frames around each method.
fn awaited_class(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    unsafe extern "C" fn next(_: *mut ffi::PyObject) -> *mut ffi::PyObject {
        // SAFETY: a thread that calls a method is attached to the interpreter.
        let py = unsafe { Python::assume_attached() };
        stop::<()>(kept_stop(py).unwrap_or_else(|| truth(py, true)));
        std::ptr::null_mut()
    }

    unsafe extern "C" fn itself(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
        // SAFETY: the caller holds a reference to the object, which is its own iterator.
        unsafe { ffi::Py_IncRef(this) };
        this
    }

    let iter_slot = ffi::PyType_Slot { slot: ffi::Py_tp_iter, pfunc: itself as *mut c_void };
    let next_slot = ffi::PyType_Slot { slot: ffi::Py_tp_iternext, pfunc: next as *mut c_void };
    subclass(py, c"tantara._tantara.Awaited", &py.get_type::<PyAny>(), [iter_slot, next_slot])
}

fn subclass<'py>(
    py: Python<'py>,
    name: &'static CStr,
    base: &Bound<'py, PyType>,
    [first, second]: [ffi::PyType_Slot; 2],
) -> PyResult<Bound<'py, PyAny>> {
    let mut slots = [first, second, ffi::PyType_Slot { slot: 0, pfunc: std::ptr::null_mut() }];
    let mut spec = ffi::PyType_Spec {
        name: name.as_ptr(),
        basicsize: 0,
        itemsize: 0,
        flags: ffi::Py_TPFLAGS_DEFAULT as std::ffi::c_uint,
        slots: slots.as_mut_ptr(),
    };
    let base = PyTuple::new(py, [base])?;
    // SAFETY: the slots have the types that their numbers stand for, and a null slot ends them. Zero
    // as the size means that of the base class, which allows subclasses. CPython copies the
    // specification, and the name lives for ever.
    let class = unsafe { ffi::PyType_FromSpecWithBases(&mut spec, base.as_ptr()) };
    // SAFETY: the result is a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, class) }
}

/// What the interpreter's `await` of a released wait iterates over. No program gets hold of it.
static AWAITED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// The coroutine of any wait that was over when it began, and that has nothing to pass on. It
/// always returns True.
#[pyclass(module = "tantara._tantara", frozen, subclass)]
pub(crate) struct Released;

#[pymethods]
impl Released {
    #[new]
    fn new() -> Released {
        Released
    }

    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        stop(truth(py, true))
    }

    #[pyo3(signature = (value, /))]
    fn send(&self, py: Python<'_>, value: &Bound<'_, PyAny>) -> PyResult<Py<PyAny>> {
        let _ = value;
        Err(PyStopIteration::new_err((truth(py, true).unbind(),)))
    }

    #[pyo3(signature = (kind, value = None, traceback = None))]
    fn throw(
        &self,
        kind: &Bound<'_, PyAny>,
        value: Option<Bound<'_, PyAny>>,
        traceback: Option<Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        Err(thrown(kind, value, traceback))
    }

    fn close(&self) {}

    /// What the `repr` of its task shows.
    #[getter]
    fn __name__(&self) -> &'static str {
        "wait_async"
    }
}

fn truth(py: Python<'_>, value: bool) -> Bound<'_, PyAny> {
    PyBool::new(py, value).to_owned().into_any()
}

/// The exception for the arguments of `throw`.
pub(crate) fn thrown(
    kind: &Bound<'_, PyAny>,
    value: Option<Bound<'_, PyAny>>,
    traceback: Option<Bound<'_, PyAny>>,
) -> PyErr {
    let made = || -> PyResult<PyErr> {
        let value = value.filter(|value| !value.is_none());
        let error = match (kind.cast::<PyType>(), value) {
            (Err(_), _) => kind.clone(),
            (Ok(class), Some(value)) if value.is_instance(class)? => value,
            (Ok(class), Some(value)) => call(class, (value,))?,
            (Ok(class), None) => call(class, ())?,
        };
        let error = PyErr::from_value(error);
        if let Some(traceback) = traceback.filter(|traceback| !traceback.is_none()) {
            error.set_traceback(kind.py(), Some(traceback.cast_into::<PyTraceback>()?));
        }
        Ok(error)
    };
    made().unwrap_or_else(|error| error)
}

/// Leaves `StopIteration` with a value, which is no tuple and no exception, in the thread's error
/// indicator; or that exception itself. The caller returns what PyO3 turns into a null pointer.
#[inline]
pub(crate) fn stop<T>(value: Bound<'_, PyAny>) -> Option<T> {
    let class = value.py().get_type::<PyStopIteration>();
    // SAFETY: the thread is attached, and the function takes over the references.
    unsafe { ffi::PyErr_Restore(class.into_ptr(), value.into_ptr(), std::ptr::null_mut()) };
    None
}

/// From 3.12 on CPython makes an exception for each `StopIteration`, which takes longer than all
/// else that an `await` of a set event does. `await` drops it at once. So the one with the value
/// True is made once, and used while nobody else has a reference to it and nobody has changed it.
static STOP: PyOnceLock<(Py<PyAny>, usize)> = PyOnceLock::new();

#[inline]
fn kept_stop(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    let (kept, offset) = STOP.get(py)?;
    // SAFETY: the static holds a reference to the object.
    let is_free = unsafe { ffi::Py_REFCNT(kept.as_ptr()) } == 1;
    // A debugger sees it, and may change it.
    // SAFETY: `offset_of_value` has found a pointer there, within the object.
    let value = unsafe { kept.as_ptr().byte_add(*offset).cast::<*mut ffi::PyObject>().read() };
    (is_free && value == PyBool::new(py, true).as_ptr()).then(|| kept.bind(py).clone())
}

/// Where an exception with the value True keeps it. To read the attribute would take half as long as
/// the rest of the `await`.
fn offset_of_value(stop: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    let size: usize = stop.get_type().getattr("__basicsize__")?.extract()?;
    let truth = PyBool::new(stop.py(), true).as_ptr();
    let mut found = (0..size).step_by(size_of::<*mut ffi::PyObject>()).filter(|offset| {
        // SAFETY: the object has that size, and consists of whole words that are initialised.
        let word = unsafe { stop.as_ptr().byte_add(*offset).cast::<*mut ffi::PyObject>().read() };
        word == truth
    });
    let offset = found.next();
    // Only if it is the one such word.
    Ok(offset.filter(|_| found.next().is_none()))
}

/// Whether only one thread at a time runs Python code.
fn has_lock(py: Python<'_>) -> bool {
    let flags = || import(py, c"sys")?.getattr("abiflags")?.extract::<String>();
    flags().is_ok_and(|flags| !flags.contains('t'))
}
