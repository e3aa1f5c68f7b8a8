//! [`Hold`]: set while I live.

use std::fmt;

use tantara::Event;

use crate::error::{Error, Kind};
use crate::event::ClusterEvent;
use crate::keys::Who;
use crate::lease::Lease;
use crate::reply::Reply;
use crate::wire::{Compare, Put, Range, Txn};

const HOLD: &str = "hold an event";

/// An event that is set for as long as this lives. From [`ClusterEvent::hold`].
///
/// Dropping it lets go. If the process dies, or is cut off from the cluster, the cluster lets go after the options'
/// [`hold_ttl`](crate::Options::hold_ttl), and by that time [`lost`](Hold::lost) has been set, by this machine's clock:
/// whoever does something that must not go on without the hold watches `lost`.
///
/// ```no_run
/// use std::time::Duration;
/// use tantara_etcd::Cluster;
///
/// let cluster = Cluster::connect("127.0.0.1:2379")?;
/// let up = cluster.event("db-up").hold()?;
/// while !up.lost().wait_timeout(Duration::from_secs(1)) {
///     // Serve.
/// }
/// # Ok::<(), tantara_etcd::Error>(())
/// ```
#[must_use = "the event is set only for as long as this lives"]
pub struct Hold {
    event: ClusterEvent,
    lease: Lease,
}

impl Hold {
    /// An event of this process that is set when the hold is lost: the cluster has let go, or it could not be told for
    /// so long that it may have. It never comes back; hold the event again.
    #[must_use]
    pub fn lost(&self) -> &Event {
        self.lease.lost()
    }

    /// Whether the hold is [lost](Hold::lost).
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lease.is_lost()
    }

    /// What is held.
    #[must_use]
    pub fn event(&self) -> &ClusterEvent {
        &self.event
    }
}

pub(crate) fn begin(event: &ClusterEvent) -> Result<Reply<Hold>, Error> {
    let held = event.clone();
    event.run(move |parts, name| async move {
        let until = parts.link.request_deadline();
        let lease = parts.leases.grant(HOLD, parts.options.hold_ttl, until).await?;
        let key = parts.keys.hold(&name, lease.id);
        // The hold is its own lane: it is made once, under a lease of its own.
        let make = Txn {
            compare: vec![Compare::last_changed_at(key.clone(), 0)],
            success: vec![
                Put { key: key.clone(), value: Who::am_i().to_value(), lease: lease.id }.into(),
                Put { key: parts.keys.pulse(&name), value: Who::am_i().to_value(), lease: 0 }.into(),
            ],
            failure: vec![Range { key, ..Range::default() }.into()],
        };
        match parts.link.call(HOLD, &make, until).await {
            Ok(_) => Ok(Hold { event: held, lease }),
            // The lease is given back, and the hold with it.
            Err(failure) if failure.may_be_done => {
                Err(Error::new(Kind::Unknown { doing: HOLD, tries: parts.link.tries(), pending: None }))
            }
            Err(failure) => Err(failure.error),
        }
    })
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("event", &self.event.name()).field("lost", &self.is_lost()).finish()
    }
}
