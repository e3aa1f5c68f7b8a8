//! Calls of Python code that may never return.
//!
//! When the interpreter ends, CPython before 3.14 ends each daemon thread at the moment at which it
//! asks for the interpreter's lock: it unwinds the thread's stack. The destructors of Rust values
//! on that stack would then run without the lock, beside the thread that ends the interpreter. PyO3
//! protects its own requests for the lock in this way; the calls here do the same for Python code,
//! which may give the lock away and ask for it again.

use std::ffi::{CStr, c_char, c_int};
use std::hint::black_box;
use std::ptr::null_mut;

use pyo3::ffi::{self, PyObject};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple};

// As in `pyo3::ffi`, but these may unwind. They are called through pointers that the optimiser
// cannot see through: where it links the modules of all crates, it may merge a declaration with
// that of `pyo3::ffi`, which says that the function never unwinds, and leave the guards out.
unsafe extern "C-unwind" {
    fn PyImport_ImportModule(name: *const c_char) -> *mut PyObject;
    fn PyObject_Call(callable: *mut PyObject, args: *mut PyObject, kwargs: *mut PyObject) -> *mut PyObject;
    fn PyObject_CallFunctionObjArgs(callable: *mut PyObject, ...) -> *mut PyObject;
    fn PyObject_CallMethodObjArgs(object: *mut PyObject, name: *mut PyObject, ...) -> *mut PyObject;
    fn PyDict_Contains(dict: *mut PyObject, key: *mut PyObject) -> c_int;
}

/// Blocks the thread for ever when it is dropped, which only unwinding does.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        loop {
            std::thread::park();
        }
    }
}

/// Imports a module.
pub(crate) fn import<'py>(py: Python<'py>, name: &CStr) -> PyResult<Bound<'py, PyAny>> {
    let import: unsafe extern "C-unwind" fn(_) -> _ = black_box(PyImport_ImportModule);
    let guard = Guard;
    // SAFETY: `py` shows that the thread is attached, and `name` is a string that ends with a null
    // byte.
    let module = unsafe { import(name.as_ptr()) };
    std::mem::forget(guard);
    // SAFETY: the result is a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, module) }
}

/// Calls a function or a class.
pub(crate) fn call<'py>(
    function: &Bound<'py, PyAny>,
    arguments: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error: Into<PyErr>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = function.py();
    let arguments = arguments.into_pyobject(py).map_err(Into::into)?;
    let call: unsafe extern "C-unwind" fn(_, _, _) -> _ = black_box(PyObject_Call);
    let guard = Guard;
    // SAFETY: the thread is attached, the references are valid, and null stands for no keyword
    // arguments.
    let result = unsafe { call(function.as_ptr(), arguments.as_ptr(), std::ptr::null_mut()) };
    std::mem::forget(guard);
    // SAFETY: the result is a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, result) }
}

/// Calls a function with at most two arguments, without a tuple of them.
pub(crate) fn call_with<'py, const COUNT: usize>(
    function: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; COUNT],
) -> PyResult<Bound<'py, PyAny>> {
    const { assert!(COUNT <= 2) }
    let call: unsafe extern "C-unwind" fn(_, ...) -> _ = black_box(PyObject_CallFunctionObjArgs);
    let argument = |index: usize| arguments.get(index).map_or(null_mut(), |argument| argument.as_ptr());
    let (first, second, end) = (argument(0), argument(1), null_mut::<PyObject>());
    let guard = Guard;
    // SAFETY: the thread is attached, the references are valid, and a null pointer follows the last
    // argument.
    let result = unsafe { call(function.as_ptr(), first, second, end) };
    std::mem::forget(guard);
    // SAFETY: the result is a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(function.py(), result) }
}

/// Calls a method with at most two arguments, without a tuple of them.
pub(crate) fn call_method<'py, const COUNT: usize>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    arguments: [&Bound<'py, PyAny>; COUNT],
) -> PyResult<Bound<'py, PyAny>> {
    const { assert!(COUNT <= 2) }
    let call: unsafe extern "C-unwind" fn(_, _, ...) -> _ = black_box(PyObject_CallMethodObjArgs);
    let argument = |index: usize| arguments.get(index).map_or(null_mut(), |argument| argument.as_ptr());
    let (first, second, end) = (argument(0), argument(1), null_mut::<PyObject>());
    let guard = Guard;
    // SAFETY: the thread is attached, the references are valid, and a null pointer follows the last
    // argument.
    let result = unsafe { call(object.as_ptr(), name.as_ptr(), first, second, end) };
    std::mem::forget(guard);
    // SAFETY: the result is a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(object.py(), result) }
}

/// Whether a dictionary has a key, whose hash Python code may compute.
pub(crate) fn contains(dictionary: &Bound<'_, PyDict>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
    let contains: unsafe extern "C-unwind" fn(_, _) -> _ = black_box(PyDict_Contains);
    let guard = Guard;
    // SAFETY: the thread is attached, and the references are valid.
    let answer: c_int = unsafe { contains(dictionary.as_ptr(), key.as_ptr()) };
    std::mem::forget(guard);
    if answer < 0 { Err(PyErr::fetch(key.py())) } else { Ok(answer == 1) }
}

/// The innermost frame of Python that this thread runs.
pub(crate) fn frame(py: Python<'_>) -> Option<Bound<'_, PyAny>> {
    // SAFETY: the thread is attached. The result is null, or borrowed from the thread's stack, on
    // which the frame stays while Rust code runs.
    unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyEval_GetFrame().cast()) }
}

/// Whether a module was imported, by its name.
pub(crate) fn is_imported(py: Python<'_>, name: &Bound<'_, PyString>) -> PyResult<bool> {
    modules(py)?.contains(name)
}

/// The modules of the current interpreter.
pub(crate) fn modules(py: Python<'_>) -> PyResult<Borrowed<'_, '_, PyDict>> {
    // SAFETY: the thread is attached, and the result is borrowed from the interpreter, which
    // outlives this call.
    let modules = unsafe { Borrowed::from_ptr(py, ffi::PyImport_GetModuleDict()) };
    Ok(modules.cast::<PyDict>()?)
}

/// Whether the thread is attached to the main interpreter. Only that one's objects may be kept in
/// statics: a subinterpreter may end before the process, and then no reference to its objects may
/// remain.
pub(crate) fn is_main_interpreter(_: Python<'_>) -> bool {
    // SAFETY: the thread is attached to an interpreter.
    unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) == 0 }
}

/// An attribute of a module, of the current interpreter. That of the main interpreter is kept.
pub(crate) fn kept<'py>(
    py: Python<'py>,
    of_main: &'static PyOnceLock<Py<PyAny>>,
    module: &CStr,
    name: &str,
) -> PyResult<Bound<'py, PyAny>> {
    let of_this = || import(py, module)?.getattr(name);
    if !is_main_interpreter(py) {
        return of_this();
    }
    match of_main.get(py) {
        Some(object) => Ok(object.bind(py).clone()),
        // The import may run on several threads; one of them stores the object.
        None => of_this().map(|object| of_main.get_or_init(py, || object.unbind()).bind(py).clone()),
    }
}

/// Converts an object to an integer by its `__index__`.
pub(crate) fn index<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyInt>> {
    let index = import(object.py(), c"operator")?.getattr("index")?;
    Ok(call(&index, (object,))?.cast_into()?)
}
