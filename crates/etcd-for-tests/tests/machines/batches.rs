//! Requests for many events at the same time, which share transactions.

use std::time::Duration;

use etcd_for_tests::{Manner, Proxy, Servers, StandIn};
use tantara_etcd::{Cluster, ClusterEvent, Error};

use crate::{LONG, alone, namespace, patient, server, until};

/// Sets all events at the same time. Returns the outcome of each.
fn set_at_once(events: &[ClusterEvent]) -> Vec<Result<(), Error>> {
    let sets: Vec<_> =
        events.iter().cloned().map(|event| smol::spawn(async move { event.set_async().await })).collect();
    smol::block_on(async {
        let mut outcomes = Vec::new();
        for set in sets {
            outcomes.push(set.await);
        }
        outcomes
    })
}

fn events(cluster: &Cluster, count: usize, name: impl Fn(usize) -> String) -> Vec<ClusterEvent> {
    (0..count).map(|number| cluster.event(name(number))).collect()
}

#[test]
fn sets_of_many_events_share_transactions_and_each_is_made_once() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let options = patient().namespace(namespace()).learn_members(false);
    let cluster = Cluster::connect_with(stand_in.endpoint(), options).unwrap();
    let events = events(&cluster, 500, |number| format!("event-{number}"));
    for outcome in set_at_once(&events) {
        outcome.unwrap();
    }
    let transactions = stand_in.requests().iter().filter(|path| path.ends_with("KV/Txn")).count();
    assert!(transactions < events.len() / 2, "{transactions}");
    for event in &events {
        assert_eq!(servers.puts(&format!("/{}/e/{}/p", cluster.namespace(), event.name())), 1);
    }
}

#[test]
fn sets_of_one_event_at_the_same_time_are_all_made() {
    let server = server();
    let cluster = alone(&server);
    let events = events(&cluster, 200, |number| format!("event-{}", number % 3));
    for outcome in set_at_once(&events) {
        outcome.unwrap();
    }
    let puts = |number| server.puts(&format!("/{}/e/event-{number}/p", cluster.namespace()));
    assert_eq!([puts(0), puts(1), puts(2)], [67, 67, 66]);
}

#[test]
fn a_set_that_is_refused_does_not_harm_those_beside_it() {
    let servers = Servers::build().user("ann", "sesame", "/shop/o/").start();
    servers.permit("ann", "/shop/e/free");
    let ann = patient().namespace("shop").user("ann", "sesame");
    let cluster = Cluster::connect_with(servers.endpoints(), ann).unwrap();
    let is_locked = |number: usize| number % 40 == 13;
    let name = |number| format!("{}-{number}", if is_locked(number) { "locked" } else { "free" });
    for (number, outcome) in set_at_once(&events(&cluster, 200, name)).into_iter().enumerate() {
        if is_locked(number) {
            let error = outcome.unwrap_err();
            assert!(error.is_permission_denied() && !error.is_unknown(), "{error}");
        } else {
            outcome.unwrap();
        }
        assert_eq!(servers.puts(&format!("/shop/e/{}/p", name(number))), i64::from(!is_locked(number)));
    }
}

#[test]
fn if_an_answer_is_lost_the_outcome_of_each_set_can_be_found_out() {
    let servers = Servers::one();
    let proxy = Proxy::to(&servers.endpoints()[0]);
    let options = patient().namespace(namespace()).learn_members(false).timeout(Duration::from_secs(2));
    let cluster = Cluster::connect_with(proxy.endpoint(), options).unwrap();
    cluster.event("before").set().unwrap();
    proxy.swallow_answers();
    let events = events(&cluster, 200, |number| format!("event-{number}"));
    let outcomes = set_at_once(&events);
    proxy.close_all();
    proxy.pass();
    let mut unknown = 0;
    for (event, outcome) in events.iter().zip(outcomes) {
        let error = outcome.unwrap_err();
        let sets = || servers.puts(&format!("/{}/e/{}/p", cluster.namespace(), event.name()));
        if let Some(pending) = error.pending() {
            unknown += 1;
            let resolved = std::cell::Cell::new(None);
            until("the outcome is known", || match pending.resolve() {
                Ok(made) => {
                    resolved.set(Some(made));
                    true
                }
                Err(error) if error.is_unreachable() => false,
                Err(error) => panic!("{error}"),
            });
            assert_eq!(sets(), i64::from(resolved.get() == Some(true)));
        } else {
            assert!(error.is_unreachable(), "{error}");
            assert_eq!(sets(), 0, "it was not sent");
        }
    }
    assert!(unknown > 0);
}

#[test]
fn waits_for_many_events_begin_and_create_those_that_do_not_exist() {
    let server = server();
    let stand_in = StandIn::of(&server.endpoints()[0]);
    // Watches do not tell that others have created an event.
    stand_in.answer(Manner::SilentWatches);
    let options = patient().namespace(namespace()).learn_members(false).recheck(Duration::from_secs(1));
    let cluster = Cluster::connect_with(stand_in.endpoint(), options.clone()).unwrap();
    let other = Cluster::connect_with(server.endpoints(), options).unwrap();
    let waiting = events(&cluster, 500, |number| format!("event-{number}"));
    let mut waits: Vec<_> = waiting.iter().map(ClusterEvent::wait_async).collect();
    for wait in &mut waits {
        wait.begun().unwrap();
    }
    // Others create some meanwhile, here and there. After a tenth of a second the waits create them.
    for event in events(&other, 30, |number| format!("event-{}", number * 17)) {
        event.clear().unwrap();
    }
    let keys = || server.keys(&format!("/{}/e/", cluster.namespace()));
    until("all are created", || keys().len() == 500);
    assert!(keys().iter().all(|(key, value)| key.ends_with("/l") && value == b"0"));
    for outcome in set_at_once(&events(&other, 500, |number| format!("event-{number}"))) {
        outcome.unwrap();
    }
    for wait in waits {
        assert!(wait.wait_timeout(LONG).unwrap());
    }
}

#[test]
fn an_event_that_may_not_be_created_does_not_harm_those_beside_it() {
    let servers = Servers::build().reader("bob", "sesame", "/shop/").start();
    servers.permit("bob", "/shop/e/free");
    let bob = patient().namespace("shop").user("bob", "sesame");
    let cluster = Cluster::connect_with(servers.endpoints(), bob).unwrap();
    let name = |number: usize| format!("{}-{number}", if number % 40 == 13 { "locked" } else { "free" });
    let waiting = events(&cluster, 200, name);
    let mut waits: Vec<_> = waiting.iter().map(ClusterEvent::wait_async).collect();
    for wait in &mut waits {
        wait.begun().unwrap();
    }
    until("all but five are created", || servers.keys("/shop/e/").len() == 195);
    assert!(servers.keys("/shop/e/locked").is_empty());
    // Those that do not exist are waited for all the same.
    servers.put_raw("/shop/e/locked-13/l", "1");
    waits.swap_remove(13).wait().unwrap();
}
