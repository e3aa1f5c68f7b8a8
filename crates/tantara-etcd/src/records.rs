//! Records of who waits, for those who have asked for them: one for each event that this process waits for, under one
//! lease, so that they end with the process.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::engine::Parts;
use crate::keys::Who;
use crate::lease::Lease;
use crate::wire::{DeleteRange, Put};

/// How many records are written at once. The other turns of the writer are for the user's own changes.
const AT_ONCE: usize = 16;

/// A record is not changed more often.
const PERIOD: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Record {
    /// Since when somebody waits.
    since: SystemTime,
    count: usize,
    /// What the cluster has been told.
    written: usize,
    is_busy: bool,
    not_before: Instant,
}

#[derive(Debug)]
pub(crate) struct Records {
    parts: Arc<Parts>,
    records: HashMap<Arc<str>, Record>,
    lease: Arc<Mutex<Option<Arc<Lease>>>>,
    turns: Arc<Semaphore>,
    /// Which record was written, and how many it tells of; `None` if that has failed.
    work: JoinSet<(Arc<str>, Option<usize>)>,
}

impl Records {
    pub(crate) fn new(parts: Arc<Parts>) -> Records {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        Records { parts, records: HashMap::new(), lease: Arc::default(), turns, work: JoinSet::new() }
    }

    /// So many wait for the event now.
    pub(crate) fn count(&mut self, name: &Arc<str>, count: usize) {
        if !self.parts.options.records_waits {
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

    /// Writes what has changed. When to come again.
    pub(crate) fn advance(&mut self) -> Instant {
        let now = Instant::now();
        let mut due = now + Duration::from_secs(1);
        if self.records.is_empty() {
            return due;
        }
        if self.lease.try_lock().is_ok_and(|lease| lease.as_ref().is_some_and(|lease| lease.is_lost())) {
            self.lease = Arc::default();
            self.records.values_mut().for_each(|record| record.written = 0);
        }
        self.records.retain(|_, record| record.count > 0 || record.written > 0 || record.is_busy);
        for (name, record) in &mut self.records {
            if record.is_busy || record.count == record.written {
                continue;
            }
            // Nobody is to be seen waiting who does not.
            if now < record.not_before && record.count > 0 {
                due = due.min(record.not_before);
                continue;
            }
            record.is_busy = true;
            let (name, parts, lease) = (Arc::clone(name), Arc::clone(&self.parts), Arc::clone(&self.lease));
            let (since, count, turns) = (record.since, record.count, Arc::clone(&self.turns));
            self.work.spawn(async move {
                // The time of a request begins with its turn.
                let Ok(_turn) = turns.acquire_owned().await else { return (name, None) };
                let written = write(&parts, &lease, &name, since, count).await;
                (name, written.map(|()| count))
            });
        }
        due
    }

    /// Ready when a record has been written.
    pub(crate) async fn hear(&mut self) {
        match self.work.join_next().await {
            Some(Ok((name, written))) => {
                let Some(record) = self.records.get_mut(&name) else { return };
                record.is_busy = false;
                // Who may not write cannot be seen waiting, and waits nevertheless.
                record.written = written.unwrap_or(record.count);
                record.not_before = Instant::now() + PERIOD;
            }
            Some(Err(_)) => {}
            None => std::future::pending().await,
        }
    }

    /// Nobody waits any more.
    pub(crate) async fn end(mut self) {
        self.work.abort_all();
        // The records hang on the lease.
        self.lease.lock().await.take();
    }
}

async fn write(
    parts: &Parts,
    lease: &Mutex<Option<Arc<Lease>>>,
    name: &str,
    since: SystemTime,
    count: usize,
) -> Option<()> {
    const DOING: &str = "record who waits";
    let until = parts.link.request_deadline();
    let id = {
        let mut lease = lease.lock().await;
        if lease.is_none() {
            *lease = Some(Arc::new(parts.leases.grant(DOING, parts.options.hold_ttl, until).await.ok()?));
        }
        lease.as_ref()?.id
    };
    let key = parts.keys.waiter(name, id);
    let op = if count == 0 {
        DeleteRange { key, ..DeleteRange::default() }.into()
    } else {
        let who = Who { at: since, count: u32::try_from(count).unwrap_or(u32::MAX), ..Who::am_i() };
        Put { key, value: who.to_value(), lease: id }.into()
    };
    parts.writer.apply(DOING, vec![op], until, None).await.ok().map(drop)
}
