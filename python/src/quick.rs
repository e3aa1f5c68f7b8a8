//! `Event.is_set`, `Event.wait` and `Event.wait_async`, the methods that programs call in loops; and
//! what a task calls for each wait.
//!
//! They bypass the frame that PyO3 puts around each method, because it takes longer than the method
//! itself. Measured: `is_set` takes 11 ns instead of 15 to 21, `wait` on a set event 12 ns instead
//! of 30. A Python method that returns an attribute takes 21 to 27 ns.

use std::ffi::{CStr, c_int, c_void};
use std::slice;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::AcqRel;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::impl_::trampoline::get_trampoline_function;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString, PyTuple, PyType};

use crate::coroutine::{Wait, coroutine, run};
use crate::event::Event;
use crate::released::{released, released_again};
use crate::seconds;
use crate::task::Aim;

const IS_SET: &CStr = c"is_set($self, /)
--

Return True if the event is set.";

const WAIT: &CStr = c"wait($self, /, timeout=None)
--

Block until the event is set, for at most timeout seconds.

Return True if the wait was released, False if the timeout expired. Without a timeout, wait for ever; with 0 or
less, return at once. Other threads run meanwhile, and so do signal handlers: Ctrl-C interrupts the wait.";

const WAIT_ASYNC: &CStr = c"wait_async($self, /, timeout=None)
--

wait() for async code: await event.wait_async().

The wait begins with the call, not with the await: every later set(), from any thread, releases it, even if clear()
follows. It may be cancelled at any time.";

const ADD_DONE_CALLBACK: &CStr = c"add_done_callback($self, callback, /, *, context=None)
--

Call a function with this wait once it is over.";

const RUN: &CStr = c"run(waits, /)
--

Resume the tasks of one wait that is over, or of a list of them. Internal to tantara.";

/// A calling convention that CPython has had since 3.7, and that is part of the stable ABI since
/// 3.10. PyO3 does not offer it in builds for 3.9.
const METH_FASTCALL: c_int = 0x80;
type FastWithKeywords = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// Adds the methods to the class, once in a process. All interpreters of the process share the
/// class. If another interpreter replaced the methods, it would free objects that the garbage
/// collector of the first one tracks.
pub(crate) fn install(module: &Bound<'_, PyModule>) -> PyResult<()> {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    let py = module.py();
    add_run(module)?;
    if INSTALLED.swap(true, AcqRel) {
        return Ok(());
    }
    let is_set = ffi::PyMethodDefPointer { PyCFunction: is_set };
    let (event, fast) = (py.get_type::<Event>(), METH_FASTCALL | ffi::METH_KEYWORDS);
    add(&event, c"is_set", is_set, ffi::METH_NOARGS, IS_SET)?;
    add(&event, c"wait", with_keywords(wait), fast, WAIT)?;
    add(&event, c"wait_async", with_keywords(wait_async), fast, WAIT_ASYNC)?;
    let (wait, add_done_callback) = (py.get_type::<Wait>(), with_keywords(add_done_callback));
    add(&wait, c"add_done_callback", add_done_callback, fast, ADD_DONE_CALLBACK)?;
    add_property(&wait, c"_asyncio_future_blocking", is_blocking, Some(set_blocking))?;
    add_property(&wait, c"_loop", event_loop, None)
}

/// Adds `run` to the module.
fn add_run(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let ml_meth = ffi::PyMethodDefPointer { PyCFunction: get_trampoline_function!(binaryfunc, run_with) };
    let (ml_name, ml_doc) = (c"run".as_ptr(), RUN.as_ptr());
    // Leaked, because Python keeps the pointer as long as the function.
    let function = Box::leak(Box::new(ffi::PyMethodDef { ml_name, ml_meth, ml_flags: ffi::METH_O, ml_doc }));
    // SAFETY: the definition is complete, lives for ever, and its flags match the type of its
    // function. The function belongs to no object.
    let function = unsafe { ffi::PyCFunction_NewEx(function, std::ptr::null_mut(), std::ptr::null_mut()) };
    // SAFETY: the result is a new reference, or null with an exception set.
    module.add("run", unsafe { Bound::from_owned_ptr_or_err(module.py(), function) }?)
}

