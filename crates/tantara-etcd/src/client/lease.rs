//! Leases, which bind keys in the cluster to the life of this process. One task keeps all of them
//! alive.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::Duration;

use tantara::Event;
use tantara::waits::Held;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use crate::client::connection::Connection;
use crate::client::member::MemberConnection;
use crate::client::proto::{KEEP_ALIVE, KeepAlive, KeepAliveAnswer, LeaseGrant, LeaseRevoke, Range, RangeAnswer, Txn};
use crate::client::transport::Answers;
use crate::error::{Error, Why};
use crate::lock::lock;
use crate::random;
use crate::wake;

/// When a lease is renewed, as shares of its time to live: from the first one on if the process is
/// awake anyway, and at the second one at the latest. Then several attempts are left.
pub(crate) type Renewal = [f64; 2];

/// For a hold: other processes rely on it.
pub(crate) const OF_HOLD: Renewal = [0.2, 0.33];

/// For records: they only inform people.
pub(crate) const OF_RECORDS: Renewal = [0.3, 0.45];

/// The pause after a failed attempt.
const RETRY: Duration = Duration::from_millis(200);

/// How long revoking leases may take when the connection ends.
const SHUTDOWN: Duration = Duration::from_secs(1);

/// Upper bound on the leases of others that are revoked concurrently.
const AT_ONCE: usize = 64;

/// The number of keys that are read in one transaction. etcd allows 128 operations unless it is
/// configured otherwise.
const KEYS_AT_ONCE: usize = 16;

/// A lease that is kept alive. Dropping it revokes it, which deletes all keys that are attached to
/// it.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) id: i64,
    kept: Arc<Kept>,
    commands: mpsc::UnboundedSender<Command>,
    process: u32,
}

#[derive(Debug)]
struct Kept {
    /// Set when the lease has expired, or may have.
    lost: Event,
    ttl: Duration,
    renewal: Renewal,
    /// The lease certainly lasts until this moment.
    until: Mutex<Instant>,
    /// The key for which the lease is there.
    key: OnceLock<Vec<u8>>,
    /// In the record of waits: the hold, until the lease is dropped or lost.
    recorded: Mutex<Option<Held>>,
}

impl Lease {
    /// Set when the cluster has reported the lease as expired, or could not be reached for as long
    /// as it lasts, or when nothing keeps it alive any more.
    pub(crate) fn lost(&self) -> &Event {
        if self.is_inherited() {
            // The event of the parent has its tasks, and may be locked for ever.
            static LOST: LazyLock<Event> = LazyLock::new(|| {
                let lost = Event::new();
                lost.set();
                lost
            });
            return &LOST;
        }
        &self.kept.lost
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.is_inherited() || self.kept.lost.is_set() || Instant::now() >= self.kept.until()
    }

    /// The lease serves this key, which exists, and is lost with it. `hold` is its record, if waits
    /// are recorded.
    pub(crate) fn is_for(&self, key: Vec<u8>, hold: Option<Held>) {
        self.kept.key.get_or_init(|| key);
        *lock(&self.kept.recorded) = hold;
        if self.kept.lost.is_set() {
            self.kept.end_record();
        }
    }

    /// Whether this is the child of a fork: the lease belongs to its parent.
    fn is_inherited(&self) -> bool {
        self.process != std::process::id()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A command would wake up a task of the parent.
        if !self.is_inherited() {
            self.kept.end_record();
            // If the task has ended, the lease expires by itself.
            let _ = self.commands.send(Command::Revoke(self.id));
        }
    }
}

impl Kept {
    fn new(ttl: Duration, renewal: Renewal, until: Instant) -> Kept {
        let (until, key, recorded) = (Mutex::new(until), OnceLock::new(), Mutex::default());
        Kept { lost: Event::new(), ttl, renewal, until, key, recorded }
    }

    fn until(&self) -> Instant {
        *lock(&self.until)
    }

    fn extend(&self, until: Instant) {
        let mut known = lock(&self.until);
        *known = until.max(*known);
    }

    /// The lease has expired, or may have.
    fn lose(&self) {
        self.end_record();
        wake::set(&self.lost);
    }

    fn end_record(&self) {
        let hold = lock(&self.recorded).take();
        drop(hold);
    }
}

#[derive(Debug)]
enum Command {
    Keep(i64, Arc<Kept>),
    Revoke(i64),
}

/// Grants leases.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    connection: Arc<Connection>,
    commands: mpsc::UnboundedSender<Command>,
    /// Whether a lease was ever requested.
    are_used: Arc<AtomicBool>,
}

