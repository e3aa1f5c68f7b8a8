//! Writes that apply at most once, however often they are sent.
//!
//! If an answer is lost, the request may or may not have been carried out, and may still be in a
//! queue. So every write also puts a unique number into a *session slot*, a key that all writers of
//! the namespace share, on the condition that the slot was last changed at the revision that the
//! writer has read. The first change of the slot after that revision decides: if it is this write's
//! number, the write was made; if not, the write was not made and never will be. A delayed
//! duplicate finds another revision and is rejected.
//!
//! Slots are never deleted: the revision of a deleted key begins anew, and an old duplicate might
//! match it. That is why slots are shared, which bounds their number, and why a write needs no
//! lease and leaves nothing to clean up.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Code;

use crate::client::call::Failure;
use crate::client::connection::Connection;
use crate::client::proto::{Compare, KeyValue, Op, Put, Range, Txn, TxnAnswer};
use crate::error::{Error, Kind};
use crate::lock::lock;
use crate::random;
use crate::store::keys::Keys;

/// The number of slots in a namespace. If two writers pick the same one at the same time, one of
/// them retries.
const SLOTS: u32 = 1_024;

/// Upper bound on the changes of a slot that are searched for the one that decides. They are those
/// that other writers made while the outcome of a write was unknown.
const CHANGES_SEARCHED: i64 = 100;

/// A slot that was read together with the first connection is used for this long. After a longer
/// time, another writer is likely to have changed it.
const READ_AHEAD: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Writer {
    connection: Arc<Connection>,
    keys: Keys,
    /// The slot that the connection reads ahead.
    first: u32,
    slots: Mutex<Slots>,
}

/// The number of a slot.
pub(crate) fn random_slot() -> u32 {
    random::below(SLOTS as usize) as u32
}

#[derive(Debug, Default)]
struct Slots {
    /// Slots whose last change was made by a write of this process.
    free: Vec<Slot>,
    in_use: HashSet<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    number: u32,
    /// The revision of its last change, and the number of its changes; 0 if there was none.
    revision: i64,
    version: i64,
}

/// A slot that no other write of this process uses.
struct Reserved<'w> {
    writer: &'w Writer,
    slot: Slot,
}

impl Slot {
    /// A slot as a read has shown it.
    fn shown(number: u32, kv: Option<&KeyValue>) -> Slot {
        let (revision, version) = kv.map_or((0, 0), |kv| (kv.mod_revision, kv.version));
        Slot { number, revision, version }
    }
}

impl Reserved<'_> {
    /// Returns the slot after a write, so that the next one need not read it.
    fn release(self, revision: i64, version: i64) {
        self.writer.slots().free.push(Slot { revision, version, ..self.slot });
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.writer.slots().in_use.remove(&self.slot.number);
    }
}

/// A write that applies at most once, identified by its slot and its number.
#[derive(Clone, Debug)]
pub(crate) struct IdempotentWrite {
    key: Vec<u8>,
    /// The revision and the version of the slot before the write.
    revision: i64,
    version: i64,
    number: Vec<u8>,
}

/// The outcome of a write.
enum Outcome {
    /// Made at a revision, which was this version of the slot.
    Made(i64, i64),
    /// Not made, and it never will be.
    NotMade,
    /// The history that would tell is gone.
    Lost,
}

/// Why a write has failed.
#[derive(Clone, Debug)]
pub(crate) enum WriteError {
    /// It was not made.
    Failed(Error),
    /// It may have been made. [`Writer::resolve`] finds out.
    Unknown(IdempotentWrite),
}

/// [`WriteError`], before it is known whether a part of the write may be made.
#[derive(Debug)]
pub(crate) enum Fault {
    NotMade(Failure),
    Unknown(IdempotentWrite),
    /// The outcome can no longer be found out.
    Lost(Error),
}

impl From<Fault> for WriteError {
    fn from(fault: Fault) -> WriteError {
        match fault {
            Fault::NotMade(Failure { error, .. }) | Fault::Lost(error) => WriteError::Failed(error),
            Fault::Unknown(write) => WriteError::Unknown(write),
        }
    }
}

