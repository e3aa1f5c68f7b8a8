//! What `wait_async` returns: a coroutine of its own kind, which is also the future that the loop
//! waits for.
//!
//! asyncio accepts any object with the methods of a coroutine as one, and any object that a
//! coroutine yields with `_asyncio_future_blocking` set as a future (`asyncio.isfuture`). So one
//! [`Wait`] stands for the coroutine, its frame and its future. asyncio's own future makes the loop
//! schedule each task by itself. The tasks of waits that are released together are scheduled
//! together: [`run`] resumes them one after another, each in its context. It also means that nothing
//! is made for a wait that is over when it begins ([`Released`]).
//!
//! Under trio, and without a running loop, a wait runs the Python coroutine of `_tasks.py`.

use std::ffi::c_void;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning, PyStopIteration};
use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyList, PyTraceback, PyTuple, PyType};

use crate::call::{call, call_method, import, is_imported, is_main_interpreter, kept};
use crate::member::Members;
use crate::seconds;
use crate::task::{self, Aim, Pending};

/// Begins a wait and returns its coroutine. Waits for a cluster begin in `events`.
pub(crate) fn coroutine<'py, E: Members>(
    py: Python<'py>,
    events: impl FnOnce() -> PyResult<E>,
    aim: Aim,
    timeout: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    // First, because the timeout may be invalid, and its conversion may run Python code.
    let limit = timeout.map(|_| seconds::limit(timeout)).transpose()?.map(|limit| limit.as_secs_f64());
    let pending = Pending::for_events(events()?, aim);
    if limit.is_some() {
        return task::begin(py, pending, limit);
    }
    let step =
        Step { phase: Phase::Created, event_loop: None, is_blocking: false, cancelled: None, callbacks: Vec::new() };
    Ok(Bound::new(py, Wait { pending, step: Mutex::new(step) })?.into_any())
}

/// Whether trio may run tasks of this process.
fn has_trio(py: Python<'_>) -> PyResult<bool> {
    is_imported(py, pyo3::intern!(py, "trio"))
}

/// Whether trio runs this task.
fn is_in_trio(py: Python<'_>) -> PyResult<bool> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(has_trio(py)? && call(&kept(py, &OF_MAIN, c"tantara._tasks", "is_in_trio")?, ())?.is_truthy()?)
}

/// The coroutine of a wait for an event that is set. `None` if trio may run it, because trio expects
/// each `await` to be a checkpoint; and in other interpreters than the main one.
#[inline]
pub(crate) fn released(py: Python<'_>) -> Option<Py<PyAny>> {
    if has_trio(py).unwrap_or(true) || !is_main_interpreter(py) {
        return None;
    }
    RELEASED.get(py).map(|released| released.clone_ref(py))
}

static RELEASED: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

/// Makes what [`released`] and [`stop`] use, at the first import.
pub(crate) fn install(py: Python<'_>) -> PyResult<()> {
    if is_main_interpreter(py) && RELEASED.get(py).is_none() {
        let class = released_class(py)?;
        let _ = RELEASED.set(py, call(&class, ())?.unbind());
        // Threads that run beside each other would not see who else uses it.
        if py.version_info() >= (3, 12) && has_lock(py) {
            let stop = call(&py.get_type::<PyStopIteration>(), (true,))?;
            let _ = STOP.set(py, stop.unbind());
        }
    }
    Ok(())
}

/// A subclass of [`Released`] whose `await` does without PyO3's frames around each method.
fn released_class(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    unsafe extern "C" fn awaited(this: *mut ffi::PyObject) -> *mut ffi::PyObject {
        // SAFETY: the caller holds a reference to the object, which is its own iterator.
        unsafe { ffi::Py_IncRef(this) };
        this
    }

    unsafe extern "C" fn next(_: *mut ffi::PyObject) -> *mut ffi::PyObject {
        // SAFETY: a thread that calls a method is attached to the interpreter.
        let py = unsafe { Python::assume_attached() };
        stop::<()>(truth(py, true));
        std::ptr::null_mut()
    }

    let await_slot = ffi::PyType_Slot { slot: ffi::Py_am_await, pfunc: awaited as *mut c_void };
    let next_slot = ffi::PyType_Slot { slot: ffi::Py_tp_iternext, pfunc: next as *mut c_void };
    let end = ffi::PyType_Slot { slot: 0, pfunc: std::ptr::null_mut() };
    let mut slots = [await_slot, next_slot, end];
    let mut spec = ffi::PyType_Spec {
        name: c"tantara._tantara.Released".as_ptr(),
        basicsize: 0,
        itemsize: 0,
        flags: ffi::Py_TPFLAGS_DEFAULT as std::ffi::c_uint,
        slots: slots.as_mut_ptr(),
    };
    let base = PyTuple::new(py, [py.get_type::<Released>()])?;
    // SAFETY: the slots have the types that their numbers stand for, and a null slot ends them. Zero
    // as the size means that of the base class, which allows subclasses. CPython copies the
    // specification, and the name lives for ever.
    let class = unsafe { ffi::PyType_FromSpecWithBases(&mut spec, base.as_ptr()) };
    // SAFETY: the result is a new reference, or null with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, class) }
}

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
}

