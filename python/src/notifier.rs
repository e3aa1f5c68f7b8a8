//! How a loop is told that waits of its tasks are over.
//!
//! Each loop has a [`Notifier`], a descriptor that the loop watches. Any thread may call a waker,
//! without the interpreter's lock: the waker pushes the wait to the notifier's queue and makes the
//! descriptor readable. The loop then calls [`Notifier::answer`], which completes the listeners of
//! the waits in the queue that are over. If the loop's own thread calls `set`, [`delivering`] does
//! that before `set` returns. Then no descriptor is needed, unless the loop is about to sleep:
//! handlers of signals and finalizers run between any two instructions of Python, also after the
//! loop has last looked for something to do.

use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, Weak};

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyList;

use crate::call::{call, call_method, import, kept};
use crate::forked;
use crate::locked::lock;
use crate::loops::{is_awake, resume, resume_soon, running_loop};
use crate::placed::placed;
use crate::wakeup::Wakeup;

/// A wait whose waker was called.
pub(crate) trait Woken: Send + Sync {
    /// Looks whether it is over. If so, says once whom to tell.
    fn report(self: Arc<Self>, py: Python<'_>) -> Option<Report>;
}

/// Whom to tell that a wait is over.
pub(crate) enum Report {
    /// The wait itself, which takes its result when its task runs.
    Itself(Py<PyAny>),
    /// A future of asyncio, or an object with the same methods; and its result or exception.
    Other(Py<PyAny>, PyResult<Py<PyAny>>),
}

/// The descriptor that a loop watches. Internal to tantara.
#[pyclass(module = "tantara._tantara", frozen)]
pub(crate) struct Notifier(Arc<Queue>);

pub(crate) struct Queue {
    wakeup: Wakeup,
    woken: Mutex<Vec<Arc<dyn Woken>>>,
    /// The address of its loop of asyncio. Zero for a run of trio.
    address: usize,
    /// Whether its loop has gone. Then another one may have its address.
    is_closed: AtomicBool,
    /// The process that has created it.
    forks: u32,
}

/// The loop of this thread.
#[derive(Default)]
struct LocalLoop {
    /// The queue of the loop in which a task of this thread began a wait most recently.
    queue: RefCell<Weak<Queue>>,
    /// Whether [`delivering`] runs on this thread and will take from that queue.
    is_delivering: Cell<bool>,
}

thread_local! {
    static LOCAL: LocalLoop = LocalLoop::default();
}

fn local_queue() -> Option<Arc<Queue>> {
    // At the end of a thread there is none, while other destructors may still call Python.
    LOCAL.try_with(|local| local.queue.borrow().upgrade()).ok().flatten()
}

/// The queue of a loop of asyncio.
pub(crate) fn queue_of(event_loop: &Bound<'_, PyAny>) -> PyResult<Arc<Queue>> {
    static OF_MAIN: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    let address = event_loop.as_ptr() as usize;
    if let Some(queue) = local_queue()
        && queue.address == address
        && !queue.is_closed.load(Relaxed)
    {
        return Ok(queue);
    }
    let notifier_of = kept(event_loop.py(), &OF_MAIN, c"tantara._tasks", "notifier_of")?;
    Ok(call(&notifier_of, (event_loop,))?.cast::<Notifier>()?.get().queue())
}

/// Runs `act`, which may release waits, and completes the waits of the loop that runs on this
/// thread at once. Their tasks run in the loop's next pass, as they do after asyncio's own `set`.
/// Fails if a signal handler raises an exception. If that happens once `act` has run, the waits are
/// completed nevertheless.
pub(crate) fn delivering<R>(py: Python<'_>, act: impl FnOnce() -> R) -> PyResult<R> {
    deliver_by(py, act, is_awake)
}

/// The same for what only loops call: timers, and the cancellation of a task.
pub(crate) fn delivering_in_loop<R>(py: Python<'_>, act: impl FnOnce() -> R) -> PyResult<R> {
    deliver_by(py, act, |_| Ok(true))
}

/// `is_awake` tells whether a loop of asyncio will look for scheduled calls before it sleeps.
fn deliver_by<R>(
    py: Python<'_>,
    act: impl FnOnce() -> R,
    is_awake: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<bool>,
) -> PyResult<R> {
    struct Delivering(bool);

    impl Delivering {
        fn begin() -> Delivering {
            Delivering(LOCAL.try_with(|local| local.is_delivering.replace(true)).unwrap_or(false))
        }
    }

    impl Drop for Delivering {
        fn drop(&mut self) {
            let _ = LOCAL.try_with(|local| local.is_delivering.set(self.0));
        }
    }

    // The child of a fork cannot complete its parent's waits. Another thread of the parent may have
    // had the lock of their queue.
    let Some(queue) = local_queue().filter(|queue| queue.forks == forked::count()) else {
        return placed(py, act);
    };
    let outcome = placed(py, || {
        let _delivering = Delivering::begin();
        act()
    })?;
    if lock(&queue.woken).is_empty() {
        return Ok(outcome);
    }
    let delivered = queue.deliver(py, is_awake);
    if !matches!(delivered, Ok(true)) || !lock(&queue.woken).is_empty() {
        queue.wakeup.notify();
    }
    match delivered {
        // At the end of the interpreter.
        Err(error) if error.is_instance_of::<PyException>(py) => error.write_unraisable(py, None),
        Err(raised) => return Err(raised),
        Ok(_) => {}
    }
    Ok(outcome)
}

/// Gives a future of asyncio, or an object with the same methods, its result. If its task was
/// cancelled, its coroutine abandons the wait.
fn complete(listener: &Bound<'_, PyAny>, result: PyResult<Py<PyAny>>) -> PyResult<()> {
    let py = listener.py();
    if call_method(listener, pyo3::intern!(py, "done"), [])?.is_truthy()? {
        return Ok(());
    }
    let completed = match result {
        Ok(value) => call_method(listener, pyo3::intern!(py, "set_result"), [value.bind(py)]),
        Err(error) => call_method(listener, pyo3::intern!(py, "set_exception"), [error.into_value(py).bind(py)]),
    };
    completed.map(drop)
}

/// For how many waits the memory is kept.
const FEW: usize = 64;

impl Queue {
    pub(crate) fn push(self: &Arc<Self>, wait: Arc<dyn Woken>) {
        let mut woken = lock(&self.woken);
        woken.push(wait);
        let is_first = woken.len() == 1;
        drop(woken);
        if is_first && !self.is_being_delivered() {
            self.wakeup.notify();
        }
    }

