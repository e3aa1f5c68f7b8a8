//! Writes that wait for their turn, and share transactions.
//!
//! A write that finds a free turn is sent at once, alone or together with what is ready to be
//! written at the same moment. Under load the turns are taken, and the writes that come meanwhile
//! share the next transactions. So nothing waits for company.
//!
//! 1. Writes of the same key never share a transaction, which etcd would refuse, and none of them
//!    overtakes another in the queue.
//! 2. If a transaction is refused, each half is sent separately, until a write fails for its own
//!    keys alone.
//! 3. If the outcome of a transaction is unknown, so is that of each of its writes, and one slot
//!    tells it for all of them (`write.rs`).
//! 4. A transaction ends at the first deadline of its writes. Only writes with deadlines close to
//!    one another share one.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tonic::Code;

use crate::client::call::Failure;
use crate::client::proto::Op;
use crate::error::Error;
use crate::lock::lock;
use crate::store::write::{Fault, WriteError, Writer};

/// Upper bound on the concurrent transactions of this process.
const AT_ONCE: usize = 16;

/// The number of changes in one transaction. etcd allows 128, the slot's included, unless it is
/// configured otherwise.
const OPS_AT_ONCE: usize = 120;

/// How much later than the first one the deadline of a write in the same transaction may be.
const SPREAD: Duration = Duration::from_millis(50);

/// How many writes that cannot share a transaction are looked past to fill it.
const SKIPPED: usize = 64;

#[derive(Debug)]
pub(crate) struct WriteQueue {
    pub(crate) writer: Writer,
    turns: Arc<Semaphore>,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    /// The number of writes that were requested.
    requested: u64,
    writes: VecDeque<Queued>,
}

/// A write that has not been sent.
#[derive(Debug)]
struct Queued {
    number: u64,
    doing: &'static str,
    ops: Vec<Op>,
    until: Instant,
    done: oneshot::Sender<Result<i64, WriteError>>,
}

impl Queued {
    /// The keys that it changes. `None` if they are not known one by one.
    fn keys(&self) -> Option<Vec<Vec<u8>>> {
        self.ops.iter().map(|op| op.key().map(<[u8]>::to_vec)).collect()
    }
}

impl Queue {
    /// Takes the first write, and all that can share a transaction with it.
    fn take(&mut self) -> Vec<Queued> {
        let Some(first) = self.writes.pop_front() else { return Vec::new() };
        let Some(keys) = first.keys() else { return vec![first] };
        // Those of the writes that were taken or passed by.
        let mut keys: HashSet<Vec<u8>> = keys.into_iter().collect();
        let (doing, deadlines) = (first.doing, first.until..=first.until + SPREAD);
        let (mut ops, mut batch, mut skipped) = (first.ops.len(), vec![first], Vec::new());
        while ops < OPS_AT_ONCE && skipped.len() < SKIPPED {
            let Some(next) = self.writes.pop_front() else { break };
            let Some(of_next) = next.keys() else {
                // It may concern any key.
                skipped.push(next);
                break;
            };
            let is_alike = next.doing == doing && deadlines.contains(&next.until);
            let fits = ops + next.ops.len() <= OPS_AT_ONCE && of_next.iter().all(|key| !keys.contains(key));
            keys.extend(of_next);
            if is_alike && fits {
                ops += next.ops.len();
                batch.push(next);
            } else {
                skipped.push(next);
            }
        }
        for write in skipped.into_iter().rev() {
            self.writes.push_front(write);
        }
        batch
    }
}