impl Leases {
    /// Also returns the task that keeps leases alive, and revokes the remaining ones when `stop`
    /// completes.
    pub(crate) fn new(
        connection: Arc<Connection>,
        stop: impl Future<Output = ()>,
    ) -> (Leases, impl Future<Output = ()>) {
        let (commands, inbox) = mpsc::unbounded_channel();
        let keeper = Keeper {
            connection: Arc::clone(&connection),
            inbox,
            kept: HashMap::new(),
            next: HashMap::new(),
            stream: None,
            looking: JoinSet::new(),
            look_at: Instant::now() + connection.options.recheck,
        };
        (Leases { connection, commands, are_used: Arc::default() }, keeper.run(stop))
    }

    /// Whether there may be a lease to revoke.
    pub(crate) fn are_used(&self) -> bool {
        self.are_used.load(Relaxed)
    }

    pub(crate) async fn grant(
        &self,
        doing: &'static str,
        ttl: Duration,
        renewal: Renewal,
        until: Instant,
    ) -> Result<Lease, Error> {
        self.are_used.store(true, Relaxed);
        // The ID is chosen here, so that a retry does not grant a second lease.
        let id = ((random::number() >> 1) as i64).max(1);
        let seconds = i64::try_from(ttl.as_secs_f64().ceil().max(1.0) as u64).unwrap_or(i64::MAX);
        let asked = Instant::now();
        let granted = match self.connection.call(doing, &LeaseGrant { ttl: seconds, id }, until).await {
            Ok(answer) => answer.ttl,
            // The lease exists: an earlier attempt, whose answer was lost, has granted it.
            Err(failure) if failure.may_be_done && failure.status == Some(Code::FailedPrecondition) => seconds,
            Err(failure) => return Err(failure.error),
        };
        let ttl = lasting(granted);
        let kept = Arc::new(Kept::new(ttl, renewal, asked + ttl));
        if self.commands.send(Command::Keep(id, Arc::clone(&kept))).is_err() {
            return Err(Error::ended("the connection to etcd has been closed"));
        }
        Ok(Lease { id, kept, commands: self.commands.clone(), process: std::process::id() })
    }
}

impl Leases {
    /// Revokes leases of other processes, as far as that succeeds: several at a time, each with the
    /// timeout of a request.
    pub(crate) async fn revoke_all(&self, doing: &'static str, ids: impl Iterator<Item = i64>) {
        let mut revoking = JoinSet::new();
        for id in ids {
            if revoking.len() == AT_ONCE {
                revoking.join_next().await;
            }
            let connection = Arc::clone(&self.connection);
            revoking.spawn(async move {
                // One that has ended already is not found.
                let _ = connection.call(doing, &LeaseRevoke { id }, connection.request_deadline()).await;
            });
        }
        revoking.join_all().await;
    }
}

/// The time to live that a server has answered, which may be hostile: etcd grants no more than this.
fn lasting(seconds: i64) -> Duration {
    Duration::from_secs(seconds.clamp(1, 9_000_000_000).unsigned_abs())
}

struct Keeper {
    connection: Arc<Connection>,
    inbox: mpsc::UnboundedReceiver<Command>,
    kept: HashMap<i64, Arc<Kept>>,
    /// When to keep each lease alive next.
    next: HashMap<i64, Instant>,
    /// An open stream on which all requests so far were answered.
    stream: Option<Stream>,
    /// Reads of the keys of leases. Each returns the leases whose keys are gone.
    looking: JoinSet<Vec<i64>>,
    /// When the keys are read again, together with the next request to keep leases alive.
    look_at: Instant,
}

struct Stream {
    member: MemberConnection,
    requests: mpsc::UnboundedSender<KeepAlive>,
    answers: Answers<KeepAliveAnswer>,
}

