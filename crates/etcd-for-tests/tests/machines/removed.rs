//! What a handle that has seen an event says after the event was removed.

use std::thread;
use std::time::{Duration, Instant};

use tantara::{Waitable, all, any};
use tantara_etcd::{Cluster, ClusterEvent, Error};

use crate::{LONG, alone, namespace, patient, server};

async fn too_long() -> Result<(), Error> {
    smol::Timer::after(LONG).await;
    Ok(())
}

/// Everything that needs the event to exist.
fn attempts(event: &ClusterEvent) -> Vec<(&'static str, Result<(), Error>)> {
    let deadline = || Instant::now() + LONG;
    vec![
        ("is_set", event.is_set().map(drop)),
        ("is_set_async", smol::block_on(event.is_set_async()).map(drop)),
        ("last_set", event.last_set().map(drop)),
        ("wait", event.wait_timeout(LONG).map(drop)),
        ("a poll", event.wait_timeout(Duration::ZERO).map(drop)),
        ("a past deadline", event.wait_deadline(Instant::now()).map(drop)),
        ("wait_deadline", event.wait_deadline(deadline()).map(drop)),
        ("wait_async", smol::block_on(smol::future::or(event.wait_async(), too_long()))),
        ("begun", event.wait_async().begun()),
        ("wait_unset", event.wait_unset_timeout(LONG).map(drop)),
        ("a poll of wait_unset", event.wait_unset_timeout(Duration::ZERO).map(drop)),
        ("wait_next", event.wait_next_timeout(LONG).map(drop)),
        ("a poll of wait_next", event.wait_next_timeout(Duration::ZERO).map(drop)),
    ]
}

fn assert_removed(event: &ClusterEvent, how: &str) {
    for (what, outcome) in attempts(event) {
        assert!(outcome.as_ref().is_err_and(Error::is_removed), "{what} after {how}: {outcome:?}");
    }
    let mixed: [&dyn Waitable; 1] = [event];
    assert!(any(mixed).try_wait_timeout(LONG).unwrap_err().is_removed(), "any after {how}");
    assert!(all(mixed).try_wait_timeout(Duration::ZERO).unwrap_err().is_removed(), "all after {how}");
}

#[test]
fn a_handle_that_has_seen_the_event_fails_once_it_was_removed() {
    let server = server();
    let options = patient().namespace(namespace());
    let cluster = Cluster::connect_with(server.endpoints(), options.clone()).unwrap();
    let elsewhere = Cluster::connect_with(server.endpoints(), options).unwrap();
    type Sight = (&'static str, fn(&ClusterEvent));
    let sights: [Sight; 9] = [
        ("set", |event| event.set().unwrap()),
        ("clear", |event| event.clear().unwrap()),
        ("pulse", |event| event.pulse_with_note("why").unwrap()),
        ("hold", |event| drop(event.hold().unwrap())),
        ("is_set", |event| assert!(event.is_set().unwrap())),
        ("last_set", |event| assert!(event.last_set().unwrap().is_some())),
        ("wait", |event| event.wait().unwrap()),
        ("poll", |event| assert!(event.wait_timeout(Duration::ZERO).unwrap())),
        // It is created by the wait.
        ("timeout", |event| assert!(!event.wait_next_timeout(Duration::from_secs(1)).unwrap())),
    ];
    for (how, sight) in sights {
        let event = cluster.event(how);
        if matches!(how, "is_set" | "last_set" | "wait" | "poll") {
            elsewhere.event(how).set().unwrap();
        }
        sight(&event);
        let clone = event.clone();
        assert!(elsewhere.event(how).remove().unwrap(), "{how}");
        assert_removed(&event, how);
        assert_removed(&clone, how);
        assert!(!event.remove().unwrap(), "it was removed before");
        // A new handle is that of an event that may come to be.
        assert!(!cluster.event(how).is_set().unwrap());
        assert!(!cluster.event(how).wait_timeout(Duration::ZERO).unwrap());
        // A change makes it anew, for the old handles too.
        elsewhere.event(how).set().unwrap();
        assert!(event.is_set().unwrap() && clone.wait_timeout(LONG).unwrap());
        event.clear().unwrap();
        assert!(event.remove().unwrap());
        assert_removed(&clone, how);
    }
}

#[test]
fn a_handle_that_removes_an_event_has_seen_it() {
    let server = server();
    let cluster = alone(&server);
    cluster.event("event").set().unwrap();
    let event = cluster.event("event");
    assert!(event.remove().unwrap());
    assert_removed(&event, "its own removal");
    let never = cluster.event("never");
    assert!(!never.remove().unwrap() && !never.is_set().unwrap());
    assert!(never.last_set().unwrap().is_none());
    assert!(!never.wait_timeout(Duration::ZERO).unwrap() && never.wait_unset_timeout(Duration::ZERO).unwrap());
}

#[test]
fn an_event_that_is_made_anew_all_the_time_is_removed_only_while_it_is_gone() {
    let server = server();
    let cluster = alone(&server);
    let other = cluster.event("event");
    let event = cluster.event("event");
    thread::scope(|scope| {
        let remover = scope.spawn(|| {
            for _ in 0..200 {
                other.set().unwrap();
                other.remove().unwrap();
            }
            other.set().unwrap();
        });
        while !remover.is_finished() {
            match event.is_set() {
                Ok(_) => {}
                Err(error) => assert!(error.is_removed(), "{error}"),
            }
        }
    });
    assert!(event.is_set().unwrap());
    event.wait().unwrap();
}