/// A wait without a timeout.
#[pyclass(module = "tantara._tantara", frozen)]
pub(crate) struct Wait {
    pending: Pending,
    step: Mutex<Step>,
}

struct Step {
    phase: Phase,
    /// The loop that waits for it.
    event_loop: Option<Py<PyAny>>,
    /// What asyncio calls `_asyncio_future_blocking`: turned on when the wait yields itself, and off
    /// by the task that has understood it.
    is_blocking: bool,
    /// The message of the cancellation, as the task passes it.
    cancelled: Option<Py<PyAny>>,
    /// What to call when the wait is over, and the context in which to call it.
    callbacks: Vec<(Py<PyAny>, Py<PyAny>)>,
}

enum Phase {
    Created,
    Waiting,
    /// Runs this coroutine instead.
    Inner(Py<PyAny>),
    /// It has returned or raised.
    Over,
}

/// What a step of a coroutine ends with, unless it raises an exception.
enum Stepped<'py> {
    Yielded(Bound<'py, PyAny>),
    Returned(Bound<'py, PyAny>),
}

impl Wait {
    /// Never held while Python code is called.
    fn step(&self) -> MutexGuard<'_, Step> {
        self.step.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step. `value` is for the coroutine that it runs, if it does.
    fn advance<'py>(slf: &Bound<'py, Self>, value: &Bound<'py, PyAny>) -> PyResult<Stepped<'py>> {
        let (py, wait) = (slf.py(), slf.get());
        let mut step = wait.step();
        match &step.phase {
            Phase::Created => {}
            Phase::Waiting => {
                if !wait.pending.is_over() {
                    step.is_blocking = true;
                    return Ok(Stepped::Yielded(slf.clone().into_any()));
                }
                step.phase = Phase::Over;
                drop(step);
                return wait.pending.value(py).map(Stepped::Returned);
            }
            Phase::Inner(inner) => {
                let inner = inner.bind(py).clone();
                drop(step);
                return call_method(&inner, pyo3::intern!(py, "send"), [value]).map(Stepped::Yielded);
            }
            Phase::Over => return Err(PyRuntimeError::new_err("cannot reuse already awaited coroutine")),
        }
        // Python code runs without the lock.
        drop(step);
        let is_in_trio = is_in_trio(py)?;
        if wait.pending.is_over() && !is_in_trio {
            wait.step().phase = Phase::Over;
            return wait.pending.value(py).map(Stepped::Returned);
        }
        let event_loop = running_loop(py)?;
        if event_loop.is_none() || is_in_trio {
            let inner = task::begin(py, wait.pending.again(), None)?;
            wait.step().phase = Phase::Inner(inner.unbind());
            return Self::advance(slf, value);
        }
        wait.pending.listen_in(&event_loop, slf.clone().into_any().unbind())?;
        let mut step = wait.step();
        step.event_loop = Some(event_loop.unbind());
        step.phase = Phase::Waiting;
        drop(step);
        Self::advance(slf, value)
    }

    /// Ends the coroutine. Returns the coroutine that it runs, if it does.
    fn finish(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        let before = mem::replace(&mut self.step().phase, Phase::Over);
        match before {
            Phase::Inner(inner) => return Some(inner),
            Phase::Created | Phase::Waiting => self.pending.abandon(py),
            Phase::Over => {}
        }
        None
    }

    /// Calls `run` for this wait in the loop's next pass.
    fn run_soon(slf: &Bound<'_, Self>) -> PyResult<()> {
        let Some(event_loop) = slf.get().step().event_loop.as_ref().map(|it| it.clone_ref(slf.py())) else {
            return Ok(());
        };
        soon(event_loop.bind(slf.py()), &PyList::new(slf.py(), [slf])?)
    }

    fn is_over(&self) -> bool {
        let is_running = matches!(self.step().phase, Phase::Created | Phase::Waiting);
        !is_running || self.step().cancelled.is_some() || self.pending.is_decided()
    }
}

/// The coroutine.
#[pymethods]
impl Wait {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(slf: &Bound<'py, Self>) -> PyResult<Option<Bound<'py, PyAny>>> {
        match Self::advance(slf, slf.py().None().bind(slf.py()))? {
            Stepped::Yielded(value) => Ok(Some(value)),
            Stepped::Returned(value) => Ok(stop(value)),
        }
    }

    #[pyo3(signature = (value, /))]
    fn send<'py>(slf: &Bound<'py, Self>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match Self::advance(slf, value)? {
            Stepped::Yielded(value) => Ok(value),
            Stepped::Returned(value) => Err(PyStopIteration::new_err((value.unbind(),))),
        }
    }

    #[pyo3(signature = (kind, value = None, traceback = None))]
    fn throw<'py>(
        &self,
        py: Python<'py>,
        kind: &Bound<'py, PyAny>,
        value: Option<Bound<'py, PyAny>>,
        traceback: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let inner = match &self.step().phase {
            Phase::Inner(inner) => Some(inner.bind(py).clone()),
            _ => None,
        };
        if let Some(inner) = inner {
            let error = thrown(kind, value, traceback).into_value(py);
            return call_method(&inner, pyo3::intern!(py, "throw"), [error.bind(py).as_any()]);
        }
        self.finish(py);
        Err(thrown(kind, value, traceback))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(inner) = self.finish(py) {
            call_method(inner.bind(py), pyo3::intern!(py, "close"), [])?;
        }
        Ok(())
    }

    /// For `inspect.getcoroutinestate`, which asks for a frame too.
    #[getter]
    fn cr_running(&self) -> bool {
        false
    }

    #[getter]
    fn cr_suspended(&self) -> bool {
        matches!(self.step().phase, Phase::Waiting | Phase::Inner(_))
    }

    /// None, as for coroutines of Cython: it has no Python frame.
    #[getter]
    fn cr_frame(&self) {}

    #[getter]
    fn cr_await(&self) {}

    #[classattr]
    fn __qualname__() -> &'static str {
        "wait_async"
    }

    /// None before the wait has yielded itself: until then it is a coroutine, and no future.
    #[getter(_asyncio_future_blocking)]
    fn is_blocking(&self) -> Option<bool> {
        let step = self.step();
        step.event_loop.is_some().then_some(step.is_blocking)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, is_blocking: bool) {
        self.step().is_blocking = is_blocking;
    }

    fn get_loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.step().event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py))
    }

    fn done(&self) -> bool {
        self.is_over()
    }

    fn cancelled(&self) -> bool {
        self.step().cancelled.is_some()
    }

    /// None if it has failed: the coroutine raises the exception.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let message = self.step().cancelled.as_ref().map(|message| message.clone_ref(py));
        match message {
            None => self.pending.peek(py),
            Some(message) => {
                let class = import(py, c"asyncio")?.getattr("CancelledError")?;
                let error = if message.is_none(py) { call(&class, ()) } else { call(&class, (message,)) };
                Err(PyErr::from_value(error?))
            }
        }
    }

    #[pyo3(signature = (msg = None))]
    fn cancel(slf: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        let (py, wait) = (slf.py(), slf.get());
        if wait.is_over() {
            return Ok(false);
        }
        wait.step().cancelled = Some(msg.unwrap_or_else(|| py.None()));
        wait.pending.abandon(py);
        Self::run_soon(slf)?;
        Ok(true)
    }

    #[pyo3(signature = (callback, *, context = None))]
    fn add_done_callback(slf: &Bound<'_, Self>, callback: Py<PyAny>, context: Option<Py<PyAny>>) -> PyResult<()> {
        let context = match context {
            Some(context) => context,
            None => call(&import(slf.py(), c"contextvars")?.getattr("copy_context")?, ())?.unbind(),
        };
        let is_over = slf.get().is_over();
        slf.get().step().callbacks.push((callback, context));
        if is_over { Self::run_soon(slf) } else { Ok(()) }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.pending.traverse(&visit)?;
        // The lock is free, as that of `Pending`.
        let step = match self.step.try_lock() {
            Ok(step) => step,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        visit.call(&step.event_loop)?;
        visit.call(&step.cancelled)?;
        if let Phase::Inner(inner) = &step.phase {
            visit.call(inner)?;
        }
        step.callbacks.iter().try_for_each(|(callback, context)| {
            visit.call(callback)?;
            visit.call(context)
        })
    }

    fn __clear__(&self) {
        self.pending.end();
        let mut step = self.step();
        let dropped = (step.event_loop.take(), step.cancelled.take(), mem::take(&mut step.callbacks));
        let inner = match &step.phase {
            Phase::Inner(_) => Some(mem::replace(&mut step.phase, Phase::Over)),
            _ => None,
        };
        drop(step);
        drop((dropped, inner));
    }
}