impl Keeper {
    async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let connection = Arc::clone(&self.connection);
        let awake = &connection.awake;
        let mut revoking = JoinSet::new();
        let far = Duration::from_secs(3_600);
        loop {
            let due = self.next.values().min().copied().unwrap_or_else(|| Instant::now() + far);
            tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => self.execute(command, &mut revoking),
                    None => break,
                },
                () = sleep_until(due) => self.keep_alive(false).await,
                () = awake.notified(), if !self.next.is_empty() => self.keep_alive(true).await,
                Some(_) = revoking.join_next() => {}
                Some(Ok(gone)) = self.looking.join_next() => self.end(&gone, &mut revoking),
                () = &mut stop => break,
            }
        }
        while let Ok(command) = self.inbox.try_recv() {
            self.execute(command, &mut revoking);
        }
        for id in self.kept.keys() {
            revoking.spawn(revoke(Arc::clone(&self.connection), *id));
        }
        let _ = timeout_at(Instant::now() + SHUTDOWN, revoking.join_all()).await;
    }

    fn execute(&mut self, command: Command, revoking: &mut JoinSet<()>) {
        match command {
            Command::Keep(id, kept) => {
                self.next.insert(id, kept.until() - kept.ttl.mul_f64(1.0 - kept.renewal[1]));
                self.kept.insert(id, kept);
            }
            Command::Revoke(id) => {
                self.next.remove(&id);
                // A lost lease has expired, or the cluster cannot be reached.
                if self.kept.remove(&id).is_some_and(|kept| !kept.lost.is_set()) {
                    revoking.spawn(revoke(Arc::clone(&self.connection), id));
                }
            }
        }
    }

    /// Periodically begins to read the keys that the leases serve. A lease whose key was deleted
    /// serves nothing.
    fn look(&mut self) {
        let now = Instant::now();
        if now < self.look_at || !self.looking.is_empty() {
            return;
        }
        self.look_at = now + self.connection.options.recheck;
        let key = |(id, kept): (&i64, &Arc<Kept>)| Some((*id, kept.key.get()?.clone()));
        let keys: Vec<(i64, Vec<u8>)> = self.kept.iter().filter_map(key).collect();
        if !keys.is_empty() {
            self.looking.spawn(gone(Arc::clone(&self.connection), keys));
        }
    }

    /// Ends leases whose keys were deleted.
    fn end(&mut self, ids: &[i64], revoking: &mut JoinSet<()>) {
        for id in ids {
            self.next.remove(id);
            if let Some(kept) = self.kept.remove(id) {
                kept.lose();
                revoking.spawn(revoke(Arc::clone(&self.connection), *id));
            }
        }
    }

    /// Keeps the leases alive that are due, or may be renewed because the process is awake.
    async fn keep_alive(&mut self, is_awake: bool) {
        let now = Instant::now();
        self.kept.retain(|id, kept| {
            let is_lost = now >= kept.until();
            if is_lost {
                self.next.remove(id);
                kept.lose();
            }
            !is_lost
        });
        let early = |kept: &Kept| {
            let [first, last] = kept.renewal;
            if is_awake { kept.ttl.mul_f64(last - first) } else { Duration::ZERO }
        };
        let may_be_renewed = |id: &i64, at: Instant| self.kept.get(id).is_some_and(|kept| at <= now + early(kept));
        let due: HashMap<i64, Instant> =
            self.next.iter().filter(|(id, at)| may_be_renewed(id, **at)).map(|(id, at)| (*id, *at)).collect();
        let Some(soonest) = due.keys().filter_map(|id| self.kept.get(id)).map(|kept| kept.until()).min() else {
            return;
        };
        // Leaves time for an attempt at another member.
        let attempt = (now + Duration::from_secs(2)).min(soonest);
        let answers = timeout_at(attempt, self.ask(due.keys().copied().collect())).await.unwrap_or_default();
        for (id, ttl) in answers {
            let Some(kept) = self.kept.get(&id) else { continue };
            if ttl <= 0 {
                kept.lose();
                self.kept.remove(&id);
                self.next.remove(&id);
            } else {
                // Counted from the request, because the cluster may have renewed the lease right
                // then.
                kept.extend(now + lasting(ttl));
                self.next.insert(id, now + kept.ttl.mul_f64(kept.renewal[1]));
            }
        }
        let again = Instant::now() + RETRY;
        self.look();
        for (id, at) in due {
            if let (Some(next), Some(kept)) = (self.next.get_mut(&id), self.kept.get(&id))
                && *next == at
            {
                *next = again.min(kept.until());
            }
        }
    }

    async fn ask(&mut self, ids: Vec<i64>) -> Vec<(i64, i64)> {
        let mut answers = Vec::new();
        // If this is cancelled or fails, answers may still come, so the stream is not used again.
        let open = self.stream.take();
        let Ok(member) = self.connection.member("keep leases alive", self.connection.request_deadline()).await else {
            return answers;
        };
        let open = open.filter(|stream| stream.member.serial == member.serial);
        let asking = async {
            let mut stream = match open {
                Some(stream) => {
                    ids.iter().for_each(|&id| drop(stream.requests.send(KeepAlive { id })));
                    stream
                }
                None => {
                    let (requests, outbox) = mpsc::unbounded_channel();
                    // etcd answers nothing before the first request.
                    ids.iter().for_each(|&id| drop(requests.send(KeepAlive { id })));
                    let answers = member.stream(KEEP_ALIVE, UnboundedReceiverStream::new(outbox)).await?;
                    Stream { member: member.clone(), requests, answers }
                }
            };
            while answers.len() < ids.len() {
                match stream.answers.message().await? {
                    Some(answer) => answers.push((answer.id, answer.ttl)),
                    None => return Ok(None),
                }
            }
            Ok::<_, tonic::Status>(Some(stream))
        };
        let why = match member.while_it_serves(asking).await {
            Ok(Ok(stream)) => {
                self.stream = stream;
                return answers;
            }
            Ok(Err(status)) => Why::of(&status),
            Err(why) => why,
        };
        self.connection.distrust(&member, why);
        answers
    }
}

