//! [`ClusterEvent`]: the verbs, as users see them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cluster::ClusterWaiter;
use crate::engine::{Engine, Parts};
use crate::error::Error;
use crate::hold::{self, Hold};
use crate::keys::{self, Part, State, Who};
use crate::read;
use crate::reply::Reply;
use crate::wait::{self, ClusterWait};
use crate::wire::{Compare, DeleteRange, LeaseRevoke, Op, Put, Txn};

/// An event that machines share: a flag in an etcd cluster. From [`Cluster::event`](crate::Cluster::event).
///
/// It has the verbs of [`tantara::Event`], and each returns a `Result`: the cluster may not be reachable. It can stand
/// among events of other kinds in [`tantara::any`] and [`tantara::all`].
///
/// # Contract
///
/// Whoever waits when a `set` takes effect is released, even if a `clear` follows at once, and even if the connection,
/// the leader, or the history that a watch would need is lost in between. Nobody is released without a set. A wait
/// counts from the moment at which the cluster was read for it, a round trip after it has begun;
/// [`ClusterWait::begun`] tells when. `set`, `clear` and `is_set` are linearizable, and each change is made at most
/// once. If the whole history of the cluster is replaced, by an older backup or by an empty disk, a wait may be
/// released by the last set of the new history: rather that than lost.
///
/// If an event is set *and removed* while a client is cut off, the history of the cluster tells it. If that is
/// compacted in the meantime, the wait fails as removed, or, if the event did not exist when it began, goes on.
///
/// # Memory ordering
///
/// All that a process did before its `set` has happened before the release of whoever that set releases. What it wrote
/// must be visible there by its own means.
///
/// # Complexity
///
/// `set`, `clear`, `is_set`: one round trip. A wait: one to begin; it may be shared by thousands of waits that begin
/// together. The process has one watch in the cluster for each event that it waits for, however many wait in it.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use tantara_etcd::Cluster;
///
/// let cluster = Cluster::connect("127.0.0.1:2379")?;
/// let done = cluster.event("deploy-done");
/// if done.wait_timeout(Duration::from_secs(60))? {
///     println!("deployed");
/// }
/// # Ok::<(), tantara_etcd::Error>(())
/// ```
#[derive(Clone)]
pub struct ClusterEvent {
    engine: Engine,
    name: Arc<str>,
}

const SET: &str = "set an event";
const CLEAR: &str = "clear an event";
const READ: &str = "read an event";
const REMOVE: &str = "remove an event";
const LIST: &str = "list who waits";

