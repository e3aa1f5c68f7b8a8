//! The events that processes share, as files. On Linux.

use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
pub(crate) use tantara::{Hold, SharedEvent, SharedWait};

use crate::error::raise;

pub(crate) fn open(py: Python<'_>, name: &str, dir: Option<&Path>) -> PyResult<SharedEvent> {
    // It sleeps while another process makes or removes the event.
    raise(py.detach(|| dir.map_or_else(|| SharedEvent::open(name), |dir| SharedEvent::open_in(dir, name))))
}

pub(crate) fn anonymous() -> PyResult<SharedEvent> {
    raise(SharedEvent::anonymous())
}

/// Opens the event of a descriptor that the caller gives away.
pub(crate) fn of_descriptor(py: Python<'_>, fd: i32) -> PyResult<SharedEvent> {
    // SAFETY: the arguments are numbers, and F_GETFD changes nothing.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(PyOSError::new_err((libc::EBADF, format!("{fd} is not an open file descriptor"))));
    }
    // SAFETY: the descriptor is open, and the caller gives up its ownership.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    raise(py.detach(|| SharedEvent::from_fd(fd)))
}

pub(crate) fn descriptor(event: &SharedEvent) -> i32 {
    event.as_fd().as_raw_fd()
}
