//! `ClusterEvent`: the event that machines share, and a wait for one.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use tantara::__private::{External, Identity, Seal, Sealed, Slot};
use tantara::Waitable;
use tantara_etcd::__private::Seen;
use tantara_etcd::{ClusterWait, ClusterWaiter, Origin};

use crate::connection::{Connection, Handle, instance};
use crate::coroutine::coroutine;
use crate::error::{of_cluster, refuse_pickling, run};
use crate::event::Event;
use crate::hold::{self, Hold};
use crate::locked::lock;
use crate::member::Member;
use crate::seconds;
use crate::sleep::blocking;
use crate::task::{self, Aim};

/// An event that machines share. Returned by Cluster.event().
///
/// It has the methods of threading.Event. Each may fail, because the cluster may be unreachable. If
/// wait() returns False, the cluster has confirmed that the event was not set. If the cluster
/// cannot be asked, wait() raises ClusterUnreachable, which is not a TimeoutError. A wait that has
/// begun survives outages of any length.
///
/// set() releases every waiter, even if clear() follows at once, and even if connections or leaders
/// fail meanwhile.
///
/// Once a method of this object has seen the event, is_set(), last_set() and every wait raise
/// FileNotFoundError if it was removed. set(), clear(), pulse() and hold() create it again.
#[pyclass(module = "tantara", frozen, weakref)]
pub(crate) struct ClusterEvent {
    connection: Arc<Connection>,
    name: String,
    /// What the methods have seen of the event.
    seen: Arc<Seen>,
}

/// Converts the answer of a request without a result.
fn nothing(py: Python<'_>, _: ()) -> PyResult<Py<PyAny>> {
    Ok(py.None())
}

impl ClusterEvent {
    pub(crate) fn new(connection: &Arc<Connection>, name: &str) -> PyResult<ClusterEvent> {
        tantara_etcd::ClusterEvent::check_name(name).map_err(of_cluster)?;
        connection.with(|_| ())?;
        Ok(ClusterEvent { connection: Arc::clone(connection), name: name.to_owned(), seen: Arc::default() })
    }

    fn event(&self) -> PyResult<Handle<tantara_etcd::ClusterEvent>> {
        self.connection.with(|cluster| Handle::new(cluster.event_as_seen(&self.name, &self.seen)))
    }

    /// Begins a wait.
    pub(crate) fn begin(&self) -> PyResult<BegunWait> {
        self.begin_by(tantara_etcd::ClusterEvent::wait_async)
    }

    fn begin_by(&self, begin: fn(&tantara_etcd::ClusterEvent) -> ClusterWait) -> PyResult<BegunWait> {
        let event = self.event()?;
        Ok(BegunWait(Mutex::new(Some(Handle::new(begin(&event))))))
    }
}

/// A wait that has begun. As part of an asyncio wait for many events it can be told that the
/// timeout has expired, which the future of that wait has no method for.
pub(crate) struct BegunWait(Mutex<Option<Handle<ClusterWait>>>);

impl BegunWait {
    fn lock(&self) -> MutexGuard<'_, Option<Handle<ClusterWait>>> {
        lock(&self.0)
    }
}

impl Member for BegunWait {
    fn waitable(&self) -> &dyn Waitable {
        self
    }

    fn decide(&self) {
        Pin::new(&mut WaitSlot(self)).decide();
    }

    fn poll_decided(&self, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut WaitSlot(self)).poll_outcome(context, false).map(drop)
    }

    fn end(&self) {
        let wait = self.lock().take();
        // Dropped without the lock.
        drop(wait);
    }
}

impl Waitable for BegunWait {}

impl Sealed for BegunWait {
    fn slot(&self, _: Seal) -> Slot<'_> {
        Slot::external(WaitSlot(self))
    }
}

/// The wait as a slot of `any` and `all`.
struct WaitSlot<'w>(&'w BegunWait);

impl External for WaitSlot<'_> {
    fn poll_outcome(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        blocks: bool,
    ) -> Poll<Result<bool, tantara::Error>> {
        self.0.lock().as_mut().map_or(Poll::Pending, |wait| Pin::new(&mut **wait).poll_outcome(context, blocks))
    }

    fn needs_poll(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|wait| wait.needs_poll())
    }

    fn identity(&self) -> Option<Identity> {
        self.0.lock().as_ref().and_then(|wait| wait.identity())
    }

    fn decide(self: Pin<&mut Self>) -> bool {
        self.0.lock().as_mut().is_some_and(|wait| Pin::new(&mut **wait).decide())
    }
}

