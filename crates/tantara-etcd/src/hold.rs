//! [`Hold`]: an event that is set for as long as a value lives.

use std::fmt;
use std::panic::Location;

use tantara::Event;
use tantara::waits::Call;

use crate::client::lease::{Lease, OF_HOLD};
use crate::client::proto::{Compare, Put, Range, Txn};
use crate::driver::runtime::Asked;
use crate::error::{Error, Kind};
use crate::event::ClusterEvent;
use crate::store::keys::Stamp;
use crate::store::recorded;

const DOING: &str = "hold an event";

/// Keeps an event set for as long as it lives. From [`ClusterEvent::hold`].
///
/// Dropping it ends the hold. If the process dies or loses the cluster, the cluster ends the hold
/// after the options' [`hold_ttl`](crate::Options::hold_ttl). [`lost`](Hold::lost) is set by that
/// time: watch it in work that must not go on without the hold.
///
/// The time is measured by a clock that stands still while this machine is suspended, on Linux and
/// macOS. After a longer suspension the cluster may have ended the hold, and for a moment, until it
/// has answered, `lost` is not set. So a hold alone does not ensure that the work of two successive
/// holders does not overlap.
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
    /// An event of this process that is set when the hold is lost: the cluster has ended it, or
    /// could not be reached for so long that it may have. A lost hold stays lost; hold the event
    /// again. In the child of a fork the holds of its parent are lost; call this there, for an event
    /// that was borrowed before is not set.
    #[must_use]
    pub fn lost(&self) -> &Event {
        self.lease.lost()
    }

    /// Whether the hold is [lost](Hold::lost).
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lease.is_lost()
    }

    /// The event that is held.
    #[must_use]
    pub fn event(&self) -> &ClusterEvent {
        &self.event
    }
}

impl ClusterEvent {
    /// Keeps the event set for as long as the [`Hold`] lives. When the hold is dropped, or its
    /// process dies or loses the cluster for longer than the options'
    /// [`hold_ttl`](crate::Options::hold_ttl), the event is unset again, unless another process
    /// holds it or has set it.
    ///
    /// # Errors
    ///
    /// As for [`set`](ClusterEvent::set). After an unknown outcome nothing is held for longer than
    /// the `hold_ttl`.
    #[track_caller]
    pub fn hold(&self) -> Result<Hold, Error> {
        self.request_hold(recorded::call(Location::caller()))?.wait()
    }

    /// Async form of [`hold`](ClusterEvent::hold), with the same errors.
    #[track_caller]
    pub fn hold_async(&self) -> impl Future<Output = Result<Hold, Error>> {
        let call = recorded::call(Location::caller());
        async move { self.request_hold(call)?.into_future().await }
    }

    fn request_hold(&self, call: Option<Call>) -> Result<Asked<Hold>, Error> {
        let event = self.clone();
        self.run(move |store, name| async move {
            let until = store.connection.request_deadline();
            event.runtime.earlier_waits_have_begun(&name, until).await;
            let lease = store.leases.grant(DOING, store.options.hold_ttl, OF_HOLD, until).await?;
            let key = store.keys.hold(&name, lease.id);
            // The hold is its own session slot: its key is created once, and attached to a lease of
            // its own.
            let create = Txn {
                compare: vec![Compare::last_changed_at(key.clone(), 0)],
                success: vec![
                    Put { key: key.clone(), value: Stamp::now().to_value(), lease: lease.id }.into(),
                    Put { key: store.keys.pulse(&name), value: Stamp::now().to_value(), lease: 0 }.into(),
                ],
                failure: vec![Range::of(key.clone()).into()],
            };
            match store.connection.call(DOING, &create, until).await {
                Ok(answer) => {
                    event.seen.exists_at(answer.header.unwrap_or_default().revision);
                    let hold = call.and_then(|call| Some(store.recorded.event(&name)?.hold(call)));
                    lease.is_for(key, hold);
                    Ok(Hold { event, lease })
                }
                // Dropping the lease ends the hold, if there is one.
                Err(failure) if failure.may_be_done => {
                    Err(Error::new(Kind::Unknown { doing: DOING, tries: store.connection.tries(), pending: None }))
                }
                Err(failure) => Err(failure.error),
            }
        })
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold").field("event", &self.event.name()).field("lost", &self.is_lost()).finish()
    }
}
