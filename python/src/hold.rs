//! `Hold`: keeps an event set until it is released or the process ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Wake, Waker};

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::connection::Handle;
use crate::error::refuse_pickling;
use crate::event::Event;
use crate::locked::{lock, try_lock};

/// Keeps a ClusterEvent set until it is released. Returned by ClusterEvent.hold().
///
///     >>> with cluster.event("db-up").hold() as hold:
///     ...     while not hold.lost.wait(timeout=1):
///     ...         serve()
#[pyclass(module = "tantara", frozen, weakref)]
pub(crate) struct Hold {
    name: String,
    /// `None` once it is released.
    holding: Mutex<Option<Handle<Holding>>>,
    lost: Py<Event>,
}

pub(crate) struct Holding {
    hold: Arc<tantara_etcd::Hold>,
    tell: Arc<Tell>,
    /// A wait for the loss of the hold. It wakes `tell`.
    _loss: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Sets the Python event when the hold is lost.
struct Tell(Py<Event>);

impl Wake for Tell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.get().event().set();
    }
}

impl Holding {
    fn new(hold: tantara_etcd::Hold, lost: Py<Event>) -> Holding {
        let hold = Arc::new(hold);
        let held = Arc::clone(&hold);
        let mut loss: Pin<Box<dyn Future<Output = ()> + Send>> =
            Box::pin(async move { held.lost().wait_async().await });
        let tell = Arc::new(Tell(lost));
        if loss.as_mut().poll(&mut Context::from_waker(&Waker::from(Arc::clone(&tell)))).is_ready() {
            tell.wake_by_ref();
        }
        Holding { hold, tell, _loss: loss }
    }
}

/// Requests a hold. `lost` is set when it is lost.
pub(crate) async fn ask(
    event: Handle<tantara_etcd::ClusterEvent>,
    lost: Py<Event>,
) -> Result<Handle<Holding>, tantara_etcd::Error> {
    Ok(Handle::new(Holding::new(event.hold_async().await?, lost)))
}

impl Hold {
    pub(crate) fn new(name: &str, holding: Handle<Holding>, lost: Py<Event>) -> Hold {
        Hold { name: name.to_owned(), holding: Mutex::new(Some(holding)), lost }
    }

    fn holding(&self) -> MutexGuard<'_, Option<Handle<Holding>>> {
        lock(&self.holding)
    }
}

#[pymethods]
impl Hold {
    /// An Event that is set when the hold is lost.
    ///
    /// The cluster has ended the hold, or may have ended it because this process could not renew it
    /// for hold_ttl seconds. A lost hold never recovers; call hold() again.
    #[getter]
    fn lost(&self, py: Python<'_>) -> PyResult<Py<Event>> {
        // The exception is made without the lock, because that runs Python code.
        let is_lost = match &*self.holding() {
            Some(holding) => holding.owned().map(|holding| holding.hold.is_lost()),
            None => Ok(false),
        };
        if is_lost? {
            // The clock decides, even if the thread that watches it has not run for a while.
            self.lost.get().event().set();
        }
        Ok(self.lost.clone_ref(py))
    }

    /// Release the hold. The event becomes unset soon, unless it is set or held by another process.
    /// Releasing twice is no error.
    fn release(&self) {
        let holding = self.holding().take();
        drop(holding);
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if slf.get().holding().is_none() {
            return Err(PyValueError::new_err("the hold has been released"));
        }
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.release();
    }

    /// There may be a cycle: the program may keep the hold in an attribute of `lost`.
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.lost)?;
        // The lock is free: it is never held across a call into Python, so not while the collector
        // runs.
        match try_lock(&self.holding).as_ref().and_then(|holding| holding.as_ref()) {
            Some(holding) => visit.call(&holding.tell.0),
            None => Ok(()),
        }
    }

    fn __clear__(&self) {
        self.release();
    }

    fn __reduce__(&self) -> PyResult<()> {
        refuse_pickling("Hold")
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let this = slf.get();
        let state = match &*this.holding() {
            None => "released",
            Some(_) if this.lost.get().event().is_set() => "lost",
            Some(_) => "held",
        };
        format!("<Hold of {:?} at {:#x} {state}>", this.name, slf.as_ptr() as usize)
    }
}
