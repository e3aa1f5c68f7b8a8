//! The record of waits, for Python: what is recorded, and labels.

use std::time::UNIX_EPOCH;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tantara::waits::{self, Act, Actor, Awaited, Mode, Waiting};

use crate::auto_reset::AutoResetEvent;
use crate::event::Event;
use crate::shared::SharedEvent;

/// Record waits from now on, or no longer.
#[pyfunction]
#[pyo3(signature = (on = true))]
pub(crate) fn record_waits(on: bool) {
    waits::record(on);
}

/// Give an event a name, which the records of its waits show.
#[pyfunction]
pub(crate) fn label_event(event: &Bound<'_, PyAny>, name: &str) -> PyResult<()> {
    if let Ok(event) = event.cast::<Event>() {
        event.get().label(name);
    } else if let Ok(event) = event.cast::<AutoResetEvent>() {
        event.get().label(name);
    } else if let Ok(event) = event.cast::<SharedEvent>() {
        waits::label(&event.get().opened()?, name);
    } else {
        return Err(PyTypeError::new_err("label_event() takes an Event, an AutoResetEvent or a SharedEvent"));
    }
    Ok(())
}

/// The waits of this process, as dictionaries. `_waits.py` makes records of them.
#[pyfunction]
pub(crate) fn recorded_waits(py: Python<'_>) -> PyResult<Bound<'_, PyList>> {
    // Without the interpreter's lock: it may take some milliseconds.
    let waits = py.detach(waits::waits);
    let waits = waits.iter().map(|wait| of_wait(py, wait)).collect::<PyResult<Vec<_>>>()?;
    PyList::new(py, waits)
}

fn of_wait<'py>(py: Python<'py>, wait: &Waiting) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    let events = wait.events.iter().map(|event| of_event(py, event)).collect::<PyResult<Vec<_>>>()?;
    dict.set_item("events", events)?;
    dict.set_item(
        "mode",
        match wait.mode {
            Mode::Any => "any",
            Mode::All => "all",
            _ => "one",
        },
    )?;
    of_actor(&dict, &wait.thread)?;
    let task = wait.task.map(|task| wait.task_name.clone().unwrap_or_else(|| format!("{task:#x}")));
    dict.set_item("task", task)?;
    dict.set_item("file", &*wait.place.file)?;
    dict.set_item("line", wait.place.line)?;
    dict.set_item("since", wait.since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())?;
    dict.set_item("time_left", wait.time_left.map(|left| left.as_secs_f64()))?;
    dict.set_item("released", wait.is_released())?;
    dict.set_item("text", wait.to_string())?;
    Ok(dict)
}

fn of_event<'py>(py: Python<'py>, event: &Awaited) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    dict.set_item("name", event.to_string())?;
    dict.set_item("kind", event.kind.name())?;
    let last_set = event.last_set.as_ref().map(|act| of_act(py, act)).transpose()?;
    dict.set_item("last_set", last_set)?;
    Ok(dict)
}

fn of_act<'py>(py: Python<'py>, act: &Act) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    of_actor(&dict, &act.by)?;
    dict.set_item("file", &*act.place.file)?;
    dict.set_item("line", act.place.line)?;
    dict.set_item("at", act.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())?;
    Ok(dict)
}

fn of_actor(dict: &Bound<'_, PyDict>, actor: &Actor) -> PyResult<()> {
    dict.set_item("thread", actor.name.as_deref())?;
    dict.set_item("tid", actor.id)
}
