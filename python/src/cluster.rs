//! `Cluster`: the connection to etcd.

use std::ffi::CString;
use std::sync::Arc;
use std::time::Duration;

use pyo3::exceptions::{PyTypeError, PyUserWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};
use tantara_etcd::{ClusterEntry, Options, Tls};

use crate::call::{call, import};
use crate::cluster_event::{ClusterEvent, origin, waiter};
use crate::connection::{Connection, Handle, instance};
use crate::error::{of_cluster, refuse_pickling, run};
use crate::seconds;

/// A connection to an etcd cluster and to the events in it, which are shared by machines.
///
/// * endpoints: addresses of the members, as "10.0.0.1:2379,10.0.0.2:2379" or as an iterable of such
///   strings. "https://" before an address requires TLS with the system's certificate authorities.
/// * namespace: events of different namespaces are independent of each other.
/// * user, password: the password may be a callable that returns it. It is called at every login.
/// * cacert, cert, key: PEM files with the certificate authority to trust, and with the client's own
///   certificate and key.
/// * timeout: limits each request, and connecting, in seconds. It does not limit waits.
/// * connect_timeout: limits connecting, in seconds.
/// * hold_ttl: for how many seconds a hold outlives its process.
/// * record_waits: let other processes see the waits of this one.
/// * learn_members: ask the cluster for the addresses of its members, so that the connection
///   survives the replacement of every endpoint.
///
/// Sending a password to another machine without TLS issues a UserWarning.
///
///     >>> from tantara import Cluster
///     >>> with Cluster("127.0.0.1:2379") as cluster:
///     ...     cluster.event("deploy-done").set()
///
/// All threads and asyncio tasks of the process may use it. Connecting blocks; in a task, use
/// cluster = await asyncio.to_thread(Cluster, endpoints). A forked child must connect again.
///
/// Errors: ClusterUnreachable if the cluster does not answer; OutcomeUnknown if a change may or may
/// not have been made; PermissionError if the cluster denies access; ValueError for invalid
/// arguments; ClusterError for the rest.
#[pyclass(module = "tantara", frozen, weakref)]
pub(crate) struct Cluster {
    connection: Arc<Connection>,
    namespace: String,
}

/// Converts an option in seconds.
fn span(what: &str, seconds: f64) -> PyResult<Duration> {
    let span = Duration::try_from_secs_f64(seconds).ok().filter(|span| !span.is_zero());
    span.ok_or_else(|| {
        PyValueError::new_err(format!("{what} cannot be {seconds}; expected a number of seconds greater than 0"))
    })
}

/// Asks a callable for the password at every login, on the connection's own thread.
fn provided(options: Options, user: String, password: Py<PyAny>) -> Options {
    options.credentials(move || {
        let asked = Python::try_attach(|py| call(password.bind(py), ()).and_then(|answer| answer.extract::<String>()));
        match asked {
            Some(Ok(password)) => Ok((user.clone(), password)),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("the interpreter has ended".to_owned()),
        }
    })
}

fn strings(endpoints: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    if endpoints.is_instance_of::<PyString>() {
        return Ok(vec![endpoints.extract()?]);
    }
    let refused = || PyTypeError::new_err("endpoints must be a str or an iterable of str");
    let py = endpoints.py();
    let iterator = call(&import(py, c"builtins")?.getattr("iter")?, (endpoints,))
        .map_err(|error| if error.is_instance_of::<PyTypeError>(py) { refused() } else { error })?;
    let endpoints = call(&py.get_type::<PyList>(), (iterator,))?;
    let endpoints = endpoints.cast::<PyList>()?.iter();
    endpoints.map(|endpoint| endpoint.cast::<PyString>().map_err(|_| refused())?.extract()).collect()
}

/// Reads a file by Python's own means, so that errors are Python's own exceptions.
fn read(path: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    let path = call(&import(path.py(), c"pathlib")?.getattr("Path")?, (path,))?;
    call(&path.getattr("read_bytes")?, ())?.extract()
}

