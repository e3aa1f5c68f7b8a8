//! The events that processes share: there are none on this system. The class exists, so that
//! programs can be imported, and opening an event is an error that says what is missing.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use pyo3::exceptions::PyNotImplementedError;
use pyo3::prelude::*;
use tantara::__private::{External, Seal, Sealed, Slot};
use tantara::{Error, Waitable};

/// No value of this type exists.
#[derive(Clone)]
pub(crate) enum SharedEvent {}

/// Of a `SharedEvent`, so there is none either.
pub(crate) enum Hold {}

#[derive(Debug)]
pub(crate) struct SharedWait<'e>(Infallible, PhantomData<&'e SharedEvent>);

pub(crate) struct LastSet {
    pub(crate) pid: Option<u32>,
    pub(crate) at: SystemTime,
    pub(crate) note: Option<String>,
}

pub(crate) struct Waiter {
    pub(crate) pid: Option<u32>,
    pub(crate) tid: Option<u32>,
    pub(crate) since: SystemTime,
    pub(crate) command: String,
}

/// As of the real ones, which close a file.
impl Drop for SharedEvent {
    fn drop(&mut self) {
        match *self {}
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        match *self {}
    }
}

/// Methods with the signatures that they have where events between processes exist.
macro_rules! uninhabited {
    ($($name:ident($($argument:ty)?) -> $result:ty;)*) => {
        impl SharedEvent {
            $(pub(crate) fn $name(&self $(, _: $argument)?) -> $result { match *self {} })*
        }
    };
}

uninhabited! {
    path() -> Option<&Path>;
    is_set() -> Result<bool, Error>;
    set() -> Result<(), Error>;
    set_with_note(&str) -> Result<(), Error>;
    clear() -> Result<(), Error>;
    pulse() -> Result<(), Error>;
    pulse_with_note(&str) -> Result<(), Error>;
    wait_timeout(Duration) -> Result<bool, Error>;
    wait_async() -> SharedWait<'_>;
    wait_unset_timeout(Duration) -> Result<bool, Error>;
    wait_unset_async() -> SharedWait<'_>;
    wait_next_timeout(Duration) -> Result<bool, Error>;
    wait_next_async() -> SharedWait<'_>;
    hold() -> Result<Hold, Error>;
    last_set() -> Result<Option<LastSet>, Error>;
    waiters() -> Result<Vec<Waiter>, Error>;
    remove() -> Result<bool, Error>;
}

impl Waitable for SharedEvent {}

impl Sealed for SharedEvent {
    fn slot(&self, _: Seal) -> Slot<'_> {
        match *self {}
    }
}

impl Future for SharedWait<'_> {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        match self.0 {}
    }
}

impl External for SharedWait<'_> {
    fn poll_outcome(self: Pin<&mut Self>, _: &mut Context<'_>, _: bool) -> Poll<Result<bool, Error>> {
        match self.0 {}
    }

    fn needs_poll(&self) -> bool {
        match self.0 {}
    }
}

fn missing<T>() -> PyResult<T> {
    Err(PyNotImplementedError::new_err(
        "SharedEvent needs Linux: tantara has no events between the processes of one machine elsewhere. Use \
         multiprocessing.Event between a process and its children, and a ClusterEvent of tantara between any processes \
         and machines",
    ))
}

pub(crate) fn open(_: Python<'_>, _: &str, _: Option<&Path>) -> PyResult<SharedEvent> {
    missing()
}

pub(crate) fn anonymous() -> PyResult<SharedEvent> {
    missing()
}

pub(crate) fn of_descriptor(_: Python<'_>, _: i32) -> PyResult<SharedEvent> {
    missing()
}

pub(crate) fn descriptor(event: &SharedEvent) -> i32 {
    match *event {}
}