impl std::fmt::Debug for WaitSlot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WaitSlot")
    }
}

/// Limits a time that another process has written to what Python's `datetime` can represent.
pub(crate) fn moment(at: SystemTime) -> SystemTime {
    const END_OF_9999: Duration = Duration::from_secs(253_402_300_799);
    at.min(SystemTime::UNIX_EPOCH + END_OF_9999)
}

pub(crate) fn waiter<'py>(py: Python<'py>, waiter: ClusterWaiter) -> PyResult<Bound<'py, PyAny>> {
    instance(py, "ClusterWaiter", (waiter.host, waiter.pid, moment(waiter.since), waiter.count))
}

pub(crate) fn origin<'py>(py: Python<'py>, origin: Origin) -> PyResult<Bound<'py, PyAny>> {
    instance(py, "Origin", (origin.host, origin.pid, moment(origin.at), origin.note))
}

/// Sets the event, with or without a note.
async fn set(event: Handle<tantara_etcd::ClusterEvent>, note: Option<String>) -> Result<(), tantara_etcd::Error> {
    event.set_with_note_async(&note.unwrap_or_default()).await
}

async fn pulse(event: Handle<tantara_etcd::ClusterEvent>, note: Option<String>) -> Result<(), tantara_etcd::Error> {
    event.pulse_with_note_async(&note.unwrap_or_default()).await
}

#[pymethods]
impl ClusterEvent {
    /// The name.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Return True if the event is set or held.
    fn is_set(&self, py: Python<'_>) -> PyResult<bool> {
        let event = self.event()?;
        run(py, async move { event.is_set_async().await })
    }

