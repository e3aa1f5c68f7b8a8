//! Records of who waits, if the options ask for them: one for each event that this process waits
//! for. They are attached to one lease, so that they end with the process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tantara::waits;
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::lease::{Lease, OF_RECORDS};
use crate::client::proto::{DeleteRange, Put};
use crate::error::Error;
use crate::store::Store;
use crate::store::keys::Stamp;
use crate::store::write::WriteError;

/// Upper bound on the records that are written concurrently, so that the writes of users do not
/// queue behind thousands. These share a transaction.
const AT_ONCE: usize = 120;

/// The shortest time between two writes of a record.
const PERIOD: Duration = Duration::from_millis(200);

/// The lease is kept for this long without records, for waits that follow.
const LINGERING: Duration = Duration::from_secs(5);

const UNKNOWN: usize = usize::MAX;

/// The outcome of a write.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    Made,
    /// It would be refused again: a user who may not write waits without a record.
    Refused,
    /// The cluster could not be reached. It may have been made.
    Failed,
}

#[derive(Debug)]
struct Record {
    /// When the first of the waiters began.
    since: SystemTime,
    count: usize,
    /// The count in the cluster; `UNKNOWN` after a write that may have been made.
    written: usize,
    is_busy: bool,
    has_failed: bool,
    not_before: Instant,
}

#[derive(Debug)]
pub(crate) struct Records {
    store: Arc<Store>,
    records: HashMap<Arc<str>, Record>,
    lease: Arc<Mutex<Option<Arc<Lease>>>>,
    /// Since when there is no record.
    unused: Option<Instant>,
    turns: Arc<Semaphore>,
    /// The number of leases that were lost or given back.
    leases: u64,
    /// Writes that go on. Each returns the number of leases before its own, the count and the outcome.
    work: JoinSet<(Arc<str>, u64, usize, Outcome)>,
}

impl Records {
    pub(crate) fn new(store: Arc<Store>) -> Records {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let (records, work) = (HashMap::new(), JoinSet::new());
        Records { store, records, lease: Arc::default(), unused: None, turns, leases: 0, work }
    }

    /// Sets the number of waiters of an event.
    pub(crate) fn set_count(&mut self, name: &Arc<str>, count: usize) {
        if !self.store.options.records_waits {
            return;
        }
        if let Some(record) = self.records.get_mut(name) {
            if record.count == 0 && count > 0 {
                record.since = SystemTime::now();
            }
            record.count = count;
        } else if count > 0 {
            let now = Instant::now();
            let (since, written, is_busy, has_failed) = (SystemTime::now(), 0, false, false);
            let record = Record { since, count, written, is_busy, has_failed, not_before: now };
            self.records.insert(Arc::clone(name), record);
        }
    }

    /// Begins to write the records that have changed. Returns when to call this again, if not after
    /// a change.
    pub(crate) fn advance(&mut self) -> Option<Instant> {
        let (now, mut due) = (Instant::now(), None);
        if self.lease.try_lock().is_ok_and(|lease| lease.as_ref().is_some_and(|lease| lease.is_lost())) {
            self.replace_lease();
            self.records.values_mut().for_each(|record| record.written = 0);
        }
        self.records.retain(|_, record| record.count > 0 || record.written > 0 || record.is_busy);
        if self.records.is_empty() {
            let has_lease = self.lease.try_lock().is_ok_and(|lease| lease.is_some());
            let since = *self.unused.get_or_insert(now);
            if has_lease && now < since + LINGERING {
                return Some(since + LINGERING);
            }
            self.replace_lease();
            return None;
        }
        self.unused = None;
        for (name, record) in &mut self.records {
            if record.is_busy || record.count == record.written {
                continue;
            }
            // A record of waits that have ended is deleted at once.
            if now < record.not_before && (record.count > 0 || record.has_failed) {
                due = due.into_iter().chain([record.not_before]).min();
                continue;
            }
            record.is_busy = true;
            let (name, store, lease) = (Arc::clone(name), Arc::clone(&self.store), Arc::clone(&self.lease));
            let (since, count, turns) = (record.since, record.count, Arc::clone(&self.turns));
            let leases = self.leases;
            self.work.spawn(async move {
                // The timeout of the request begins with its turn.
                let Ok(_turn) = turns.acquire_owned().await else { return (name, leases, count, Outcome::Failed) };
                let outcome = write(&store, &lease, &name, since, count).await;
                (name, leases, count, outcome)
            });
        }
        due
    }

    fn replace_lease(&mut self) {
        self.lease = Arc::default();
        self.leases += 1;
    }

    /// Completes when a record was written, or the lease was lost. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        let lease = self.lease.try_lock().ok().and_then(|lease| lease.clone());
        let is_lost = async {
            match &lease {
                Some(lease) => waits::unrecorded(lease.lost()).await,
                None => std::future::pending().await,
            }
        };
        let written = tokio::select! {
            written = self.work.join_next(), if !self.work.is_empty() => written,
            () = is_lost => return,
        };
        if let Some(Ok((name, leases, count, outcome))) = written {
            let Some(record) = self.records.get_mut(&name) else { return };
            (record.is_busy, record.has_failed) = (false, matches!(outcome, Outcome::Failed));
            record.written = match outcome {
                // It was written under a lease that has ended since.
                _ if leases < self.leases => 0,
                Outcome::Made => count,
                Outcome::Refused => record.count,
                Outcome::Failed => UNKNOWN,
            };
            record.not_before = Instant::now() + PERIOD;
        }
    }

    /// Drops the lease, which deletes all records.
    pub(crate) async fn end(mut self) {
        self.work.abort_all();
        self.lease.lock().await.take();
    }
}

async fn write(
    store: &Store,
    lease: &Mutex<Option<Arc<Lease>>>,
    name: &str,
    since: SystemTime,
    count: usize,
) -> Outcome {
    const DOING: &str = "record who waits";
    let until = store.connection.request_deadline();
    let id = {
        let mut lease = lease.lock().await;
        match &*lease {
            Some(lease) => lease.id,
            None => match store.leases.grant(DOING, store.options.hold_ttl, OF_RECORDS, until).await {
                Ok(granted) => lease.insert(Arc::new(granted)).id,
                Err(error) => return outcome_of(&error),
            },
        }
    };
    let key = store.keys.waiter(name, id);
    let op = if count == 0 {
        DeleteRange { key, ..DeleteRange::default() }.into()
    } else {
        let stamp = Stamp { at: since, count: u32::try_from(count).unwrap_or(u32::MAX), ..Stamp::now() };
        Put { key, value: stamp.to_value(), lease: id }.into()
    };
    match store.writes.apply(DOING, vec![op], until).await {
        Ok(_) => Outcome::Made,
        Err(WriteError::Failed(error)) => outcome_of(&error),
        Err(WriteError::Unknown(_)) => Outcome::Failed,
    }
}

fn outcome_of(error: &Error) -> Outcome {
    if error.is_unreachable() || error.is_unknown() { Outcome::Failed } else { Outcome::Refused }
}
