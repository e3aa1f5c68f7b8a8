//! `SharedEvent`: the event that processes share.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{RwLock, RwLockReadGuard};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};
use tantara::__private::{Seal, Sealed, Slot};
use tantara::Waitable;

use crate::call::{call, import, index};
use crate::coroutine::coroutine;
use crate::error::raise;
use crate::files;
use crate::locked::{read, write};
use crate::member::Member;
use crate::placed::placed;
use crate::seconds;
use crate::shared_hold::SharedHold;
use crate::sleep::blocking;
use crate::task::Aim;

/// An event that processes share, by its name or by passing it to a child.
///
/// It replaces multiprocessing.Event and has the same methods. Processes that open the same name
/// share the event, also with the command tantara. No daemon is needed. There is no lock that a
/// killed process could leave held.
///
///     >>> from tantara import SharedEvent
///     >>> ready = SharedEvent()                     # for this process and its children
///     >>> ready.wait(timeout=0.01)
///     False
///
/// SharedEvent("db-ready") opens the event of that name in the user's own directory, and creates it
/// unset if it does not exist. SharedEvent("db-ready", "/run/app") opens it in that directory. A
/// name consists of letters, digits and . _ - + : @ = , % ~. Events can be pickled: an event with a
/// name is opened again by its name, an event without one is passed as multiprocessing passes its
/// own.
///
/// Errors: PermissionError if the process may wait for the event, but not set or clear it;
/// FileNotFoundError if the event was removed; ValueError if it was closed or if the name is
/// invalid.
#[pyclass(module = "tantara", subclass, frozen, weakref, dict)]
#[derive(Default)]
pub(crate) struct SharedEvent {
    opened: RwLock<Opened>,
}

/// Filled in by `__init__`.
#[derive(Default)]
struct Opened {
    /// `None` before `__init__` and after `close()`.
    event: Option<files::SharedEvent>,
    name: Option<String>,
    directory: Option<PathBuf>,
    is_closed: bool,
}

impl Member for files::SharedEvent {
    fn waitable(&self) -> &dyn Waitable {
        self
    }

    fn wait(&self) -> impl Future<Output = Result<(), tantara::Error>> + Send {
        self.wait_async()
    }
}

/// A wait for something else than that the event is set.
pub(crate) struct OtherWait {
    event: files::SharedEvent,
    begin: fn(&files::SharedEvent) -> files::SharedWait<'_>,
}

impl Member for OtherWait {
    fn waitable(&self) -> &dyn Waitable {
        self
    }

    fn wait(&self) -> impl Future<Output = Result<(), tantara::Error>> + Send {
        (self.begin)(&self.event)
    }
}

impl Waitable for OtherWait {}

impl Sealed for OtherWait {
    fn slot(&self, _: Seal) -> Slot<'_> {
        Slot::external((self.begin)(&self.event))
    }
}

impl SharedEvent {
    /// A handle of the event that stays valid if the Python object is closed.
    pub(crate) fn opened(&self) -> PyResult<files::SharedEvent> {
        self.with(|event| Ok(event.clone()))
    }

    fn read(&self) -> RwLockReadGuard<'_, Opened> {
        read(&self.opened)
    }

    fn replace(&self, opened: Opened) {
        let before = std::mem::replace(&mut *write(&self.opened), opened);
        drop(before);
    }

    fn with<T>(&self, act: impl FnOnce(&files::SharedEvent) -> PyResult<T>) -> PyResult<T> {
        match &*self.read() {
            Opened { event: Some(event), .. } => act(event),
            Opened { is_closed: true, .. } => Err(PyValueError::new_err("the event is closed")),
            _ => Err(PyValueError::new_err("the event was not opened: SharedEvent.__init__() was not called")),
        }
    }
}

impl Opened {
    fn anonymous(event: files::SharedEvent) -> Opened {
        Opened { event: Some(event), ..Opened::default() }
    }

    fn by_name(py: Python<'_>, name: String, dir: Option<&Path>) -> PyResult<Opened> {
        let event = files::open(py, &name, dir)?;
        // Absolute, because the environment and the current directory may change.
        let directory = event.path().and_then(|path| path.parent()).map(std::path::absolute).transpose()?;
        Ok(Opened { event: Some(event), name: Some(name), directory, is_closed: false })
    }
}

