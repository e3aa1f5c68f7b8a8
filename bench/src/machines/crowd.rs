//! Many tasks of one process wait for one event, on one thread: the time from the first release to the last, and the
//! number of watches at the server.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use etcd_for_tests::Servers;
use tantara_etcd::Cluster;
use tokio::sync::oneshot;
use tokio::task::yield_now;

use super::bare::{self, Connection, KEY};
use crate::names::machines::{BASELINE_CROWD, WATCH_EACH, WATCHES};
use crate::names::{Figures, OURS, millis};
use crate::processes::children;
use crate::processes::workloads::median;
use crate::tasks::{TaskEvent, WakerVec};

/// For each round: when `set` began, and when the first and the last task were released.
type Turns = Vec<[u64; 3]>;

pub fn release(contender: &str, waiters: usize, smoke: bool) -> Option<Figures> {
    let turns = if smoke { 1 } else { 11 };
    let servers = Servers::one();
    let runtime = bare::runtime();
    let (turns, watches) = match contender {
        OURS => runtime.block_on(ours(&servers, waiters, turns)),
        BASELINE_CROWD => runtime.block_on(wakers(&servers, waiters, turns)),
        WATCH_EACH => runtime.block_on(watch_each(&servers, waiters, turns)),
        _ => return None,
    };
    let time = |from: usize, to: usize| millis(median(turns.iter().map(|turn| turn[to] - turn[from]).collect()));
    Some(vec![("first to last out, ms", time(1, 2)), ("set to last out, ms", time(0, 2)), (WATCHES, watches as f64)])
}

async fn ours(servers: &Servers, waiters: usize, turns: usize) -> (Turns, u64) {
    let connect = || Cluster::connect(servers.endpoints());
    let [setter, event] = [connect(), connect()].map(|cluster| cluster.expect("a cluster").event("event"));
    let (mut all, mut watches) = (Vec::new(), 0);
    for _ in 0..turns {
        setter.clear().expect("it is cleared");
        let mut waits: Vec<_> = (0..waiters).map(|_| event.wait_async()).collect();
        for wait in &mut waits {
            wait.begun_async().await.expect("a wait");
        }
        // A wait begins before its watch exists.
        while watches == 0 {
            watches = servers.watchers();
        }
        let setter = setter.clone();
        let waits = waits.into_iter().map(|wait| async { wait.await.expect("a release") });
        let set = move || {
            let began = children::now();
            setter.set().expect("a set");
            began
        };
        all.push(turn(waits, set).await);
        watches = watches.max(servers.watchers());
    }
    assert_eq!(watches, 1, "all of a process share one watch");
    (all, watches)
}

/// The baseline: one watch, whose reader wakes all tasks.
async fn wakers(servers: &Servers, waiters: usize, turns: usize) -> (Turns, u64) {
    let endpoint = servers[0].endpoint();
    let mut watch = Connection::to(&endpoint).await.watch(KEY, "", 1).await;
    let mut all = Vec::new();
    for _ in 0..turns {
        let event = Arc::new(<WakerVec as TaskEvent>::new());
        let waits = (0..waiters).map(|_| {
            let event = Arc::clone(&event);
            async move { drop(event.wait().await) }
        });
        let hear = async {
            bare::change(&mut watch).await;
            event.set();
        };
        let (turn, ()) = tokio::join!(turn(waits, putter(&endpoint)), hear);
        all.push(turn);
    }
    (all, servers.watchers())
}

/// A client that uses a watch for each waiting task, on one stream.
async fn watch_each(servers: &Servers, waiters: usize, turns: usize) -> (Turns, u64) {
    let endpoint = servers[0].endpoint();
    let mut watch = Connection::to(&endpoint).await.watch(KEY, "", waiters as i64).await;
    let mut all = Vec::new();
    for _ in 0..turns {
        let (mut senders, waits): (Vec<_>, Vec<_>) = (0..waiters)
            .map(|_| {
                let (sender, receiver) = oneshot::channel();
                (Some(sender), async { receiver.await.expect("a release") })
            })
            .unzip();
        let hear = async {
            for _ in 0..waiters {
                let number = bare::change(&mut watch).await as usize - 1;
                let sender: oneshot::Sender<()> = senders[number].take().expect("each watch tells once");
                sender.send(()).expect("a task that waits");
            }
        };
        let (turn, ()) = tokio::join!(turn(waits.into_iter(), putter(&endpoint)), hear);
        all.push(turn);
    }
    (all, servers.watchers())
}

/// A client that connects, and then puts.
fn putter(endpoint: &str) -> impl FnOnce() -> u64 + Send + 'static {
    let endpoint = endpoint.to_owned();
    move || {
        bare::runtime().block_on(async {
            let mut connection = Connection::to(&endpoint).await;
            let began = children::now();
            connection.put(KEY, "1").await.expect("a put");
            began
        })
    }
}

/// Lets all tasks wait, and then sets on another thread, which reports when it began.
async fn turn<F>(waits: impl Iterator<Item = F>, set: impl FnOnce() -> u64 + Send + 'static) -> [u64; 3]
where
    F: Future<Output = ()> + Send + 'static,
{
    let asleep = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = waits
        .map(|wait| {
            let asleep = Arc::clone(&asleep);
            tokio::spawn(async move {
                asleep.fetch_add(1, Relaxed);
                wait.await;
                children::now()
            })
        })
        .collect();
    while asleep.load(Relaxed) < tasks.len() {
        yield_now().await;
    }
    let setter = thread::spawn(set);
    let mut outs = Vec::with_capacity(tasks.len());
    for task in tasks {
        outs.push(task.await.expect("a task that is released"));
    }
    let began = setter.join().expect("a set");
    [began, *outs.iter().min().expect("a crowd"), *outs.iter().max().expect("a crowd")]
}