    /// is_set() for async code: await event.is_set_async().
    fn is_set_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let event = self.event()?;
        task::request(py, async move { event.is_set_async().await }, |py, is_set| is_set.into_py_any(py))
    }

    /// Set the event and release every waiter on every machine.
    ///
    /// note says why, in up to 64 bytes of UTF-8 without control characters: last_set(),
    /// Cluster.list() and the command tantara show it until the next set(). Raise ValueError for a
    /// text that cannot be a note.
    ///
    /// If the call is interrupted by Ctrl-C, or the task is cancelled, the event may or may not
    /// have been set.
    #[pyo3(signature = (*, note = None))]
    fn set(&self, py: Python<'_>, note: Option<String>) -> PyResult<()> {
        let event = self.event()?;
        run(py, set(event, note))
    }

    /// set() for async code: await event.set_async(). The request is sent by the call, not by the
    /// await.
    #[pyo3(signature = (*, note = None))]
    fn set_async<'py>(&self, py: Python<'py>, note: Option<String>) -> PyResult<Bound<'py, PyAny>> {
        let event = self.event()?;
        task::request(py, set(event, note), nothing)
    }

    /// Clear the event. While it is held it stays set.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        let event = self.event()?;
        run(py, async move { event.clear_async().await })
    }

    /// clear() for async code: await event.clear_async(). The request is sent by the call, not by
    /// the await.
    fn clear_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let event = self.event()?;
        task::request(py, async move { event.clear_async().await }, nothing)
    }

    /// Set and clear the event in one step: every waiter is released, and is_set() never returns
    /// True. note is as for set().
    #[pyo3(signature = (*, note = None))]
    fn pulse(&self, py: Python<'_>, note: Option<String>) -> PyResult<()> {
        let event = self.event()?;
        run(py, pulse(event, note))
    }

    /// pulse() for async code: await event.pulse_async(). The request is sent by the call, not by
    /// the await.
    #[pyo3(signature = (*, note = None))]
    fn pulse_async<'py>(&self, py: Python<'py>, note: Option<String>) -> PyResult<Bound<'py, PyAny>> {
        let event = self.event()?;
        task::request(py, pulse(event, note), nothing)
    }

    /// Block until the event is set, for at most timeout seconds.
    ///
    /// Return True if the wait was released, False if the timeout expired and the cluster has
    /// confirmed that the event was not set. Without a timeout, wait for ever; with 0 or less,
    /// return at once. Ctrl-C interrupts the wait. Raise ClusterUnreachable if the cluster cannot
    /// be asked at the beginning or when the timeout expires.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let limit = seconds::limit(timeout)?;
        let event = self.event()?;
        blocking(py, limit, |limit| event.wait_timeout(limit), drop)?.map_err(of_cluster)
    }

    /// wait() for async code: await event.wait_async().
    ///
    /// The call sends the first request of the wait. A set() through the same Cluster that is
    /// requested after the call releases the wait, and so does every set() that takes effect after
    /// the cluster has answered that request. It may be cancelled at any time.
    #[pyo3(signature = (timeout = None))]
    fn wait_async<'py>(&self, py: Python<'py>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        coroutine(py, || self.begin(), Aim::All, timeout)
    }

    /// Block until the event is unset, for at most timeout seconds: neither set nor held. It is
    /// released too if the event was unset and set again meanwhile. An event that does not exist is
    /// unset.
    ///
    /// Return and raise what wait() does.
    #[pyo3(signature = (timeout = None))]
    fn wait_unset(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let limit = seconds::limit(timeout)?;
        let event = self.event()?;
        blocking(py, limit, |limit| event.wait_unset_timeout(limit), drop)?.map_err(of_cluster)
    }

    /// wait_unset() for async code: await event.wait_unset_async(). The wait begins as that of
    /// wait_async() does.
    #[pyo3(signature = (timeout = None))]
    fn wait_unset_async<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        coroutine(py, || self.begin_by(tantara_etcd::ClusterEvent::wait_unset_async), Aim::All, timeout)
    }

    /// Block until the event is set once more, for at most timeout seconds: by set(), pulse() or
    /// hold(), whether it is set already or not.
    ///
    /// Return and raise what wait() does.
    #[pyo3(signature = (timeout = None))]
    fn wait_next(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let limit = seconds::limit(timeout)?;
        let event = self.event()?;
        blocking(py, limit, |limit| event.wait_next_timeout(limit), drop)?.map_err(of_cluster)
    }

    /// wait_next() for async code: await event.wait_next_async(). The wait begins as that of
    /// wait_async() does.
    #[pyo3(signature = (timeout = None))]
    fn wait_next_async<'py>(
        &self,
        py: Python<'py>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        coroutine(py, || self.begin_by(tantara_etcd::ClusterEvent::wait_next_async), Aim::All, timeout)
    }

    /// Set the event until the returned Hold is released: with event.hold(): ...
    ///
    /// If the process dies or loses the cluster, the cluster ends the hold after hold_ttl seconds.
    fn hold(&self, py: Python<'_>) -> PyResult<Hold> {
        let lost = Py::new(py, Event::unset())?;
        let holding = run(py, hold::ask(self.event()?, lost.clone_ref(py)))?;
        Ok(Hold::new(&self.name, holding, lost))
    }

    /// hold() for async code: await event.hold_async().
    fn hold_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let lost = Py::new(py, Event::unset())?;
        let (asked, name) = (hold::ask(self.event()?, lost.clone_ref(py)), self.name.clone());
        task::request(py, asked, move |py, holding| Hold::new(&name, holding, lost).into_py_any(py))
    }

    /// Return an Origin that says by which process the event was last set, when, and with which
    /// note, as that process describes itself; or None if it never was.
    fn last_set<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let event = self.event()?;
        let last = run(py, async move { event.last_set_async().await })?;
        last.map(|last| origin(py, last)).transpose()
    }

    /// Return a list of ClusterWaiter, one for each process that waits, the longest wait first.
    ///
    /// It contains only processes whose Cluster was created with record_waits=True.
    fn waiters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let event = self.event()?;
        let waiters = run(py, async move { event.waiters_async().await })?;
        waiters.into_iter().map(|one| waiter(py, one)).collect()
    }

    /// Remove the event. Its waiters raise FileNotFoundError, and its holds end. Return False if it
    /// did not exist.
    fn remove(&self, py: Python<'_>) -> PyResult<bool> {
        let event = self.event()?;
        run(py, async move { event.remove_async().await })
    }

    fn __reduce__(&self) -> PyResult<()> {
        refuse_pickling("ClusterEvent")
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        format!("<ClusterEvent {:?} at {:#x}>", slf.get().name, slf.as_ptr() as usize)
    }
}
