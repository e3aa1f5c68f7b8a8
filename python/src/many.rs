//! `wait_any` and `wait_all`, and their variants for async code.

use std::future::Future;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyList;
use tantara::{all, any};

use crate::auto_reset::AutoResetEvent;
use crate::call::call;
use crate::cluster_event::{BegunWait, ClusterEvent};
use crate::coroutine::coroutine;
use crate::error::raise;
use crate::event::Event;
use crate::files;
use crate::member::{Member, Members};
use crate::seconds;
use crate::shared::SharedEvent;
use crate::sleep::blocking;
use crate::task::Aim;

/// An event of any kind, kept alive for a wait.
enum AnyEvent {
    Event(Py<Event>),
    AutoReset(Py<AutoResetEvent>),
    /// The Python object may be closed meanwhile.
    Shared(files::SharedEvent),
    /// The cluster may be closed meanwhile.
    Cluster(BegunWait),
}

struct AnyEvents(Vec<AnyEvent>);

impl AnyEvent {
    fn from_python(any: &Bound<'_, PyAny>, index: usize) -> PyResult<AnyEvent> {
        if let Ok(event) = any.cast::<Event>() {
            Ok(AnyEvent::Event(event.clone().unbind()))
        } else if let Ok(event) = any.cast::<AutoResetEvent>() {
            Ok(AnyEvent::AutoReset(event.clone().unbind()))
        } else if let Ok(event) = any.cast::<SharedEvent>() {
            event.get().opened().map(AnyEvent::Shared)
        } else if let Ok(event) = any.cast::<ClusterEvent>() {
            event.get().begin().map(AnyEvent::Cluster)
        } else {
            let kind = any.get_type().name()?;
            let expected = "an Event, an AutoResetEvent, a SharedEvent or a ClusterEvent";
            Err(PyTypeError::new_err(format!("events[{index}] must be {expected} of tantara, not {kind}")))
        }
    }
}

impl AnyEvents {
    fn from_python(events: &Bound<'_, PyAny>) -> PyResult<AnyEvents> {
        // A list first: an iterator may run Python code, which must not happen while waits have
        // begun.
        let events = call(&events.py().get_type::<PyList>(), (events,))?;
        let events = events.cast::<PyList>()?.iter().enumerate();
        events.map(|(index, event)| AnyEvent::from_python(&event, index)).collect::<PyResult<_>>().map(AnyEvents)
    }
}

impl Members for AnyEvents {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn member(&self, index: usize) -> &dyn Member {
        match &self.0[index] {
            AnyEvent::Event(event) => event,
            AnyEvent::AutoReset(event) => event,
            AnyEvent::Shared(event) => event,
            AnyEvent::Cluster(wait) => wait,
        }
    }

    fn wait_all(&self) -> impl Future<Output = Result<(), tantara::Error>> + Send {
        all(self.waitables()).try_wait_async()
    }
}

/// Block until one of the events releases the wait, for at most timeout seconds.
///
/// Return the index of an event that released it, the lowest if there are several, or None if the
/// timeout expired. Kinds can be mixed. The release of an AutoResetEvent is consumed only if its
/// index is returned.
///
///     >>> from tantara import Event, wait_any
///     >>> done, failed = Event(), Event()
///     >>> failed.set()
///     >>> wait_any([done, failed])
///     1
#[pyfunction]
#[pyo3(signature = (events, timeout = None))]
pub(crate) fn wait_any(
    py: Python<'_>,
    events: &Bound<'_, PyAny>,
    timeout: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<usize>> {
    let limit = seconds::limit(timeout)?;
    let events = AnyEvents::from_python(events)?;
    let pass_on = |outcome: Result<Option<usize>, _>| {
        if let Ok(Some(index)) = outcome {
            events.member(index).pass_on();
        }
    };
    raise(blocking(py, limit, |limit| any(events.waitables()).try_wait_timeout(limit), pass_on)?)
}

/// Block until each of the events has released the wait at some moment, for at most timeout
/// seconds.
///
/// Return True if all have, False if the timeout expired. An Event that is set and cleared while
/// the others are still awaited counts. The releases of AutoResetEvents are consumed only if True
/// is returned.
///
///     >>> from tantara import Event, wait_all
///     >>> parts = [Event(), Event()]
///     >>> wait_all(parts, timeout=0.01)
///     False
#[pyfunction]
#[pyo3(signature = (events, timeout = None))]
pub(crate) fn wait_all(
    py: Python<'_>,
    events: &Bound<'_, PyAny>,
    timeout: Option<&Bound<'_, PyAny>>,
) -> PyResult<bool> {
    let limit = seconds::limit(timeout)?;
    let events = AnyEvents::from_python(events)?;
    let pass_on = |outcome: Result<bool, _>| {
        if let Ok(true) = outcome {
            (0..events.count()).for_each(|index| events.member(index).pass_on());
        }
    };
    raise(blocking(py, limit, |limit| all(events.waitables()).try_wait_timeout(limit), pass_on)?)
}

/// wait_any() for async code: await wait_any_async(events).
///
/// The wait begins with the call, not with the await. It may be cancelled at any time.
#[pyfunction]
#[pyo3(signature = (events, timeout = None))]
pub(crate) fn wait_any_async<'py>(
    py: Python<'py>,
    events: &Bound<'py, PyAny>,
    timeout: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    coroutine(py, || AnyEvents::from_python(events), Aim::Any, timeout)
}

/// wait_all() for async code: await wait_all_async(events).
///
/// The wait begins with the call, not with the await. It may be cancelled at any time.
#[pyfunction]
#[pyo3(signature = (events, timeout = None))]
pub(crate) fn wait_all_async<'py>(
    py: Python<'py>,
    events: &Bound<'py, PyAny>,
    timeout: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    coroutine(py, || AnyEvents::from_python(events), Aim::All, timeout)
}
