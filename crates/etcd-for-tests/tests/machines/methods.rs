//! Methods beyond the contract.

use std::thread;
use std::time::{Duration, Instant};

use etcd_for_tests::Servers;
use tantara::{AutoResetEvent, Event, SharedEvent, Waitable, all, any};
use tantara_etcd::{Change, Cluster, ClusterEvent};

use crate::{LONG, alone, namespace, patient, server, until};

#[test]
fn every_method_refuses_an_invalid_name_before_anything_is_sent() {
    let server = server();
    let cluster = alone(&server);
    for name in ["", "a/b", "../x", "a b", "-a", "a\nb", &"x".repeat(300)] {
        let event = cluster.event(name);
        let refusals = [
            event.set(),
            event.clear(),
            event.pulse(),
            event.is_set().map(drop),
            event.wait(),
            event.wait_timeout(Duration::ZERO).map(drop),
            event.wait_timeout(LONG).map(drop),
            event.wait_deadline(Instant::now() + LONG).map(drop),
            event.wait_async().begun(),
            event.hold().map(drop),
            event.waiters().map(drop),
            event.remove().map(drop),
            smol::block_on(event.wait_async()),
        ];
        for refusal in refusals {
            assert!(refusal.unwrap_err().is_invalid_input());
        }
        assert!(any([&event]).try_wait().unwrap_err().is_invalid_name());
    }
    for namespace in ["", "a/b", "..", "a b"] {
        let refusal = Cluster::connect_with(server.endpoints(), patient().namespace(namespace));
        assert!(refusal.unwrap_err().is_invalid_input());
    }
    assert!(cluster.list().unwrap().is_empty());
}

/// A connection that records its waits.
fn recording(server: &Servers) -> Cluster {
    let options = patient().namespace(namespace()).record_waits(true);
    Cluster::connect_with(server.endpoints(), options).unwrap()
}

/// Waits until waits for so many events are recorded, which happens after they have begun.
fn until_waited_for(cluster: &Cluster, count: usize) {
    let waited_for = || cluster.list().unwrap().iter().filter(|entry| !entry.waiters.is_empty()).count();
    until("the waits are recorded", || waited_for() == count);
}

#[test]
fn kinds_mix() {
    let server = server();
    let cluster = recording(&server);
    let (local, auto_reset) = (Event::new(), AutoResetEvent::new());
    let shared = SharedEvent::anonymous().unwrap();
    let far = [cluster.event("one"), cluster.event("two")];
    let mixed: [&dyn Waitable; 5] = [&far[0], &local, &auto_reset, &shared, &far[1]];
    assert_eq!(any(mixed).try_wait_timeout(Duration::from_millis(20)).unwrap(), None);
    for (index, release) in [
        (0, &(|| far[0].pulse().unwrap()) as &(dyn Fn() + Sync)),
        (1, &|| local.set()),
        (2, &|| auto_reset.set()),
        (3, &|| shared.set().unwrap()),
        (4, &|| far[1].pulse().unwrap()),
    ] {
        until_waited_for(&cluster, 0);
        thread::scope(|scope| {
            let waiting = scope.spawn(|| any(mixed).wait());
            until_waited_for(&cluster, 2);
            release();
            assert_eq!(waiting.join().unwrap(), index);
        });
        local.clear();
        shared.clear().unwrap();
    }
    until_waited_for(&cluster, 0);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| all(mixed).try_wait_timeout(LONG).unwrap());
        until_waited_for(&cluster, 2);
        far[1].pulse().unwrap();
        shared.set().unwrap();
        auto_reset.set();
        local.set();
        assert!(!waiting.is_finished());
        far[0].pulse().unwrap();
        assert!(waiting.join().unwrap());
    });
    // A failure ends `all` even if an earlier event is unset.
    until_waited_for(&cluster, 0);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| all([&Event::new() as &dyn Waitable, &far[0]]).try_wait().unwrap_err());
        until_waited_for(&cluster, 1);
        far[0].remove().unwrap();
        assert!(waiting.join().unwrap().is_removed());
    });
}