fn tls(
    cacert: Option<&Bound<'_, PyAny>>,
    cert: Option<&Bound<'_, PyAny>>,
    key: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<Tls>> {
    if cacert.is_none() && cert.is_none() && key.is_none() {
        return Ok(None);
    }
    let mut tls = Tls::new();
    if let Some(path) = cacert {
        tls = tls.ca_pem(read(path)?);
    }
    match (cert, key) {
        (Some(cert), Some(key)) => Ok(Some(tls.identity_pem(read(cert)?, read(key)?))),
        (None, None) => Ok(Some(tls)),
        _ => Err(PyValueError::new_err("cert and key must be given together")),
    }
}

#[pymethods]
impl Cluster {
    #[new]
    #[pyo3(signature = (
        endpoints, *, namespace = "tantara", user = None, password = None, cacert = None, cert = None, key = None,
        timeout = 5.0, connect_timeout = None, hold_ttl = 10.0, record_waits = false, learn_members = true
    ))]
    #[allow(clippy::too_many_arguments, reason = "all but the first are keyword-only")]
    fn new(
        py: Python<'_>,
        endpoints: &Bound<'_, PyAny>,
        namespace: &str,
        user: Option<String>,
        password: Option<Bound<'_, PyAny>>,
        cacert: Option<&Bound<'_, PyAny>>,
        cert: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
        #[pyo3(from_py_with = seconds::option)] timeout: f64,
        #[pyo3(from_py_with = seconds::optional)] connect_timeout: Option<f64>,
        #[pyo3(from_py_with = seconds::option)] hold_ttl: f64,
        record_waits: bool,
        learn_members: bool,
    ) -> PyResult<Cluster> {
        let endpoints = strings(endpoints)?;
        let mut options = Options::new().namespace(namespace).record_waits(record_waits).learn_members(learn_members);
        options = options.timeout(span("timeout", timeout)?).hold_ttl(span("hold_ttl", hold_ttl)?);
        if let Some(connect_timeout) = connect_timeout {
            options = options.connect_timeout(span("connect_timeout", connect_timeout)?);
        }
        match (user, password) {
            (Some(user), Some(password)) if password.is_callable() => {
                options = provided(options, user, password.unbind());
            }
            (Some(user), Some(password)) => options = options.user(user, password.extract::<String>()?),
            (None, None) => {}
            _ => return Err(PyValueError::new_err("user and password must be given together")),
        }
        if let Some(tls) = tls(cacert, cert, key)? {
            options = options.tls(tls);
        }
        for warning in options.warnings(&endpoints).map_err(of_cluster)? {
            let warning = CString::new(warning)?;
            PyErr::warn(py, &py.get_type::<PyUserWarning>(), &warning, 1)?;
        }
        let connecting = async { tantara_etcd::Cluster::connect_with_async(endpoints, options).await.map(Handle::new) };
        let connection = Connection::new(run(py, connecting)?);
        Ok(Cluster { connection: Arc::new(connection), namespace: namespace.to_owned() })
    }

    /// The namespace of its events.
    #[getter]
    fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Return the event of that name. No request is sent. An event that nobody has set is unset.
    fn event(&self, name: &str) -> PyResult<ClusterEvent> {
        ClusterEvent::new(&self.connection, name)
    }

    /// Return a list of ClusterEntry, one for each event of the namespace, sorted by name.
    ///
    /// All entries show the cluster at the same moment.
    fn list<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let cluster = self.connection.with(|cluster| Handle::new(cluster.clone()))?;
        let entries = run(py, async move { cluster.list_async().await })?;
        entries.into_iter().map(|entry| entry_of(py, entry)).collect()
    }

    /// Return for how many seconds the cluster has been unreachable, and why, or None while it is
    /// reachable.
    ///
    /// An outage is noticed only while a wait, a hold or a request needs the cluster. No request is
    /// sent.
    fn outage(&self) -> PyResult<Option<(f64, String)>> {
        let outage = self.connection.with(tantara_etcd::Cluster::outage)?;
        Ok(outage.map(|outage| (outage.lasted.as_secs_f64(), outage.reason.to_string())))
    }

    /// Close the connection.
    ///
    /// Waits and holds that have begun continue, and the connection ends with the last of them.
    /// Ending it takes about a round trip, and at most two seconds. Afterwards the methods of the
    /// cluster and of its events raise ValueError, except close().
    fn close(&self) {
        self.connection.close();
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().connection.with(|_| ())?;
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __reduce__(&self) -> PyResult<()> {
        refuse_pickling("Cluster")
    }

    fn __repr__(slf: &Bound<'_, Self>) -> String {
        let this = slf.get();
        let state = if this.connection.is_closed() { " closed" } else { "" };
        format!("<Cluster {:?} at {:#x}{state}>", this.namespace, slf.as_ptr() as usize)
    }
}

fn entry_of<'py>(py: Python<'py>, entry: ClusterEntry) -> PyResult<Bound<'py, PyAny>> {
    let last_set = entry.last_set.map(|last| origin(py, last)).transpose()?;
    let holders: Vec<_> = entry.holders.into_iter().map(|one| origin(py, one)).collect::<PyResult<_>>()?;
    let waiters: Vec<_> = entry.waiters.into_iter().map(|one| waiter(py, one)).collect::<PyResult<_>>()?;
    instance(py, "ClusterEntry", (entry.name, entry.is_set, last_set, holders, waiters))
}
