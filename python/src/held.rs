//! The events of one wait, whatever their kinds.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use pyo3::exceptions::PyTypeError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use tantara::Waitable;
use tantara::foreign::{self, Foreign, Seal, Sealed, Slot};
use tantara_etcd::ClusterWait;

use crate::auto_reset::AutoResetEvent;
use crate::cluster::Handle;
use crate::cluster_event::ClusterEvent;
use crate::event::Event;
use crate::shared::SharedEvent;

/// An event that a wait keeps alive.
pub(crate) enum Held {
    Event(Py<Event>),
    AutoReset(Py<AutoResetEvent>),
    /// Closing the Python object ends no wait.
    Shared(tantara::SharedEvent),
    /// Nor does closing this one's cluster.
    Cluster(Begun),
}

/// A wait for a cluster's event, which has begun. It stands among others as the event would; and whoever holds it can
/// say that the time has passed, which a wait for many that is awaited cannot be told.
pub(crate) struct Begun(Mutex<Option<Handle<ClusterWait>>>);

impl Held {
    fn from_any(any: &Bound<'_, PyAny>, index: usize) -> PyResult<Held> {
        if let Ok(event) = any.cast::<Event>() {
            Ok(Held::Event(event.clone().unbind()))
        } else if let Ok(event) = any.cast::<AutoResetEvent>() {
            Ok(Held::AutoReset(event.clone().unbind()))
        } else if let Ok(event) = any.cast::<SharedEvent>() {
            event.get().opened().map(Held::Shared)
        } else if let Ok(event) = any.cast::<ClusterEvent>() {
            event.get().begin().map(Held::Cluster)
        } else {
            let kind = any.get_type().name()?;
            let what = "an Event, an AutoResetEvent, a SharedEvent or a ClusterEvent";
            Err(PyTypeError::new_err(format!("events[{index}] must be {what} of tantara, not {kind}")))
        }
    }

    pub(crate) fn all_from(events: &Bound<'_, PyAny>) -> PyResult<Vec<Held>> {
        events.try_iter()?.enumerate().map(|(index, event)| Held::from_any(&event?, index)).collect()
    }

    pub(crate) fn waitable(&self) -> &dyn Waitable {
        match self {
            Held::Event(event) => event.get().event(),
            Held::AutoReset(event) => event.get().event(),
            Held::Shared(event) => event,
            Held::Cluster(begun) => begun,
        }
    }

    /// Shows the collector what is Python's.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        match self {
            Held::Event(event) => visit.call(event),
            Held::AutoReset(event) => visit.call(event),
            Held::Shared(_) | Held::Cluster(_) => Ok(()),
        }
    }

    /// A release that nobody will hear of goes to the next in line.
    pub(crate) fn pass_on(&self) {
        if let Held::AutoReset(event) = self {
            event.get().event().set();
        }
    }

    /// The time has passed: whoever has to be asked whether it was released is asked.
    pub(crate) fn decide(&self) {
        if let Held::Cluster(begun) = self {
            Turn(begun).decide();
        }
    }

    /// Ready when nobody has to be asked any more.
    pub(crate) fn poll_decided(&self, context: &mut Context<'_>) -> Poll<()> {
        match self {
            Held::Cluster(begun) => Turn(begun).poll_outcome(context).map(drop),
            _ => Poll::Ready(()),
        }
    }

    /// Nobody waits any more. What a wait keeps may keep the waker that keeps this.
    pub(crate) fn end(&self) {
        if let Held::Cluster(begun) = self {
            let wait = begun.lock().take();
            drop(wait);
        }
    }
}

impl Begun {
    pub(crate) fn new(wait: ClusterWait) -> Begun {
        Begun(Mutex::new(Some(Handle::new(wait))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Handle<ClusterWait>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waitable for Begun {}

impl Sealed for Begun {
    fn slot(&self, _: Seal) -> Slot<'_> {
        foreign::slot(Box::new(Turn(self)))
    }
}

/// Its place among others.
struct Turn<'b>(&'b Begun);

impl Foreign for Turn<'_> {
    fn poll_outcome(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, tantara::Error>> {
        self.0.lock().as_mut().map_or(Poll::Pending, |wait| wait.poll_outcome(context))
    }

    fn has_failed(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|wait| wait.has_failed())
    }

    fn decide(&mut self) {
        if let Some(wait) = &mut *self.0.lock() {
            wait.decide();
        }
    }
}

impl std::fmt::Debug for Turn<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Turn")
    }
}
