//! Values that set an event of a cluster when they are dropped.

use std::sync::Arc;
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use etcd_for_tests::Proxy;
use tantara::{Event, SetOnDrop};
use tantara_etcd::Cluster;

use crate::{LONG, alone, namespace, patient, server, until};

#[test]
fn dropping_it_sets_the_event_also_by_a_panic_and_disarming_it_does_not() {
    let server = server();
    let cluster = alone(&server);
    let event = cluster.event("event");
    event.set_on_drop().unwrap().disarm();
    assert!(!event.is_set().unwrap());
    let guard = event.set_on_drop().unwrap();
    let asleep = event.wait_async();
    assert!(!event.is_set().unwrap());
    drop(guard);
    assert!(event.is_set().unwrap() && asleep.wait_timeout(LONG).unwrap());
    event.clear().unwrap();
    let guard = event.set_on_drop().unwrap();
    let worker = thread::spawn(move || {
        let _guard = guard;
        panic!("on purpose");
    });
    assert!(worker.join().is_err() && event.is_set().unwrap());
    event.clear().unwrap();
    let asleep = event.wait_async();
    let guard: SetOnDrop<'static> = event.set_on_drop().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let task = tokio::spawn(async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        tokio::task::yield_now().await;
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    });
    assert!(asleep.wait_timeout(LONG).unwrap());
}

#[test]
fn it_keeps_the_connection_and_creates_a_removed_event_again() {
    let server = server();
    let options = patient().namespace(namespace());
    let cluster = Cluster::connect_with(server.endpoints(), options.clone()).unwrap();
    let event = cluster.event("event");
    event.set().unwrap();
    let guard = event.set_on_drop().unwrap();
    event.remove().unwrap();
    drop((event, cluster));
    drop(guard);
    assert!(Cluster::connect_with(server.endpoints(), options).unwrap().event("event").is_set().unwrap());
    let event = alone(&server).event("a/b");
    assert!(event.set_on_drop().unwrap_err().is_invalid_input());
}

/// The limit of its request is much longer.
#[test]
fn dropping_it_during_an_outage_ends_and_the_event_is_set_after_it() {
    let server = server();
    let proxy = Proxy::to(&server.endpoints()[0]);
    let options = patient().namespace(namespace()).timeout(10 * LONG).learn_members(false);
    let cluster = Cluster::connect_with(proxy.endpoint(), options.clone()).unwrap();
    let event = cluster.event("event");
    event.clear().unwrap();
    let guard = event.set_on_drop().unwrap();
    proxy.drop_everything();
    let dropping = thread::spawn(move || drop(guard));
    until("it was dropped", || dropping.is_finished());
    let witness = Cluster::connect_with(server.endpoints(), options).unwrap().event("event");
    assert!(!witness.is_set().unwrap());
    proxy.pass();
    assert!(witness.wait_timeout(LONG).unwrap());
}

/// Drops what it holds on the thread that wakes it.
struct Drops(std::sync::Mutex<Option<SetOnDrop<'static>>>, Event);

impl Wake for Drops {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
        self.1.set();
    }
}

#[test]
fn a_waker_may_drop_it_on_the_thread_of_the_connection() {
    let server = server();
    let cluster = alone(&server);
    let (first, second) = (cluster.event("first"), cluster.event("second"));
    let drops = Arc::new(Drops(std::sync::Mutex::new(Some(second.set_on_drop().unwrap())), Event::new()));
    let waker = Waker::from(Arc::clone(&drops));
    let mut wait = first.wait_async();
    assert!(std::pin::Pin::new(&mut wait).poll(&mut Context::from_waker(&waker)).is_pending());
    wait.begun().unwrap();
    first.set().unwrap();
    assert!(drops.1.wait_timeout(LONG), "the waker has hung");
    assert!(second.wait_timeout(LONG).unwrap());
}

#[test]
fn many_are_dropped_at_once() {
    let server = server();
    let cluster = alone(&server);
    let events: Vec<_> = (0..50).map(|number| cluster.event(format!("event-{number}"))).collect();
    let guards: Vec<_> = events.iter().map(|event| event.set_on_drop().unwrap()).collect();
    thread::scope(|scope| guards.into_iter().for_each(|guard| _ = scope.spawn(move || drop(guard))));
    assert!(tantara::all(&events).try_wait_timeout(Duration::ZERO).unwrap());
}
