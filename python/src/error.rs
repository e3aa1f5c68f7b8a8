//! Errors of the Rust events as Python exceptions, and requests to a cluster, which may fail with
//! them.

use std::future::Future;

use pyo3::exceptions::{PyOSError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use tantara_etcd::Pending;

use crate::connection::{Handle, raised};
use crate::sleep::finish;

/// The exception for an error of a shared event, or of a wait for several events.
pub(crate) fn of_event(error: tantara::Error) -> PyErr {
    let source = std::error::Error::source(&error);
    if let Some(error) = source.and_then(|source| source.downcast_ref::<tantara_etcd::Error>()) {
        return of_cluster(error.clone());
    }
    let text = error.to_string();
    if error.is_invalid_name() || error.is_invalid_note() {
        return PyValueError::new_err(text);
    }
    let of_system = || source?.downcast_ref::<std::io::Error>()?.raw_os_error();
    let number = if error.is_removed() {
        libc::ENOENT
    } else if let Some(number) = of_system() {
        number
    } else if error.is_permission_denied() {
        libc::EACCES
    } else {
        libc::EINVAL
    };
    // Python picks the subclass by the number: FileNotFoundError, PermissionError and so on.
    PyOSError::new_err((number, text))
}

/// The exception for an error of a cluster.
pub(crate) fn of_cluster(error: tantara_etcd::Error) -> PyErr {
    let text = error.to_string();
    if error.is_invalid_input() {
        PyValueError::new_err(text)
    } else if error.is_permission_denied() {
        // Python picks PermissionError by the number.
        PyOSError::new_err((libc::EACCES, text))
    } else if error.is_removed() {
        PyOSError::new_err((libc::ENOENT, text))
    } else {
        Python::attach(|py| {
            if error.is_unknown() {
                let change = error.pending().map(|pending| Change(Handle::new(pending.clone())));
                raised(py, "OutcomeUnknown", (text, change))
            } else if error.is_unreachable() {
                raised(py, "ClusterUnreachable", (text,))
            } else {
                raised(py, "ClusterError", (text,))
            }
        })
    }
}

pub(crate) fn raise<T>(outcome: Result<T, tantara::Error>) -> PyResult<T> {
    outcome.map_err(of_event)
}

/// Refuses to pickle an object that other processes cannot use.
pub(crate) fn refuse_pickling<T>(class: &str) -> PyResult<T> {
    let why = "it belongs to the process that connected; connect in the other process too";
    Err(PyTypeError::new_err(format!("cannot pickle a {class}: {why}")))
}

/// Blocks until a request to the cluster is answered.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    request: impl Future<Output = Result<T, tantara_etcd::Error>> + Send,
) -> PyResult<T> {
    finish(py, request)?.map_err(of_cluster)
}

/// A change with an unknown outcome. Internal to tantara.
#[pyclass(module = "tantara._tantara", frozen)]
pub(crate) struct Change(Handle<Pending>);

#[pymethods]
impl Change {
    fn resolve(&self, py: Python<'_>) -> PyResult<bool> {
        let pending = Handle::new(self.0.owned()?.clone());
        run(py, async move { pending.resolve_async().await })
    }
}
