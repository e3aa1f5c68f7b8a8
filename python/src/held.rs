//! The events of one wait, whatever their kinds.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use tantara::Waitable;

use crate::auto_reset::AutoResetEvent;
use crate::event::Event;
use crate::shared::SharedEvent;

/// An event that a wait keeps alive.
pub(crate) enum Held {
    Event(Py<Event>),
    AutoReset(Py<AutoResetEvent>),
    /// Closing the Python object ends no wait.
    Shared(tantara::SharedEvent),
}

impl Held {
    fn from_any(any: &Bound<'_, PyAny>, index: usize) -> PyResult<Held> {
        if let Ok(event) = any.cast::<Event>() {
            Ok(Held::Event(event.clone().unbind()))
        } else if let Ok(event) = any.cast::<AutoResetEvent>() {
            Ok(Held::AutoReset(event.clone().unbind()))
        } else if let Ok(event) = any.cast::<SharedEvent>() {
            event.get().opened().map(Held::Shared)
        } else {
            let kind = any.get_type().name()?;
            let what = "an Event, an AutoResetEvent or a SharedEvent";
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
        }
    }

    /// A release that nobody will hear of goes to the next in line.
    pub(crate) fn pass_on(&self) {
        if let Held::AutoReset(event) = self {
            event.get().event().set();
        }
    }
}