impl From<Error> for WriteError {
    fn from(error: Error) -> WriteError {
        WriteError::Failed(error)
    }
}

impl IdempotentWrite {
    fn transaction(&self, mut ops: Vec<Op>) -> Txn {
        ops.push(Put { key: self.key.clone(), value: self.number.clone(), lease: 0 }.into());
        Txn {
            compare: vec![Compare::last_changed_at(self.key.clone(), self.revision)],
            success: ops,
            failure: vec![Range { key: self.key.clone(), ..Range::default() }.into()],
        }
    }

    /// The outcome that a value of the slot shows. `None` if an earlier value decides.
    fn outcome(&self, slot: Option<&KeyValue>) -> Option<Outcome> {
        match slot {
            // The slot was deleted, or the history was replaced.
            None => Some(Outcome::Lost),
            Some(kv) if kv.version <= self.version => Some(Outcome::Lost),
            Some(kv) if kv.value == self.number => Some(Outcome::Made(kv.mod_revision, kv.version)),
            Some(kv) if kv.version == self.version.saturating_add(1) => Some(Outcome::NotMade),
            Some(_) => None,
        }
    }
}

impl Writer {
    /// `first` is the number of the slot that the connection reads ahead.
    pub(crate) fn new(connection: Arc<Connection>, keys: Keys, first: u32) -> Writer {
        Writer { connection, keys, first, slots: Mutex::default() }
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }

    /// The error of a write that was not sent in time.
    pub(crate) fn unreachable(&self, doing: &'static str) -> Error {
        self.connection.unreachable(doing)
    }