#[pymethods]
impl SharedEvent {
    /// Ignores its arguments: they are for `__init__`, which a subclass may override.
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords), text_signature = "(name=None, dir=None)")]
    fn new(_arguments: &Bound<'_, PyTuple>, _keywords: Option<&Bound<'_, PyDict>>) -> SharedEvent {
        SharedEvent::default()
    }

    /// Open the event of that name, or create one without a name.
    #[pyo3(signature = (name = None, dir = None))]
    fn __init__(
        &self,
        py: Python<'_>,
        name: Option<String>,
        #[pyo3(from_py_with = path)] dir: Option<PathBuf>,
    ) -> PyResult<()> {
        self.replace(match name {
            Some(name) => Opened::by_name(py, name, dir.as_deref())?,
            None if dir.is_some() => return Err(PyValueError::new_err("an event in a directory needs a name")),
            None => Opened::anonymous(files::anonymous()?),
        });
        Ok(())
    }

    /// Return the event of a file descriptor that fileno() has returned. The event takes ownership
    /// of the descriptor; if it is not an event, the descriptor is closed.
    #[classmethod]
    fn from_fd<'py>(
        class: &Bound<'py, PyType>,
        #[pyo3(from_py_with = descriptor)] fd: i32,
    ) -> PyResult<Bound<'py, PyAny>> {
        let opened = files::of_descriptor(class.py(), fd).map(Opened::anonymous)?;
        // An object of a subclass is created by its own `__init__`; then this event replaces the
        // one made there.
        let is_plain = class.is(class.py().get_type::<SharedEvent>());
        let object =
            if is_plain { Bound::new(class.py(), SharedEvent::default())?.into_any() } else { call(class, ())? };
        object.cast::<SharedEvent>()?.get().replace(opened);
        Ok(object)
    }

    /// Called by `_pickle.py` for an object whose `__init__` was not called.
    fn _take_fd(&self, py: Python<'_>, #[pyo3(from_py_with = descriptor)] fd: i32) -> PyResult<()> {
        self.replace(files::of_descriptor(py, fd).map(Opened::anonymous)?);
        Ok(())
    }

    /// The name, or None.
    #[getter]
    fn name(&self) -> Option<String> {
        self.read().name.clone()
    }

    /// The path of its file, or None if it has no name.
    #[getter]
    fn path(&self) -> Option<OsString> {
        let opened = self.read();
        Some(opened.directory.as_ref()?.join(opened.name.as_ref()?).into_os_string())
    }

    /// Return True if the event is set.
    ///
    /// Raise FileNotFoundError if it was removed.
    fn is_set(&self) -> PyResult<bool> {
        self.with(|event| raise(event.is_set()))
    }

    /// Set the event and release every waiter in every process.
    ///
    /// note says why, in up to 64 bytes of UTF-8 without control characters: last_set() and the
    /// command tantara show it until the next set(). Setting an event that is set changes nothing
    /// but the note. Raise ValueError for a text that cannot be a note.
    #[pyo3(signature = (*, note = None))]
    fn set(&self, note: Option<&str>) -> PyResult<()> {
        self.with(|event| raise(note.map_or_else(|| event.set(), |note| event.set_with_note(note))))
    }

    /// Clear the event.
    fn clear(&self) -> PyResult<()> {
        self.with(|event| raise(event.clear()))
    }

    /// Set and clear the event in one step: every waiter is released, and is_set() never returns
    /// True. note is as for set().
    #[pyo3(signature = (*, note = None))]
    fn pulse(&self, note: Option<&str>) -> PyResult<()> {
        self.with(|event| raise(note.map_or_else(|| event.pulse(), |note| event.pulse_with_note(note))))
    }

    /// Block until the event is set, for at most timeout seconds.
    ///
    /// Return True if the wait was released, False if the timeout expired. Without a timeout, wait
    /// for ever; with 0 or less, return at once. Ctrl-C interrupts the wait.
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

    /// wait() for async code: await event.wait_async().
    ///
    /// The wait begins with the call, not with the await. It may be cancelled at any time.
    #[pyo3(signature = (timeout = None))]
    fn wait_async<'py>(slf: &Bound<'py, Self>, timeout: Option<&Bound<'py, PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        coroutine(slf.py(), || slf.get().opened(), Aim::All, timeout)
    }

    /// Block until the event is unset, for at most timeout seconds. It is released too if the event
    /// was unset and set again meanwhile.
    ///
    /// Return True if the wait was released, False if the timeout expired, as wait() does. An event
    /// that is held is set. If its holder is killed, the wait is released within a second.
    #[pyo3(signature = (timeout = None))]
    fn wait_unset(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let (limit, event) = (seconds::limit(timeout)?, self.opened()?);
        raise(blocking(py, limit, |limit| event.wait_unset_timeout(limit), drop)?)
    }

    /// wait_unset() for async code: await event.wait_unset_async().
    ///
    /// The wait begins with the call, not with the await. It may be cancelled at any time.
    #[pyo3(signature = (timeout = None))]
    fn wait_unset_async<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wait = || Ok(OtherWait { event: slf.get().opened()?, begin: files::SharedEvent::wait_unset_async });
        coroutine(slf.py(), wait, Aim::All, timeout)
    }

    /// Block until the event is set by a call that begins after this one, for at most timeout
    /// seconds: by set(), pulse() or hold(), whether the event is set already or not.
    ///
    /// Return True if the wait was released, False if the timeout expired, as wait() does.
    #[pyo3(signature = (timeout = None))]
    fn wait_next(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let (limit, event) = (seconds::limit(timeout)?, self.opened()?);
        raise(blocking(py, limit, |limit| event.wait_next_timeout(limit), drop)?)
    }

    /// wait_next() for async code: await event.wait_next_async().
    ///
    /// Every set() that begins after this call counts. The wait may be cancelled at any time.
    #[pyo3(signature = (timeout = None))]
    fn wait_next_async<'py>(
        slf: &Bound<'py, Self>,
        timeout: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wait = || Ok(OtherWait { event: slf.get().opened()?, begin: files::SharedEvent::wait_next_async });
        coroutine(slf.py(), wait, Aim::All, timeout)
    }

    /// Set the event until the returned SharedHold is released or this process ends:
    /// with event.hold(): ...
    ///
    /// The event is unset then, even if the process was killed, unless another process holds it or
    /// it was set. clear() ends no hold. The child of a fork holds nothing.
    fn hold(&self, py: Python<'_>) -> PyResult<SharedHold> {
        let event = self.opened()?;
        raise(placed(py, || py.detach(|| event.hold()))?).map(SharedHold::new)
    }

    /// Return a LastSet that says when the event was last set, by which process, and with which
    /// note. None if it never was, or if the process was killed before it recorded that.
    ///
    /// All three belong to one set(). Setting an event that is set counts only with a note.
    fn last_set<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let Some(last) = self.with(|event| raise(event.last_set()))? else { return Ok(None) };
        let class = import(py, c"tantara._waiter")?.getattr("LastSet")?;
        call(&class, (last.pid, last.at, last.note)).map(Some)
    }

    /// Return a list of Waiter, one for each waiting thread of all processes, the longest wait
    /// first.
    ///
    /// A wait is listed once it has lasted for 50 milliseconds; one for many events, as by wait_any(),
    /// for 4 milliseconds for each of them if that is longer.
    fn waiters<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let event = self.opened()?;
        let waiters = raise(py.detach(|| event.waiters()))?;
        let class = import(py, c"tantara._waiter")?.getattr("Waiter")?;
        let fields = waiters.into_iter().map(|waiter| (waiter.pid, waiter.tid, waiter.since, waiter.command));
        fields.map(|fields| call(&class, fields)).collect()
    }

    /// Remove the event. Its name becomes free, and its waiters raise FileNotFoundError. Return
    /// False if it had been removed before.
    fn remove(&self, py: Python<'_>) -> PyResult<bool> {
        let event = self.opened()?;
        raise(py.detach(|| event.remove()))
    }

    /// Close this object. The event itself stays, for other processes. Afterwards the other methods
    /// raise ValueError.
    fn close(&self) {
        let event = {
            let mut opened = write(&self.opened);
            opened.is_closed = true;
            opened.event.take()
        };
        drop(event);
    }

    /// Return the file descriptor of the event. Another process that receives it opens the event
    /// with from_fd().
    fn fileno(&self) -> PyResult<i32> {
        self.with(|event| Ok(files::descriptor(event)))
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
        let pickle = import(py, c"tantara._pickle")?;
        let state = call(&pickle.getattr("state")?, (slf,))?;
        let this = slf.get();
        let place = match &*this.read() {
            Opened { name: Some(name), directory: Some(directory), .. } => Some((name.clone(), directory.clone())),
            _ => None,
        };
        if let Some((name, directory)) = place {
            let place = (name, directory.into_os_string());
            return (pickle.getattr("named")?, (class, place), state).into_pyobject(py);
        }
        let transfer = call(&pickle.getattr("transfer")?, (this.fileno()?,))?;
        (pickle.getattr("anonymous")?, (class, transfer), state).into_pyobject(py)
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

fn path(path: &Bound<'_, PyAny>) -> PyResult<Option<PathBuf>> {
    if path.is_none() {
        return Ok(None);
    }
    call(&import(path.py(), c"os")?.getattr("fspath")?, (path,))?.extract().map(Some)
}

fn descriptor(fd: &Bound<'_, PyAny>) -> PyResult<i32> {
    index(fd)?.extract()
}
