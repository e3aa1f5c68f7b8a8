//! Writes that apply at most once, however often they are sent.
//!
//! An answer that does not come leaves open whether the request was carried out, or will be: it may sit in a queue
//! still. So every write also writes down its own number, in a *lane* of this process, and is carried out only if the
//! lane is as this process last left it. Sent again, it finds its number there and does nothing; late, it finds
//! another's. A lane serves one write at a time. Lanes hang on a lease, and a write that would revive the lane of a
//! lease that has ended is refused by etcd, so a lane's revision never starts anew.

use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::engine::Engine;
use crate::error::{Error, Kind};
use crate::keys::Keys;
use crate::lease::{Lease, Leases};
use crate::link::{Failure, Link};
use crate::wire::{Compare, Op, Put, Range, Txn, TxnAnswer};

/// How long a process that has died leaves its lanes behind, and how long an unknown outcome can be found out.
const LANES_LAST: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Writer {
    link: Arc<Link>,
    keys: Keys,
    leases: Leases,
    /// Held while a lease is granted.
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
}

/// The lanes of one lease.
#[derive(Debug)]
struct Session {
    lease: Lease,
    free: Mutex<Vec<Lane>>,
    lanes: AtomicU32,
}

#[derive(Clone, Copy, Debug)]
struct Lane {
    number: u32,
    /// When it was last written; 0 if never.
    revision: i64,
}

impl Session {
    fn take(&self) -> Lane {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| Lane { number: self.lanes.fetch_add(1, Relaxed), revision: 0 })
    }

    /// A lane whose last write is known. One that is not given back is never used again.
    fn give_back(&self, lane: Lane, revision: i64) {
        let lane = Lane { revision, ..lane };
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(lane);
    }
}

/// One write, on its lane.
#[derive(Clone, Debug)]
struct Slip {
    key: Vec<u8>,
    lease: i64,
    revision: i64,
    number: Vec<u8>,
}

/// What became of a slip.
enum Found {
    /// Done, at a revision.
    Done(i64),
    /// The lane has ended with its lease.
    Ended,
}

impl Slip {
    fn transaction(&self, mut ops: Vec<Op>) -> Txn {
        ops.push(Put { key: self.key.clone(), value: self.number.clone(), lease: self.lease }.into());
        Txn {
            compare: vec![Compare::last_changed_at(self.key.clone(), self.revision)],
            success: ops,
            failure: vec![Range { key: self.key.clone(), ..Range::default() }.into()],
        }
    }

    /// Reads an answer that says that the lane was not as it had been left.
    fn find(&self, answer: &TxnAnswer) -> Found {
        let lane = answer.responses.first().and_then(|answer| answer.range.as_ref());
        match lane.and_then(|lane| lane.kvs.first()) {
            Some(kv) if kv.value == self.number => Found::Done(kv.mod_revision),
            _ => Found::Ended,
        }
    }
}

impl Writer {
    pub(crate) fn new(link: Arc<Link>, keys: Keys, leases: Leases) -> Writer {
        Writer { link, keys, leases, session: tokio::sync::Mutex::new(None) }
    }

    /// Does all of `ops`, or none, once. The revision at which they were done.
    pub(crate) async fn apply(
        &self,
        doing: &'static str,
        ops: Vec<Op>,
        until: Instant,
        engine: Option<&Engine>,
    ) -> Result<i64, Error> {
        loop {
            let session = self.session(doing, until).await?;
            let lane = session.take();
            let slip = Slip {
                key: self.keys.lane(session.lease.id, lane.number),
                lease: session.lease.id,
                revision: lane.revision,
                number: format!("{:016x}", fastrand::u64(..)).into_bytes(),
            };
            let failure = match self.link.call_counted(doing, &slip.transaction(ops.clone()), until).await {
                (Ok(answer), _) if answer.succeeded => {
                    let revision = answer.header.unwrap_or_default().revision;
                    session.give_back(lane, revision);
                    return Ok(revision);
                }
                (Ok(answer), may_be_done) => match slip.find(&answer) {
                    Found::Done(revision) => {
                        session.give_back(lane, revision);
                        return Ok(revision);
                    }
                    Found::Ended if may_be_done => return Err(self.unknown(doing, None)),
                    Found::Ended => None,
                },
                (Err(failure), _) => Some(failure),
            };
            match failure {
                // The lease has ended, and nothing was done: once more, under a new one.
                None => {}
                Some(Failure { status: Some(Code::NotFound), may_be_done: false, .. }) => {}
                Some(Failure { status: Some(Code::NotFound), .. }) => return Err(self.unknown(doing, None)),
                Some(failure) if failure.may_be_done => {
                    let pending = engine.map(|engine| Pending { engine: engine.clone(), slip, doing });
                    return Err(self.unknown(doing, pending));
                }
                Some(failure) => return Err(failure.error),
            }
            self.end(&session).await;
        }
    }

