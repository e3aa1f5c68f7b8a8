//! Waits of asyncio and trio tasks: the loop that awaits a wait polls its Rust future, when its waker
//! was called (`notifier.rs`).
//!
//! When it is over, the loop tells the wait's listener. That is the wait itself (`coroutine.rs`), or a
//! future of asyncio under the coroutine in `_tasks.py`. When the timeout of a wait expires, a cluster
//! may have to be asked for the outcome. Then the wait continues until it has answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyBool;
use tantara::any;

use crate::call::{call, kept};
use crate::error::{of_cluster, of_event};
use crate::forked;
use crate::locked::{lock, try_lock};
use crate::member::{Member, Members};
use crate::notifier::{Notifier, Queue, Report, Woken, delivering_in_loop, queue_of};
use crate::placed::placed;

/// What ends a wait.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Aim {
    /// Every event has released it.
    All,
    /// One event has released it.
    Any,
}

/// The outcome of a wait or a request.
enum Outcome {
    /// Whether every event has released the wait.
    All(bool),
    /// The index of an event that has released it.
    Any(Option<usize>),
    /// The answer to a request.
    Answer(Answer),
}

type Answer = Box<dyn FnOnce(Python<'_>) -> PyResult<Py<PyAny>> + Send>;
type Result = std::result::Result<Outcome, tantara::Error>;
type BoxFuture = Pin<Box<dyn Future<Output = Result> + Send>>;

/// Sends a request and returns the coroutine that converts its answer by `value`.
pub(crate) fn request<'py, T: Send + 'static>(
    py: Python<'py>,
    request: impl Future<Output = std::result::Result<T, tantara_etcd::Error>> + Send + 'static,
    value: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Bound<'py, PyAny>> {
    let future = async move {
        let answer = request.await;
        let make = |py: Python<'_>| value(py, answer.map_err(of_cluster)?);
        Ok(Outcome::Answer(Box::new(make)))
    };
    begin(py, Pending::begin(py, None, Aim::All, Box::pin(future))?, None)
}

/// The Python coroutine of a wait or a request.
pub(crate) fn begin(py: Python<'_>, pending: Pending, limit: Option<f64>) -> PyResult<Bound<'_, PyAny>> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let is_over = pending.is_over();
    let pending = Bound::new(py, pending)?;
    call(&kept(py, &OF_MAIN, c"tantara._tasks", "wait")?, (pending, limit, is_over))
}

/// A wait or a request that has begun. Internal to tantara.
#[pyclass(module = "tantara._tantara", frozen)]
pub(crate) struct Pending {
    entry: Arc<Entry>,
    /// As in the entry, for the collector.
    events: Option<Arc<dyn Members>>,
    /// Whether [`again`](Pending::again) made it, so that another one has the same entry.
    is_second: bool,
}

struct Entry {
    state: Mutex<State>,
    /// `None` for a request.
    events: Option<Arc<dyn Members>>,
    aim: Aim,
    /// The process in which it began.
    forks: u32,
    /// The queue of the loop that awaits it, once that is known.
    queue: OnceLock<Arc<Queue>>,
    /// Whether it is in the queue, or was woken before the queue was known.
    is_woken: AtomicBool,
    /// Whether it is over, and its result is not reported yet: what `state` says, without its lock.
    has_result: AtomicBool,
    /// Whether it has a second [`Pending`], which then reports its references to the collector.
    has_second: AtomicBool,
}

#[derive(Default)]
struct State {
    /// `None` while it is polled, and once it is over or has been dropped.
    future: Option<BoxFuture>,
    /// Whether the wait was dropped. Then a poll that is running drops the future, too.
    has_ended: bool,
    /// Whether the timeout has expired.
    is_late: bool,
    /// The result, until it is reported.
    result: Option<Result>,
    /// The asyncio future that receives the result, or an object with the same methods.
    listener: Option<Listener>,
    /// The reported outcome. The task may be cancelled before it sees it; then its releases are
    /// passed on.
    reported: Option<Outcome>,
}

enum Listener {
    /// It is given the result.
    Other(Py<PyAny>),
    /// The wait itself, which takes its result when its task runs.
    Wait(Py<PyAny>),
}

impl Pending {
    pub(crate) fn for_events(py: Python<'_>, events: impl Members, aim: Aim) -> PyResult<Pending> {
        let events = Arc::new(events);
        let future = future(Arc::clone(&events), aim);
        Pending::begin(py, Some(events), aim, future)
    }

    /// The same wait, for another object, or `None` while there is one already.
    pub(crate) fn again(&self) -> Option<Pending> {
        let is_first = !self.entry.has_second.swap(true, Relaxed);
        is_first.then(|| Pending { entry: Arc::clone(&self.entry), events: self.events.clone(), is_second: true })
    }

    /// Whether it is over, also if its waker was called and nobody has looked since.
    pub(crate) fn is_decided(&self) -> bool {
        if self.entry.is_woken.load(Relaxed) || self.entry.is_inherited_request() {
            self.entry.look();
        }
        self.is_over()
    }

    /// The value to return, or the error to raise.
    pub(crate) fn value<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        self.result(py).map(|value| value.into_bound(py))
    }

    /// The value, while [`value`](Pending::value) has not taken it.
    pub(crate) fn peek<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let outcome = match &self.entry.state().result {
            Some(Ok(outcome)) => outcome.released(),
            _ => None,
        };
        outcome.map(|outcome| value(py, Ok(outcome)).map(|value| value.into_bound(py))).transpose()
    }

    /// Begins to notify a wait that is its own listener, in this loop of asyncio.
    pub(crate) fn listen_in(&self, event_loop: &Bound<'_, PyAny>, wait: Py<PyAny>) -> PyResult<()> {
        self.listen_to(queue_of(event_loop)?, Listener::Wait(wait));
        Ok(())
    }

    fn listen_to(&self, queue: Arc<Queue>, listener: Listener) {
        queue.is_used_here();
        // Dropped without the lock, because the drop may run Python code.
        let _before = self.entry.state().listener.replace(listener);
        let _ = self.entry.queue.set(queue);
        // A waker that was called before the queue was known has notified nobody.
        self.entry.look();
    }

    /// The Python object of its event, if it has but one. Before the wait has a listener, and while it has
    /// no second one, that is all that [`traverse`](Pending::traverse) would visit. To read it takes
    /// less: in a crowd of new waits, no entry is in a processor's cache.
    pub(crate) fn only_object(&self) -> Option<&Py<PyAny>> {
        self.events.as_ref()?.only_object()
    }

    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        // The entry counts each reference once, however many objects share it. If two of them visited
        // it, the collector would take a live event for garbage.
        if self.is_second != self.entry.has_second.load(Relaxed) {
            return Ok(());
        }
        // Events too, because an attribute of an event may refer to this object.
        self.entry.members().try_for_each(|member| visit.call(member.object()))?;
        // The lock is free: it is never held across a call into Python, where the collector runs.
        match try_lock(&self.entry.state).as_ref().and_then(|state| state.listener.as_ref()) {
            Some(Listener::Other(listener) | Listener::Wait(listener)) => visit.call(listener),
            None => Ok(()),
        }
    }

    pub(crate) fn end(&self) {
        self.entry.end();
    }

    fn begin(py: Python<'_>, events: Option<Arc<dyn Members>>, aim: Aim, future: BoxFuture) -> PyResult<Pending> {
        let (state, queue, is_woken, has_result, has_second) = Default::default();
        let forks = forked::count();
        let entry =
            Arc::new(Entry { state, events: events.clone(), aim, forks, queue, is_woken, has_result, has_second });
        // The first poll registers the wait: every later `set` releases it.
        placed(py, || entry.poll_future(future, false))?;
        Ok(Pending { entry, events, is_second: false })
    }
}

