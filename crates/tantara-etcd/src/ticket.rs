//! One wait, as whoever waits and the lookout see it.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use tantara::Event;

use crate::error::{Error, Kind};

/// Shared by both. It ends once.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) name: Arc<str>,
    /// How it ended: released, or not set until the cluster was asked for the last time.
    end: Mutex<Option<Result<bool, Error>>>,
    /// Set when it has ended.
    pub(crate) over: Event,
    /// Set when the cluster has been read for it: from then on, every set counts.
    pub(crate) begun: Event,
    has_left: AtomicBool,
}

impl Ticket {
    pub(crate) fn new(name: &str) -> Arc<Ticket> {
        Arc::new(Ticket {
            name: name.into(),
            end: Mutex::new(None),
            over: Event::new(),
            begun: Event::new(),
            has_left: AtomicBool::new(false),
        })
    }

    /// Ends it, unless it has ended.
    pub(crate) fn end(&self, end: Result<bool, Error>) {
        self.lock().get_or_insert(end);
        self.begun.set();
        self.over.set();
    }

    /// How it ended, when it has.
    pub(crate) fn outcome(&self) -> Option<Result<bool, Error>> {
        self.lock().clone()
    }

    /// Whoever waited does not wait any more.
    pub(crate) fn leave(&self) {
        self.has_left.store(true, Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Result<bool, Error>>> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lookout's side of a ticket. Nobody is left waiting for a lookout that has gone.
#[derive(Debug)]
pub(crate) struct Served(pub(crate) Arc<Ticket>);

impl Served {
    /// Whether nobody waits any more: whoever waited has left, or was told the end.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.has_left.load(Relaxed) || self.0.over.is_set()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if !self.0.over.is_set() {
            self.0.end(Err(Error::new(Kind::Ended { why: "the connection to etcd has been closed" })));
        }
    }
}
