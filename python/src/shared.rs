//! `SharedEvent`: the event between processes.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use crate::cluster;
use crate::held::Held;
use crate::seconds;
use crate::sleep::blocking;
use crate::task::{self, Aim};

/// An event that processes share: by name, or by handing it to a child.
///
/// It takes the place of multiprocessing.Event, with the same methods. Whoever knows the name has the same event, and
/// so has the command tantara; there is no daemon. A process that is killed takes nobody along: there is no lock that
/// it could hold.
///
///     >>> from tantara import SharedEvent
///     >>> ready = SharedEvent()                     # for this process and its children
///     >>> ready.wait(timeout=0.01)
///     False
///
/// SharedEvent("db-ready") is the event of that name among the user's own, made unset if it does not exist;
/// SharedEvent("db-ready", "/run/app") lies in that directory. A name is made of letters, digits and . _ - + : @ = , %
/// ~. Events can be pickled: a name travels as a name; an event without one travels as multiprocessing's own do.
///
/// Errors: PermissionError where the event may only be waited for, FileNotFoundError if it was removed, ValueError if
/// it was closed or the name cannot be.
#[pyclass(module = "tantara", subclass, frozen, weakref, dict)]
#[derive(Default)]
pub(crate) struct SharedEvent {
    opened: RwLock<Opened>,
}

/// Made by `__init__`.
#[derive(Default)]
struct Opened {
    /// Until it is closed.
    event: Option<tantara::SharedEvent>,
    name: Option<String>,
    directory: Option<PathBuf>,
    is_closed: bool,
}

/// The exception that Python's users expect, with the number that they look at.
pub(crate) fn exception(error: tantara::Error) -> PyErr {
    let source = std::error::Error::source(&error);
    if let Some(error) = source.and_then(|source| source.downcast_ref::<tantara_etcd::Error>()) {
        return cluster::exception(error.clone());
    }
    let text = error.to_string();
    if error.is_invalid_name() {
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
    // Python makes it a FileNotFoundError, a PermissionError and so on by the number.
    PyOSError::new_err((number, text))
}

pub(crate) fn raise<T>(outcome: Result<T, tantara::Error>) -> PyResult<T> {
    outcome.map_err(exception)
}

impl SharedEvent {
    /// The event, for as long as the answer lives, whatever is closed meanwhile.
    pub(crate) fn opened(&self) -> PyResult<tantara::SharedEvent> {
        self.with(|event| Ok(event.clone()))
    }

    fn read(&self) -> RwLockReadGuard<'_, Opened> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn replace(&self, opened: Opened) {
        let before = std::mem::replace(&mut *self.opened.write().unwrap_or_else(PoisonError::into_inner), opened);
        drop(before);
    }

    fn with<T>(&self, act: impl FnOnce(&tantara::SharedEvent) -> PyResult<T>) -> PyResult<T> {
        match &*self.read() {
            Opened { event: Some(event), .. } => act(event),
            Opened { is_closed: true, .. } => Err(PyValueError::new_err("the event is closed")),
            _ => Err(PyValueError::new_err("the event was not opened: SharedEvent.__init__() was not called")),
        }
    }
}

impl Opened {
    fn anonymous(event: tantara::SharedEvent) -> Opened {
        Opened { event: Some(event), ..Opened::default() }
    }

    fn by_name(name: String, dir: Option<&Path>) -> PyResult<Opened> {
        let event = raise(match dir {
            Some(dir) => tantara::SharedEvent::open_in(dir, &name),
            None => tantara::SharedEvent::open(&name),
        })?;
        // Where it lies, whatever becomes of the environment or of the current directory.
        let directory = event.path().and_then(|path| path.parent()).map(std::path::absolute).transpose()?;
        Ok(Opened { event: Some(event), name: Some(name), directory, is_closed: false })
    }
}

