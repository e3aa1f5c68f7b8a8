//! How a task of asyncio or trio waits: the Rust future is polled by the loop that awaits it.
//!
//! Each loop has a [`Bell`], an eventfd that the loop watches. A waker, which may be called by any thread and without
//! the interpreter, puts the wait into the bell's queue and writes to the eventfd; the loop then polls the waits in the
//! queue, and completes the listeners of those that are over. That, and the coroutine itself, is in `_tasks.py`. What
//! is set by the loop's own thread needs no eventfd: the waits are completed before `set` returns ([`delivering`]).
//! When a wait's time has passed, whoever has to be asked whether it was released is asked, and the wait goes on until
//! all have answered.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::AcqRel;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};

use pyo3::ffi;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyList};
use rustix::event::{EventfdFlags, eventfd};
use tantara::{all, any};

use crate::cluster;
use crate::held::Held;
use crate::seconds;
use crate::shared::exception;

/// What a wait is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    /// Each of its events.
    All,
    /// One of its events.
    Any,
}

/// What a wait has come to.
enum Outcome {
    /// Whether each of its events has released.
    All(bool),
    /// The index of one that has.
    Any(Option<usize>),
    /// What a request was answered.
    Answer(Answer),
}

type Answer = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;
type Result = std::result::Result<Outcome, tantara::Error>;
type BoxFuture = Pin<Box<dyn Future<Output = Result> + Send>>;

/// The coroutine of a wait that begins now.
pub(crate) fn coroutine<'py>(
    py: Python<'py>,
    events: impl Into<Arc<[Held]>>,
    aim: Aim,
    timeout: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    // What cannot be a timeout is refused before anything has begun.
    let limit = timeout.map(|_| seconds::limit(timeout)).transpose()?.map(|limit| limit.as_secs_f64());
    let events = events.into();
    let future = future(Arc::clone(&events), aim);
    begin(py, Pending::begin(events, aim, future), limit)
}

/// The coroutine of a request that begins now, and what to make of its answer.
pub(crate) fn request<'py, T: Send + 'static>(
    py: Python<'py>,
    request: impl Future<Output = std::result::Result<T, tantara_etcd::Error>> + Send + 'static,
    value: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>> {
    let future = async move {
        let answer = request.await;
        let make = |py: Python<'_>| value(py, answer.map_err(cluster::exception)?);
        Ok(Outcome::Answer(Box::new(make)))
    };
    begin(py, Pending::begin(Arc::new([]), Aim::All, Box::pin(future)), None)
}

fn begin(py: Python<'_>, pending: Pending, limit: Option<f64>) -> PyResult<Bound<'_, PyAny>> {
    let is_over = pending.is_over();
    let pending = Bound::new(py, pending)?;
    wait_of_tasks(py)?.call1((pending, limit, is_over))
}

/// The coroutine function, which each interpreter has of its own. The main interpreter's is looked up once; others end
/// before the process does, and then nothing may be left of theirs.
fn wait_of_tasks(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    const MAIN: i64 = 0;
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    // SAFETY: the thread is attached to an interpreter.
    match unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) } {
        MAIN => OF_MAIN.import(py, "tantara._tasks", "wait").cloned(),
        _ => py.import("tantara._tasks")?.getattr("wait"),
    }
}

/// What a loop watches. Part of tantara's own workings.
#[pyclass(module = "tantara._tantara", frozen)]
pub(crate) struct Bell(Arc<Queue>);

struct Queue {
    eventfd: OwnedFd,
    called: Mutex<Vec<Arc<Entry>>>,
}

/// What this thread knows of its own loop.
#[derive(Default)]
struct Here {
    /// Of the loop in which a task of this thread has begun to wait last.
    queue: RefCell<Weak<Queue>>,
    /// Whether this thread will look into that queue before long.
    is_delivering: Cell<bool>,
}

thread_local! {
    static HERE: Here = Here::default();
}

/// Runs `act`, which may release waits, and completes those of the loop that runs on this thread at once: their tasks
/// run in the loop's next pass, as they would after asyncio's own `set`.
pub(crate) fn delivering<R>(py: Python<'_>, act: impl FnOnce() -> R) -> R {
    struct Restore<'h>(&'h Here, bool);

    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            self.0.is_delivering.set(self.1);
        }
    }

    HERE.with(|here| {
        if here.queue.borrow().strong_count() == 0 {
            return act();
        }
        let restore = Restore(here, here.is_delivering.replace(true));
        let outcome = act();
        drop(restore);
        let queue = here.queue.borrow().upgrade();
        if let Some(queue) = queue
            && !queue.called().is_empty()
        {
            let deliver = || py.import("tantara._tasks")?.getattr("deliver")?.call0();
            if let Err(error) = deliver() {
                error.write_unraisable(py, None);
            }
            // Where that loop does not run at this moment, it is told as by any other thread.
            if !queue.called().is_empty() {
                queue.ring();
            }
        }
        outcome
    })
}