/// A future that keeps its events alive.
fn future(events: Arc<impl Members>, aim: Aim) -> BoxFuture {
    match aim {
        Aim::Any => Box::pin(async move {
            let index = any(events.waitables()).try_wait_async().await?;
            Ok(Outcome::Any(Some(index)))
        }),
        Aim::All => Box::pin(async move {
            events.wait_all().await?;
            Ok(Outcome::All(true))
        }),
    }
}

#[pymethods]
impl Pending {
    /// Whether it is over, so that `result` returns the outcome.
    pub(crate) fn is_over(&self) -> bool {
        self.entry.has_result.load(Acquire)
    }

    fn result(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let (result, _listener) = {
            let mut state = self.entry.state();
            (self.entry.take_result(&mut state), state.listener.take())
        };
        value(py, result.unwrap_or_else(|| Ok(self.entry.timed_out())))
    }

    /// Sets the listener, an asyncio future or an object with the same methods; `place` is its loop
    /// of asyncio, or the notifier of its run of trio. Returns whether the wait is over already.
    fn listen(&self, place: &Bound<'_, PyAny>, listener: Py<PyAny>) -> PyResult<bool> {
        let queue = match place.cast::<Notifier>() {
            Ok(notifier) => notifier.get().queue(),
            Err(_) => queue_of(place)?,
        };
        self.listen_to(queue, Listener::Other(listener));
        Ok(self.is_over())
    }

    /// The timeout has expired. The listener is completed now, or when the cluster has answered.
    fn give_up(&self, py: Python<'_>) -> PyResult<()> {
        self.entry.members().for_each(Member::decide);
        self.entry.state().is_late = true;
        delivering_in_loop(py, || Arc::clone(&self.entry).wake())
    }