#[pymethods]
impl SharedEvent {
    /// Arguments are for `__init__`, which a subclass may have of its own.
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords), text_signature = "(name=None, dir=None)")]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> SharedEvent {
        SharedEvent::default()
    }

    /// Open the event of that name, or make one without a name.
    #[pyo3(signature = (name = None, dir = None))]
    fn __init__(&self, name: Option<String>, dir: Option<PathBuf>) -> PyResult<()> {
        self.replace(match name {
            Some(name) => Opened::by_name(name, dir.as_deref())?,
            None if dir.is_some() => return Err(PyValueError::new_err("an event in a directory needs a name")),
            None => Opened::anonymous(raise(tantara::SharedEvent::anonymous())?),
        });
        Ok(())
    }

    /// The event that a file descriptor stands for: the other side of fileno(). The descriptor is taken over.
    #[classmethod]
    fn from_fd<'py>(class: &Bound<'py, PyType>, fd: RawFd) -> PyResult<Bound<'py, PyAny>> {
        let opened = of_descriptor(fd)?;
        // One of a subclass is made by that; then this event takes the place of its own.
        let is_plain = class.is(class.py().get_type::<SharedEvent>());
        let object =
            if is_plain { Bound::new(class.py(), SharedEvent::default())?.into_any() } else { class.call0()? };
        object.cast::<SharedEvent>()?.get().replace(opened);
        Ok(object)
    }

    /// What `_pickle.py` calls for an object that has not been initialized.
    fn _take_fd(&self, fd: RawFd) -> PyResult<()> {
        self.replace(of_descriptor(fd)?);
        Ok(())
    }

    /// The name, or None.
    #[getter]
    fn name(&self) -> Option<String> {
        self.read().name.clone()
    }

    /// Where its file lies, or None if it has no name.
    #[getter]
    fn path(&self) -> Option<OsString> {
        let opened = self.read();
        Some(opened.directory.as_ref()?.join(opened.name.as_ref()?).into_os_string())
    }

    /// Return True if the event is set at this moment.
    ///
    /// FileNotFoundError if it was removed.
    fn is_set(&self) -> PyResult<bool> {
        self.with(|event| raise(event.is_set()))
    }

    /// Raise the flag and release everyone who waits, in all processes.
    fn set(&self) -> PyResult<()> {
        self.with(|event| raise(event.set()))
    }

    /// Lower the flag.
    fn clear(&self) -> PyResult<()> {
        self.with(|event| raise(event.clear()))
    }

    /// Raise the flag and lower it at once: everyone who waits is released, and nobody sees the event set.
    fn pulse(&self) -> PyResult<()> {
        self.with(|event| raise(event.pulse()))
    }

    /// Block until the event is set, or for at most timeout seconds.
    ///
    /// Return True if it was released, False if the time passed first. None waits without a limit; nought or less only
    /// looks. Ctrl-C ends the wait.
    #[pyo3(signature = (timeout = None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let limit = seconds::limit(timeout)?;
        if let Some(known) = self.with(|event| {
            let looked = raise(event.wait_timeout(std::time::Duration::ZERO))?;
            Ok((looked || limit.is_zero()).then_some(looked))
        })? {
            return Ok(known);
        }
        let event = self.opened()?;
        raise(blocking(py, limit, |limit| event.wait_timeout(limit), drop)?)
    }

    /// Wait in asyncio: await event.wait_async().
    ///
    /// Return True if it was released, False if timeout seconds passed first. The wait begins with the call. It may be
    /// cancelled at any moment.
    #[pyo3(signature = (timeout = None))]
    fn wait_async<'py>(slf: &Bound<'py, Self>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let held = [Held::Shared(slf.get().opened()?)];
        task::coroutine(slf.py(), held, Aim::All, timeout)
    }

    /// Return who waits, in all processes, those who have waited longest first: a list of Waiter, each with pid, tid,
    /// since (a datetime) and command. A waiter shows up when it has waited for a twentieth of a second.
    fn waiters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let event = self.opened()?;
        let waiters = raise(py.detach(|| event.waiters()))?;
        let class = py.import("tantara._waiter")?.getattr("Waiter")?;
        let fields = waiters.into_iter().map(|waiter| (waiter.pid, waiter.tid, waiter.since, waiter.command));
        fields.map(|fields| class.call1(fields)).collect()
    }

    /// Remove the event: the name is free, and everyone who waits is told so by FileNotFoundError. Return False if it
    /// had been removed before.
    fn remove(&self, py: Python<'_>) -> PyResult<bool> {
        let event = self.opened()?;
        raise(py.detach(|| event.remove()))
    }

    /// Let go of it. The event lives on for others. Closing it again is no error; anything else is.
    fn close(&self) {
        let event = {
            let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
            opened.is_closed = true;
            opened.event.take()
        };
        drop(event);
    }

    /// Return its file descriptor, which another process can be given; from_fd() is the other side.
    fn fileno(&self) -> PyResult<RawFd> {
        self.with(|event| Ok(event.as_fd().as_raw_fd()))
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().with(|_| Ok(()))?;
        Ok(slf)
    }

    #[pyo3(signature = (*_exception))]
    fn __exit__(&self, _exception: &Bound<'_, PyTuple>) {
        self.close();
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let py = slf.py();
        let class = slf.get_type();
        let pickle = py.import("tantara._pickle")?;
        let state = pickle.getattr("state")?.call1((slf,))?;
        let this = slf.get();
        let place = match &*this.read() {
            Opened { name: Some(name), directory: Some(directory), .. } => Some((name.clone(), directory.clone())),
            _ => None,
        };
        if let Some((name, directory)) = place {
            let place = (name, directory.into_os_string());
            return (pickle.getattr("named")?, (class, place), state).into_pyobject(py);
        }
        let travelling = pickle.getattr("travelling")?.call1((this.fileno()?,))?;
        (pickle.getattr("anonymous")?, (class, travelling), state).into_pyobject(py)
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let opened = slf.get().read();
        let state = match &opened.event {
            None if opened.is_closed => "closed",
            None => "not opened",
            Some(event) => match event.is_set() {
                Ok(true) => "set",
                Ok(false) => "unset",
                Err(_) => "removed",
            },
        };
        let name = opened.name.as_ref().map_or_else(String::new, |name| format!(" {name:?}"));
        drop(opened);
        Ok(format!("<{}{name} at {:#x} {state}>", slf.get_type().qualname()?, slf.as_ptr() as usize))
    }
}

/// The event of a descriptor that the caller has given away.
fn of_descriptor(fd: RawFd) -> PyResult<Opened> {
    // SAFETY: takes numbers only.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(PyOSError::new_err((libc::EBADF, format!("{fd} is no open file descriptor"))));
    }
    // SAFETY: it is open, and the caller has given it away.
    raise(tantara::SharedEvent::from_fd(unsafe { OwnedFd::from_raw_fd(fd) })).map(Opened::anonymous)
}