impl Queue {
    fn called(&self) -> MutexGuard<'_, Vec<Arc<Entry>>> {
        self.called.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(self: &Arc<Self>, entry: Arc<Entry>) {
        let mut called = self.called();
        called.push(entry);
        let is_first = called.len() == 1;
        drop(called);
        if is_first && !self.is_delivered_here() {
            self.ring();
        }
    }

    fn is_delivered_here(self: &Arc<Self>) -> bool {
        let is_here = |here: &Here| here.is_delivering.get() && here.queue.borrow().as_ptr() == Arc::as_ptr(self);
        HERE.try_with(is_here).unwrap_or(false)
    }

    fn ring(&self) {
        // It cannot fail: the count is far from its end, and taken back to nought by each look.
        let _ = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
    }

    fn take(&self) -> Vec<Arc<Entry>> {
        // Before the queue is emptied, so that what is put into it from then on is written again. If nothing was
        // written, there is nothing to read.
        let _ = rustix::io::read(&self.eventfd, &mut [0_u8; 8]);
        std::mem::take(&mut self.called())
    }
}

#[pymethods]
impl Bell {
    #[new]
    fn new() -> PyResult<Bell> {
        let eventfd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).map_err(io::Error::from)?;
        Ok(Bell(Arc::new(Queue { eventfd, called: Mutex::default() })))
    }

    fn fileno(&self) -> RawFd {
        self.0.eventfd.as_raw_fd()
    }

    /// What the loop asks for when the eventfd can be read: the listeners that get a result, the results, and the
    /// listeners that get an exception, each with it.
    fn take<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyList>, Bound<'py, PyList>, Bound<'py, PyList>)> {
        let (futures, results, errors) = (PyList::empty(py), PyList::empty(py), PyList::empty(py));
        for entry in self.0.take() {
            // Not a plain store: who has found it called already counts on this look to see what it came with.
            entry.called.swap(false, AcqRel);
            let mut state = entry.state();
            entry.poll(&mut state);
            let Some((listener, result)) = state.tell() else { continue };
            drop(state);
            match value(py, result) {
                Ok(value) => {
                    futures.append(listener)?;
                    results.append(value)?;
                }
                Err(error) => errors.append((listener, error.into_value(py)))?,
            }
        }
        Ok((futures, results, errors))
    }
}

/// A wait that has begun. Part of tantara's own workings.
#[pyclass(module = "tantara._tantara", frozen)]
pub(crate) struct Pending(Arc<Entry>);

struct Entry {
    state: Mutex<State>,
    events: Arc<[Held]>,
    aim: Aim,
    /// Of the loop that awaits it, once that is known.
    queue: OnceLock<Arc<Queue>>,
    /// It is in the queue, or was called before that was known.
    called: AtomicBool,
}

struct State {
    /// Until it is over or abandoned.
    future: Option<BoxFuture>,
    /// Whether its time has passed.
    is_late: bool,
    /// What it has come to, until that is told.
    result: Option<Result>,
    /// The asyncio future that is told, or what is like one.
    listener: Option<Py<PyAny>>,
    /// What was told: the releases that nobody has heard of yet, maybe.
    told: Option<Outcome>,
}

impl Pending {
    fn begin(events: Arc<[Held]>, aim: Aim, future: BoxFuture) -> Pending {
        let state = State { future: Some(future), is_late: false, result: None, listener: None, told: None };
        let (queue, called) = (OnceLock::new(), AtomicBool::new(false));
        let entry = Arc::new(Entry { state: Mutex::new(state), events, aim, queue, called });
        // The first poll registers it, so that a pulse counts from now on.
        entry.poll(&mut entry.state());
        Pending(entry)
    }
}

/// A future that owns what it waits for.
fn future(events: Arc<[Held]>, aim: Aim) -> BoxFuture {
    match aim {
        Aim::Any => Box::pin(async move {
            let index = any(events.iter().map(Held::waitable)).try_wait_async().await?;
            Ok(Outcome::Any(Some(index)))
        }),
        Aim::All => Box::pin(async move {
            match &*events {
                [Held::Event(event)] => event.get().event().wait_async().await,
                [Held::AutoReset(event)] => event.get().event().wait_async().await,
                [Held::Shared(event)] => event.wait_async().await?,
                several => all(several.iter().map(Held::waitable)).try_wait_async().await?,
            }
            Ok(Outcome::All(true))
        }),
    }
}