/// `run(waits)`
///
/// # Safety
///
/// The caller holds a reference to `waits` during the call.
unsafe fn run_with(py: Python<'_>, _: *mut ffi::PyObject, waits: *mut ffi::PyObject) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: the caller's contract.
    run(&unsafe { Bound::from_borrowed_ptr(py, waits) })?;
    Ok(py.None().into_ptr())
}

fn with_keywords(method: FastWithKeywords) -> ffi::PyMethodDefPointer {
    // SAFETY: Python casts the pointer back to the type that the flags name before it calls the
    // function.
    let method = unsafe { std::mem::transmute::<FastWithKeywords, ffi::PyCFunctionWithKeywords>(method) };
    ffi::PyMethodDefPointer { PyCFunctionWithKeywords: method }
}

fn add(
    class: &Bound<'_, PyType>,
    name: &'static CStr,
    method: ffi::PyMethodDefPointer,
    flags: c_int,
    documentation: &'static CStr,
) -> PyResult<()> {
    let (ml_name, ml_doc) = (name.as_ptr(), documentation.as_ptr());
    // Leaked, because Python keeps the pointer as long as the class, which is never freed.
    let method = Box::leak(Box::new(ffi::PyMethodDef { ml_name, ml_meth: method, ml_flags: flags, ml_doc }));
    // SAFETY: the first argument is a class. The definition is complete, lives for ever, and its
    // flags match the type of its function.
    let descriptor = unsafe { ffi::PyDescr_NewMethod(class.as_type_ptr(), method) };
    // SAFETY: the result is a new reference, or null with an exception set.
    let descriptor = unsafe { Bound::from_owned_ptr_or_err(class.py(), descriptor) }?;
    class.setattr(PyString::from_bytes(class.py(), name.to_bytes())?, descriptor)
}

fn add_property(
    class: &Bound<'_, PyType>,
    name: &'static CStr,
    get: ffi::getter,
    set: Option<ffi::setter>,
) -> PyResult<()> {
    let (doc, closure) = (std::ptr::null(), std::ptr::null_mut());
    // Leaked, as the method.
    let property = Box::leak(Box::new(ffi::PyGetSetDef { name: name.as_ptr(), get: Some(get), set, doc, closure }));
    // SAFETY: the first argument is a class. The definition is complete and lives for ever.
    let descriptor = unsafe { ffi::PyDescr_NewGetSet(class.as_type_ptr(), property) };
    // SAFETY: the result is a new reference, or null with an exception set.
    let descriptor = unsafe { Bound::from_owned_ptr_or_err(class.py(), descriptor) }?;
    class.setattr(PyString::from_bytes(class.py(), name.to_bytes())?, descriptor)
}

/// The wait whose property is used.
///
/// # Safety
///
/// The caller is a descriptor of the class, which has checked that `this` is a `Wait` and holds a
/// reference while the result is used.
unsafe fn wait_of<'a, 'py>(py: Python<'py>, this: *mut ffi::PyObject) -> Borrowed<'a, 'py, Wait> {
    // SAFETY: by the caller's contract `this` is a valid object, and stays valid.
    let this = unsafe { Borrowed::from_ptr(py, this) };
    // SAFETY: by the caller's contract the object is a `Wait`.
    unsafe { this.cast_unchecked::<Wait>() }
}

/// `self._asyncio_future_blocking`
unsafe extern "C" fn is_blocking(this: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: a thread that reads a property is attached to the interpreter.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: only the descriptor calls this function.
    let wait = unsafe { wait_of(py, this) };
    wait.get().is_blocking().map_or_else(|| py.None().into_ptr(), |is_blocking| bool(py, is_blocking))
}

