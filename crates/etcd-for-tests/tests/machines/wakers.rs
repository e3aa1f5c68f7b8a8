//! Wakers are code of others, which the thread of a connection runs: they may panic, and ask the
//! cluster themselves.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tantara::Event;
use tantara_etcd::{Cluster, ClusterEvent, Error};

use crate::{LONG, alone, server, until};

struct Panics;

impl Wake for Panics {
    fn wake(self: Arc<Self>) {
        panic!("a waker panics on purpose");
    }
}

/// Asks in its `wake`, once.
struct Asks<F> {
    ask: Mutex<Option<F>>,
    answered: Event,
}

impl<F: FnOnce() + Send> Wake for Asks<F> {
    fn wake(self: Arc<Self>) {
        let ask = self.ask.lock().unwrap().take();
        if let Some(ask) = ask {
            ask();
            self.answered.set();
        }
    }
}

fn is_pending(future: impl Future, waker: &Waker) -> bool {
    matches!(pin!(future).poll(&mut Context::from_waker(waker)), Poll::Pending)
}

#[test]
fn a_waker_that_panics_harms_nobody_else() {
    let server = server();
    let cluster = alone(&server);
    let other = cluster.event("other").wait_async();
    let hold = cluster.event("held").hold().unwrap();
    let waker = Waker::from(Arc::new(Panics));
    // It is woken by the end of a wait, by the answer to a request, and by the loss of a hold.
    let mut wait = cluster.event("event").wait_async();
    wait.begun().unwrap();
    assert!(is_pending(&mut wait, &waker));
    cluster.event("event").pulse().unwrap();
    wait.wait().unwrap();
    let event = cluster.event("event");
    let mut asks = Box::pin(event.is_set_async());
    // The answer may have come already.
    if is_pending(&mut asks, &waker) {
        smol::block_on(asks).unwrap();
    }
    let lost = cluster.event("lost").hold().unwrap();
    let mut losing = Box::pin(lost.lost().wait_async());
    assert!(is_pending(&mut losing, &waker));
    cluster.event("lost").remove().unwrap();
    assert!(lost.lost().wait_timeout(LONG));
    // Everything goes on.
    let again = cluster.event("held").hold().unwrap();
    cluster.event("other").pulse().unwrap();
    assert!(other.wait_timeout(LONG).unwrap());
    assert!(!hold.is_lost() && !again.is_lost());
    drop((hold, again));
    until("both holds have ended", || !cluster.event("held").is_set().unwrap());
}

/// Asks within the waker of a wait. Returns the outcome.
fn ask_in_waker<T: Send + 'static>(cluster: &Cluster, ask: impl FnOnce(ClusterEvent) -> T + Send + 'static) -> T {
    let event = cluster.event("event");
    let outcome = Arc::new(Mutex::new(None));
    let asked = {
        let (event, outcome) = (event.clone(), Arc::clone(&outcome));
        move || *outcome.lock().unwrap() = Some(ask(event))
    };
    let asks = Arc::new(Asks { ask: Mutex::new(Some(asked)), answered: Event::new() });
    let mut wait = event.wait_async();
    wait.begun().unwrap();
    assert!(is_pending(&mut wait, &Waker::from(Arc::clone(&asks))));
    event.pulse().unwrap();
    assert!(asks.answered.wait_timeout(LONG), "the thread of the connection blocks on itself");
    let outcome = outcome.lock().unwrap().take();
    outcome.unwrap()
}

type Ask = dyn FnOnce(ClusterEvent) -> Result<(), Error> + Send;

#[test]
fn a_waker_that_blocks_on_its_own_connection_gets_an_error() {
    let server = server();
    let cluster = alone(&server);
    let changes = Mutex::new(cluster.changes().unwrap());
    let asks: [Box<Ask>; 8] = [
        Box::new(|event| event.is_set().map(drop)),
        Box::new(|event| event.set()),
        Box::new(|event| event.hold().map(drop)),
        Box::new(|event| event.wait()),
        Box::new(|event| event.wait_timeout(Duration::ZERO).map(drop)),
        Box::new(|event| event.wait_next_timeout(LONG).map(drop)),
        Box::new(|event| event.wait_async().begun()),
        Box::new(move |_| {
            let mut changes = changes.lock().unwrap();
            // It returns the changes that have come before it asks.
            while changes.next_timeout(LONG)?.is_some() {}
            Ok(())
        }),
    ];
    for ask in asks {
        let error = ask_in_waker(&cluster, ask).unwrap_err();
        assert!(error.to_string().contains("own thread"), "{error}");
    }
    assert!(!cluster.event("event").is_set().unwrap());
    // Another connection can be asked.
    let other = alone(&server).event("other");
    ask_in_waker(&cluster, move |_| other.set()).unwrap();
}
