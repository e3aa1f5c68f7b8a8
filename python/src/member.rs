//! The events of one wait: what each kind of event implements, and what a wait for one or for many
//! needs.

use std::future::Future;
use std::task::{Context, Poll};

use pyo3::prelude::*;
use tantara::{Error, Waitable, all};

/// An event that takes part in a wait, which keeps it alive.
pub(crate) trait Member: Send + Sync + 'static {
    fn waitable(&self) -> &dyn Waitable;

    /// A wait for this event alone.
    fn wait(&self) -> impl Future<Output = Result<(), Error>> + Send
    where
        Self: Sized,
    {
        all([self.waitable()]).try_wait_async()
    }

    /// The Python object that this keeps alive, if it does.
    fn object(&self) -> Option<&Py<PyAny>> {
        None
    }

    /// Gives a release that was consumed, but not reported to the caller, to the next waiter.
    fn pass_on(&self) {}

    /// The timeout has expired: asks for the outcome of a wait that the process cannot decide by
    /// itself.
    fn decide(&self) {}

    /// Ready when the outcome that [`decide`](Member::decide) asked for is known.
    fn poll_decided(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    /// Drops the wait. This breaks the reference cycle from a wait to its waker and back.
    fn end(&self) {}
}

/// The events of one wait. A single event is a list of one.
pub(crate) trait Members: Send + Sync + 'static {
    fn count(&self) -> usize;

    fn member(&self, index: usize) -> &dyn Member;

    /// The Python object of an event that is the only one.
    fn only_object(&self) -> Option<&Py<PyAny>> {
        None
    }

    fn wait_all(&self) -> impl Future<Output = Result<(), Error>> + Send
    where
        Self: Sized;

    fn waitables(&self) -> impl Iterator<Item = &dyn Waitable>
    where
        Self: Sized,
    {
        (0..self.count()).map(|index| self.member(index).waitable())
    }
}

impl<M: Member> Members for M {
    fn count(&self) -> usize {
        1
    }

    fn member(&self, _: usize) -> &dyn Member {
        self
    }

    fn only_object(&self) -> Option<&Py<PyAny>> {
        self.object()
    }

    fn wait_all(&self) -> impl Future<Output = Result<(), Error>> + Send {
        self.wait()
    }
}