#[test]
fn many_are_read_at_one_moment() {
    let server = server();
    let cluster = recording(&server);
    // More events than are read in one transaction.
    let events: Vec<ClusterEvent> = (0..200).map(|number| cluster.event(format!("event-{number}"))).collect();
    assert_eq!(any(&events).try_wait_timeout(Duration::ZERO).unwrap(), None);
    events[150].set().unwrap();
    events[70].set().unwrap();
    for _ in 0..5 {
        assert_eq!(any(&events).try_wait().unwrap(), 70, "the lowest of several");
    }
    assert!(!all(&events).try_wait_timeout(Duration::from_millis(100)).unwrap());
    until_waited_for(&cluster, 0);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| all(&events).try_wait_timeout(LONG).unwrap());
        // Waits for the two that are set end at once.
        until_waited_for(&cluster, events.len() - 2);
        events.iter().for_each(|event| event.pulse().unwrap());
        assert!(waiting.join().unwrap());
    });
}

/// A wait creates its event after a tenth of a second. If its time passes just then, the last read
/// may show the state before. `$TANTARA_TRIES` is the number of rounds.
#[test]
fn no_wait_fails_as_removed_without_a_removal() {
    let tries = std::env::var("TANTARA_TRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    let server = server();
    for number in 0..tries {
        let cluster = alone(&server);
        let events: Vec<ClusterEvent> = (0..100).map(|number| cluster.event(format!("event-{number}"))).collect();
        // There are also waits without a timeout.
        let asleep: Vec<_> = events.iter().map(ClusterEvent::wait_async).collect();
        let timeout = Duration::from_millis([95, 100, 105, 110, 115][number % 5]);
        assert_eq!(any(&events).try_wait_timeout(timeout).unwrap(), None);
        events.iter().for_each(|event| event.pulse().unwrap());
        asleep.into_iter().for_each(|wait| wait.wait().unwrap());
    }
}

#[test]
fn thousands_wait_in_one_process_with_one_watch() {
    let servers = etcd_for_tests::Servers::one();
    let cluster = alone(&servers);
    let event = cluster.event("event");
    let executor = smol::Executor::new();
    let released = smol::block_on(executor.run(async {
        let waits: Vec<_> = (0..10_000).map(|_| event.wait_async()).collect();
        let tasks: Vec<_> = waits.into_iter().map(|wait| executor.spawn(wait)).collect();
        event.wait_async().begun_async().await.unwrap();
        assert_eq!(servers.watchers(), 1);
        event.pulse_async().await.unwrap();
        let mut released = 0;
        for task in tasks {
            released += usize::from(task.await.is_ok());
        }
        released
    }));
    assert_eq!(released, 10_000);
}

#[test]
fn a_dropped_wait_leaves_nothing_and_an_unused_watch_ends() {
    let servers = etcd_for_tests::Servers::one();
    let cluster = alone(&servers);
    let event = cluster.event("event");
    for _ in 0..100 {
        let mut wait = event.wait_async();
        wait.begun().unwrap();
    }
    assert!(servers.watchers() <= 1);
    until("the watch has ended", || servers.watchers() == 0);
    event.set().unwrap();
    event.wait().unwrap();
}

#[test]
fn changes_are_reported_in_order() {
    let server = server();
    let cluster = alone(&server);
    let event = cluster.event("door");
    event.clear().unwrap();
    let mut changes = cluster.changes().unwrap();
    assert_eq!(changes.next_timeout(Duration::from_millis(50)).unwrap(), None);
    event.set().unwrap();
    event.set().unwrap();
    event.clear().unwrap();
    event.pulse().unwrap();
    let hold = event.hold().unwrap();
    drop(hold);
    let told = |change: Change| (change.sets, change.is_set, change.is_removed);
    let mut next = || told(changes.next_timeout(LONG).unwrap().unwrap());
    assert_eq!(next(), (1, true, false));
    assert_eq!(next(), (1, true, false));
    assert_eq!(next(), (0, false, false));
    assert_eq!(next(), (1, false, false));
    assert_eq!(next(), (1, true, false), "held");
    assert_eq!(next(), (0, false, false), "the hold has ended");
    event.remove().unwrap();
    assert_eq!(next(), (0, false, true));
    // Created again.
    event.set().unwrap();
    assert_eq!(next(), (1, true, false));
}

#[test]
fn changes_survive_outages() {
    let servers = etcd_for_tests::Servers::one();
    let cluster = alone(&servers);
    let event = cluster.event("door");
    event.clear().unwrap();
    let mut changes = cluster.changes().unwrap();
    let proxy = etcd_for_tests::Proxy::to(&servers.endpoints()[0]);
    let options = patient().namespace(cluster.namespace());
    let mut behind = Cluster::connect_with(proxy.endpoint(), options).unwrap().changes().unwrap();
    for is_compacted in [false, true] {
        proxy.drop_everything();
        (0..3).for_each(|_| event.pulse().unwrap());
        if is_compacted {
            servers.compact_now();
        }
        proxy.close_all();
        proxy.pass();
        let mut sets = 0;
        while sets < 3 {
            sets += behind.next_timeout(LONG).unwrap().unwrap().sets;
        }
        assert_eq!(sets, 3, "merged, but none is lost");
    }
    servers[0].kill();
    servers[0].start();
    servers.wait_healthy();
    event.set().unwrap();
    let last = std::iter::from_fn(|| Some(changes.next_timeout(LONG).unwrap().unwrap())).find(|change| change.is_set);
    assert_eq!(last.unwrap().name, "door");
}

#[test]
fn everything_can_be_awaited_under_any_runtime() {
    let server = server();
    smol::block_on(async {
        let options = patient().namespace(crate::namespace());
        let cluster = Cluster::connect_with_async(server.endpoints(), options).await.unwrap();
        let event = cluster.event("event");
        event.set_async().await.unwrap();
        assert!(event.is_set_async().await.unwrap());
        event.wait_async().await.unwrap();
        event.clear_async().await.unwrap();
        let hold = event.hold_async().await.unwrap();
        assert_eq!(cluster.list_async().await.unwrap()[0].holders.len(), 1);
        drop(hold);
        assert!(event.waiters_async().await.unwrap().is_empty());
        assert!(event.remove_async().await.unwrap());
    });
}

#[test]
fn an_event_outlives_its_cluster_and_debug_says_what_it_is() {
    let server = server();
    let cluster = alone(&server);
    let event = cluster.event("door");
    assert!(format!("{cluster:?} {event:?} {:?}", event.wait_async()).contains("door"));
    drop(cluster);
    event.set().unwrap();
    let mut wait = event.wait_async();
    drop(event);
    wait.begun().unwrap();
    wait.wait().unwrap();
}

#[test]
fn a_record_is_kept_while_the_wait_lasts_and_its_lease_is_given_back() {
    // Not shared, because leases are counted.
    let server = Servers::one();
    let options = patient().namespace(namespace()).record_waits(true).hold_ttl(Duration::from_secs(3));
    let cluster = Cluster::connect_with(server.endpoints(), options).unwrap();
    let event = cluster.event("event");
    let mut wait = event.wait_async();
    wait.begun().unwrap();
    let records = || event.waiters().unwrap().len();
    until("the wait is recorded", || records() == 1);
    // The lease is renewed, or there would be another record by now.
    let keys = || server.keys(&format!("/{}/w/", cluster.namespace()));
    let recorded = keys();
    thread::sleep(Duration::from_secs(7));
    assert_eq!((keys(), server.leases()), (recorded, 1));
    // If the lease is lost all the same, the wait is recorded again.
    server.revoke_all_leases();
    until("the wait is recorded again", || records() == 1);
    event.set().unwrap();
    assert!(wait.wait_timeout(LONG).unwrap());
    until("no record is left", || records() == 0);
    until("the lease is given back", || server.leases() == 0);
    // A later wait is recorded by a new one.
    event.clear().unwrap();
    let _wait = event.wait_async();
    until("another wait is recorded", || records() == 1);
}
