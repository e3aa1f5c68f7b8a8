//! `ClusterEvent`: the event between machines.

use std::sync::Arc;

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;

use crate::cluster::{Connection, Handle, exception, refuse_pickling, run, waiter};
use crate::event::Event;
use crate::held::{Begun, Held};
use crate::hold::{self, Hold};
use crate::seconds;
use crate::sleep::blocking;
use crate::task::{self, Aim};

/// An event that machines share. From Cluster.event().
///
/// It has the verbs of threading.Event, and each may fail: the cluster may not be reachable. A wait that returns False
/// was told by the cluster that the event is not set; where the cluster cannot be asked it raises ClusterUnreachable,
/// which is no TimeoutError. A wait that has begun outlasts every outage.
///
/// Who waits when it is set is released, even if it is cleared again at once, and whatever becomes of connections and
/// leaders meanwhile.
#[pyclass(module = "tantara", frozen, weakref)]
pub(crate) struct ClusterEvent {
    connection: Arc<Connection>,
    name: String,
}

/// None, to Python.
fn nothing(py: Python<'_>, _: ()) -> PyResult<Py<PyAny>> {
    Ok(py.None())
}

impl ClusterEvent {
    pub(crate) fn new(connection: &Arc<Connection>, name: &str) -> PyResult<ClusterEvent> {
        tantara_etcd::ClusterEvent::check_name(name).map_err(exception)?;
        connection.with(|_| ())?;
        Ok(ClusterEvent { connection: Arc::clone(connection), name: name.to_owned() })
    }

    fn event(&self) -> PyResult<Handle<tantara_etcd::ClusterEvent>> {
        self.connection.with(|cluster| Handle::new(cluster.event(&self.name)))
    }

    /// A wait that begins now.
    pub(crate) fn begin(&self) -> PyResult<Begun> {
        Ok(Begun::new(self.event()?.wait_async()))
    }
}

#[pymethods]
impl ClusterEvent {
    /// The name.
    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Return True if the event is set, or held, now.
    fn is_set(&self, py: Python<'_>) -> PyResult<bool> {
        let event = self.event()?;
        run(py, async move { event.is_set_async().await })
    }

    /// is_set() in asyncio: await event.is_set_async().
    fn is_set_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let event = self.event()?;
        task::request(py, async move { event.is_set_async().await }, |py, is_set| is_set.into_py_any(py))
    }

    /// Raise the flag and release everyone who waits, on all machines.
    ///
    /// If it is interrupted, by Ctrl-C or by cancelling a task, it may have been done or not.
    fn set(&self, py: Python<'_>) -> PyResult<()> {
        let event = self.event()?;
        run(py, async move { event.set_async().await })
    }

    /// set() in asyncio: await event.set_async(). It begins with the call.
    fn set_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let event = self.event()?;
        task::request(py, async move { event.set_async().await }, nothing)
    }

    /// Lower the flag. While somebody holds the event it stays set nevertheless.
    fn clear(&self, py: Python<'_>) -> PyResult<()> {
        let event = self.event()?;
        run(py, async move { event.clear_async().await })
    }

    /// clear() in asyncio: await event.clear_async(). It begins with the call.
    fn clear_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let event = self.event()?;
        task::request(py, async move { event.clear_async().await }, nothing)
    }

    /// Set and clear in one step: everyone who waits is released, and nobody can see it set.
    fn pulse(&self, py: Python<'_>) -> PyResult<()> {
        let event = self.event()?;
        run(py, async move { event.pulse_async().await })
    }

    /// pulse() in asyncio: await event.pulse_async(). It begins with the call.
    fn pulse_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let event = self.event()?;
        task::request(py, async move { event.pulse_async().await }, nothing)
    }

    /// Block until the event is set, or for at most timeout seconds.
    ///
    /// Return True if it was released, False if the cluster says that it was not when the time had passed. None waits
    /// without a limit; nought or less only looks. Ctrl-C ends the wait. ClusterUnreachable if the wait cannot begin,
    /// or if the cluster cannot be asked when the time has passed.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let limit = seconds::limit(timeout)?;
        let event = self.event()?;
        blocking(py, limit, |limit| event.wait_timeout(limit), drop)?.map_err(exception)
    }

    /// wait() in asyncio: await event.wait_async().
    ///
    /// The wait begins with the call, and counts from the moment at which the cluster has heard of it. It may be
    /// cancelled at any moment.
    #[pyo3(signature = (timeout = None))]
    fn wait_async<'py>(&self, py: Python<'py>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        task::coroutine(py, [Held::Cluster(self.begin()?)], Aim::All, timeout)
    }

    /// Set the event for as long as the Hold that this returns is not released: with event.hold(): ...
    ///
    /// If the process dies, or is cut off, the cluster lets go after hold_ttl seconds.
    fn hold(&self, py: Python<'_>) -> PyResult<Hold> {
        let lost = Py::new(py, Event::unset())?;
        let holding = run(py, hold::ask(self.event()?, lost.clone_ref(py)))?;
        Ok(Hold::new(&self.name, holding, lost))
    }

    /// hold() in asyncio: await event.hold_async().
    fn hold_async<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let lost = Py::new(py, Event::unset())?;
        let (asked, name) = (hold::ask(self.event()?, lost.clone_ref(py)), self.name.clone());
        task::request(py, asked, move |py, holding| Hold::new(&name, holding, lost).into_py_any(py))
    }

    /// Return who waits, in all processes whose Cluster has record_waits, those who have waited longest first: a list
    /// of ClusterWaiter, each with host, pid, since (a datetime) and waits, how many in it do.
    fn waiters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let event = self.event()?;
        let waiters = run(py, async move { event.waiters_async().await })?;
        waiters.into_iter().map(|one| waiter(py, one)).collect()
    }

    /// Remove the event: everyone who waits is told so by FileNotFoundError, and holds of it end. Return False if
    /// there was none.
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
