//! Timeouts, as CPython accepts them: seconds as an int or a float, and None for no limit.

use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt};

use crate::call::{call, index};

/// `threading.TIMEOUT_MAX`: the whole seconds of the nanoseconds that fit into a C `long long`.
const MOST: f64 = 9_223_372_036.0;

/// Converts a timeout. Zero and negative numbers mean not to wait.
pub(crate) fn limit(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Duration> {
    let Some(timeout) = timeout else { return Ok(Duration::MAX) };
    let seconds = number(timeout, "timeout must be a number of seconds (int or float) or None")?;
    if seconds.is_nan() {
        return Err(PyValueError::new_err("the timeout is not a number (NaN)"));
    }
    if seconds > MOST {
        return Err(PyOverflowError::new_err("timeout value is too large"));
    }
    if seconds <= 0.0 {
        return Ok(Duration::ZERO);
    }
    // Rounded up, as in CPython, so that no wait is shorter than requested.
    let whole = seconds.trunc();
    let nanoseconds = ((seconds - whole) * 1e9).ceil();
    Ok(Duration::from_secs(whole as u64) + Duration::from_nanos(nanoseconds as u64))
}

/// Converts an option in seconds.
pub(crate) fn option(seconds: &Bound<'_, PyAny>) -> PyResult<f64> {
    number(seconds, "must be a number of seconds (int or float)")
}

pub(crate) fn optional(seconds: &Bound<'_, PyAny>) -> PyResult<Option<f64>> {
    if seconds.is_none() { Ok(None) } else { option(seconds).map(Some) }
}

fn number(seconds: &Bound<'_, PyAny>, must: &str) -> PyResult<f64> {
    if let Ok(float) = seconds.cast::<PyFloat>() {
        return Ok(float.value());
    }
    if let Ok(int) = seconds.cast::<PyInt>() {
        return of_int(int);
    }
    // Objects that convert to an integer, such as numpy's integers.
    let int = index(seconds).map_err(|error| {
        let py = seconds.py();
        if !error.is_instance_of::<PyTypeError>(py) {
            return error;
        }
        let kind = seconds.get_type().name().map_or_else(|_| "this".to_owned(), |name| name.to_string());
        let refused = PyTypeError::new_err(format!("{must}, not {kind}"));
        refused.set_cause(py, Some(error));
        refused
    })?;
    of_int(&int)
}

fn of_int(int: &Bound<'_, PyInt>) -> PyResult<f64> {
    match int.extract::<i64>() {
        Ok(seconds) => Ok(seconds as f64),
        // An integer that does not fit is either too large or negative.
        Err(_) => {
            // The operator of `int` itself, because a subclass may define its own.
            let is_less = int.py().get_type::<PyInt>().getattr("__lt__")?;
            let is_negative = call(&is_less, (int, 0))?.is_truthy()?;
            Ok(if is_negative { f64::NEG_INFINITY } else { f64::INFINITY })
        }
    }
}
