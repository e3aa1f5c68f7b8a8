//! [`ClusterEvent`], an event that machines share.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tantara::__private::{Collected, IntoSlot, Seal, Sealed, Slot};
use tantara::Waitable;
use tantara::waits::Outside;

use crate::client::proto::{DeleteRange, Op, Put};
use crate::driver::mailbox::Aim;
use crate::driver::runtime::{Asked, Runtime};
use crate::error::{Error, Kind, Pending, Resolve};
use crate::list::{self, ClusterWaiter};
use crate::store::Store;
use crate::store::keys::{self, Stamp};
use crate::store::read;
use crate::store::seen::Seen;
use crate::store::state::State;
use crate::store::write::{IdempotentWrite, WriteError};
use crate::wait::ClusterWait;

/// An event that machines share: a flag in an etcd cluster. From
/// [`Cluster::event`](crate::Cluster::event).
///
/// It has the methods of [`tantara::Event`]. Each returns a `Result`, because the cluster may be
/// unreachable. It can be combined with events of other kinds in [`tantara::any`] and
/// [`tantara::all`].
///
/// # Contract
///
/// A `set` releases every wait that has begun, even if a `clear` follows at once, and even if the
/// connection, the leader, or the history that a watch needs is lost in between. No wait is
/// released without a `set`. For what is done through the same connection, by handles of the same
/// [`Cluster`](crate::Cluster), a wait has begun with the call that requests it. For all others it
/// begins when the cluster is read for it, a round trip later; [`ClusterWait::begun`] tells when.
/// `set`, `clear` and `is_set` are linearizable, and each change is made at most once. If the
/// history of the cluster is replaced, by an older backup or an empty disk, a wait may be released
/// by the last `set` of the new history: a false release is preferred to a lost one.
///
/// If an event is set *and removed* while a client is cut off, the history of the cluster shows it.
/// If that history is compacted meanwhile, the wait fails as removed, or, if the event did not
/// exist when it began, goes on.
///
/// # Removal
///
/// A handle is a name, and the event may not exist yet: then it is unset, and a wait creates it. Once
/// a handle or a clone of it has seen the event, by a change, a read or a wait, its absence is a
/// removal: `is_set`, `last_set` and all waits fail with [`is_removed`](Error::is_removed), as those
/// of a [`SharedEvent`](tantara::SharedEvent) do. `set`, `clear`, `pulse` and `hold` create the event
/// again, for old handles too. [`Cluster::event`](crate::Cluster::event) makes a handle that has
/// seen nothing.
///
/// # Memory ordering
///
/// Everything that a process did before its `set` happens before the release of the waits that this
/// `set` releases. How what it wrote becomes visible on another machine is up to the program.
///
/// # Complexity
///
/// `set`, `clear`, `is_set`: one round trip. A wait: one round trip to begin, which thousands of
/// waits that begin together share. A change that is requested while a wait for the same event
/// begins through the same connection is sent after that. A process has one watch in the cluster
/// for each event that it waits for, however many waits it has.
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
    pub(crate) runtime: Runtime,
    name: Arc<str>,
    pub(crate) seen: Arc<Seen>,
}

pub(crate) const SET: &str = "set an event";
const CLEAR: &str = "clear an event";
const READ: &str = "read an event";
const REMOVE: &str = "remove an event";
const END_HOLDS: &str = "end the holds of an event that was removed";

