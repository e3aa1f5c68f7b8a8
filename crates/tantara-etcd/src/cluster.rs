//! [`Cluster`]: the connection, as users see it.

use std::fmt;
use std::time::{Duration, SystemTime};

use crate::changes::Changes;
use crate::endpoint::{self, Endpoints};
use crate::engine::{Engine, Parts};
use crate::error::Error;
use crate::event::ClusterEvent;
use crate::keys::{Part, State, Who};
use crate::link::Failure;
use crate::options::Options;
use crate::read;
use crate::reply::Reply;
use crate::wire::KeyValue;

/// A connection to an etcd cluster, and so to the events that live there.
///
/// Cloning it is cheap, and every clone is the same connection. All of its events share one connection and one watch
/// stream, which a thread of its own serves: any number of threads and tasks, of any async runtime, can wait. When
/// one member of the cluster fails, another is taken.
///
/// Dropping the last handle (clusters, events, waits and holds are handles) gives back what the process holds in the
/// cluster, for which it may block for a moment: about a round trip, and at most a second.
///
/// # Forks
///
/// A connection belongs to the process that made it. In the child of a fork every verb fails; connect again there.
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
    engine: Engine,
}

impl Cluster {
    /// Connects to the first endpoint that answers and knows a leader.
    ///
    /// # Errors
    ///
    /// If an endpoint cannot be, before anything is done. If none answers within five seconds, or the cluster has
    /// lost its quorum; the error says what each endpoint has said. If the cluster asks for a user, or its etcd is
    /// too old.
    pub fn connect(endpoints: impl Endpoints) -> Result<Cluster, Error> {
        Cluster::connect_with(endpoints, Options::new())
    }

    /// [`connect`](Cluster::connect), with [`Options`].
    ///
    /// # Errors
    ///
    /// As with [`connect`](Cluster::connect), within the options' timeout; and if an option cannot be.
    pub fn connect_with(endpoints: impl Endpoints, options: Options) -> Result<Cluster, Error> {
        let (cluster, reply) = Cluster::begin(endpoints, options)?;
        reply.wait()?;
        Ok(cluster)
    }

    /// [`connect`](Cluster::connect), to be awaited under any runtime.
    ///
    /// # Errors
    ///
    /// As with [`connect`](Cluster::connect).
    pub async fn connect_async(endpoints: impl Endpoints) -> Result<Cluster, Error> {
        Cluster::connect_with_async(endpoints, Options::new()).await
    }

    /// [`connect_with`](Cluster::connect_with), to be awaited under any runtime.
    ///
    /// # Errors
    ///
    /// As with [`connect_with`](Cluster::connect_with).
    pub async fn connect_with_async(endpoints: impl Endpoints, options: Options) -> Result<Cluster, Error> {
        let (cluster, reply) = Cluster::begin(endpoints, options)?;
        reply.into_future().await?;
        Ok(cluster)
    }

    fn begin(endpoints: impl Endpoints, options: Options) -> Result<(Cluster, Reply<()>), Error> {
        options.check()?;
        let endpoints = endpoint::parse(endpoints, options.tls.is_some())?;
        let engine = Engine::start(endpoints, options)?;
        let reply = engine.run(|parts| async move {
            let until = parts.link.connect_deadline();
            parts.link.connection("connect", until).await.map(drop)
        })?;
        Ok((Cluster { engine }, reply))
    }

    /// The event of that name. Nothing is sent: whether the name can be, and whether the cluster can be reached, is
    /// said by the verbs of the event.
    #[must_use]
    pub fn event(&self, name: impl AsRef<str>) -> ClusterEvent {
        ClusterEvent::new(self.engine.clone(), name.as_ref())
    }

    /// The namespace of its events.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.engine.parts().options.namespace
    }

    /// Whether the cluster cannot be reached now, although somebody here waits, holds or asks: since when, and why.
    /// `None` while all is well. Waits go on meanwhile, and outlast it.
    ///
    /// It is noticed within seconds where somebody waits or holds. A connection over which nothing goes on is not
    /// looked at. Nothing is sent for this call.
    #[must_use]
    pub fn outage(&self) -> Option<Outage> {
        let (since, reason) = self.engine.parts().link.outage()?;
        Some(Outage { lasted: since.elapsed(), reason })
    }

    /// All events of the namespace, in the order of their names, as they were at one moment.
    ///
    /// # Errors
    ///
    /// If the cluster cannot be reached, or the user may not read the whole namespace.
    pub fn survey(&self) -> Result<Vec<ClusterEntry>, Error> {
        self.engine.run(survey)?.wait()
    }

    /// [`survey`](Cluster::survey), to be awaited.
    ///
    /// # Errors
    ///
    /// As with [`survey`](Cluster::survey).
    pub async fn survey_async(&self) -> Result<Vec<ClusterEntry>, Error> {
        self.engine.run(survey)?.into_future().await
    }

    /// Every change of every event of the namespace from now on, as it happens.
    ///
    /// # Errors
    ///
    /// As with [`survey`](Cluster::survey).
    pub fn changes(&self) -> Result<Changes, Error> {
        Changes::new(self.engine.clone())
    }
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("options", &self.engine.parts().options).finish_non_exhaustive()
    }
}