/// `self._asyncio_future_blocking = value`
unsafe extern "C" fn set_blocking(this: *mut ffi::PyObject, value: *mut ffi::PyObject, _: *mut c_void) -> c_int {
    // SAFETY: a thread that sets a property is attached to the interpreter.
    let py = unsafe { Python::assume_attached() };
    let [no, yes] = [false, true].map(|value| PyBool::new(py, value).as_ptr());
    if value != no && value != yes {
        PyTypeError::new_err("_asyncio_future_blocking is a bool").restore(py);
        return -1;
    }
    // SAFETY: only the descriptor calls this function.
    let wait = unsafe { wait_of(py, this) };
    wait.get().set_blocking(value == yes);
    0
}

/// `self._loop`
unsafe extern "C" fn event_loop(this: *mut ffi::PyObject, _: *mut c_void) -> *mut ffi::PyObject {
    // SAFETY: a thread that reads a property is attached to the interpreter.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: only the descriptor calls this function.
    let wait = unsafe { wait_of(py, this) };
    wait.get().event_loop(py).unwrap_or_else(|| py.None()).into_ptr()
}

/// The event on which a method was called.
///
/// # Safety
///
/// The caller is a method descriptor of the class, which has checked that `this` is an `Event` and
/// holds a reference while the result is used.
unsafe fn event<'a, 'py>(py: Python<'py>, this: *mut ffi::PyObject) -> Borrowed<'a, 'py, Event> {
    // SAFETY: by the caller's contract `this` is a valid object, and stays valid.
    let this = unsafe { Borrowed::from_ptr(py, this) };
    // SAFETY: by the caller's contract the object is an `Event`.
    unsafe { this.cast_unchecked::<Event>() }
}

fn bool(py: Python<'_>, value: bool) -> *mut ffi::PyObject {
    PyBool::new(py, value).to_owned().into_ptr()
}

/// `self.is_set()`.
unsafe extern "C" fn is_set(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: a thread that calls a method is attached to the interpreter.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: only the method descriptor calls this function. Nothing in this statement can panic.
    bool(py, unsafe { event(py, this) }.get().event().is_set())
}

/// `self.wait(timeout=None)`: `count` positional arguments, followed by those that `names` names.
unsafe extern "C" fn wait(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a thread that calls a method is attached to the interpreter.
    let py = unsafe { Python::assume_attached() };
    if count == 0 && names.is_null() {
        // SAFETY: only the method descriptor calls this function. Nothing in this statement can
        // panic.
        let event = unsafe { event(py, this) };
        if event.get().event().is_set() {
            return bool(py, true);
        }
    }
    // PyO3's own frame. It catches panics, and without it PyO3 would defer the release of
    // references.
    let framed = get_trampoline_function!(fastcall_cfunction_with_keywords, wait_with);
    // SAFETY: the arguments are those that Python passed to this function, and the thread is
    // attached.
    unsafe { framed(this, arguments, count, names) }
}

/// `self.wait_async(timeout=None)`, called as [`wait`].
unsafe extern "C" fn wait_async(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: a thread that calls a method is attached to the interpreter.
    let py = unsafe { Python::assume_attached() };
    if count == 0 && names.is_null() {
        // SAFETY: only the method descriptor calls this function. Nothing in this block can panic.
        let event = unsafe { event(py, this) };
        if event.get().event().is_set()
            && let Some(released) = released(py)
        {
            return released.into_ptr();
        }
    }
    let framed = get_trampoline_function!(fastcall_cfunction_with_keywords, wait_async_with);
    // SAFETY: the arguments are those that Python passed to this function, and the thread is
    // attached.
    unsafe { framed(this, arguments, count, names) }
}

/// `self.add_done_callback(callback, *, context=None)`, called as [`wait`].
unsafe extern "C" fn add_done_callback(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    let framed = get_trampoline_function!(fastcall_cfunction_with_keywords, add_done_callback_with);
    // SAFETY: the arguments are those that Python passed to this function, and the thread is
    // attached.
    unsafe { framed(this, arguments, count, names) }
}