    fn unknown(&self, doing: &'static str, pending: Option<Pending>) -> Error {
        Error::new(Kind::Unknown { doing, tries: self.link.tries(), pending })
    }

    async fn session(&self, doing: &'static str, until: Instant) -> Result<Arc<Session>, Error> {
        let mut kept = match tokio::time::timeout_at(until, self.session.lock()).await {
            Ok(kept) => kept,
            Err(_) => return Err(self.link.unreachable(doing)),
        };
        if let Some(session) = kept.as_ref().filter(|session| !session.lease.is_lost()) {
            return Ok(Arc::clone(session));
        }
        let lease = self.leases.grant(doing, LANES_LAST.max(self.link.timeout() * 2), until).await?;
        let session = Arc::new(Session { lease, free: Mutex::new(Vec::new()), lanes: AtomicU32::new(0) });
        *kept = Some(Arc::clone(&session));
        Ok(session)
    }

    async fn end(&self, session: &Arc<Session>) {
        let mut kept = self.session.lock().await;
        if kept.as_ref().is_some_and(|known| Arc::ptr_eq(known, session)) {
            *kept = None;
        }
    }

    /// Whether the slip was carried out. If it was not, it never will be.
    async fn settle(&self, doing: &'static str, slip: &Slip, until: Instant) -> Result<bool, Error> {
        let fence = Slip { number: b"given up".to_vec(), ..slip.clone() };
        match self.link.call(doing, &fence.transaction(Vec::new()), until).await {
            Ok(answer) if answer.succeeded => Ok(false),
            Ok(answer) => match (slip.find(&answer), fence.find(&answer)) {
                (Found::Done(_), _) => Ok(true),
                (_, Found::Done(_)) => Ok(false),
                _ => Err(self.unknown(doing, None)),
            },
            Err(failure) if failure.status == Some(Code::NotFound) => Err(self.unknown(doing, None)),
            Err(failure) => Err(failure.error),
        }
    }
}

/// A change whose outcome is not known: the answer of the cluster was lost. From [`Error::pending`].
///
/// ```no_run
/// # let cluster = tantara_etcd::Cluster::connect("127.0.0.1:2379")?;
/// let event = cluster.event("deploy-done");
/// if let Err(error) = event.set() {
///     let Some(pending) = error.pending() else { return Err(error.into()) };
///     if !pending.resolve()? {
///         // It was not set, and will not be by that attempt.
///         event.set()?;
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Pending {
    engine: Engine,
    slip: Slip,
    doing: &'static str,
}

impl Pending {
    /// Finds out: `true`, the change was made; `false`, it was not, and never will be. The answer stays the same,
    /// however often it is asked for.
    ///
    /// # Errors
    ///
    /// [`is_unreachable`](Error::is_unreachable) if the cluster still does not answer: ask again.
    /// [`is_unknown`](Error::is_unknown), without a `pending`, if more than a minute has passed in which the cluster
    /// could not be reached: nobody will ever know.
    pub fn resolve(&self) -> Result<bool, Error> {
        self.reply()?.wait()
    }

    /// [`resolve`](Pending::resolve), to be awaited.
    ///
    /// # Errors
    ///
    /// As with [`resolve`](Pending::resolve).
    pub async fn resolve_async(&self) -> Result<bool, Error> {
        self.reply()?.into_future().await
    }

    fn reply(&self) -> Result<crate::reply::Reply<bool>, Error> {
        let (slip, doing) = (self.slip.clone(), self.doing);
        self.engine
            .run(move |parts| async move { parts.writer.settle(doing, &slip, parts.link.request_deadline()).await })
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("doing", &self.doing).finish_non_exhaustive()
    }
}
