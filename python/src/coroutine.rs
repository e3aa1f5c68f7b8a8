//! What `wait_async` returns: a coroutine of its own kind, which is also the future that the loop
//! waits for.
//!
//! asyncio accepts any object with the methods of a coroutine as one, and any object that a
//! coroutine yields with `_asyncio_future_blocking` set as a future (`asyncio.isfuture`). So one
//! [`Wait`] stands for the coroutine, its frame and its future. asyncio's own future makes the loop
//! schedule each task by itself. The tasks of waits that are released together are scheduled
//! together: [`run`] resumes them one after another, each in its context. It also means that nothing
//! is made for a wait that is over when it begins (`released.rs`).
//!
//! Under trio a wait is the Python coroutine of `_tasks.py`. If it began elsewhere, it runs that one;
//! so it does without a running loop.

use std::iter;
use std::mem;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard};

use pyo3::exceptions::{PyRuntimeError, PyRuntimeWarning, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use crate::call::{call, call_method, import, kept};
use crate::locked::{lock, try_lock};
use crate::loops::{resume_soon, running_loop};
use crate::member::Members;
use crate::released::{has_trio, stop, thrown};
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
    let is_in_trio = is_in_trio(py)?;
    let pending = Pending::for_events(py, events()?, aim)?;
    // Trio before 0.23 starts a coroutine as a task only if it has a frame.
    if limit.is_some() || is_in_trio {
        return task::begin(py, pending, limit);
    }
    let step = Step { phase: Phase::Created, event_loop: None, cancelled: None, callbacks: Callbacks::default() };
    let (step, blocking) = (Mutex::new(step), AtomicU8::new(NO_FUTURE));
    Ok(Bound::new(py, Wait { pending, step, blocking })?.into_any())
}

/// Whether trio runs this task.
fn is_in_trio(py: Python<'_>) -> PyResult<bool> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    Ok(has_trio(py)? && call(&kept(py, &OF_MAIN, c"tantara._tasks", "is_in_trio")?, ())?.is_truthy()?)
}

/// A wait without a timeout.
#[pyclass(module = "tantara._tantara", frozen)]
pub(crate) struct Wait {
    pending: Pending,
    step: Mutex<Step>,
    /// What asyncio calls `_asyncio_future_blocking`: turned on when the wait yields itself, and off
    /// by the task that has understood it. One of the values below.
    blocking: AtomicU8,
}

/// Until the wait has yielded itself.
const NO_FUTURE: u8 = 0;
const NOT_BLOCKING: u8 = 1;
const BLOCKING: u8 = 2;

struct Step {
    phase: Phase,
    /// The loop that waits for it.
    event_loop: Option<Py<PyAny>>,
    /// The message of the cancellation, as the task passes it.
    cancelled: Option<Py<PyAny>>,
    callbacks: Callbacks,
}

/// What to call when the wait is over, and the context in which to call it.
type Callback = (Py<PyAny>, Py<PyAny>);

/// Mostly it is one: that of the task.
#[derive(Default)]
struct Callbacks {
    first: Option<Callback>,
    others: Vec<Callback>,
}