    /// The task was cancelled. Its releases are passed on, even if they were reported already.
    pub(crate) fn abandon(&self, py: Python<'_>) -> PyResult<()> {
        delivering_in_loop(py, || {
            self.entry.end();
            let reported = self.entry.state().reported.take();
            reported.into_iter().for_each(|outcome| self.entry.pass_on(outcome));
        })
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> std::result::Result<(), PyTraverseError> {
        self.traverse(&visit)
    }

    fn __clear__(&self) {
        self.entry.end();
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Breaks the cycle of the entry, its future and the waker in it.
        self.entry.end();
        if self.is_second {
            self.entry.has_second.store(false, Relaxed);
        }
    }
}

impl Wake for Entry {
    fn wake(self: Arc<Self>) {
        // Must not lock the state, because a waker may be called under any lock.
        if !self.is_woken.swap(true, AcqRel)
            && let Some(queue) = self.queue.get()
        {
            queue.push(self.clone());
        }
    }
}

impl Woken for Entry {
    fn report(self: Arc<Self>, py: Python<'_>) -> Option<Report> {
        // Not a plain store: a waker that found `is_woken` set relies on the poll below to see what it
        // did before.
        self.is_woken.swap(false, AcqRel);
        self.poll();
        let reported = self.take_report()?;
        Some(match reported {
            (wait, None) => Report::Itself(wait),
            (listener, Some(result)) => Report::Other(listener, value(py, result)),
        })
    }
}

impl Entry {
    /// Takes the listener, if there is a result; and the result, if it is for a listener that is
    /// given it.
    fn take_report(&self) -> Option<(Py<PyAny>, Option<Result>)> {
        let mut state = self.state();
        let is_over = state.result.is_some();
        match state.listener.take_if(|_| is_over)? {
            Listener::Wait(wait) => Some((wait, None)),
            Listener::Other(listener) => {
                let result = self.take_result(&mut state);
                // For `abandon`, if the task is cancelled before it sees the result.
                state.reported = result.as_ref().and_then(|result| result.as_ref().ok()?.released());
                Some((listener, result))
            }
        }
    }

    fn take_result(&self, state: &mut State) -> Option<Result> {
        self.has_result.store(false, Release);
        state.result.take()
    }

    /// Nobody calls the waker of a request that the child of a fork has inherited, and its poll fails.
    fn is_inherited_request(&self) -> bool {
        self.events.is_none() && self.forks != forked::count()
    }

    fn members(&self) -> impl Iterator<Item = &dyn Member> {
        self.events.iter().flat_map(|events| (0..events.count()).map(|index| events.member(index)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Polls the future if its waker was called.
    fn look(self: &Arc<Self>) {
        if self.is_woken.swap(false, AcqRel) || self.is_inherited_request() {
            self.poll();
        }
    }

    fn poll(self: &Arc<Self>) {
        let (future, is_late) = {
            let mut state = self.state();
            (state.future.take(), state.is_late)
        };
        if let Some(future) = future {
            self.poll_future(future, is_late);
        }
    }

    /// Polls the future, without the lock: a request that is over drops its connection, which may
    /// release the interpreter's lock. Then another thread may end this wait.
    fn poll_future(self: &Arc<Self>, mut future: BoxFuture, is_late: bool) {
        let waker = Waker::from(Arc::clone(self));
        let context = &mut Context::from_waker(&waker);
        // Before the last poll of the future, which then sees every answer. If the wait was
        // released just as the timeout expired, released wins.
        let is_decided = is_late && self.members().all(|member| member.poll_decided(context).is_ready());
        let result = match future.as_mut().poll(context) {
            Poll::Ready(result) => Some(result),
            Poll::Pending if is_decided => Some(Ok(self.timed_out())),
            Poll::Pending => None,
        };
        let mut state = self.state();
        if !state.has_ended {
            match result {
                None => state.future = Some(future),
                Some(_) => {
                    state.result = result;
                    self.has_result.store(true, Release);
                    drop(state);
                    // Without the lock.
                    drop(future);
                }
            }
            return;
        }
        drop(state);
        drop(future);
        if let Some(Ok(outcome)) = result {
            self.pass_on(outcome);
        }
    }

    /// Drops the wait. A release that was not reported is passed on.
    fn end(&self) {
        let (future, result, listener) = {
            let mut state = self.state();
            state.has_ended = true;
            (state.future.take(), self.take_result(&mut state), state.listener.take())
        };
        // Dropped without the lock, because the drop may wake other tasks.
        drop((future, listener));
        self.members().for_each(Member::end);
        if let Some(Ok(outcome)) = result {
            self.pass_on(outcome);
        }
    }

    /// The outcome of a wait that was not released.
    fn timed_out(&self) -> Outcome {
        match self.aim {
            Aim::All => Outcome::All(false),
            Aim::Any => Outcome::Any(None),
        }
    }

    fn pass_on(&self, outcome: Outcome) {
        match outcome {
            Outcome::All(true) => self.members().for_each(Member::pass_on),
            Outcome::Any(Some(index)) => self.members().skip(index).take(1).for_each(Member::pass_on),
            _ => {}
        }
    }
}

impl Outcome {
    /// A copy of the outcome of a wait.
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
        Err(error) => Err(of_event(error)),
    }
}
