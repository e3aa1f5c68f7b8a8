//! [`Cluster`], a connection to the events of a namespace.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::changes::Changes;
use crate::client::endpoint::{self, Endpoint, Endpoints};
use crate::driver::runtime::{Asked, Runtime};
use crate::error::Error;
use crate::event::ClusterEvent;
use crate::list::{self, ClusterEntry};
use crate::options::Options;
use crate::store::seen::Seen;

/// A connection to an etcd cluster, and to the events in one namespace of it.
///
/// Clones are cheap and share the connection. All events of a cluster share one connection and one
/// watch stream, served by a thread of their own, so any number of threads, and of tasks of any
/// async runtime, can wait. If a member of the cluster fails, another one is used.
///
/// Dropping the last handle (clusters, events, waits and holds are handles) revokes the leases of
/// this process. That may block for about a round trip, and for two seconds at most.
///
/// # Wakers
///
/// The thread of the connection wakes tasks. A waker that panics affects no other wait, request or
/// hold. One that blocks on the connection itself gets an error, because that would never end.
///
/// # Forks
///
/// A connection belongs to the process that made it. In the child of a fork every method fails;
/// connect again there.
///
/// # Examples
///
/// ```no_run
/// use tantara_etcd::Cluster;
///
/// let cluster = Cluster::connect("10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379")?;
/// cluster.event("deploy-done").set()?;
/// # Ok::<(), tantara_etcd::Error>(())
/// ```
#[derive(Clone)]
pub struct Cluster {
    runtime: Runtime,
}

impl Cluster {
    /// Connects to the first endpoint that answers and knows a leader.
    ///
    /// # Errors
    ///
    /// If an endpoint is invalid, before anything is sent. If none answers within five seconds, or
    /// the cluster has lost its quorum; the error has the failure of each endpoint. If the cluster
    /// requires a user, or its version is too old.
    pub fn connect(endpoints: impl Endpoints) -> Result<Cluster, Error> {
        Cluster::connect_with(endpoints, Options::new())
    }

    /// [`connect`](Cluster::connect) with [`Options`].
    ///
    /// # Errors
    ///
    /// As for [`connect`](Cluster::connect), within the options' timeout; and if an option is
    /// invalid.
    pub fn connect_with(endpoints: impl Endpoints, options: Options) -> Result<Cluster, Error> {
        let (cluster, connecting) = Cluster::begin(endpoints, options)?;
        connecting.wait()?;
        Ok(cluster)
    }

    /// Async form of [`connect`](Cluster::connect), for any runtime, with the same errors.
    pub async fn connect_async(endpoints: impl Endpoints) -> Result<Cluster, Error> {
        Cluster::connect_with_async(endpoints, Options::new()).await
    }

    /// Async form of [`connect_with`](Cluster::connect_with), for any runtime, with the same
    /// errors.
    pub async fn connect_with_async(endpoints: impl Endpoints, options: Options) -> Result<Cluster, Error> {
        let (cluster, connecting) = Cluster::begin(endpoints, options)?;
        connecting.into_future().await?;
        Ok(cluster)
    }

    fn begin(endpoints: impl Endpoints, options: Options) -> Result<(Cluster, Asked<()>), Error> {
        options.check()?;
        let endpoints = endpoint::parse(endpoints, options.tls.is_some())?;
        Cluster::begin_with(endpoints, options)
    }

    /// Not generic. So all that a connection runs is compiled with this crate, and not once more with
    /// each crate that connects, as that crate is optimised.
    fn begin_with(endpoints: Vec<Endpoint>, options: Options) -> Result<(Cluster, Asked<()>), Error> {
        let runtime = Runtime::new(endpoints, options)?;
        let connecting = runtime.run(|store| async move {
            let until = store.connection.connect_deadline();
            store.connection.member("connect", until).await.map(drop)
        })?;
        Ok((Cluster { runtime }, connecting))
    }

    /// The event with this name. Nothing is sent: the event's methods return the errors of an
    /// invalid name or an unreachable cluster.
    #[must_use]
    pub fn event(&self, name: impl AsRef<str>) -> ClusterEvent {
        self.event_as_seen(name, &Arc::default())
    }

    /// The event with this name, for a handle that has seen it as others have.
    #[doc(hidden)]
    #[must_use]
    pub fn event_as_seen(&self, name: impl AsRef<str>, seen: &Arc<Seen>) -> ClusterEvent {
        ClusterEvent::new(self.runtime.clone(), name.as_ref(), Arc::clone(seen))
    }

    /// The namespace of its events.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.runtime.store().options.namespace
    }

    /// How long the cluster has been unreachable, and why; `None` if it is reachable. Waits that
    /// have begun go on during an outage.
    ///
    /// Outages are detected while there is a wait, a hold or a request, within seconds. An idle
    /// connection is not checked, and this call sends nothing. In the child of a fork the reason is
    /// that the connection belongs to the parent.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        if let Err(reason) = self.runtime.check_process() {
            return Some(Outage { lasted: Duration::ZERO, reason });
        }
        let (since, reason) = self.runtime.store().connection.outage()?;
        Some(Outage { lasted: since.elapsed(), reason })
    }

    /// Calls `begins` at the beginning of each [outage](Cluster::outage), and at once if there is one.
    /// It is called by the thread that finds out, which must not block in it. The last call of this
    /// method counts.
    #[doc(hidden)]
    pub fn on_outage(&self, begins: impl Fn() + Send + Sync + 'static) {
        self.runtime.store().connection.outages.on_begin(begins);
    }

    /// Lists all events of the namespace at one revision, sorted by name.
    ///
    /// # Errors
    ///
    /// If the cluster cannot be reached, or the user may not read the whole namespace.
    pub fn list(&self) -> Result<Vec<ClusterEntry>, Error> {
        self.runtime.run(list::events)?.wait()
    }

    /// Async form of [`list`](Cluster::list), with the same errors.
    pub async fn list_async(&self) -> Result<Vec<ClusterEntry>, Error> {
        self.runtime.run(list::events)?.into_future().await
    }

    /// Follows every change of every event of the namespace from now on.
    ///
    /// # Errors
    ///
    /// As for [`list`](Cluster::list).
    pub fn changes(&self) -> Result<Changes, Error> {
        Changes::new(self.runtime.clone())
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("options", &self.runtime.store().options).finish_non_exhaustive()
    }
}

/// A time in which a cluster is unreachable. From [`Cluster::outage`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outage {
    /// How long it has lasted.
    pub lasted: Duration,
    /// The failure of each endpoint.
    pub reason: Error,
}