impl Callbacks {
    fn push(&mut self, callback: Callback) {
        match &self.first {
            None => self.first = Some(callback),
            Some(_) => self.others.push(callback),
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Callback> {
        self.first.iter().chain(&self.others)
    }

    fn into_iter(self) -> impl Iterator<Item = Callback> {
        self.first.into_iter().chain(self.others)
    }
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

impl Step {
    /// Whether the wait ended, other than by a release.
    fn has_ended(&self) -> bool {
        !matches!(self.phase, Phase::Created | Phase::Waiting) || self.cancelled.is_some()
    }
}

impl Wait {
    /// Never held while Python code is called.
    fn step(&self) -> MutexGuard<'_, Step> {
        lock(&self.step)
    }

    /// One step. `value` is for the coroutine that it runs, if it does.
    fn advance<'py>(slf: &Bound<'py, Self>, value: &Bound<'py, PyAny>) -> PyResult<Stepped<'py>> {
        let (py, wait) = (slf.py(), slf.get());
        let mut step = wait.step();
        match &step.phase {
            Phase::Created => {}
            Phase::Waiting => {
                if !wait.pending.is_over() {
                    // By another task. If that were cancelled, the wait of the first one would end.
                    return Err(PyRuntimeError::new_err("coroutine is being awaited already"));
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
            let again = wait.pending.again();
            let again = again.ok_or_else(|| PyRuntimeError::new_err("coroutine is being awaited already"))?;
            let inner = task::begin(py, again, None)?;
            wait.step().phase = Phase::Inner(inner.unbind());
            return Self::advance(slf, value);
        }
        if let Err(error) = wait.pending.listen_in(&event_loop, slf.clone().into_any().unbind()) {
            wait.finish(py)?;
            return Err(error);
        }
        let is_over = wait.pending.is_over();
        let mut step = wait.step();
        step.event_loop = Some(event_loop.unbind());
        if is_over {
            step.phase = Phase::Over;
            drop(step);
            return wait.pending.value(py).map(Stepped::Returned);
        }
        step.phase = Phase::Waiting;
        wait.set_blocking(true);
        Ok(Stepped::Yielded(slf.clone().into_any()))
    }

    /// Ends the coroutine. Returns the coroutine that it runs, if it does.
    fn finish(&self, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
        let before = mem::replace(&mut self.step().phase, Phase::Over);
        match before {
            Phase::Inner(inner) => return Ok(Some(inner)),
            Phase::Created | Phase::Waiting => self.pending.abandon(py)?,
            Phase::Over => {}
        }
        Ok(None)
    }

    /// Calls `run` for this wait in the loop's next pass.
    fn run_soon(slf: &Bound<'_, Self>) -> PyResult<()> {
        let Some(event_loop) = slf.get().event_loop(slf.py()) else { return Ok(()) };
        resume_soon(event_loop.bind(slf.py()), slf)
    }

    /// `add_done_callback(callback, *, context=None)`. `quick.rs` exports it to Python.
    pub(crate) fn add_callback(slf: &Bound<'_, Self>, callback: Py<PyAny>, context: Option<Py<PyAny>>) -> PyResult<()> {
        let context = match context {
            Some(context) => context,
            None => call(&import(slf.py(), c"contextvars")?.getattr("copy_context")?, ())?.unbind(),
        };
        let mut step = slf.get().step();
        step.callbacks.push((callback, context));
        let has_ended = step.has_ended();
        drop(step);
        if has_ended || slf.get().pending.is_decided() { Self::run_soon(slf) } else { Ok(()) }
    }

    fn is_over(&self) -> bool {
        let has_ended = self.step().has_ended();
        has_ended || self.pending.is_decided()
    }

    /// `_asyncio_future_blocking`: None before the wait has yielded itself, because until then it is
    /// a coroutine, and no future.
    pub(crate) fn is_blocking(&self) -> Option<bool> {
        match self.blocking.load(Relaxed) {
            NO_FUTURE => None,
            blocking => Some(blocking == BLOCKING),
        }
    }

    pub(crate) fn set_blocking(&self, is_blocking: bool) {
        self.blocking.store(if is_blocking { BLOCKING } else { NOT_BLOCKING }, Relaxed);
    }

    /// `_loop`: the loop that waits for it. asyncio calls `get_loop()` of its own futures, and reads
    /// this of others, which needs no object for the method.
    pub(crate) fn event_loop(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.step().event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py))
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
        self.finish(py)?;
        Err(thrown(kind, value, traceback))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(inner) = self.finish(py)? {
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

    /// None: it has no Python frame.
    #[getter]
    fn cr_frame(&self) -> Option<Py<PyAny>> {
        None
    }

    #[getter]
    fn cr_await(&self) -> Option<Py<PyAny>> {
        None
    }

    /// What the `repr` of its task shows.
    #[getter]
    fn __name__(&self) -> &'static str {
        "wait_async"
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
        let abandoned = wait.pending.abandon(py);
        Self::run_soon(slf)?;
        abandoned.map(|()| true)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // The lock is free, as that of `Pending`.
        let step = try_lock(&self.step);
        let is_new = step.as_ref().is_some_and(|step| matches!(step.phase, Phase::Created));
        match self.pending.only_object().filter(|_| is_new) {
            Some(object) => visit.call(object)?,
            None => self.pending.traverse(&visit)?,
        }
        let Some(step) = step else { return Ok(()) };
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

/// Resumes the tasks of one wait that is over, or of a list of them. `quick.rs` exports it to
/// Python.
pub(crate) fn run(waits: &Bound<'_, PyAny>) -> PyResult<()> {
    match waits.cast::<PyList>() {
        Ok(waits) => run_each(waits.py(), waits.iter()),
        Err(_) => run_each(waits.py(), iter::once(waits.clone())),
    }
}

fn run_each<'py>(py: Python<'py>, mut waits: impl Iterator<Item = Bound<'py, PyAny>>) -> PyResult<()> {
    let name = pyo3::intern!(py, "run");
    while let Some(object) = waits.next() {
        let wait = object.cast::<Wait>()?;
        let callbacks = mem::take(&mut wait.get().step().callbacks);
        let mut callbacks = callbacks.into_iter();
        while let Some((callback, context)) = callbacks.next() {
            let called = call_method(context.bind(py), name, [callback.bind(py), &object]);
            let Err(error) = called else { continue };
            // Such as KeyboardInterrupt, which ends the loop. It may run again.
            callbacks.for_each(|callback| wait.get().step().callbacks.push(callback));
            let rest = PyList::new(py, iter::once(object.clone()).chain(waits).collect::<Vec<_>>())?;
            if let Some(event_loop) = wait.get().event_loop(py)
                && let Err(error) = resume_soon(event_loop.bind(py), &rest)
            {
                error.write_unraisable(py, None);
            }
            return Err(error);
        }
    }
    Ok(())
}