/// A time in which a cluster cannot be reached. From [`Cluster::outage`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Outage {
    /// How long it has lasted.
    pub lasted: Duration,
    /// What each endpoint has said.
    pub reason: Error,
}

/// An event of a namespace, as it was when it was looked at. From [`Cluster::survey`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterEntry {
    /// Its name.
    pub name: String,
    /// Whether it was set.
    pub is_set: bool,
    /// When it was last set, by the clock of whoever set it, and by whom.
    pub last_set: Option<ClusterParty>,
    /// Who holds it.
    pub holders: Vec<ClusterParty>,
    /// Who waits, as far as they leave [records](Options::record_waits), those who have waited longest first.
    pub waiters: Vec<ClusterWaiter>,
}

/// Who did something, and when, as they say.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterParty {
    /// What their machine is called.
    pub host: String,
    /// The process's number there.
    pub pid: u32,
    /// When, by their clock.
    pub at: SystemTime,
}

/// A process that waits, as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClusterWaiter {
    /// What its machine is called.
    pub host: String,
    /// The process's number there.
    pub pid: u32,
    /// Since when somebody in it waits, by its clock.
    pub since: SystemTime,
    /// How many in it wait.
    pub count: u32,
}

impl From<Who> for ClusterParty {
    fn from(who: Who) -> ClusterParty {
        ClusterParty { host: who.host, pid: who.pid, at: who.at }
    }
}

impl From<Who> for ClusterWaiter {
    fn from(who: Who) -> ClusterWaiter {
        ClusterWaiter { host: who.host, pid: who.pid, since: who.at, count: who.count }
    }
}

/// The keys of all events and of all waits, at one revision.
async fn list_all(parts: &Parts) -> Result<(Vec<KeyValue>, Vec<KeyValue>), Failure> {
    const LIST: &str = "list events";
    let (events, revision) = read::list(parts, LIST, parts.keys.events(), 0).await?;
    match read::list(parts, LIST, parts.keys.all_waiters(), revision).await {
        // That revision has been compacted in the meantime. Who waits decides nothing, so a later one will do.
        Err(failure) if read::is_about_history(&failure) => {
            let (waiters, _) = read::list(parts, LIST, parts.keys.all_waiters(), 0).await?;
            Ok((events, waiters))
        }
        waiters => Ok((events, waiters?.0)),
    }
}

async fn survey(parts: std::sync::Arc<Parts>) -> Result<Vec<ClusterEntry>, Error> {
    let (events, waiters) = list_all(&parts).await.map_err(|failure| failure.error)?;
    let mut entries: Vec<(ClusterEntry, State)> = Vec::new();
    for kv in events.iter().chain(&waiters) {
        let Some((name, part)) = parts.keys.parse(&kv.key) else { continue };
        let index = match entries.binary_search_by(|(entry, _)| entry.name.as_str().cmp(name)) {
            Ok(index) => index,
            Err(index) => {
                let entry = ClusterEntry {
                    name: name.to_owned(),
                    is_set: false,
                    last_set: None,
                    holders: Vec::new(),
                    waiters: Vec::new(),
                };
                entries.insert(index, (entry, State::default()));
                index
            }
        };
        let (entry, state) = &mut entries[index];
        state.put(part, kv);
        entry.is_set = state.is_set();
        let Some(who) = Who::parse(&kv.value) else { continue };
        match part {
            Part::Pulse => entry.last_set = Some(who.into()),
            Part::Hold => entry.holders.push(who.into()),
            Part::Waiter => entry.waiters.push(who.into()),
            Part::Level => {}
        }
    }
    let mut entries: Vec<ClusterEntry> = entries.into_iter().map(|(entry, _)| entry).collect();
    entries.iter_mut().for_each(|entry| entry.waiters.sort_by_key(|waiter| waiter.since));
    Ok(entries)
}