    /// Applies all of `ops` or none, once. Returns the revision of the change.
    pub(crate) async fn apply(&self, doing: &'static str, ops: Vec<Op>, until: Instant) -> Result<i64, Fault> {
        let mut reserved = self.reserve(doing, until).await?;
        let mut is_contended = false;
        loop {
            let Slot { number, revision, version } = reserved.slot;
            let write = IdempotentWrite { key: self.keys.slot(number), revision, version, number: unique_number() };
            let (answer, may_be_done) =
                self.connection.call_counted(doing, &write.transaction(ops.clone()), until).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(failure) if failure.may_be_done => return Err(Fault::Unknown(write)),
                Err(failure) => return Err(Fault::NotMade(failure)),
            };
            if answer.succeeded {
                let revision = answer.header.unwrap_or_default().revision;
                // Two processes that both keep a slot would reject each other's writes again and
                // again.
                if !is_contended {
                    reserved.release(revision, write.version.saturating_add(1));
                }
                return Ok(revision);
            }
            // The slot was changed, by an attempt whose answer was lost or by another writer.
            let slot = slot_in(answer);
            if !may_be_done {
                // The only attempt was rejected. The answer shows the slot as it is now.
                reserved.slot = Slot::shown(number, slot.as_ref());
                is_contended = true;
                continue;
            }
            match self.search(doing, &write, slot, until).await {
                Ok(Outcome::Made(revision, version)) => {
                    reserved.release(revision, version);
                    return Ok(revision);
                }
                Ok(Outcome::Lost) => return Err(Fault::Lost(self.lost(doing))),
                Err(_) => return Err(Fault::Unknown(write)),
                Ok(Outcome::NotMade) => {}
            }
            reserved = self.reserve(doing, until).await?;
        }
    }

    /// Reserves a slot whose revision is known: a free one, the one that the connection has read
    /// ahead, or a random one, which is read.
    async fn reserve(&self, doing: &'static str, until: Instant) -> Result<Reserved<'_>, Fault> {
        let number = {
            let mut slots = self.slots();
            if let Some(slot) = slots.free.pop() {
                slots.in_use.insert(slot.number);
                return Ok(Reserved { writer: self, slot });
            }
            // A member may have shown an earlier state. Then the write is rejected, as if another
            // writer had been faster.
            if let Some((at, answer)) = self.connection.take_read_ahead()
                && at.elapsed() < READ_AHEAD
                && slots.in_use.insert(self.first)
            {
                return Ok(Reserved { writer: self, slot: Slot::shown(self.first, answer.kvs.first()) });
            }
            // There are many more slots than concurrent writes.
            loop {
                let number = random_slot();
                if slots.in_use.insert(number) {
                    break number;
                }
            }
        };
        let mut reserved = Reserved { writer: self, slot: Slot::shown(number, None) };
        let read = Range::of(self.keys.slot(number));
        let answer = self.connection.call(doing, &read, until).await.map_err(Fault::NotMade)?;
        reserved.slot = Slot::shown(number, answer.kvs.first());
        Ok(reserved)
    }

    /// The error of a write whose outcome can no longer be found out.
    fn lost(&self, doing: &'static str) -> Error {
        Error::new(Kind::Unknown { doing, tries: self.connection.tries(), pending: None })
    }

    /// Finds the outcome of a write whose slot has changed: searches the history of the slot
    /// backwards for the change that decides.
    async fn search(
        &self,
        doing: &'static str,
        write: &IdempotentWrite,
        mut slot: Option<KeyValue>,
        until: Instant,
    ) -> Result<Outcome, Failure> {
        for _ in 0..CHANGES_SEARCHED {
            if let Some(outcome) = write.outcome(slot.as_ref()) {
                return Ok(outcome);
            }
            let revision = slot.map_or(0, |kv| kv.mod_revision.saturating_sub(1));
            let read = Range { key: write.key.clone(), revision, ..Range::default() };
            slot = match self.connection.call(doing, &read, until).await {
                Ok(answer) => answer.kvs.into_iter().next(),
                // The revision is compacted.
                Err(failure) if failure.status == Some(Code::OutOfRange) => break,
                Err(failure) => return Err(failure),
            };
        }
        Ok(Outcome::Lost)
    }

    /// Finds out whether a write was made. If it was not, it never will be.
    pub(crate) async fn resolve(
        &self,
        doing: &'static str,
        write: &IdempotentWrite,
        until: Instant,
    ) -> Result<bool, Error> {
        let fence = IdempotentWrite { number: unique_number(), ..write.clone() };
        let answer = self.connection.call(doing, &fence.transaction(Vec::new()), until).await;
        let answer = answer.map_err(|failure| failure.error)?;
        if answer.succeeded {
            return Ok(false);
        }
        match self.search(doing, write, slot_in(answer), until).await.map_err(|failure| failure.error)? {
            Outcome::Made(..) => Ok(true),
            Outcome::NotMade => Ok(false),
            Outcome::Lost => Err(self.lost(doing)),
        }
    }
}

/// The slot, from the answer to a write that was rejected.
fn slot_in(answer: TxnAnswer) -> Option<KeyValue> {
    answer.responses.into_iter().next()?.range?.kvs.into_iter().next()
}

/// A number that no other write puts into a slot.
fn unique_number() -> Vec<u8> {
    format!("{:016x}{:016x}", random::number(), random::number()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_of_a_slot_decides() {
        let write = IdempotentWrite { key: b"o/1".to_vec(), revision: 7, version: 3, number: b"mine".to_vec() };
        let slot = |version, value: &str| KeyValue {
            version,
            value: value.into(),
            mod_revision: 10 + version,
            ..KeyValue::default()
        };
        let outcome = |slot: Option<KeyValue>| write.outcome(slot.as_ref());
        assert!(matches!(outcome(Some(slot(4, "mine"))), Some(Outcome::Made(14, 4))));
        assert!(matches!(outcome(Some(slot(4, "another's"))), Some(Outcome::NotMade)));
        assert!(outcome(Some(slot(5, "another's"))).is_none(), "an older value decides");
        // The slot was deleted, or the history was replaced.
        assert!(matches!(outcome(None), Some(Outcome::Lost)));
        assert!(matches!(outcome(Some(slot(2, "another's"))), Some(Outcome::Lost)));
    }
}