impl Drop for Wait {
    /// As Python does for its own coroutines.
    fn drop(&mut self) {
        if !matches!(self.step().phase, Phase::Created) {
            return;
        }
        let _ = Python::try_attach(|py| {
            let raised = PyErr::take(py);
            let category = py.get_type::<PyRuntimeWarning>();
            if let Err(error) = PyErr::warn(py, &category, c"coroutine 'wait_async' was never awaited", 1) {
                error.write_unraisable(py, None);
            }
            raised.inspect(|error| error.clone_ref(py).restore(py));
        });
    }
}

/// Schedules [`run`].
fn soon(event_loop: &Bound<'_, PyAny>, waits: &Bound<'_, PyList>) -> PyResult<()> {
    let py = event_loop.py();
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let run = kept(py, &OF_MAIN, c"tantara._tantara", "run")?;
    call_method(event_loop, pyo3::intern!(py, "call_soon"), [&run, waits.as_any()]).map(drop)
}

/// Resumes the tasks of waits that are over. Internal to tantara.
#[pyfunction]
pub(crate) fn run(waits: &Bound<'_, PyList>) -> PyResult<()> {
    let py = waits.py();
    let name = pyo3::intern!(py, "run");
    let mut waits = waits.iter();
    while let Some(object) = waits.next() {
        let wait = object.cast::<Wait>()?;
        let callbacks = mem::take(&mut wait.get().step().callbacks);
        let mut callbacks = callbacks.into_iter();
        while let Some((callback, context)) = callbacks.next() {
            let called = call_method(context.bind(py), name, [callback.bind(py), &object]);
            let Err(error) = called else { continue };
            // Such as KeyboardInterrupt, which ends the loop. It may run again.
            wait.get().step().callbacks.extend(callbacks);
            let rest: Vec<_> = std::iter::once(object.clone()).chain(waits).collect();
            let event_loop = wait.get().step().event_loop.as_ref().map(|it| it.clone_ref(py));
            if let Some(event_loop) = event_loop
                && let Err(error) = soon(event_loop.bind(py), &PyList::new(py, rest)?)
            {
                error.write_unraisable(py, None);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// The running loop of asyncio, or None.
fn running_loop(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    call(&kept(py, &OF_MAIN, c"asyncio.events", "_get_running_loop")?, ())
}

fn truth(py: Python<'_>, value: bool) -> Bound<'_, PyAny> {
    PyBool::new(py, value).to_owned().into_any()
}

/// The exception for the arguments of `throw`.
fn thrown(kind: &Bound<'_, PyAny>, value: Option<Bound<'_, PyAny>>, traceback: Option<Bound<'_, PyAny>>) -> PyErr {
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
/// indicator. The caller returns what PyO3 turns into a null pointer.
#[inline]
fn stop<T>(value: Bound<'_, PyAny>) -> Option<T> {
    let exception = kept_stop(&value);
    let class = value.py().get_type::<PyStopIteration>();
    let exception = exception.unwrap_or(value);
    // SAFETY: the thread is attached, and the function takes over the references.
    unsafe { ffi::PyErr_Restore(class.into_ptr(), exception.into_ptr(), std::ptr::null_mut()) };
    None
}

/// From 3.12 on CPython makes an exception for each `StopIteration`, which takes longer than all
/// else that an `await` of a set event does. `await` drops it at once. So the one with the value
/// True is made once and used while nobody else has a reference to it.
static STOP: PyOnceLock<Py<PyAny>> = PyOnceLock::new();

#[inline]
fn kept_stop<'py>(value: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let py = value.py();
    let kept = STOP.get(py)?;
    // SAFETY: the static holds a reference to the object.
    let is_free = unsafe { ffi::Py_REFCNT(kept.as_ptr()) } == 1;
    (is_free && value.is(PyBool::new(py, true)) && is_main_interpreter(py)).then(|| kept.bind(py).clone())
}

/// Whether only one thread at a time runs Python code.
fn has_lock(py: Python<'_>) -> bool {
    let flags = || import(py, c"sys")?.getattr("abiflags")?.extract::<String>();
    flags().is_ok_and(|flags| !flags.contains('t'))
}