impl WriteQueue {
    pub(crate) fn new(writer: Writer) -> WriteQueue {
        WriteQueue { writer, turns: Arc::new(Semaphore::new(AT_ONCE)), queue: Mutex::default() }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Applies all of `ops` or none, once. Returns the revision of the change. Runs on the runtime
    /// thread.
    pub(crate) async fn apply(
        self: &Arc<Self>,
        doing: &'static str,
        ops: Vec<Op>,
        until: Instant,
    ) -> Result<i64, WriteError> {
        let (done, mut outcome) = oneshot::channel();
        let number = {
            let mut queue = self.queue();
            queue.requested += 1;
            let number = queue.requested;
            queue.writes.push_back(Queued { number, doing, ops, until, done });
            number
        };
        self.begin();
        let outcome = match timeout_at(until, &mut outcome).await {
            Ok(outcome) => outcome,
            Err(_) if self.withdraw(number) => return Err(self.writer.unreachable(doing).into()),
            // It was sent, and its transaction ends now.
            Err(_) => outcome.await,
        };
        outcome.unwrap_or_else(|_| Err(Error::ended("the connection to etcd has been closed").into()))
    }

    /// Takes a write out of the queue. Returns whether it was there.
    fn withdraw(&self, number: u64) -> bool {
        let mut queue = self.queue();
        let index = queue.writes.iter().position(|write| write.number == number);
        index.and_then(|index| queue.writes.remove(index)).is_some()
    }

    /// Begins to write, if there is a free turn.
    fn begin(self: &Arc<Self>) {
        let Ok(turn) = Arc::clone(&self.turns).try_acquire_owned() else { return };
        let this = Arc::clone(self);
        // The task runs after the tasks that are ready now, so that their writes come along.
        tokio::spawn(async move {
            loop {
                let batch = this.queue().take();
                if batch.is_empty() {
                    break;
                }
                this.send(batch).await;
            }
            drop(turn);
            if !this.queue().writes.is_empty() {
                this.begin();
            }
        });
    }

    async fn send(&self, batch: Vec<Queued>) {
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            let (doing, until) = (batch[0].doing, batch[0].until);
            let ops = batch.iter().flat_map(|write| write.ops.iter().cloned()).collect();
            match self.writer.apply(doing, ops, until).await {
                Err(Fault::NotMade(failure)) if batch.len() > 1 && is_of_some(&failure) => {
                    let half = batch.split_off(batch.len() / 2);
                    batches.extend([half, batch]);
                }
                outcome => {
                    let outcome = outcome.map_err(WriteError::from);
                    batch.into_iter().for_each(|write| drop(write.done.send(outcome.clone())));
                }
            }
        }
    }
}

/// Whether a part of a transaction that was refused may be accepted.
fn is_of_some(failure: &Failure) -> bool {
    matches!(
        failure.status,
        Some(Code::PermissionDenied | Code::ResourceExhausted | Code::InvalidArgument | Code::NotFound)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::proto::{DeleteRange, Put};

    fn put(key: &str) -> Op {
        Put { key: key.into(), ..Put::default() }.into()
    }

    fn take(writes: Vec<(&'static str, Vec<Op>, u64)>) -> Vec<Vec<u64>> {
        let now = Instant::now();
        let queued = writes.into_iter().zip(1..).map(|((doing, ops, later), number)| Queued {
            number,
            doing,
            ops,
            until: now + Duration::from_millis(later),
            done: oneshot::channel().0,
        });
        let mut queue = Queue { requested: 0, writes: queued.collect() };
        let batches = std::iter::from_fn(|| Some(queue.take()).filter(|batch| !batch.is_empty()));
        batches.map(|batch| batch.into_iter().map(|write| write.number).collect()).collect()
    }

    #[test]
    fn writes_of_different_keys_share_a_transaction() {
        let set = |name: &str| ("set", vec![put(name), put(&format!("{name}/p"))], 0);
        assert_eq!(take(vec![set("a"), set("b"), set("c")]), [vec![1, 2, 3]]);
        let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
        let sizes: Vec<usize> = take(names.iter().map(|name| set(name)).collect()).iter().map(Vec::len).collect();
        assert_eq!(sizes, [60, 40]);
    }

    #[test]
    fn writes_of_one_key_stay_apart_and_in_their_order() {
        let set = |name| ("set", vec![put(name)], 0);
        let clear = |name| ("clear", vec![put(name)], 0);
        assert_eq!(take(vec![set("a"), set("a"), set("b")]), [vec![1, 3], vec![2]]);
        // A set does not overtake a clear of the same event.
        assert_eq!(take(vec![set("b"), clear("a"), set("a")]), [vec![1], vec![2], vec![3]]);
        let everything = DeleteRange { key: b"a".to_vec(), range_end: b"z".to_vec() };
        assert_eq!(take(vec![set("b"), ("remove", vec![everything.into()], 0), set("a")]), [vec![1], vec![2], vec![3]]);
    }

    #[test]
    fn writes_with_distant_deadlines_stay_apart() {
        let set = |name, later| ("set", vec![put(name)], later);
        assert_eq!(take(vec![set("a", 0), set("b", 40), set("c", 2_000), set("d", 10)]), [vec![1, 2, 4], vec![3]]);
        assert_eq!(take(vec![set("a", 40), set("b", 0)]), [vec![1], vec![2]]);
    }
}
