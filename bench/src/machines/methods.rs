//! The methods of a waiter and of a setter, each with a connection of its own. With three members, both are connected
//! to followers, so that every request takes the longest way.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use etcd_for_tests::Servers;
use tantara_etcd::{Cluster, ClusterEvent};
use tokio::runtime::Runtime;
use tonic::Streaming;

use super::bare::{self, Compare, Connection, KEY, Op, Txn, WatchAnswer, servers};
use crate::names::{Figures, micros};
use crate::processes::children;

/// The methods of a contender.
pub trait Participant {
    /// Connects to the member of the setter, and to that of the waiter.
    fn connect(setter: &str, waiter: &str) -> Self;
    fn set(&mut self);
    fn is_set(&mut self) -> bool;
    /// Begins a wait and sets, each by its own connection. Returns when `set` began, and when the waiter was released.
    fn release(&mut self) -> (u64, u64);
}

/// The time of each method alone, and the time from a `set` until the waiter is released.
pub fn methods<P: Participant>(nodes: usize, smoke: bool) -> Figures {
    let times = if smoke { 20 } else { 1_000 };
    let servers = servers(nodes);
    let mut contender = P::connect(&setter(&servers), &waiter(&servers));
    contender.set();
    let is_set = timed(times, || assert!(contender.is_set(), "it was set"));
    let set = timed(times, || contender.set());
    // The first waits create what later ones share.
    for _ in 0..times / 10 {
        contender.release();
    }
    let out = sorted((0..times).map(|_| {
        let (began, out) = contender.release();
        out.checked_sub(began).expect("nobody is released before the set")
    }));
    vec![
        ("is_set, µs", at(&is_set, 0.5)),
        ("set, µs", at(&set, 0.5)),
        ("set to out, µs", at(&out, 0.5)),
        ("… p99, µs", at(&out, 0.99)),
    ]
}

/// A follower, if there is one.
pub fn setter(servers: &Servers) -> String {
    servers[servers.followers().first().copied().unwrap_or(0)].endpoint()
}

/// The other follower, if there is one.
fn waiter(servers: &Servers) -> String {
    servers[servers.followers().last().copied().unwrap_or(0)].endpoint()
}

fn timed(times: usize, mut act: impl FnMut()) -> Vec<u64> {
    sorted((0..times).map(|_| {
        let began = children::now();
        act();
        children::now() - began
    }))
}

fn sorted(times: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut times: Vec<u64> = times.collect();
    times.sort_unstable();
    times
}

/// A percentile.
fn at(sorted: &[u64], share: f64) -> f64 {
    micros(sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)] as f64)
}

/// The baseline: a put, a read and a watch. Or, with `TRANSACTIONS`, the transactions of tantara: a set that is made
/// once however often it is sent, and a read of all keys that decide whether an event is set.
pub struct Bare<const TRANSACTIONS: bool> {
    runtime: Runtime,
    setter: Connection,
    waiter: Waiter,
    /// The revision at which the slot was last written.
    slot: i64,
}

/// A waiting thread, as there is one wherever somebody waits.
struct Waiter {
    begin: Sender<()>,
    begun: Receiver<()>,
    out: Receiver<u64>,
}

impl Waiter {
    /// `wait` takes what to do when the wait has begun, and returns once it is released.
    fn new<W: FnMut(&dyn Fn())>(make: impl FnOnce() -> W + Send + 'static) -> Waiter {
        let ((begin, to_begin), (has_begun, begun), (is_out, out)) = (channel(), channel(), channel());
        thread::spawn(move || {
            let mut wait = make();
            for () in to_begin {
                // The receiver may have ended.
                wait(&|| has_begun.send(()).unwrap_or_default());
                let _ = is_out.send(children::now());
            }
        });
        Waiter { begin, begun, out }
    }

    /// Lets it wait, and then sets. Returns when `set` began, and when the waiter was released.
    fn release(&self, set: impl FnOnce()) -> (u64, u64) {
        self.begin.send(()).expect("somebody who waits");
        self.begun.recv().expect("a wait has begun");
        let began = children::now();
        set();
        (began, self.out.recv().expect("the waiter is out"))
    }
}

const LEVEL: &str = "/bare/e/event/l";
const PULSE: &str = "/bare/e/event/p";
const AFTER_PULSE: &str = "/bare/e/event/q";
const HOLDS: &str = "/bare/e/event/h/";
const AFTER_HOLDS: &str = "/bare/e/event/h0";
const SLOT: &str = "/bare/o/0";
/// A value of the length that tantara writes.
const WHO: &str = "0123456789abcdef 1700000000.000000000 1234567 a-machine";

