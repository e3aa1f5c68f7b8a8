//! Records of who waits, if the options ask for them: one for each event that this process waits
//! for. They are attached to one lease, so that they end with the process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::lease::{Lease, OF_RECORDS};
use crate::client::proto::{DeleteRange, Put};
use crate::store::Store;
use crate::store::keys::Stamp;

/// Upper bound on the records that are written concurrently, so that the writes of users do not
/// queue behind thousands. These share a transaction.
const AT_ONCE: usize = 120;

/// The shortest time between two writes of a record.
const PERIOD: Duration = Duration::from_millis(200);

/// The lease is kept for this long without records, for waits that follow.
const LINGERING: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Record {
    /// When the first of the waiters began.
    since: SystemTime,
    count: usize,
    /// The count in the cluster.
    written: usize,
    is_busy: bool,
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
    /// Writes that go on. Each returns the count that it wrote; `None` if it has failed.
    work: JoinSet<(Arc<str>, Option<usize>)>,
}

impl Records {
    pub(crate) fn new(store: Arc<Store>) -> Records {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Records { store, records: HashMap::new(), lease: Arc::default(), unused: None, turns, work: JoinSet::new() }
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
            let record = Record { since: SystemTime::now(), count, written: 0, is_busy: false, not_before: now };
            self.records.insert(Arc::clone(name), record);
        }
    }

    /// Begins to write the records that have changed. Returns when to call this again, if not after
    /// a change.
    pub(crate) fn advance(&mut self) -> Option<Instant> {
        let (now, mut due) = (Instant::now(), None);
        if self.lease.try_lock().is_ok_and(|lease| lease.as_ref().is_some_and(|lease| lease.is_lost())) {
            self.lease = Arc::default();
            self.records.values_mut().for_each(|record| record.written = 0);
        }
        self.records.retain(|_, record| record.count > 0 || record.written > 0 || record.is_busy);
        if self.records.is_empty() {
            let has_lease = self.lease.try_lock().is_ok_and(|lease| lease.is_some());
            let since = *self.unused.get_or_insert(now);
            if has_lease && now < since + LINGERING {
                return Some(since + LINGERING);
            }
            self.lease = Arc::default();
            return None;
        }
        self.unused = None;
        for (name, record) in &mut self.records {
            if record.is_busy || record.count == record.written {
                continue;
            }
            // A record of waits that have ended is deleted at once.
            if now < record.not_before && record.count > 0 {
                due = due.into_iter().chain([record.not_before]).min();
                continue;
            }
            record.is_busy = true;
            let (name, store, lease) = (Arc::clone(name), Arc::clone(&self.store), Arc::clone(&self.lease));
            let (since, count, turns) = (record.since, record.count, Arc::clone(&self.turns));
            self.work.spawn(async move {
                // The timeout of the request begins with its turn.
                let Ok(_turn) = turns.acquire_owned().await else { return (name, None) };
                let written = write(&store, &lease, &name, since, count).await;
                (name, written.map(|()| count))
            });
        }
        due
    }

    /// Completes when a record was written, or the lease was lost. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        let lease = self.lease.try_lock().ok().and_then(|lease| lease.clone());
        let is_lost = async {
            match &lease {
                Some(lease) => lease.lost().wait_async().await,
                None => std::future::pending().await,
            }
        };
        let written = tokio::select! {
            written = self.work.join_next(), if !self.work.is_empty() => written,
            () = is_lost => return,
        };
        if let Some(Ok((name, written))) = written {
            let Some(record) = self.records.get_mut(&name) else { return };
            record.is_busy = false;
            // A user who may not write waits without a record.
            record.written = written.unwrap_or(record.count);
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
) -> Option<()> {
    const DOING: &str = "record who waits";
    let until = store.connection.request_deadline();
    let id = {
        let mut lease = lease.lock().await;
        if lease.is_none() {
            *lease = Some(Arc::new(store.leases.grant(DOING, store.options.hold_ttl, OF_RECORDS, until).await.ok()?));
        }
        lease.as_ref()?.id
    };
    let key = store.keys.waiter(name, id);
    let op = if count == 0 {
        DeleteRange { key, ..DeleteRange::default() }.into()
    } else {
        let stamp = Stamp { at: since, count: u32::try_from(count).unwrap_or(u32::MAX), ..Stamp::now() };
        Put { key, value: stamp.to_value(), lease: id }.into()
    };
    store.writes.apply(DOING, vec![op], until).await.ok().map(drop)
}
