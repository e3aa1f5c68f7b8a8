//! Objects that belong to the connection to a cluster: how they are dropped, and who may use them
//! after a fork.

use std::ops::{Deref, DerefMut};
use std::sync::RwLock;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::call::{call, import};
use crate::forked;
use crate::locked::{read, write};

/// An object that keeps a connection alive. Dropping the last one blocks for about a round trip, so
/// it is dropped without the interpreter's lock. The child of a fork has no thread that serves the
/// connection, and may have inherited locked locks, so it leaks the object.
pub(crate) struct Handle<T: Send> {
    /// `None` only while it is dropped.
    value: Option<T>,
    forks: u32,
}

impl<T: Send> Handle<T> {
    pub(crate) fn new(value: T) -> Handle<T> {
        Handle { value: Some(value), forks: forked::count() }
    }

    /// The object, unless this is a forked child.
    pub(crate) fn owned(&self) -> Result<&T, OfParent> {
        if self.forks == forked::count() { Ok(self) } else { Err(OfParent) }
    }
}

/// The object belongs to the process that forked this one. Its conversion to a `ClusterError` runs
/// Python code, so it must not happen under a lock.
#[derive(Debug)]
pub(crate) struct OfParent;

impl From<OfParent> for PyErr {
    fn from(_: OfParent) -> PyErr {
        let why = "this connection to etcd belongs to the process that made it; connect again in this one";
        Python::attach(|py| raised(py, "ClusterError", (why,)))
    }
}

impl<T: Send> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("only `drop` takes the value")
    }
}

impl<T: Send> DerefMut for Handle<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("only `drop` takes the value")
    }
}

impl<T: Send> Drop for Handle<T> {
    fn drop(&mut self) {
        let mut value = self.value.take();
        if self.forks != forked::count() {
            std::mem::forget(value);
            return;
        }
        // If the interpreter has ended, the closure does not run, and the value is dropped at the
        // end of this function.
        let _ = Python::try_attach(|py| py.detach(|| drop(value.take())));
    }
}

/// The connection that a `Cluster` and its events share.
pub(crate) struct Connection {
    /// `None` after `close()`.
    cluster: RwLock<Option<Handle<tantara_etcd::Cluster>>>,
}

impl Connection {
    pub(crate) fn new(cluster: Handle<tantara_etcd::Cluster>) -> Connection {
        Connection { cluster: RwLock::new(Some(cluster)) }
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&tantara_etcd::Cluster) -> T) -> PyResult<T> {
        let outcome = match &*read(&self.cluster) {
            Some(cluster) => cluster.owned().map(act),
            None => return Err(PyValueError::new_err("the cluster is closed")),
        };
        Ok(outcome?)
    }

    pub(crate) fn is_closed(&self) -> bool {
        read(&self.cluster).is_none()
    }

    pub(crate) fn close(&self) {
        let cluster = write(&self.cluster).take();
        // Dropped without the lock.
        drop(cluster);
    }
}

/// Creates an instance of a class of `_cluster.py`.
pub(crate) fn instance<'py>(
    py: Python<'py>,
    class: &str,
    arguments: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error: Into<PyErr>>,
) -> PyResult<Bound<'py, PyAny>> {
    call(&import(py, c"tantara._cluster")?.getattr(class)?, arguments)
}

/// Creates an exception of a class of `_cluster.py`.
pub(crate) fn raised<'py>(
    py: Python<'py>,
    class: &str,
    arguments: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error: Into<PyErr>>,
) -> PyErr {
    instance(py, class, arguments).map_or_else(|error| error, PyErr::from_value)
}
