//! The two methods of `Event` that people call in loops, without the frame that PyO3 puts around each method, which
//! costs more than the look itself. (Measured: `is_set` in 11 ns instead of 15 to 21, `wait` on a set event in 12
//! instead of 30; a method of Python's that returns a field takes 21 to 27.)

use std::ffi::CStr;
use std::slice;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::AcqRel;

use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::impl_::trampoline::get_trampoline_function;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyTuple};

use crate::event::Event;

const IS_SET: &CStr = c"is_set($self, /)
--

Return True if the event is set at this moment.";

const WAIT: &CStr = c"wait($self, /, timeout=None)
--

Block until the event is set, or for at most timeout seconds.

Return True if it was released, False if the time passed first. None waits without a limit; nought or less only
looks. Other threads run meanwhile, and a signal's handler runs at once: Ctrl-C ends the wait.";

/// A calling convention that CPython has had since 3.7, and has promised to keep since 3.10. PyO3 does not offer it to
/// those who build for 3.9 too.
const METH_FASTCALL: std::ffi::c_int = 0x80;
type FastWithKeywords = unsafe extern "C" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    ffi::Py_ssize_t,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// Gives the class its two methods, once in a process. The class is of the process: an interpreter that replaced the
/// methods of another, which has ended, would free objects that the other's collector kept in a list of its own.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    static INSTALLED: AtomicBool = AtomicBool::new(false);
    if INSTALLED.swap(true, AcqRel) {
        return Ok(());
    }
    let is_set = ffi::PyMethodDefPointer { PyCFunction: is_set };
    // SAFETY: Python calls it as the flags say, whatever type it is kept under.
    let wait = unsafe { std::mem::transmute::<FastWithKeywords, ffi::PyCFunctionWithKeywords>(wait) };
    let wait = ffi::PyMethodDefPointer { PyCFunctionWithKeywords: wait };
    add(py, "is_set", c"is_set", is_set, ffi::METH_NOARGS, IS_SET)?;
    add(py, "wait", c"wait", wait, METH_FASTCALL | ffi::METH_KEYWORDS, WAIT)
}

fn add(
    py: Python<'_>,
    name: &str,
    c_name: &'static CStr,
    method: ffi::PyMethodDefPointer,
    flags: std::ffi::c_int,
    documentation: &'static CStr,
) -> PyResult<()> {
    let class = py.get_type::<Event>();
    let (ml_name, ml_doc) = (c_name.as_ptr(), documentation.as_ptr());
    // Python keeps the pointer for as long as the class lives, which is until the end.
    let method = Box::leak(Box::new(ffi::PyMethodDef { ml_name, ml_meth: method, ml_flags: flags, ml_doc }));
    // SAFETY: the class is one; the definition is complete, its flags say how its function is called, and it lives for
    // ever.
    let descriptor = unsafe { ffi::PyDescr_NewMethod(class.as_type_ptr(), method) };
    // SAFETY: it is nobody else's, or null with an error set.
    let descriptor = unsafe { Bound::from_owned_ptr_or_err(py, descriptor) }?;
    class.setattr(name, descriptor)
}

/// The event that a descriptor was called for.
///
/// # Safety
///
/// A descriptor of the class has called: it has checked that `this` is an `Event`, and holds it for as long as the
/// answer is used.
unsafe fn event<'a, 'py>(py: Python<'py>, this: *mut ffi::PyObject) -> Borrowed<'a, 'py, Event> {
    // SAFETY: the caller's: it holds a reference.
    let this = unsafe { Borrowed::from_ptr(py, this) };
    // SAFETY: the caller's: it is an `Event`.
    unsafe { this.cast_unchecked::<Event>() }
}

fn bool(py: Python<'_>, value: bool) -> *mut ffi::PyObject {
    PyBool::new(py, value).to_owned().into_ptr()
}

/// `self.is_set()`.
unsafe extern "C" fn is_set(this: *mut ffi::PyObject, _: *mut ffi::PyObject) -> *mut ffi::PyObject {
    // SAFETY: the thread that calls a method is attached.
    let py = unsafe { Python::assume_attached() };
    // SAFETY: called by the descriptor alone. Nothing in here can panic.
    bool(py, unsafe { event(py, this) }.get().event().is_set())
}

/// `self.wait(timeout=None)`: `count` arguments by position, and after them those that `names` names.
unsafe extern "C" fn wait(
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> *mut ffi::PyObject {
    // SAFETY: the thread that calls a method is attached.
    let py = unsafe { Python::assume_attached() };
    if count == 0 && names.is_null() {
        // SAFETY: called by the descriptor alone. Nothing in here can panic.
        let event = unsafe { event(py, this) };
        if event.get().event().is_set() {
            return bool(py, true);
        }
    }
    // PyO3's own frame, which catches panics, and without which PyO3 puts off freeing what it lets go of.
    let framed = get_trampoline_function!(fastcall_cfunction_with_keywords, wait_with);
    // SAFETY: with what this was called with, by an attached thread.
    unsafe { framed(this, arguments, count, names) }
}

/// # Safety
///
/// The descriptor has called, and the arguments are there, as [`wait`] says, and stay there.
unsafe fn wait_with(
    py: Python<'_>,
    this: *mut ffi::PyObject,
    arguments: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: null, or a tuple of strings that the caller holds.
    let names = unsafe { Bound::from_borrowed_ptr_or_opt(py, names) };
    let names = names.map(|names| names.cast_into::<PyTuple>()).transpose()?;
    let total = count as usize + names.as_ref().map_or(0, PyTupleMethods::len);
    // SAFETY: the caller has that many there, and nothing is read where there are none.
    let arguments = if total == 0 { &[] } else { unsafe { slice::from_raw_parts(arguments, total) } };
    let timeout = timeout(py, arguments, names)?;
    // SAFETY: the descriptor has called.
    let event = unsafe { event(py, this) };
    event.get().wait(py, timeout.as_ref()).map(|released| bool(py, released))
}

/// The one argument that there may be, by position or by name.
fn timeout<'py>(
    py: Python<'py>,
    arguments: &[*mut ffi::PyObject],
    names: Option<Bound<'py, PyTuple>>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let [argument] = *arguments else {
        return match arguments.len() {
            0 => Ok(None),
            count => Err(PyTypeError::new_err(format!("wait() takes one argument, timeout, but {count} were given"))),
        };
    };
    if let Some(name) = names.and_then(|names| names.get_item(0).ok())
        && !name.eq("timeout")?
    {
        return Err(PyTypeError::new_err(format!("wait() got an unexpected keyword argument {}", name.repr()?)));
    }
    // SAFETY: an argument that the caller holds.
    let argument = unsafe { Bound::from_borrowed_ptr(py, argument) };
    Ok((!argument.is_none()).then_some(argument))
}