impl ClusterEvent {
    pub(crate) fn new(engine: Engine, name: &str) -> ClusterEvent {
        ClusterEvent { engine, name: name.into() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether a name can be: the rule of [`SharedEvent`](tantara::SharedEvent)'s names.
    ///
    /// # Errors
    ///
    /// If not; it says why.
    pub fn check_name(name: &str) -> Result<(), Error> {
        keys::check_name(name)
    }

    /// Whether it is set, or held, now.
    ///
    /// # Errors
    ///
    /// If the name cannot be, if the cluster cannot be reached within the options' timeout, or does not allow it.
    pub fn is_set(&self) -> Result<bool, Error> {
        self.ask_is_set()?.wait()
    }

    /// [`is_set`](ClusterEvent::is_set), to be awaited.
    ///
    /// # Errors
    ///
    /// As with [`is_set`](ClusterEvent::is_set).
    pub async fn is_set_async(&self) -> Result<bool, Error> {
        self.ask_is_set()?.into_future().await
    }

    fn ask_is_set(&self) -> Result<Reply<bool>, Error> {
        self.run(
            |parts, name| async move { Ok(look_at(&parts, READ, name, parts.link.request_deadline()).await?.is_set()) },
        )
    }

    /// Sets it, and releases everyone who waits.
    ///
    /// # Errors
    ///
    /// As with [`is_set`](ClusterEvent::is_set); and [`is_unknown`](Error::is_unknown) if the cluster was lost in the
    /// middle, so that it may have been set or not: [`Error::pending`] finds out. To set it again is always right.
    pub fn set(&self) -> Result<(), Error> {
        self.change(SET, put_set)?.wait()
    }

    /// [`set`](ClusterEvent::set), to be awaited. It goes on when the future is dropped.
    ///
    /// # Errors
    ///
    /// As with [`set`](ClusterEvent::set).
    pub async fn set_async(&self) -> Result<(), Error> {
        self.change(SET, put_set)?.into_future().await
    }

    /// Clears it. While somebody [holds](ClusterEvent::hold) it, it stays set nevertheless, until the last hold ends.
    ///
    /// # Errors
    ///
    /// As with [`set`](ClusterEvent::set).
    pub fn clear(&self) -> Result<(), Error> {
        self.change(CLEAR, put_clear)?.wait()
    }

    /// [`clear`](ClusterEvent::clear), to be awaited. It goes on when the future is dropped.
    ///
    /// # Errors
    ///
    /// As with [`set`](ClusterEvent::set).
    pub async fn clear_async(&self) -> Result<(), Error> {
        self.change(CLEAR, put_clear)?.into_future().await
    }

    /// Sets it and clears it in one step: everyone who waits is released, and nobody can see it set.
    ///
    /// # Errors
    ///
    /// As with [`set`](ClusterEvent::set).
    pub fn pulse(&self) -> Result<(), Error> {
        self.change(SET, put_pulse)?.wait()
    }

    /// [`pulse`](ClusterEvent::pulse), to be awaited. It goes on when the future is dropped.
    ///
    /// # Errors
    ///
    /// As with [`set`](ClusterEvent::set).
    pub async fn pulse_async(&self) -> Result<(), Error> {
        self.change(SET, put_pulse)?.into_future().await
    }

    /// Removes it: everyone who waits for it fails with [`is_removed`](Error::is_removed), and its keys are gone. Holds
    /// of it end. `false` if there was none.
    ///
    /// # Errors
    ///
    /// As with [`set`](ClusterEvent::set).
    pub fn remove(&self) -> Result<bool, Error> {
        self.ask_remove()?.wait()
    }

    /// [`remove`](ClusterEvent::remove), to be awaited. It goes on when the future is dropped.
    ///
    /// # Errors
    ///
    /// As with [`set`](ClusterEvent::set).
    pub async fn remove_async(&self) -> Result<bool, Error> {
        self.ask_remove()?.into_future().await
    }

    fn ask_remove(&self) -> Result<Reply<bool>, Error> {
        let engine = self.engine.clone();
        self.run(move |parts, name| async move {
            let until = parts.link.request_deadline();
            let exists = look_at(&parts, REMOVE, Arc::clone(&name), until).await?.exists();
            if exists {
                let holds = read::list(&parts, REMOVE, parts.keys.holds(&name), 0).await;
                let (holds, _) = holds.map_err(|failure| failure.error)?;
                let key = parts.keys.event(&name);
                let delete = DeleteRange { range_end: keys::end_of(&key), key };
                parts.writer.apply(REMOVE, vec![delete.into()], until, Some(&engine)).await?;
                // Whoever held it learns so by the end of the lease.
                for hold in &holds {
                    let _ = parts.link.call(REMOVE, &LeaseRevoke { id: hold.lease }, until).await;
                }
            }
            Ok(exists)
        })
    }

    /// Blocks until it is set.
    ///
    /// # Errors
    ///
    /// If the wait cannot begin, as with [`is_set`](ClusterEvent::is_set). Once it has begun it outlasts every outage
    /// of the cluster, and fails only if the event is [removed](Error::is_removed), or may not be read any more.
    pub fn wait(&self) -> Result<(), Error> {
        ClusterWait::new(self).wait()
    }

    /// Blocks for at most `timeout`: `true` if it was released, `false` if the time passed first. On a tie, released
    /// wins; zero is a poll.
    ///
    /// `false` is said by the cluster: it is asked once more when the time has passed. A connection that serves is
    /// given as much time for that as any request, and one that does not a second.
    ///
    /// # Errors
    ///
    /// As with [`wait`](ClusterEvent::wait); and if the cluster cannot be asked when the time has passed
    /// ([`is_unreachable`](Error::is_unreachable)), so that nobody can say whether it was set.
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        if timeout.is_zero() {
            return wait::look(self);
        }
        ClusterWait::new(self).wait_timeout(timeout)
    }

    /// [`wait_timeout`](ClusterEvent::wait_timeout), until a moment. One that has passed is a poll.
    ///
    /// # Errors
    ///
    /// As with [`wait_timeout`](ClusterEvent::wait_timeout).
    pub fn wait_deadline(&self, deadline: Instant) -> Result<bool, Error> {
        if deadline <= Instant::now() {
            return wait::look(self);
        }
        ClusterWait::new(self).wait_deadline(deadline)
    }

    /// Begins a wait: to be awaited under any runtime, or to be blocked on later. It begins with this call.
    ///
    /// # Cancel safety
    ///
    /// Dropping it loses nothing for anybody else.
    ///
    /// # Errors
    ///
    /// The future's, as with [`wait`](ClusterEvent::wait).
    pub fn wait_async(&self) -> ClusterWait {
        ClusterWait::new(self)
    }

    /// Sets it for as long as the [`Hold`] lives: when that is dropped, or its process dies or is cut off from the
    /// cluster for longer than the options' [`hold_ttl`](crate::Options::hold_ttl), it is unset again, unless somebody
    /// else holds it or has set it.
    ///
    /// # Errors
    ///
    /// As with [`set`](ClusterEvent::set). After an unknown outcome nothing is held for longer than the `hold_ttl`.
    pub fn hold(&self) -> Result<Hold, Error> {
        hold::begin(self)?.wait()
    }

    /// [`hold`](ClusterEvent::hold), to be awaited.
    ///
    /// # Errors
    ///
    /// As with [`hold`](ClusterEvent::hold).
    pub async fn hold_async(&self) -> Result<Hold, Error> {
        hold::begin(self)?.into_future().await
    }

    /// Who waits, in all processes that leave [records](crate::Options::record_waits), those who have waited longest
    /// first.
    ///
    /// # Errors
    ///
    /// As with [`is_set`](ClusterEvent::is_set).
    pub fn waiters(&self) -> Result<Vec<ClusterWaiter>, Error> {
        self.ask_waiters()?.wait()
    }

    /// [`waiters`](ClusterEvent::waiters), to be awaited.
    ///
    /// # Errors
    ///
    /// As with [`is_set`](ClusterEvent::is_set).
    pub async fn waiters_async(&self) -> Result<Vec<ClusterWaiter>, Error> {
        self.ask_waiters()?.into_future().await
    }

    fn ask_waiters(&self) -> Result<Reply<Vec<ClusterWaiter>>, Error> {
        self.run(|parts, name| async move {
            let listed = read::list(&parts, LIST, parts.keys.waiters(&name), 0).await;
            let (kvs, _) = listed.map_err(|failure| failure.error)?;
            let ours = kvs.iter().filter(|kv| parts.keys.parse(&kv.key) == Some((&*name, Part::Waiter)));
            let mut waiters: Vec<ClusterWaiter> =
                ours.filter_map(|kv| Who::parse(&kv.value)).map(ClusterWaiter::from).collect();
            waiters.sort_by_key(|waiter| waiter.since);
            Ok(waiters)
        })
    }

    fn change(&self, doing: &'static str, ops: impl FnOnce(&Parts, &str) -> Vec<Op>) -> Result<Reply<()>, Error> {
        let engine = self.engine.clone();
        let ops = ops(self.engine.parts(), &self.name);
        self.run(move |parts, _| async move {
            let until = parts.link.request_deadline();
            parts.writer.apply(doing, ops, until, Some(&engine)).await.map(drop)
        })
    }

    pub(crate) fn run<T, F>(&self, request: impl FnOnce(Arc<Parts>, Arc<str>) -> F) -> Result<Reply<T>, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        keys::check_name(&self.name)?;
        let name = Arc::clone(&self.name);
        self.engine.run(|parts| request(parts, name))
    }
}

