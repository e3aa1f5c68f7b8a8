//! From when on a wait counts: for what the same connection does, from the call that has begun it.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use etcd_for_tests::Proxy;
use tantara::{Waitable, all, any};
use tantara_etcd::{Cluster, ClusterEvent, ClusterWait};

use crate::{LONG, alone, namespace, patient, server};

/// Fails instead of hanging.
fn released(wait: ClusterWait) -> bool {
    wait.wait_timeout(LONG).unwrap()
}

#[test]
fn a_pulse_releases_the_waits_that_its_thread_has_begun_before() {
    let server = server();
    let cluster = alone(&server);
    for round in 0..50 {
        // A new event each time, and one whose watch goes on.
        for name in [format!("event-{round}"), "event".to_owned()] {
            let event = cluster.event(&name);
            let wait = event.wait_owned();
            cluster.event(&name).pulse().unwrap();
            assert!(wait.wait_timeout(Duration::from_secs(5)).unwrap(), "round {round} of {name}");
        }
    }
}

#[test]
fn every_change_by_a_connection_comes_after_the_waits_that_it_has_begun() {
    let server = server();
    let cluster = alone(&server);
    let named = |name: &str| cluster.event(name);
    let event = named("noted");
    let wait = event.wait_async();
    event.pulse_with_note("why").unwrap();
    assert!(released(wait), "a pulse with a note");
    let event = named("set-and-cleared");
    let wait = event.wait_async();
    event.set().unwrap();
    event.clear().unwrap();
    assert!(released(wait), "a set that is cleared");
    event.set().unwrap();
    let wait = event.wait_async();
    event.clear().unwrap();
    assert!(released(wait), "it was set when the wait began");
    let wait = event.wait_unset_async();
    event.set().unwrap();
    assert!(released(wait), "it was unset when the wait began");
    let wait = event.wait_next_async();
    event.pulse().unwrap();
    assert!(released(wait), "a wait for the next set");
    let event = named("held");
    let wait = event.wait_async();
    drop(event.hold().unwrap());
    assert!(released(wait), "a hold");
    let event = named("removed");
    event.clear().unwrap();
    let wait = event.wait_async();
    event.remove().unwrap();
    assert!(wait.wait_timeout(LONG).unwrap_err().is_removed());
}

#[test]
fn tasks_and_waits_for_many_count_from_their_call_too() {
    let server = server();
    let cluster = alone(&server);
    let events: Vec<ClusterEvent> = (0..150).map(|number| cluster.event(format!("event-{number}"))).collect();
    smol::block_on(async {
        for event in &events[..20] {
            let waits: Vec<ClusterWait> = (0..3).map(|_| event.wait_owned()).collect();
            event.pulse_async().await.unwrap();
            for wait in waits {
                let timer = async {
                    smol::Timer::after(LONG).await;
                    panic!("the pulse was missed");
                };
                smol::future::or(wait, timer).await.unwrap();
            }
        }
    });
    let one = any(&events);
    events[149].pulse().unwrap();
    assert_eq!(one.try_wait_timeout(LONG).unwrap(), Some(149));
    let every = all(events.iter().map(|event| event as &dyn Waitable));
    thread::scope(|scope| {
        // The waits have begun before these threads.
        events.iter().for_each(|event| _ = scope.spawn(|| event.pulse().unwrap()));
    });
    assert!(every.try_wait_timeout(LONG).unwrap());
}

/// The first read of a wait is lost with its connection. The write is made after it was repeated.
#[test]
fn a_write_comes_after_earlier_waits_through_an_outage_too() {
    let server = server();
    let proxy = Proxy::to(&server.endpoints()[0]);
    let options = patient().namespace(namespace()).learn_members(false);
    let cluster = Cluster::connect_with(proxy.endpoint(), options).unwrap();
    for round in 0..5 {
        let event = Arc::new(cluster.event(format!("event-{round}")));
        event.clear().unwrap();
        proxy.drop_everything();
        let wait = event.wait_async();
        let writer = {
            let event = Arc::clone(&event);
            thread::spawn(move || event.pulse())
        };
        thread::sleep(Duration::from_millis(100));
        proxy.close_all();
        proxy.pass();
        writer.join().unwrap().unwrap();
        assert!(wait.wait_timeout(LONG).unwrap());
    }
}

/// A dropped wait, or one that cannot begin, delays no write.
#[test]
fn a_wait_that_ends_before_it_has_begun_delays_no_write() {
    let server = server();
    let cluster = alone(&server);
    let event = cluster.event("event");
    for _ in 0..100 {
        drop(event.wait_async());
        let kept = event.wait_async();
        drop(event.wait_async());
        event.pulse().unwrap();
        assert!(released(kept));
        let dropped = event.wait_async();
        thread::scope(|scope| {
            let writer = scope.spawn(|| event.pulse().unwrap());
            drop(dropped);
            writer.join().unwrap();
        });
    }
}
