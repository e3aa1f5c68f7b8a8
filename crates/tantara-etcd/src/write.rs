//! Writes that apply at most once, however often they are sent.
//!
//! An answer that does not come leaves open whether the request was carried out, or will be: it may sit in a queue
//! still. So every write also puts a number of its own into a *slot*, one of some keys that all writers of the
//! namespace share, and is carried out only if the slot was last changed at the revision that the writer has read.
//! The first change after that revision decides: if it is the write's, the write was made, and if it is another's,
//! the write was not made and never will be. So a copy that comes late does nothing.
//!
//! A slot is never deleted: its revision would begin anew, and an old copy might fit again. That is why slots are
//! shared, which bounds their number, and why a write needs no lease and leaves nothing to be given back.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use crate::engine::Engine;
use crate::error::{Error, Kind};
use crate::keys::Keys;
use crate::link::{Failure, Link};
use crate::wire::{Compare, KeyValue, Op, Put, Range, Txn};

/// How many slots a namespace has. Two writers that pick the same one at the same time cost one of them a round trip.
const SLOTS: u32 = 1_024;

/// How many writes of this process go on at once.
const AT_ONCE: usize = 64;

/// So many changes of a slot are looked through for the one that decides. They are those of other writers, made while
/// the outcome of a write was not known.
const LOOKED_THROUGH: i64 = 100;

#[derive(Debug)]
pub(crate) struct Writer {
    link: Arc<Link>,
    keys: Keys,
    turns: Semaphore,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    /// Those that were left as they are known, by writes that are over.
    free: Vec<Slot>,
    in_use: HashSet<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    number: u32,
    /// When it was last changed, and how often it was; 0 if never.
    revision: i64,
    version: i64,
}

/// Nobody else in this process uses the slot for as long as this lives.
struct Taken<'w> {
    writer: &'w Writer,
    slot: Slot,
}

impl Taken<'_> {
    /// It is as this write has left it, and may be used again without being read.
    fn leave(self, revision: i64, version: i64) {
        self.writer.slots().free.push(Slot { revision, version, ..self.slot });
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.writer.slots().in_use.remove(&self.slot.number);
    }
}

/// One write, and the slot that it is made in.
#[derive(Clone, Debug)]
struct Write {
    key: Vec<u8>,
    /// What the slot was when the write was made ready.
    revision: i64,
    version: i64,
    number: Vec<u8>,
}

/// What became of a write.
enum Outcome {
    /// Made, at a revision, which was that version of the slot.
    Made(i64, i64),
    /// Not made, and it never will be.
    NotMade,
    /// The history that would tell is gone.
    Forgotten,
}

impl Write {
    fn transaction(&self, mut ops: Vec<Op>) -> Txn {
        ops.push(Put { key: self.key.clone(), value: self.number.clone(), lease: 0 }.into());
        Txn {
            compare: vec![Compare::last_changed_at(self.key.clone(), self.revision)],
            success: ops,
            failure: vec![Range { key: self.key.clone(), ..Range::default() }.into()],
        }
    }

    /// What a value of the slot says. `None` if it is not the one that decides.
    fn outcome(&self, slot: Option<&KeyValue>) -> Option<Outcome> {
        match slot {
            // It was deleted, or the whole history was replaced.
            None => Some(Outcome::Forgotten),
            Some(kv) if kv.version <= self.version => Some(Outcome::Forgotten),
            Some(kv) if kv.value == self.number => Some(Outcome::Made(kv.mod_revision, kv.version)),
            Some(kv) if kv.version == self.version + 1 => Some(Outcome::NotMade),
            Some(_) => None,
        }
    }
}

impl Writer {
    pub(crate) fn new(link: Arc<Link>, keys: Keys) -> Writer {
        Writer { link, keys, turns: Semaphore::new(AT_ONCE), slots: Mutex::default() }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does all of `ops`, or none, once. The revision at which they were done.
    pub(crate) async fn apply(
        &self,
        doing: &'static str,
        ops: Vec<Op>,
        until: Instant,
        engine: Option<&Engine>,
    ) -> Result<i64, Error> {
        let Ok(_turn) = timeout_at(until, self.turns.acquire()).await else {
            return Err(self.link.unreachable(doing));
        };
        loop {
            let taken = self.take(doing, until).await?;
            let write = Write {
                key: self.keys.slot(taken.slot.number),
                revision: taken.slot.revision,
                version: taken.slot.version,
                number: number(),
            };
            let (answer, may_be_done) = self.link.call_counted(doing, &write.transaction(ops.clone()), until).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(failure) if failure.may_be_done => return Err(self.unknown(doing, pending(engine, write, doing))),
                Err(failure) => return Err(failure.error),
            };
            if answer.succeeded {
                let revision = answer.header.unwrap_or_default().revision;
                taken.leave(revision, write.version + 1);
                return Ok(revision);
            }
            // The slot was changed by an attempt whose answer was lost, or by somebody else.
            let slot = answer.responses.into_iter().next().and_then(|answer| answer.range);
            let slot = slot.and_then(|range| range.kvs.into_iter().next());
            let outcome = match self.find_out(doing, &write, slot, until).await {
                Ok(outcome) => outcome,
                Err(_) if !may_be_done => Outcome::NotMade,
                Err(_) => return Err(self.unknown(doing, pending(engine, write, doing))),
            };
            match outcome {
                Outcome::Made(revision, version) => {
                    taken.leave(revision, version);
                    return Ok(revision);
                }
                Outcome::Forgotten if may_be_done => return Err(self.unknown(doing, None)),
                Outcome::NotMade | Outcome::Forgotten => {}
            }
        }
    }