/// However the keeper ends, all leases are marked as lost, because nothing keeps them alive any
/// more.
impl Drop for Keeper {
    fn drop(&mut self) {
        self.inbox.close();
        while let Ok(command) = self.inbox.try_recv() {
            if let Command::Keep(_, kept) = command {
                kept.lose();
            }
        }
        self.kept.values().for_each(|kept| kept.lose());
    }
}

/// The leases whose keys do not exist, or are not attached to them.
async fn gone(connection: Arc<Connection>, keys: Vec<(i64, Vec<u8>)>) -> Vec<i64> {
    let mut gone = Vec::new();
    for keys in keys.chunks(KEYS_AT_ONCE) {
        let read = |(_, key): &(i64, Vec<u8>)| Range { keys_only: true, ..Range::of(key.clone()) }.into();
        let read = Txn { success: keys.iter().map(read).collect(), ..Txn::default() };
        // If this fails, nothing is known.
        let answer = connection.call("check a hold", &read, connection.request_deadline()).await;
        let answers = answer.map_or_else(|_| Vec::new(), |answer| answer.responses);
        for ((id, _), answer) in keys.iter().zip(answers) {
            let is_gone = |answer: RangeAnswer| answer.kvs.first().is_none_or(|kv| kv.lease != *id);
            if answer.range.is_some_and(is_gone) {
                gone.push(*id);
            }
        }
    }
    gone
}

async fn revoke(connection: Arc<Connection>, id: i64) {
    // If this fails, the lease expires by itself.
    let _ = connection.call("revoke a lease", &LeaseRevoke { id }, connection.request_deadline()).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::endpoint::parse;
    use crate::options::Options;

    fn leases() -> (Leases, impl Future<Output = ()>) {
        let connection = Connection::new(parse("127.0.0.1:1", false).unwrap(), Options::new(), Vec::new());
        Leases::new(Arc::new(connection), std::future::pending())
    }

    fn lease(leases: &Leases, id: i64) -> Lease {
        let ttl = Duration::from_secs(60);
        let kept = Arc::new(Kept::new(ttl, OF_HOLD, Instant::now() + ttl));
        leases.commands.send(Command::Keep(id, Arc::clone(&kept))).unwrap();
        Lease { id, kept, commands: leases.commands.clone(), process: std::process::id() }
    }

    #[test]
    fn a_hostile_time_to_live_overflows_nothing() {
        for seconds in [i64::MIN, -1, 0, 1, 60, i64::MAX] {
            assert!(Instant::now() + lasting(seconds) > Instant::now(), "{seconds}");
        }
        assert_eq!(lasting(60), Duration::from_secs(60));
    }

    #[test]
    fn leases_are_lost_with_their_keeper() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _entered = runtime.enter();
        let (leases, keeper) = leases();
        let mut keeper = Box::pin(keeper);
        let known = lease(&leases, 1);
        let poll = keeper.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        assert!(poll.is_pending());
        let unknown = lease(&leases, 2);
        for lease in [&known, &unknown] {
            assert!(!lease.is_lost() && !lease.lost().is_set());
        }
        drop(keeper);
        for lease in [&known, &unknown] {
            assert!(lease.is_lost() && lease.lost().is_set());
        }
    }

    #[test]
    fn the_child_of_a_fork_has_lost_its_parents_leases() {
        let (leases, keeper) = leases();
        let mut lease = lease(&leases, 1);
        lease.process = lease.process.wrapping_add(1);
        assert!(lease.is_lost() && lease.lost().is_set());
        assert!(!lease.kept.lost.is_set(), "what the parent may have locked is not touched");
        drop(keeper);
        let mut inbox = {
            let (commands, inbox) = mpsc::unbounded_channel();
            lease.commands = commands;
            inbox
        };
        drop(lease);
        assert!(inbox.try_recv().is_err(), "the parent is not asked to revoke it");
    }
}
