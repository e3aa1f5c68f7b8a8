//! [`ClusterWait`]: a wait, to be awaited or blocked on; and how it stands among waits for other kinds of events.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tantara::__private::{self as private, External, Seal, Sealed, Slot};
use tantara::Waitable;

use crate::engine::Engine;
use crate::error::Error;
use crate::event::ClusterEvent;
use crate::keys;
use crate::lookout::Ask;
use crate::ticket::{Served, Ticket};

/// A wait for a [`ClusterEvent`], made by [`wait_async`](ClusterEvent::wait_async). It has begun: await it under any
/// runtime, or block on it later.
///
/// # Cancel safety
///
/// Dropping it at any moment loses nothing for anybody else.
///
/// # Examples
///
/// To be sure that an answer is not missed, one begins to wait before one asks:
///
/// ```no_run
/// # let cluster = tantara_etcd::Cluster::connect("127.0.0.1:2379")?;
/// # fn ask_for_it() {}
/// let mut answered = cluster.event("answer").wait_async();
/// answered.begun()?;
/// ask_for_it();
/// answered.wait()?;
/// # Ok::<(), tantara_etcd::Error>(())
/// ```
#[must_use = "it waits for nobody unless it is awaited or blocked on"]
pub struct ClusterWait {
    engine: Engine,
    ticket: Arc<Ticket>,
    /// Made with the first poll.
    over: Option<Over>,
}

type Over = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl ClusterWait {
    pub(crate) fn new(event: &ClusterEvent) -> ClusterWait {
        let wait = ClusterWait::unbegun(event);
        if !wait.ticket.over.is_set() {
            let until = event.engine().parts().link.request_deadline();
            wait.ask(Ask::Join(Served(Arc::clone(&wait.ticket)), until));
        }
        wait
    }

    /// One that is only [decided](ClusterWait::decide).
    fn unbegun(event: &ClusterEvent) -> ClusterWait {
        let ticket = Ticket::new(event.name());
        if let Err(error) = keys::check_name(event.name()) {
            ticket.end(Err(error));
        }
        ClusterWait { engine: event.engine().clone(), ticket, over: None }
    }

    fn ask(&self, ask: Ask) {
        if let Err(error) = self.engine.ask(ask) {
            self.ticket.end(Err(error));
        }
    }

    /// Blocks until the cluster has been read for this wait: every set from then on releases it. It may be over by
    /// then.
    ///
    /// # Errors
    ///
    /// If the wait cannot begin, as with [`ClusterEvent::wait`].
    pub fn begun(&mut self) -> Result<(), Error> {
        self.ticket.begun.wait();
        self.ticket.outcome().unwrap_or(Ok(true)).map(drop)
    }

    /// [`begun`](ClusterWait::begun), to be awaited.
    ///
    /// # Errors
    ///
    /// As with [`begun`](ClusterWait::begun).
    pub async fn begun_async(&mut self) -> Result<(), Error> {
        self.ticket.begun.wait_async().await;
        self.ticket.outcome().unwrap_or(Ok(true)).map(drop)
    }

    /// Blocks until it is released, as [`ClusterEvent::wait`] does.
    ///
    /// # Errors
    ///
    /// As with [`ClusterEvent::wait`].
    pub fn wait(self) -> Result<(), Error> {
        self.ticket.over.wait();
        self.outcome().map(drop)
    }

    /// Blocks for at most `timeout`, as [`ClusterEvent::wait_timeout`] does.
    ///
    /// # Errors
    ///
    /// As with [`ClusterEvent::wait_timeout`].
    pub fn wait_timeout(self, timeout: Duration) -> Result<bool, Error> {
        if !self.ticket.over.wait_timeout(timeout) {
            self.decide();
        }
        self.outcome()
    }

    /// Blocks until `deadline` at the latest, as [`ClusterEvent::wait_deadline`] does.
    ///
    /// # Errors
    ///
    /// As with [`ClusterEvent::wait_deadline`].
    pub fn wait_deadline(self, deadline: Instant) -> Result<bool, Error> {
        if !self.ticket.over.wait_deadline(deadline) {
            self.decide();
        }
        self.outcome()
    }

    /// The time has passed: the cluster decides, or cannot be asked.
    fn decide(&self) {
        self.ask(Ask::Decide(Served(Arc::clone(&self.ticket))));
        self.ticket.over.wait();
    }

    fn outcome(&self) -> Result<bool, Error> {
        // It is over.
        self.ticket.outcome().unwrap_or(Ok(false))
    }

    fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let over = self.over.get_or_insert_with(|| {
            let ticket = Arc::clone(&self.ticket);
            Box::pin(async move { ticket.over.wait_async().await })
        });
        ready!(over.as_mut().poll(context));
        // Whoever looks again finds it over without it.
        self.over = None;
        Poll::Ready(())
    }
}

/// Looks once.
pub(crate) fn look(event: &ClusterEvent) -> Result<bool, Error> {
    let wait = ClusterWait::unbegun(event);
    if !wait.ticket.over.is_set() {
        wait.decide();
    }
    wait.outcome()
}

impl Future for ClusterWait {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        ready!(self.poll_over(context));
        Poll::Ready(self.outcome().map(drop))
    }
}

impl Drop for ClusterWait {
    fn drop(&mut self) {
        if !self.ticket.over.is_set() {
            self.ticket.leave();
            // In the child of a fork there is nobody to be told.
            let _ = self.engine.ask(Ask::Leave(Arc::clone(&self.ticket.name)));
        }
    }
}

impl fmt::Debug for ClusterWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterWait")
            .field("event", &self.ticket.name)
            .field("over", &self.ticket.over.is_set())
            .finish_non_exhaustive()
    }
}

impl Waitable for ClusterEvent {}

impl Sealed for ClusterEvent {
    fn slot(&self, _: Seal) -> Slot<'_> {
        Slot::external(ClusterWait::new(self))
    }
}

impl External for ClusterWait {
    fn poll_outcome(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        _: bool,
    ) -> Poll<Result<bool, tantara::Error>> {
        if !self.ticket.over.is_set() {
            ready!(self.poll_over(context));
        }
        Poll::Ready(self.outcome().map_err(|error| private::error(error.io_kind(), error)))
    }

    fn needs_poll(&self) -> bool {
        self.ticket.over.is_set() && self.outcome().is_err()
    }

    fn decide(self: Pin<&mut Self>) -> bool {
        if !self.ticket.over.is_set() {
            self.ask(Ask::Decide(Served(Arc::clone(&self.ticket))));
        }
        true
    }
}