impl ClusterEvent {
    pub(crate) fn new(runtime: Runtime, name: &str, seen: Arc<Seen>) -> ClusterEvent {
        ClusterEvent { runtime, name: name.into(), seen }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Checks a name by the rules for names of [`SharedEvent`](tantara::SharedEvent).
    ///
    /// # Errors
    ///
    /// If it is invalid, with the reason.
    pub fn check_name(name: &str) -> Result<(), Error> {
        keys::check_name(name)
    }

    /// Whether it is set, or held.
    ///
    /// # Errors
    ///
    /// If the name is invalid, if the cluster cannot be reached within the options' timeout, if it
    /// does not permit the request, or if the event was [removed](ClusterEvent#removal).
    pub fn is_set(&self) -> Result<bool, Error> {
        self.request_is_set()?.wait()
    }

    /// Async form of [`is_set`](ClusterEvent::is_set), with the same errors.
    pub async fn is_set_async(&self) -> Result<bool, Error> {
        self.request_is_set()?.into_future().await
    }

    fn request_is_set(&self) -> Result<Asked<bool>, Error> {
        self.read(READ, |state| state.is_set())
    }

    /// Sets it, which releases all waits. To say why, use
    /// [`set_with_note`](ClusterEvent::set_with_note).
    ///
    /// # Errors
    ///
    /// If the name is invalid, if the cluster cannot be reached within the options' timeout, or if it
    /// does not permit the request; and [`is_unknown`](Error::is_unknown) if the connection was lost
    /// after the request was sent, so that it may or may not be set: [`Error::pending`] finds out. It
    /// is always safe to set it again.
    pub fn set(&self) -> Result<(), Error> {
        self.write(SET, put_set)?.wait()
    }

    /// Async form of [`set`](ClusterEvent::set), with the same errors. Dropping the future does not
    /// cancel the request.
    pub async fn set_async(&self) -> Result<(), Error> {
        self.write(SET, put_set)?.into_future().await
    }

    /// Clears it. While it is [held](ClusterEvent::hold) it stays set, until the last hold ends.
    ///
    /// # Errors
    ///
    /// As for [`set`](ClusterEvent::set).
    pub fn clear(&self) -> Result<(), Error> {
        self.write(CLEAR, put_clear)?.wait()
    }

    /// Async form of [`clear`](ClusterEvent::clear), with the same errors. Dropping the future does
    /// not cancel the request.
    pub async fn clear_async(&self) -> Result<(), Error> {
        self.write(CLEAR, put_clear)?.into_future().await
    }

    /// Sets and clears it in one step: all waits are released, and `is_set` never returns `true`.
    ///
    /// # Errors
    ///
    /// As for [`set`](ClusterEvent::set).
    pub fn pulse(&self) -> Result<(), Error> {
        self.write(SET, put_pulse)?.wait()
    }

    /// Async form of [`pulse`](ClusterEvent::pulse), with the same errors. Dropping the future does
    /// not cancel the request.
    pub async fn pulse_async(&self) -> Result<(), Error> {
        self.write(SET, put_pulse)?.into_future().await
    }

    /// Removes it: all waits fail with [`is_removed`](Error::is_removed), its holds end, and its
    /// keys are deleted. `false` if it did not exist. Handles that have seen it then
    /// [fail](ClusterEvent#removal).
    ///
    /// Its holders are notified at once. A holder that cannot be notified, as during an outage,
    /// detects it within about the options' [`recheck`](crate::Options::recheck) after the outage.
    ///
    /// # Errors
    ///
    /// As for [`set`](ClusterEvent::set).
    pub fn remove(&self) -> Result<bool, Error> {
        self.request_remove()?.wait()
    }

    /// Async form of [`remove`](ClusterEvent::remove), with the same errors. Dropping the future
    /// does not cancel the request.
    pub async fn remove_async(&self) -> Result<bool, Error> {
        self.request_remove()?.into_future().await
    }

    fn request_remove(&self) -> Result<Asked<bool>, Error> {
        let (runtime, seen) = (self.runtime.clone(), Arc::clone(&self.seen));
        self.run(move |store, name| async move {
            let until = store.connection.request_deadline();
            runtime.earlier_waits_have_begun(&name, until).await;
            let (state, _) = read::event(&store, REMOVE, Arc::clone(&name), until).await?;
            if state.exists() {
                let key = store.keys.event(&name);
                let delete = DeleteRange { range_end: keys::end_of(&key), key };
                let deleted = store.writes.apply(REMOVE, vec![delete.into()], until).await;
                let revision = deleted.map_err(|error| write_error(error, REMOVE, runtime))?;
                seen.exists_at(revision.saturating_sub(1));
                // Exactly the holds that were deleted: another one may have begun since the event was
                // read. Their holders learn of it when their leases end, or by themselves: the event
                // is removed, so no failure from here on may be reported as that of the removal.
                let holds = read::list(&store, END_HOLDS, store.keys.holds(&name), revision.saturating_sub(1)).await;
                if let Ok((holds, _)) = holds {
                    store.leases.revoke_all(END_HOLDS, holds.iter().map(|hold| hold.lease)).await;
                }
            }
            Ok(state.exists())
        })
    }

    /// Blocks until it is set.
    ///
    /// # Errors
    ///
    /// If the wait cannot begin, as for [`is_set`](ClusterEvent::is_set). A wait that has begun
    /// survives every outage of the cluster. It fails only if the event is
    /// [removed](ClusterEvent#removal) or may no longer be read.
    #[track_caller]
    pub fn wait(&self) -> Result<(), Error> {
        self.wait_async().wait()
    }

    /// Blocks for at most `timeout`. Returns `true` if it was released, and `false` if the time
    /// passed first; on a tie, `true`. A zero timeout polls.
    ///
    /// When the time has passed the cluster is read for the last time, so `false` is its answer. A
    /// working connection has as much time for that read as for any request. One that does not work
    /// has one second to recover.
    ///
    /// # Errors
    ///
    /// As for [`wait`](ClusterEvent::wait); and [`is_unreachable`](Error::is_unreachable) if the
    /// cluster cannot be read when the time has passed, so that it is unknown whether the event was
    /// set.
    #[track_caller]
    pub fn wait_timeout(&self, timeout: Duration) -> Result<bool, Error> {
        self.wait_timeout_for(Aim::Set, timeout)
    }

    /// [`wait_timeout`](ClusterEvent::wait_timeout) until a deadline. A past deadline polls.
    ///
    /// # Errors
    ///
    /// As for [`wait_timeout`](ClusterEvent::wait_timeout).
    #[track_caller]
    pub fn wait_deadline(&self, deadline: Instant) -> Result<bool, Error> {
        self.wait_deadline_for(Aim::Set, deadline)
    }

    /// Begins a wait, to be awaited under any runtime or blocked on later.
    ///
    /// The call sends a read. Every `set` through this connection that is requested after the call
    /// releases the wait, because it is sent after that read was answered. A `set` through another
    /// connection, of this process or another one, releases it if it takes effect after the read:
    /// use [`begun`](ClusterWait::begun) before you ask for one.
    ///
    /// # Cancel safety
    ///
    /// Dropping it affects no other wait.
    ///
    /// # Errors
    ///
    /// Those of the future, as for [`wait`](ClusterEvent::wait).
    #[track_caller]
    pub fn wait_async(&self) -> ClusterWait {
        self.begin(Aim::Set)
    }

    #[track_caller]
    pub(crate) fn begin(&self, aim: Aim) -> ClusterWait {
        ClusterWait::new(&self.runtime, &self.name, &self.seen, aim)
    }

    #[track_caller]
    pub(crate) fn wait_timeout_for(&self, aim: Aim, timeout: Duration) -> Result<bool, Error> {
        if timeout.is_zero() {
            return ClusterWait::poll_once(&self.runtime, &self.name, &self.seen, aim);
        }
        self.begin(aim).wait_timeout(timeout)
    }

    #[track_caller]
    pub(crate) fn wait_deadline_for(&self, aim: Aim, deadline: Instant) -> Result<bool, Error> {
        if deadline <= Instant::now() {
            return ClusterWait::poll_once(&self.runtime, &self.name, &self.seen, aim);
        }
        self.begin(aim).wait_deadline(deadline)
    }

    /// The same as [`wait_async`](ClusterEvent::wait_async), whose future is `'static` already. It
    /// is here so that all events have a method of this name whose future can be spawned, returned,
    /// and stored in a struct.
    ///
    /// # Cancel safety
    ///
    /// Dropping it affects no other wait.
    ///
    /// # Errors
    ///
    /// Those of the future, as for [`wait`](ClusterEvent::wait).
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # tokio::runtime::Runtime::new()?.block_on(async {
    /// let cluster = tantara_etcd::Cluster::connect("127.0.0.1:2379")?;
    /// let deployed = tokio::spawn(cluster.event("deploy-done").wait_owned());
    /// deployed.await.unwrap()?;
    /// # Ok::<(), tantara_etcd::Error>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[track_caller]
    pub fn wait_owned(&self) -> ClusterWait {
        self.wait_async()
    }

    /// The processes that wait for it and leave [records](crate::Options::record_waits), those that
    /// have waited longest first.
    ///
    /// # Errors
    ///
    /// If the name is invalid, if the cluster cannot be reached within the options' timeout, or if it
    /// does not permit the request.
    pub fn waiters(&self) -> Result<Vec<ClusterWaiter>, Error> {
        self.run(list::waiters)?.wait()
    }

    /// Async form of [`waiters`](ClusterEvent::waiters), with the same errors.
    pub async fn waiters_async(&self) -> Result<Vec<ClusterWaiter>, Error> {
        self.run(list::waiters)?.into_future().await
    }

    /// The event in the record of waits, if waits are recorded.
    pub(crate) fn recorded(&self) -> Option<Arc<Outside>> {
        self.runtime.store().recorded.event(&self.name)
    }

    /// Reads the state of the event, which must not have been removed since a handle has seen it.
    pub(crate) fn read<T: Send + 'static>(
        &self,
        doing: &'static str,
        value: impl FnOnce(State) -> T + Send + 'static,
    ) -> Result<Asked<T>, Error> {
        let seen = Arc::clone(&self.seen);
        self.run(move |store, name| async move {
            let (before, until) = (seen.by_now(), store.connection.request_deadline());
            let (state, revision) = read::event(&store, doing, Arc::clone(&name), until).await?;
            seen.look(before, revision, state.exists(), &name)?;
            Ok(value(state))
        })
    }

