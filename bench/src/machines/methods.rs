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

/// The baseline: a put, a read and a watch on one thread. Or, with `TRANSACTIONS`, the transactions of tantara: a set
/// that is made once however often it is sent, and a read of all keys that decide whether an event is set.
pub struct Bare<const TRANSACTIONS: bool> {
    runtime: Runtime,
    setter: Connection,
    waiter: Connection,
    watch: Option<Streaming<WatchAnswer>>,
    /// The revision at which the slot was last written.
    slot: i64,
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
    let set = Txn {
        compare: vec![Compare::last_changed_at(SLOT, *slot)],
        success: vec![Op::put(LEVEL, "1"), Op::put(PULSE, WHO), Op::put(SLOT, "0123456789abcdef0123456789abcdef")],
    };
    let answer = setter.transact(set).await.expect("a transaction");
    assert!(answer.succeeded, "nobody else writes on the slot");
    *slot = answer.header.expect("every answer has one").revision;
}

impl<const TRANSACTIONS: bool> Participant for Bare<TRANSACTIONS> {
    fn connect(setter: &str, waiter: &str) -> Self {
        let runtime = bare::runtime();
        let [setter, waiter] = [setter, waiter].map(|endpoint| runtime.block_on(Connection::to(endpoint)));
        Bare { runtime, setter, waiter, watch: None, slot: 0 }
    }
    fn set(&mut self) {
        self.runtime.block_on(set::<TRANSACTIONS>(&mut self.setter, &mut self.slot));
    }
    fn is_set(&mut self) -> bool {
        self.runtime.block_on(async {
            if !TRANSACTIONS {
                return self.setter.get(KEY).await.expect("a read").kvs[0].value == b"1";
            }
            let success = vec![Op::range(LEVEL, ""), Op::range(PULSE, ""), Op::any(HOLDS, AFTER_HOLDS)];
            let answer = self.setter.transact(Txn { success, ..Txn::default() }).await.expect("a read");
            let level = answer.responses[0].range.as_ref().expect("the level");
            level.kvs[0].value == b"1"
        })
    }
    fn release(&mut self) -> (u64, u64) {
        self.runtime.block_on(async {
            let watch = match &mut self.watch {
                Some(watch) => watch,
                none => {
                    let (key, end) = if TRANSACTIONS { (LEVEL, AFTER_PULSE) } else { (KEY, "") };
                    none.insert(self.waiter.watch(key, end, 1).await)
                }
            };
            let began = children::now();
            let hear = async {
                bare::change(watch).await;
                children::now()
            };
            let ((), out) = tokio::join!(set::<TRANSACTIONS>(&mut self.setter, &mut self.slot), hear);
            (began, out)
        })
    }
}

/// Two connections, and a waiting thread.
pub struct Ours {
    event: ClusterEvent,
    begin: Sender<()>,
    begun: Receiver<()>,
    out: Receiver<u64>,
}

impl Participant for Ours {
    fn connect(setter: &str, waiter: &str) -> Self {
        let [event, same] = [setter, waiter].map(|at| Cluster::connect(at).expect("a cluster").event("event"));
        let ((begin, to_begin), (has_begun, begun), (is_out, out)) = (channel(), channel(), channel());
        thread::spawn(move || {
            // The receiver may have ended.
            for () in to_begin {
                let mut wait = same.wait_async();
                wait.begun().expect("a wait");
                let _ = has_begun.send(());
                wait.wait().expect("a release");
                let _ = is_out.send(children::now());
            }
        });
        Ours { event, begin, begun, out }
    }
    fn set(&mut self) {
        self.event.set().expect("a set");
    }
    fn is_set(&mut self) -> bool {
        self.event.is_set().expect("a read")
    }
    fn release(&mut self) -> (u64, u64) {
        self.event.clear().expect("it is cleared");
        self.begin.send(()).expect("somebody who waits");
        self.begun.recv().expect("a wait has begun");
        let began = children::now();
        self.event.set().expect("a set");
        (began, self.out.recv().expect("the waiter is out"))
    }
}
