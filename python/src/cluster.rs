//! `Cluster`: the connection to etcd; how errors of it are told, and how it is let go of.

use std::ffi::CString;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use pyo3::call::PyCallArgs;
use pyo3::exceptions::{PyOSError, PyTypeError, PyUserWarning, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};
use tantara_etcd::{ClusterEntry, ClusterParty, ClusterWaiter, Options, Pending, Tls};

use crate::cluster_event::ClusterEvent;
use crate::forked;
use crate::sleep::finish;

/// A handle on a connection. Dropping the last one blocks for about a round trip, and so is done without the
/// interpreter. The child of a fork does not have the thread that serves the connection, and must not touch what that
/// may have locked, so it keeps what it has.
pub(crate) struct Handle<T: Send> {
    /// Until it is dropped.
    value: Option<T>,
    forks: u32,
}

impl<T: Send> Handle<T> {
    pub(crate) fn new(value: T) -> Handle<T> {
        Handle { value: Some(value), forks: forked::count() }
    }

    /// It, in the process that made it.
    pub(crate) fn owned(&self) -> PyResult<&T> {
        if self.forks == forked::count() {
            return Ok(self);
        }
        let why = "this connection to etcd belongs to the process that made it; connect again in this one";
        Python::attach(|py| Err(raised(py, "ClusterError", (why,))))
    }
}

impl<T: Send> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("it is there until it is dropped")
    }
}

impl<T: Send> DerefMut for Handle<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("it is there until it is dropped")
    }
}

impl<T: Send> Drop for Handle<T> {
    fn drop(&mut self) {
        let mut value = self.value.take();
        if self.forks != forked::count() {
            std::mem::forget(value);
            return;
        }
        // Where there is no interpreter any more, there is none to be held up.
        let _ = Python::try_attach(|py| py.detach(|| drop(value.take())));
    }
}

/// What a Cluster and its events have in common.
pub(crate) struct Connection {
    /// Until it is closed.
    cluster: RwLock<Option<Handle<tantara_etcd::Cluster>>>,
}

impl Connection {
    pub(crate) fn with<T>(&self, act: impl FnOnce(&tantara_etcd::Cluster) -> T) -> PyResult<T> {
        match &*self.cluster.read().unwrap_or_else(PoisonError::into_inner) {
            Some(cluster) => Ok(act(cluster.owned()?)),
            None => Err(PyValueError::new_err("the cluster is closed")),
        }
    }
}

/// A request, waited for.
pub(crate) fn run<T: Send>(
    py: Python<'_>,
    request: impl Future<Output = Result<T, tantara_etcd::Error>> + Send,
) -> PyResult<T> {
    finish(py, request)?.map_err(exception)
}

/// Something of `_cluster.py`.
fn made<'py>(py: Python<'py>, class: &str, arguments: impl PyCallArgs<'py>) -> PyResult<Bound<'py, PyAny>> {
    py.import("tantara._cluster")?.getattr(class)?.call1(arguments)
}

fn raised<'py>(py: Python<'py>, class: &str, arguments: impl PyCallArgs<'py>) -> PyErr {
    made(py, class, arguments).map_or_else(|error| error, PyErr::from_value)
}