#[pymethods]
impl Pending {
    /// Whether it is over already; then `result` tells.
    fn is_over(&self) -> bool {
        self.0.state().result.is_some()
    }

    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let result = self.0.state().result.take();
        value(py, result.unwrap_or_else(|| Ok(self.0.nothing())))
    }

    /// From now on the loop is told when there may be something to tell the listener, which is an asyncio future or
    /// what is like one. Returns whether the wait is over already.
    fn listen(&self, bell: &Bell, listener: Py<PyAny>) -> bool {
        HERE.with(|here| {
            if here.queue.borrow().as_ptr() != Arc::as_ptr(&bell.0) {
                here.queue.replace(Arc::downgrade(&bell.0));
            }
        });
        let mut state = self.0.state();
        state.listener = Some(listener);
        let _ = self.0.queue.set(Arc::clone(&bell.0));
        // Whoever has called before the queue was known has told nobody.
        if self.0.called.swap(false, AcqRel) {
            self.0.poll(&mut state);
        }
        state.result.is_some()
    }

    /// The time has passed. The loop is told, now or when those who are asked have answered.
    fn give_up(&self, py: Python<'_>) {
        self.0.events.iter().for_each(Held::decide);
        self.0.state().is_late = true;
        delivering(py, || Arc::clone(&self.0).wake());
    }

    /// Whoever awaited it was cancelled. A release passes on, even one that was told already.
    fn abandon(&self, py: Python<'_>) {
        delivering(py, || {
            self.0.end();
            let told = self.0.state().told.take();
            told.into_iter().for_each(|outcome| self.0.pass_on(outcome));
        });
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        // The events too: one of a subclass may keep this.
        self.0.events.iter().try_for_each(|held| held.traverse(&visit))?;
        // Held only by a thread that runs, so not while the collector does.
        match self.0.state.try_lock() {
            Ok(state) => visit.call(&state.listener),
            Err(_) => Ok(()),
        }
    }

    fn __clear__(&self) {
        self.0.end();
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // The future keeps the entry, by its waker, and the entry the future.
        self.0.end();
    }
}

impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        // It may be called in the middle of a poll, so it must not ask for the state.
        if !self.called.swap(true, AcqRel)
            && let Some(queue) = self.queue.get()
        {
            queue.push(Arc::clone(&self));
        }
    }
}

impl State {
    /// The listener, and what it is to be told now.
    fn tell(&mut self) -> Option<(Py<PyAny>, Result)> {
        let result = self.result.take_if(|_| self.listener.is_some())?;
        // If its task was cancelled, that abandons this, and the release passes on.
        self.told = result.as_ref().ok().and_then(Outcome::released);
        Some((self.listener.take()?, result))
    }
}

impl Entry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn poll(self: &Arc<Self>, state: &mut State) {
        let Some(future) = &mut state.future else { return };
        let waker = Waker::from(Arc::clone(self));
        let context = &mut Context::from_waker(&waker);
        // Before the last look, which sees all that they have said. On a tie, released wins.
        let is_decided = state.is_late && self.events.iter().all(|held| held.poll_decided(context).is_ready());
        let result = match future.as_mut().poll(context) {
            Poll::Ready(result) => result,
            Poll::Pending if is_decided => Ok(self.nothing()),
            Poll::Pending => return,
        };
        state.future = None;
        state.result = Some(result);
    }

    /// Lets go of everything. A release that nobody was told of passes on.
    fn end(&self) {
        let (future, result, listener) = {
            let mut state = self.state();
            (state.future.take(), state.result.take(), state.listener.take())
        };
        // Dropped without the lock: others may be woken by it.
        drop((future, listener));
        self.events.iter().for_each(Held::end);
        if let Some(Ok(outcome)) = result {
            self.pass_on(outcome);
        }
    }

    /// What a wait comes to that was not released.
    fn nothing(&self) -> Outcome {
        match self.aim {
            Aim::All => Outcome::All(false),
            Aim::Any => Outcome::Any(None),
        }
    }

    fn pass_on(&self, outcome: Outcome) {
        match outcome {
            Outcome::All(true) => self.events.iter().for_each(Held::pass_on),
            Outcome::Any(Some(index)) => self.events[index].pass_on(),
            _ => {}
        }
    }
}

impl Outcome {
    /// The same, if it is about releases.
    fn released(&self) -> Option<Outcome> {
        match *self {
            Outcome::All(released) => Some(Outcome::All(released)),
            Outcome::Any(index) => Some(Outcome::Any(index)),
            Outcome::Answer(_) => None,
        }
    }
}

fn value(py: Python<'_>, result: Result) -> PyResult<Py<PyAny>> {
    match result {
        Ok(Outcome::All(released)) => Ok(PyBool::new(py, released).to_owned().into_any().unbind()),
        Ok(Outcome::Any(index)) => Ok(index.into_pyobject(py)?.unbind()),
        Ok(Outcome::Answer(make)) => make(py),
        Err(error) => Err(exception(error)),
    }
}