async fn set<const TRANSACTIONS: bool>(setter: &mut Connection, slot: &mut i64) {
    if !TRANSACTIONS {
        return setter.put(KEY, "1").await.expect("a put");
    }
    write(setter, slot, vec![Op::put(LEVEL, "1"), Op::put(PULSE, WHO)]).await;
}

async fn clear<const TRANSACTIONS: bool>(setter: &mut Connection, slot: &mut i64) {
    if !TRANSACTIONS {
        return setter.put(KEY, "0").await.expect("a put");
    }
    write(setter, slot, vec![Op::put(LEVEL, "0")]).await;
}

/// A transaction that is made once, however often it is sent.
async fn write(setter: &mut Connection, slot: &mut i64, mut success: Vec<Op>) {
    success.push(Op::put(SLOT, "0123456789abcdef0123456789abcdef"));
    let compare = vec![Compare::last_changed_at(SLOT, *slot)];
    let answer = setter.transact(Txn { compare, success }).await.expect("a transaction");
    assert!(answer.succeeded, "nobody else writes on the slot");
    *slot = answer.header.expect("every answer has one").revision;
}

/// Whether it is set: a linearizable read.
async fn is_set<const TRANSACTIONS: bool>(connection: &mut Connection) -> bool {
    if !TRANSACTIONS {
        return connection.get(KEY).await.expect("a read").kvs[0].value == b"1";
    }
    let success = vec![Op::range(LEVEL, ""), Op::range(PULSE, ""), Op::any(HOLDS, AFTER_HOLDS)];
    let answer = connection.transact(Txn { success, ..Txn::default() }).await.expect("a read");
    let level = answer.responses[0].range.as_ref().expect("the level");
    level.kvs[0].value == b"1"
}

impl<const TRANSACTIONS: bool> Participant for Bare<TRANSACTIONS> {
    fn connect(setter: &str, waiter: &str) -> Self {
        let runtime = bare::runtime();
        let setter = runtime.block_on(Connection::to(setter));
        let endpoint = waiter.to_owned();
        let waiter = Waiter::new(move || {
            let runtime = bare::runtime();
            let mut connection = runtime.block_on(Connection::to(&endpoint));
            let mut watch: Option<Streaming<WatchAnswer>> = None;
            move |has_begun: &dyn Fn()| {
                runtime.block_on(async {
                    let watch = match &mut watch {
                        Some(watch) => {
                            // Shows the clear.
                            bare::change(watch).await;
                            watch
                        }
                        none => {
                            // After this read the member has the clear, which its watch must not show any more.
                            is_set::<TRANSACTIONS>(&mut connection).await;
                            let (key, end) = if TRANSACTIONS { (LEVEL, AFTER_PULSE) } else { (KEY, "") };
                            none.insert(connection.watch(key, end, 1).await)
                        }
                    };
                    assert!(!is_set::<TRANSACTIONS>(&mut connection).await, "it was cleared");
                    has_begun();
                    bare::change(watch).await;
                });
            }
        });
        Bare { runtime, setter, waiter, slot: 0 }
    }
    fn set(&mut self) {
        self.runtime.block_on(set::<TRANSACTIONS>(&mut self.setter, &mut self.slot));
    }
    fn is_set(&mut self) -> bool {
        self.runtime.block_on(is_set::<TRANSACTIONS>(&mut self.setter))
    }
    fn release(&mut self) -> (u64, u64) {
        let Bare { runtime, setter, waiter, slot } = self;
        runtime.block_on(clear::<TRANSACTIONS>(setter, slot));
        waiter.release(|| runtime.block_on(set::<TRANSACTIONS>(setter, slot)))
    }
}

/// Two connections, and a waiting thread.
pub struct Ours {
    event: ClusterEvent,
    waiter: Waiter,
}

impl Participant for Ours {
    fn connect(setter: &str, waiter: &str) -> Self {
        let [event, same] = [setter, waiter].map(|at| Cluster::connect(at).expect("a cluster").event("event"));
        let waiter = Waiter::new(move || {
            move |has_begun: &dyn Fn()| {
                let mut wait = same.wait_async();
                wait.begun().expect("a wait");
                has_begun();
                wait.wait().expect("a release");
            }
        });
        Ours { event, waiter }
    }
    fn set(&mut self) {
        self.event.set().expect("a set");
    }
    fn is_set(&mut self) -> bool {
        self.event.is_set().expect("a read")
    }
    fn release(&mut self) -> (u64, u64) {
        self.event.clear().expect("it is cleared");
        self.waiter.release(|| self.event.set().expect("a set"))
    }
}