    pub(crate) fn write(
        &self,
        doing: &'static str,
        ops: impl FnOnce(&Store, &str) -> Vec<Op>,
    ) -> Result<Asked<()>, Error> {
        let (runtime, seen) = (self.runtime.clone(), Arc::clone(&self.seen));
        let ops = ops(runtime.store(), &self.name);
        self.run(move |store, name| async move {
            let until = store.connection.request_deadline();
            runtime.earlier_waits_have_begun(&name, until).await;
            let written = store.writes.apply(doing, ops, until).await;
            let revision = written.map_err(|error| write_error(error, doing, runtime))?;
            seen.exists_at(revision);
            Ok(())
        })
    }

    pub(crate) fn run<T, F>(&self, request: impl FnOnce(Arc<Store>, Arc<str>) -> F) -> Result<Asked<T>, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        keys::check_name(&self.name)?;
        let name = Arc::clone(&self.name);
        self.runtime.run(|store| request(store, name))
    }
}

fn put(key: Vec<u8>, value: impl Into<Vec<u8>>) -> Op {
    Put { key, value: value.into(), lease: 0 }.into()
}

pub(crate) fn put_set(store: &Store, name: &str) -> Vec<Op> {
    put_set_by(&Stamp::now(), store, name)
}

pub(crate) fn put_set_by(stamp: &Stamp, store: &Store, name: &str) -> Vec<Op> {
    vec![put(store.keys.level(name), "1"), put(store.keys.pulse(name), stamp.to_value())]
}

