//! Timeouts, as CPython accepts them: seconds as an int or a float, and None for no limit.

use std::time::Duration;

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyInt};

use crate::call::call;

/// `threading.TIMEOUT_MAX`: the whole seconds of the nanoseconds that fit into a C `long long`.
const MOST: f64 = 9_223_372_036.0;

/// Converts a timeout. Zero and negative numbers mean not to wait.
pub(crate) fn limit(timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Duration> {
    let Some(timeout) = timeout else { return Ok(Duration::MAX) };
    let seconds = if let Ok(float) = timeout.cast::<PyFloat>() {
        float.value()
    } else if let Ok(int) = timeout.cast::<PyInt>() {
        of_int(int)?
    } else {
        // Objects that convert to an integer, such as numpy's integers.
        let refused = || {
            let kind = timeout.get_type().name().map_or_else(|_| "this".to_owned(), |name| name.to_string());
            PyTypeError::new_err(format!("timeout must be a number of seconds (int or float) or None, not {kind}"))
        };
        let index = call(&timeout.getattr_opt("__index__")?.ok_or_else(refused)?, ())?;
        of_int(index.cast::<PyInt>().map_err(|_| refused())?)?
    };
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

fn of_int(int: &Bound<'_, PyInt>) -> PyResult<f64> {
    match int.extract::<i64>() {
        Ok(seconds) => Ok(seconds as f64),
        // An integer that does not fit is either too large or negative.
        Err(_) => Ok(if int.lt(0)? { f64::NEG_INFINITY } else { f64::INFINITY }),
    }
}