/// # Safety
///
/// The caller is a method descriptor of `Wait`, which has checked that `this` is one, and the
/// arguments are as [`wait`] describes and stay valid during the call.
unsafe fn add_done_callback_with(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: `this` is a valid object for the call.
    let this = unsafe { Bound::from_borrowed_ptr(py, this) };
    // SAFETY: `names` is null or a tuple to which the caller holds a reference.
    let names = unsafe { Bound::from_borrowed_ptr_or_opt(py, names) };
    let names = names.map(|names| names.cast_into::<PyTuple>()).transpose()?;
    let named = names.as_ref().map_or(0, PyTupleMethods::len);
    // The names of a call are interned as a rule.
    let context = pyo3::intern!(py, "context");
    let are_known = match &names {
        Some(names) if named == 1 => {
            names.get_borrowed_item(0).is_ok_and(|name| name.is(context)) || names.get_item(0)?.eq(context)?
        }
        _ => named == 0,
    };
    if count != 1 || !are_known {
        return Err(PyTypeError::new_err("add_done_callback() takes a callback, and context by name"));
    }
    // SAFETY: the caller passes a positional argument, and the named ones behind it.
    let arguments = unsafe { slice::from_raw_parts(arguments, 1 + named) };
    // SAFETY: the caller holds a reference to each argument.
    let argument = |index: usize| unsafe { Bound::from_borrowed_ptr(py, arguments[index]) };
    let context = (named == 1).then(|| argument(1)).filter(|context| !context.is_none());
    Wait::add_callback(this.cast::<Wait>()?, argument(0).unbind(), context.map(Bound::unbind))?;
    Ok(py.None().into_ptr())
}

/// # Safety
///
/// As for [`event`], and the arguments are as [`wait`] describes and stay valid during the call.
unsafe fn wait_with(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: the caller's contract is the same.
    let timeout = unsafe { timeout(py, "wait", arguments, count, names) }?;
    // SAFETY: the caller's contract is the same.
    let event = unsafe { event(py, this) };
    event.get().wait(py, timeout.as_ref()).map(|released| bool(py, released))
}

/// # Safety
///
/// As for [`wait_with`].
unsafe fn wait_async_with(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: the caller's contract is the same.
    let event = unsafe { event(py, this) };
    // SAFETY: the caller's contract is the same.
    let timeout = unsafe { timeout(py, "wait_async", arguments, count, names) }?;
    if event.get().event().is_set() {
        seconds::limit(timeout.as_ref())?;
        if let Some(released) = released_again(py)? {
            return Ok(released.into_ptr());
        }
    }
    coroutine(py, || Ok(event.to_owned().unbind()), Aim::All, timeout.as_ref()).map(Bound::into_ptr)
}

/// The optional argument `timeout`, by position or by name.
///
/// # Safety
///
/// As for [`wait_with`].
unsafe fn timeout<'py>(
    py: Python<'py>,
    method: &str,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    // SAFETY: `names` is null or a tuple to which the caller holds a reference.
    let names = unsafe { Bound::from_borrowed_ptr_or_opt(py, names) };
    let names = names.map(|names| names.cast_into::<PyTuple>()).transpose()?;
    let total = count as usize + names.as_ref().map_or(0, PyTupleMethods::len);
    // SAFETY: the caller passes `total` arguments. Without arguments the pointer, which may be
    // null, is not used.
    let arguments = if total == 0 { &[] } else { unsafe { slice::from_raw_parts(arguments, total) } };
    let [argument] = *arguments else {
        return match arguments.len() {
            0 => Ok(None),
            count => {
                Err(PyTypeError::new_err(format!("{method}() takes one argument, timeout, but {count} were given")))
            }
        };
    };
    if let Some(name) = names.and_then(|names| names.get_item(0).ok())
        && let name = name.cast::<PyString>()?.to_string_lossy()
        && name != "timeout"
    {
        return Err(PyTypeError::new_err(format!("{method}() got an unexpected keyword argument '{name}'")));
    }
    // SAFETY: the caller holds a reference to each argument.
    let argument = unsafe { Bound::from_borrowed_ptr(py, argument) };
    Ok((!argument.is_none()).then_some(argument))
}