    /// Whether this thread is in [`delivering`] for this queue.
    fn is_being_delivered(self: &Arc<Self>) -> bool {
        let is_it = |local: &LocalLoop| local.is_delivering.get() && local.queue.borrow().as_ptr() == Arc::as_ptr(self);
        LOCAL.try_with(is_it).unwrap_or(false)
    }

    /// A task of this thread begins a wait in the loop of this queue.
    pub(crate) fn is_used_here(self: &Arc<Self>) {
        let _ = LOCAL.try_with(|local| {
            if local.queue.borrow().as_ptr() != Arc::as_ptr(self) {
                local.queue.replace(Arc::downgrade(self));
            }
        });
    }

    /// Completes the listeners of waits that are over, if their loop runs on this thread. Returns
    /// whether it will certainly see that.
    fn deliver(
        self: &Arc<Self>,
        py: Python<'_>,
        is_awake: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<bool>,
    ) -> PyResult<bool> {
        if self.address == 0 {
            // Tasks of trio can be rescheduled safely only by one another.
            let notifier = call(&import(py, c"tantara._tasks")?.getattr("notifier_of_trio_task")?, ())?;
            let is_it = notifier.cast::<Notifier>().is_ok_and(|notifier| Arc::ptr_eq(&notifier.get().0, self));
            return if is_it { self.answer(py, resume).map(|()| true) } else { Ok(false) };
        }
        let event_loop = running_loop(py)?;
        if event_loop.as_ptr() as usize != self.address {
            return Ok(false);
        }
        self.answer(py, |waits| resume_soon(&event_loop, waits))?;
        is_awake(&event_loop)
    }

    /// Completes the listeners of waits that are over. `itself` does so for the waits that are
    /// their own listeners. Returns what a signal handler has raised meanwhile.
    fn answer<'py>(&self, py: Python<'py>, itself: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<()>) -> PyResult<()> {
        let mut woken = std::mem::take(&mut *lock(&self.woken));
        let (mut first, mut waits, mut outcome) = (None, None, Ok(()));
        for wait in woken.drain(..) {
            let completed = match wait.report(py) {
                None => continue,
                Some(Report::Itself(wait)) if first.is_none() => {
                    first = Some(wait.into_bound(py));
                    Ok(())
                }
                Some(Report::Itself(wait)) => waits.get_or_insert_with(|| PyList::empty(py)).append(wait),
                Some(Report::Other(listener, result)) => complete(listener.bind(py), result),
            };
            // All the others are completed, too.
            outcome = outcome.and(completed);
        }
        // For the next ones, without an allocation.
        if woken.capacity() <= FEW {
            let mut next = lock(&self.woken);
            if next.capacity() == 0 {
                *next = woken;
            }
        }
        let resumed = match (first, waits) {
            (None, _) => Ok(()),
            (Some(wait), None) => itself(&wait),
            (Some(wait), Some(waits)) => waits.insert(0, wait).and_then(|()| itself(&waits)),
        };
        outcome.and(resumed)
    }
}

impl Notifier {
    pub(crate) fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.0)
    }
}

#[pymethods]
impl Notifier {
    /// For a loop of asyncio, or for a run of trio.
    #[new]
    #[pyo3(signature = (event_loop = None))]
    fn new(event_loop: Option<&Bound<'_, PyAny>>) -> PyResult<Notifier> {
        let address = event_loop.map_or(0, |event_loop| event_loop.as_ptr() as usize);
        let (woken, is_closed) = Default::default();
        Ok(Notifier(Arc::new(Queue { wakeup: Wakeup::new()?, woken, address, is_closed, forks: forked::count() })))
    }

    /// The descriptor to watch, or None if there is none. Then a thread calls `wait`.
    fn fileno(&self) -> Option<i32> {
        self.0.wakeup.descriptor()
    }

    /// Blocks until waits are in the queue. Returns False once the loop has gone.
    fn wait(&self, py: Python<'_>) -> bool {
        py.detach(|| self.0.wakeup.wait());
        !self.0.is_closed.load(Acquire)
    }

    /// The loop has gone.
    fn close(&self) {
        self.0.is_closed.store(true, Release);
        self.0.wakeup.notify();
    }

    /// Completes the listeners of waits that are over. The loop calls it when the descriptor is
    /// readable.
    fn answer(&self, py: Python<'_>) -> PyResult<()> {
        // Before the queue is emptied, so that a later push notifies again. What the thread of the
        // loop completes by itself leaves a notification, which costs less than to look for one.
        self.0.wakeup.reset();
        self.0.answer(py, resume)
    }
}
