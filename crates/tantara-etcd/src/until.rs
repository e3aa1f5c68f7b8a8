//! The waits of [`ClusterEvent`] for something else than that it is set: until it is unset, and for
//! the next `set`.

use std::time::{Duration, Instant};

use crate::driver::mailbox::Aim;
use crate::error::Error;
use crate::event::ClusterEvent;
use crate::wait::ClusterWait;

impl ClusterEvent {
    /// Blocks until it is unset: neither set nor [held](ClusterEvent::hold). Returns also if it was
    /// unset and set again since the wait began. An event that does not exist is unset.
    ///
    /// A holder that was killed is noticed after its [`hold_ttl`](crate::Options::hold_ttl).
    ///
    /// If the event is unset and set again while this client is cut off, the history of the cluster
    /// shows it. If that history is compacted meanwhile, the wait goes on.
    ///
    /// # Errors
    ///
    /// As for [`wait`](ClusterEvent::wait).
    #[track_caller]
    pub fn wait_unset(&self) -> Result<(), Error> {
        self.begin(Aim::Unset).wait()
    }

    /// [`wait_unset`](ClusterEvent::wait_unset) for at most `timeout`, as
    /// [`wait_timeout`](ClusterEvent::wait_timeout) for [`wait`](ClusterEvent::wait).
    ///
    /// # Errors
    ///
    /// As for [`wait_timeout`](ClusterEvent::wait_timeout).
    #[track_caller]
    pub fn wait_unset_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.wait_timeout_for(Aim::Unset, timeout)
    }

    /// [`wait_unset_timeout`](ClusterEvent::wait_unset_timeout) until a deadline.
    ///
    /// # Errors
    ///
    /// As for [`wait_timeout`](ClusterEvent::wait_timeout).
    #[track_caller]
    pub fn wait_unset_deadline(&self, deadline: Instant) -> Result<bool, Error> {
        self.wait_deadline_for(Aim::Unset, deadline)
    }

    /// Begins a wait until it is unset, as [`wait_async`](ClusterEvent::wait_async) begins one
    /// until it is set.
    #[track_caller]
    pub fn wait_unset_async(&self) -> ClusterWait {
        self.begin(Aim::Unset)
    }

    /// Blocks until it is set once more: by a [`set`](ClusterEvent::set), a
    /// [`pulse`](ClusterEvent::pulse) or a [`hold`](ClusterEvent::hold), whether it is set already
    /// or not.
    ///
    /// # Errors
    ///
    /// As for [`wait`](ClusterEvent::wait).
    #[track_caller]
    pub fn wait_next(&self) -> Result<(), Error> {
        self.begin(Aim::Next).wait()
    }

    /// [`wait_next`](ClusterEvent::wait_next) for at most `timeout`, as
    /// [`wait_timeout`](ClusterEvent::wait_timeout) for [`wait`](ClusterEvent::wait). A zero
    /// timeout is always too short.
    ///
    /// # Errors
    ///
    /// As for [`wait_timeout`](ClusterEvent::wait_timeout).
    #[track_caller]
    pub fn wait_next_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.wait_timeout_for(Aim::Next, timeout)
    }

    /// [`wait_next_timeout`](ClusterEvent::wait_next_timeout) until a deadline.
    ///
    /// # Errors
    ///
    /// As for [`wait_timeout`](ClusterEvent::wait_timeout).
    #[track_caller]
    pub fn wait_next_deadline(&self, deadline: Instant) -> Result<bool, Error> {
        self.wait_deadline_for(Aim::Next, deadline)
    }

    /// Begins a wait for the next `set`, as [`wait_async`](ClusterEvent::wait_async) begins one
    /// until it is set. Every `set` that this connection requests after the call counts, and every
    /// one that takes effect after [`begun`](ClusterWait::begun).
    #[track_caller]
    pub fn wait_next_async(&self) -> ClusterWait {
        self.begin(Aim::Next)
    }
}