    /// A slot that is known: one of ours that is free, or else any, which is read.
    async fn take(&self, doing: &'static str, until: Instant) -> Result<Taken<'_>, Error> {
        let number = {
            let mut slots = self.slots();
            if let Some(slot) = slots.free.pop() {
                slots.in_use.insert(slot.number);
                return Ok(Taken { writer: self, slot });
            }
            // There are many more than are in use.
            loop {
                let number = fastrand::u32(..SLOTS);
                if slots.in_use.insert(number) {
                    break number;
                }
            }
        };
        let mut taken = Taken { writer: self, slot: Slot { number, revision: 0, version: 0 } };
        let read = Range { key: self.keys.slot(number), ..Range::default() };
        let answer = self.link.call(doing, &read, until).await.map_err(|failure| failure.error)?;
        if let Some(kv) = answer.kvs.first() {
            (taken.slot.revision, taken.slot.version) = (kv.mod_revision, kv.version);
        }
        Ok(taken)
    }

    fn unknown(&self, doing: &'static str, pending: Option<Pending>) -> Error {
        Error::new(Kind::Unknown { doing, tries: self.link.tries(), pending })
    }

    /// What became of a write whose slot has changed: goes back through the history of the slot to the change that
    /// decides.
    async fn find_out(
        &self,
        doing: &'static str,
        write: &Write,
        mut slot: Option<KeyValue>,
        until: Instant,
    ) -> Result<Outcome, Failure> {
        for _ in 0..LOOKED_THROUGH {
            if let Some(outcome) = write.outcome(slot.as_ref()) {
                return Ok(outcome);
            }
            let revision = slot.map_or(0, |kv| kv.mod_revision - 1);
            let read = Range { key: write.key.clone(), revision, ..Range::default() };
            slot = match self.link.call(doing, &read, until).await {
                Ok(answer) => answer.kvs.into_iter().next(),
                // Compacted.
                Err(failure) if failure.status == Some(tonic::Code::OutOfRange) => break,
                Err(failure) => return Err(failure),
            };
        }
        Ok(Outcome::Forgotten)
    }

    /// Whether the write was made. If it was not, it never will be.
    async fn resolve(&self, doing: &'static str, write: &Write, until: Instant) -> Result<bool, Error> {
        let fence = Write { number: number(), ..write.clone() };
        let answer = self.link.call(doing, &fence.transaction(Vec::new()), until).await;
        let answer = answer.map_err(|failure| failure.error)?;
        if answer.succeeded {
            return Ok(false);
        }
        let slot = answer.responses.into_iter().next().and_then(|answer| answer.range);
        let slot = slot.and_then(|range| range.kvs.into_iter().next());
        match self.find_out(doing, write, slot, until).await.map_err(|failure| failure.error)? {
            Outcome::Made(..) => Ok(true),
            Outcome::NotMade => Ok(false),
            Outcome::Forgotten => Err(self.unknown(doing, None)),
        }
    }
}

/// What can be asked later for the outcome of a write, by callers that may ask.
fn pending(engine: Option<&Engine>, write: Write, doing: &'static str) -> Option<Pending> {
    engine.map(|engine| Pending { engine: engine.clone(), write, doing, outcome: Arc::default() })
}

/// What no other write puts into a slot.
fn number() -> Vec<u8> {
    format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)).into_bytes()
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
    write: Write,
    doing: &'static str,
    /// Once it is known.
    outcome: Arc<OnceLock<bool>>,
}

impl Pending {
    /// Finds out: `true`, the change was made; `false`, it was not, and never will be. The answer stays the same,
    /// however often it is asked for.
    ///
    /// # Errors
    ///
    /// [`is_unreachable`](Error::is_unreachable) if the cluster still does not answer: ask again.
    /// [`is_unknown`](Error::is_unknown), without a `pending`, if the cluster has compacted the history that would
    /// tell, or its history was replaced: nobody will ever know.
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
        let (write, doing, known) = (self.write.clone(), self.doing, Arc::clone(&self.outcome));
        self.engine.run(move |parts| async move {
            if let Some(made) = known.get() {
                return Ok(*made);
            }
            let made = parts.writer.resolve(doing, &write, parts.link.request_deadline()).await?;
            Ok(*known.get_or_init(|| made))
        })
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("doing", &self.doing).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_of_a_slot_decides() {
        let write = Write { key: b"o/1".to_vec(), revision: 7, version: 3, number: b"mine".to_vec() };
        let slot = |version, value: &str| KeyValue {
            version,
            value: value.into(),
            mod_revision: 10 + version,
            ..KeyValue::default()
        };
        let said = |slot: Option<KeyValue>| write.outcome(slot.as_ref());
        assert!(matches!(said(Some(slot(4, "mine"))), Some(Outcome::Made(14, 4))));
        assert!(matches!(said(Some(slot(4, "another's"))), Some(Outcome::NotMade)));
        assert!(said(Some(slot(5, "another's"))).is_none(), "an older value decides");
        // Deleted, or of a history that has replaced the one that was known.
        assert!(matches!(said(None), Some(Outcome::Forgotten)));
        assert!(matches!(said(Some(slot(2, "another's"))), Some(Outcome::Forgotten)));
    }
}