fn put(key: Vec<u8>, value: impl Into<Vec<u8>>) -> Op {
    Put { key, value: value.into(), lease: 0 }.into()
}

fn put_set(parts: &Parts, name: &str) -> Vec<Op> {
    vec![put(parts.keys.level(name), "1"), put(parts.keys.pulse(name), Who::am_i().to_value())]
}

fn put_clear(parts: &Parts, name: &str) -> Vec<Op> {
    vec![put(parts.keys.level(name), "0")]
}

fn put_pulse(parts: &Parts, name: &str) -> Vec<Op> {
    vec![put(parts.keys.level(name), "0"), put(parts.keys.pulse(name), Who::am_i().to_value())]
}

/// The state of one event.
async fn look_at(
    parts: &Parts,
    doing: &'static str,
    name: Arc<str>,
    until: tokio::time::Instant,
) -> Result<State, Error> {
    let seen = read::look(parts, doing, &[name], until).await.map_err(|failure| failure.error)?;
    seen.states.into_iter().next().unwrap_or_else(|| Ok(State::default()))
}

/// Makes an event that does not exist, unset. One that exists is left as it is. The revision at which it exists.
pub(crate) async fn make(parts: &Parts, name: &str) -> Result<i64, Error> {
    let level = parts.keys.level(name);
    let make = Txn {
        compare: vec![Compare::last_changed_at(level.clone(), 0)],
        success: vec![put(level, "0")],
        ..Txn::default()
    };
    let made = parts.link.call("wait for an event", &make, parts.link.request_deadline()).await;
    made.map(|answer| answer.header.unwrap_or_default().revision).map_err(|failure| failure.error)
}

impl fmt::Debug for ClusterEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterEvent").field("name", &self.name).finish_non_exhaustive()
    }
}