/// The exception that Python's users expect.
pub(crate) fn exception(error: tantara_etcd::Error) -> PyErr {
    let text = error.to_string();
    if error.is_invalid_input() {
        PyValueError::new_err(text)
    } else if error.is_permission_denied() {
        // Python makes it a PermissionError by the number.
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

/// What has no sense in another process.
pub(crate) fn refuse_pickling<T>(class: &str) -> PyResult<T> {
    let why = "it is of the process that connected; connect there too";
    Err(PyTypeError::new_err(format!("cannot pickle a {class}: {why}")))
}

/// A change whose outcome is not known. Part of tantara's own workings.
#[pyclass(module = "tantara._tantara", frozen)]
pub(crate) struct Change(Handle<Pending>);

#[pymethods]
impl Change {
    fn resolve(&self, py: Python<'_>) -> PyResult<bool> {
        let pending = Handle::new(self.0.owned()?.clone());
        run(py, async move { pending.resolve_async().await })
    }
}

/// A connection to an etcd cluster, and so to the events that machines share.
///
/// endpoints says where the members are, as "10.0.0.1:2379,10.0.0.2:2379" or as several such strings; a member that
/// fails is replaced by another. Events of different namespaces have nothing to do with each other. cacert is a file
/// with the certificate authority to trust, cert and key are files with the client's own certificate, all in PEM;
/// "https://" before an endpoint asks for TLS with what the system trusts. password may be a callable that returns it;
/// it is called at every login, so that a password may change. timeout, in seconds, limits each request, not the
/// waiting, and the connecting too unless connect_timeout does. hold_ttl is how long a hold outlives its process. With
/// record_waits others can see who waits here. With learn_members the members of the cluster are asked where they are,
/// so that the connection outlasts the endpoints.
///
/// A password that goes to another machine without TLS gets a UserWarning.
///
///     >>> from tantara import Cluster
///     >>> with Cluster("127.0.0.1:2379") as cluster:
///     ...     cluster.event("deploy-done").set()
///
/// It may be used by all threads and by asyncio tasks (cluster = await asyncio.to_thread(Cluster, endpoints)), in the
/// process that made it; a forked child connects again.
///
/// Errors: ClusterUnreachable if the cluster does not answer, OutcomeUnknown if it may have made a change or not,
/// PermissionError where it does not allow it, ValueError for what cannot be, and ClusterError for the rest.
#[pyclass(module = "tantara", frozen, weakref)]
pub(crate) struct Cluster {
    connection: Arc<Connection>,
    namespace: String,
}

/// Of an option, in seconds.
fn span(what: &str, seconds: f64) -> PyResult<Duration> {
    let span = Duration::try_from_secs_f64(seconds).ok().filter(|span| !span.is_zero());
    span.ok_or_else(|| {
        PyValueError::new_err(format!("{what} cannot be {seconds}; it is a number of seconds above nought"))
    })
}

/// The password is asked for at every login, on the connection's own thread.
fn provided(options: Options, user: String, password: Py<PyAny>) -> Options {
    options.credentials(move || {
        let asked = Python::try_attach(|py| password.call0(py).and_then(|said| said.extract::<String>(py)));
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
    let refused = || PyTypeError::new_err("endpoints is a str, or an iterable of str");
    let each = endpoints.try_iter().map_err(|_| refused())?;
    each.map(|endpoint| endpoint?.cast::<PyString>().map_err(|_| refused())?.extract()).collect()
}

/// A file's content, or Python's own exception.
fn read(path: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
    path.py().import("pathlib")?.getattr("Path")?.call1((path,))?.call_method0("read_bytes")?.extract()
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
        _ => Err(PyValueError::new_err("cert and key are given together")),
    }
}

#[pymethods]
impl Cluster {
    #[new]
    #[pyo3(signature = (
        endpoints, *, namespace = "tantara", user = None, password = None, cacert = None, cert = None, key = None,
        timeout = 5.0, connect_timeout = None, hold_ttl = 10.0, record_waits = false, learn_members = true
    ))]
    #[allow(clippy::too_many_arguments, reason = "each has its name")]
    fn new(
        py: Python<'_>,
        endpoints: &Bound<'_, PyAny>,
        namespace: &str,
        user: Option<String>,
        password: Option<Bound<'_, PyAny>>,
        cacert: Option<&Bound<'_, PyAny>>,
        cert: Option<&Bound<'_, PyAny>>,
        key: Option<&Bound<'_, PyAny>>,
        timeout: f64,
        connect_timeout: Option<f64>,
        hold_ttl: f64,
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
            _ => return Err(PyValueError::new_err("user and password are given together")),
        }
        if let Some(tls) = tls(cacert, cert, key)? {
            options = options.tls(tls);
        }
        for warning in options.warnings(&endpoints).map_err(exception)? {
            let warning = CString::new(warning)?;
            PyErr::warn(py, &py.get_type::<PyUserWarning>(), &warning, 1)?;
        }
        let connecting = async { tantara_etcd::Cluster::connect_with_async(endpoints, options).await.map(Handle::new) };
        let cluster = RwLock::new(Some(run(py, connecting)?));
        Ok(Cluster { connection: Arc::new(Connection { cluster }), namespace: namespace.to_owned() })
    }

    /// The namespace of its events.
    #[getter]
    fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Return the event of that name. Nothing is sent; an event that nobody has set or waited for is unset.
    fn event(&self, name: &str) -> PyResult<ClusterEvent> {
        ClusterEvent::new(&self.connection, name)
    }

    /// Return all events of the namespace in the order of their names, as they were at one moment: a list of
    /// ClusterEntry, each with name, is_set, last_set, holders and waiters.
    fn survey<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let cluster = self.connection.with(|cluster| Handle::new(cluster.clone()))?;
        let entries = run(py, async move { cluster.survey_async().await })?;
        entries.into_iter().map(|entry| entry_of(py, entry)).collect()
    }

    /// Return whether the cluster cannot be reached now, although something here waits, holds or asks: for how many
    /// seconds, and why. None while all is well. Waits outlast it. Nothing is sent.
    fn outage(&self) -> PyResult<Option<(f64, String)>> {
        let outage = self.connection.with(tantara_etcd::Cluster::outage)?;
        Ok(outage.map(|outage| (outage.lasted.as_secs_f64(), outage.reason.to_string())))
    }

    /// Let go of the connection. What waits or holds goes on until it is over; with the last of them the connection
    /// ends, which takes about a round trip, and at most a second. Closing it again is no error; anything else is, with
    /// its events too.
    fn close(&self) {
        let cluster = self.connection.cluster.write().unwrap_or_else(PoisonError::into_inner).take();
        drop(cluster);
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
        let is_closed = this.connection.cluster.read().unwrap_or_else(PoisonError::into_inner).is_none();
        let state = if is_closed { " closed" } else { "" };
        format!("<Cluster {:?} at {:#x}{state}>", this.namespace, slf.as_ptr() as usize)
    }
}

/// Others have written it, so it may lie beyond what Python's calendar knows.
fn moment(at: SystemTime) -> SystemTime {
    const END_OF_9999: Duration = Duration::from_secs(253_402_300_799);
    at.min(SystemTime::UNIX_EPOCH + END_OF_9999)
}

fn party<'py>(py: Python<'py>, party: ClusterParty) -> PyResult<Bound<'py, PyAny>> {
    made(py, "ClusterParty", (party.host, party.pid, moment(party.at)))
}

pub(crate) fn waiter<'py>(py: Python<'py>, waiter: ClusterWaiter) -> PyResult<Bound<'py, PyAny>> {
    made(py, "ClusterWaiter", (waiter.host, waiter.pid, moment(waiter.since), waiter.count))
}

fn entry_of<'py>(py: Python<'py>, entry: ClusterEntry) -> PyResult<Bound<'py, PyAny>> {
    let last_set = entry.last_set.map(|last| party(py, last)).transpose()?;
    let holders: Vec<_> = entry.holders.into_iter().map(|one| party(py, one)).collect::<PyResult<_>>()?;
    let waiters: Vec<_> = entry.waiters.into_iter().map(|one| waiter(py, one)).collect::<PyResult<_>>()?;
    made(py, "ClusterEntry", (entry.name, entry.is_set, last_set, holders, waiters))
}