fn put_clear(store: &Store, name: &str) -> Vec<Op> {
    vec![put(store.keys.level(name), "0")]
}

fn put_pulse(store: &Store, name: &str) -> Vec<Op> {
    put_pulse_by(&Stamp::now(), store, name)
}

pub(crate) fn put_pulse_by(stamp: &Stamp, store: &Store, name: &str) -> Vec<Op> {
    vec![put(store.keys.level(name), "0"), put(store.keys.pulse(name), stamp.to_value())]
}

/// A write of unknown outcome can be resolved later, on the same runtime thread.
fn write_error(error: WriteError, doing: &'static str, runtime: Runtime) -> Error {
    match error {
        WriteError::Failed(error) => error,
        WriteError::Unknown(write) => {
            let tries = runtime.store().connection.tries();
            let pending = Some(Pending::new(UnknownWrite { runtime, write, doing, outcome: Arc::default() }));
            Error::new(Kind::Unknown { doing, tries, pending })
        }
    }
}

struct UnknownWrite {
    runtime: Runtime,
    write: IdempotentWrite,
    doing: &'static str,
    /// The outcome, once it is known.
    outcome: Arc<OnceLock<bool>>,
}

impl UnknownWrite {
    fn request(&self) -> Result<Asked<bool>, Error> {
        let (write, doing, outcome) = (self.write.clone(), self.doing, Arc::clone(&self.outcome));
        self.runtime.run(move |store| async move {
            if let Some(made) = outcome.get() {
                return Ok(*made);
            }
            let made = store.writes.writer.resolve(doing, &write, store.connection.request_deadline()).await?;
            Ok(*outcome.get_or_init(|| made))
        })
    }
}

impl Resolve for UnknownWrite {
    fn resolve(&self) -> Result<bool, Error> {
        self.request()?.wait()
    }

    fn resolve_async(&self) -> Pin<Box<dyn Future<Output = Result<bool, Error>> + Send + '_>> {
        Box::pin(async move { self.request()?.into_future().await })
    }
}

impl fmt::Debug for UnknownWrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.doing)
    }
}

impl Waitable for ClusterEvent {}

impl Sealed for ClusterEvent {
    fn slot(&self, _: Seal) -> Slot<'_> {
        Slot::external(self.wait_async())
    }
}

impl<'a> IntoSlot<'a> for ClusterEvent {
    fn add_to(self, slots: &mut Collected<'a>, _: Seal) {
        slots.add(Slot::external(self.wait_async()));
    }
}

impl fmt::Debug for ClusterEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClusterEvent").field("name", &self.name).finish_non_exhaustive()
    }
}
