//! `wait_any` and `wait_all`, and their twins for asyncio.

use pyo3::prelude::*;
use tantara::{all, any};

use crate::held::Held;
use crate::seconds;
use crate::shared::raise;
use crate::sleep::blocking;
use crate::task::{self, Aim};

/// Block until one of the events releases, or for at most timeout seconds.
///
/// Return the index of one that released, the lowest if there are several, or None if the time passed first. Kinds can
/// be mixed. The release of an AutoResetEvent is used up only if its index is returned.
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
    let (held, limit) = (Held::all_from(events)?, seconds::limit(timeout)?);
    let pass_on = |outcome: Result<Option<usize>, _>| {
        if let Ok(Some(index)) = outcome {
            held[index].pass_on();
        }
    };
    raise(blocking(py, limit, |limit| any(held.iter().map(Held::waitable)).try_wait_timeout(limit), pass_on)?)
}

/// Block until each of the events has released at some moment of this wait, or for at most timeout seconds.
///
/// Return True if all have, False if the time passed first. An Event that was set and cleared again while the others
/// were still awaited has done its part. The releases of AutoResetEvents are used up only if True is returned.
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
    let (held, limit) = (Held::all_from(events)?, seconds::limit(timeout)?);
    let pass_on = |outcome: Result<bool, _>| {
        if let Ok(true) = outcome {
            held.iter().for_each(Held::pass_on);
        }
    };
    raise(blocking(py, limit, |limit| all(held.iter().map(Held::waitable)).try_wait_timeout(limit), pass_on)?)
}

/// wait_any() in asyncio: await wait_any_async(events).
///
/// The wait begins with the call, and may be cancelled at any moment.
#[pyfunction]
#[pyo3(signature = (events, timeout = None))]
pub(crate) fn wait_any_async<'py>(
    py: Python<'py>,
    events: &Bound<'py, PyAny>,
    timeout: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    task::coroutine(py, Held::all_from(events)?, Aim::Any, timeout)
}

/// wait_all() in asyncio: await wait_all_async(events).
///
/// The wait begins with the call, and may be cancelled at any moment.
#[pyfunction]
#[pyo3(signature = (events, timeout = None))]
pub(crate) fn wait_all_async<'py>(
    py: Python<'py>,
    events: &Bound<'py, PyAny>,
    timeout: Option<&Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    task::coroutine(py, Held::all_from(events)?, Aim::All, timeout)
}
