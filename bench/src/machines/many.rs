//! One process waits for many events at the same time, and another client sets all of them: the time until all waits
//! have begun, and from the first set until the last is released.

use std::thread;
use std::time::Duration;

use etcd_for_tests::Servers;
use tantara_etcd::{Cluster, Options};

use super::bare::{self, Connection};
use crate::names::machines::WATCH_EACH;
use crate::names::{Figures, OURS, millis};
use crate::processes::children;
use crate::processes::workloads::median;

/// How many puts of the baseline wait for their answers at the same time.
const AT_ONCE: usize = 64;

/// When the waits were requested, had begun, the first set began, and the last wait was released.
type Turn = [u64; 4];

pub fn release(contender: &str, events: usize, smoke: bool) -> Option<Figures> {
    let turns = if smoke { 1 } else { 3 };
    let turn = match contender {
        OURS => ours,
        WATCH_EACH => watch_each,
        _ => return None,
    };
    let turns: Vec<Turn> = (0..turns).map(|_| turn(&Servers::one(), events)).collect();
    let time = |from: usize, to: usize| millis(median(turns.iter().map(|turn| turn[to] - turn[from]).collect()));
    Some(vec![("begun, ms", time(0, 1)), ("set to last out, ms", time(2, 3))])
}

fn ours(servers: &Servers, events: usize) -> Turn {
    // A program that sends thousands of requests at once waits for their answers.
    let options = Options::new().timeout(Duration::from_secs(60));
    let connect = || Cluster::connect_with(servers.endpoints(), options.clone()).expect("a cluster");
    let (setter, waiter) = (connect(), connect());
    let names: Vec<String> = (0..events).map(|number| format!("event-{number}")).collect();
    bare::runtime().block_on(async {
        let requested = children::now();
        let mut waits: Vec<_> = names.iter().map(|name| waiter.event(name).wait_async()).collect();
        for wait in &mut waits {
            wait.begun_async().await.expect("a wait");
        }
        let begun = children::now();
        until_watched(servers, events);
        let set = thread::spawn(move || {
            bare::runtime().block_on(async {
                let began = children::now();
                let sets = names.iter().map(|name| setter.event(name));
                let sets = sets.map(|event| tokio::spawn(async move { event.set_async().await }));
                for set in sets.collect::<Vec<_>>() {
                    set.await.expect("a task that ends").expect("a set");
                }
                began
            })
        });
        for wait in waits {
            wait.await.expect("a release");
        }
        let out = children::now();
        [requested, begun, set.join().expect("all sets"), out]
    })
}

/// A bare watch of each key on one stream.
fn watch_each(servers: &Servers, events: usize) -> Turn {
    let endpoint = servers[0].endpoint();
    bare::runtime().block_on(async {
        let mut connection = Connection::to(&endpoint).await;
        let requested = children::now();
        let keys = (0..events).map(|number| (key(number), String::new()));
        let mut watch = connection.watch_each(keys.collect()).await;
        let begun = children::now();
        until_watched(servers, events);
        let set = thread::spawn(move || {
            bare::runtime().block_on(async {
                let setter = Connection::to(&endpoint).await;
                let began = children::now();
                let puts = (0..AT_ONCE).map(|first| {
                    let mut setter = setter.clone();
                    tokio::spawn(async move {
                        for number in (first..events).step_by(AT_ONCE) {
                            setter.put(&key(number), "1").await.expect("a put");
                        }
                    })
                });
                for put in puts.collect::<Vec<_>>() {
                    put.await.expect("a task that ends");
                }
                began
            })
        });
        let mut out = 0;
        while out < events {
            out += bare::changes(&mut watch).await;
        }
        let out = children::now();
        [requested, begun, set.join().expect("all puts"), out]
    })
}

fn key(number: usize) -> String {
    format!("/bare/event-{number}")
}

/// A wait begins before its watch exists.
fn until_watched(servers: &Servers, events: usize) {
    while servers.watchers() < events as u64 {
        thread::yield_now();
    }
}
