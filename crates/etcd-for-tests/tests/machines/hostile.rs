//! Servers that send without end.

use std::thread;
use std::time::Duration;

use etcd_for_tests::{Manner, Servers, StandIn};
use tantara_etcd::Cluster;

use crate::{LONG, namespace, patient, until};

const NEVER: Duration = Duration::from_secs(86_400);

/// A member behind a stand-in, and a connection to it that reads its events anew after this time.
fn behind(recheck: Duration) -> (Servers, StandIn, Cluster) {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let options = patient().namespace(namespace()).learn_members(false).recheck(recheck);
    let cluster = Cluster::connect_with(stand_in.endpoint(), options).unwrap();
    (servers, stand_in, cluster)
}

#[test]
fn a_list_without_end_is_an_error() {
    let (_servers, stand_in, cluster) = behind(NEVER);
    // Many keys, and large ones.
    for size in [0, 1_000_000] {
        stand_in.answer(Manner::EndlessKeys(size));
        let error = cluster.list().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("a million keys, or 256 MiB") && text.contains(cluster.namespace()), "{text}");
        assert!(!error.is_unreachable() && !error.is_unknown());
    }
    stand_in.answer(Manner::Pass);
    assert!(cluster.list().unwrap().is_empty());
}

#[test]
fn changes_of_ever_new_events_end_with_an_error() {
    let (_servers, stand_in, cluster) = behind(NEVER);
    stand_in.answer(Manner::EndlessEvents);
    let mut changes = cluster.changes().unwrap();
    let error = changes.find_map(Result::err).unwrap();
    assert!(error.to_string().contains("a million keys"), "{error}");
    assert!(!cluster.event("event").is_set().unwrap(), "the connection goes on");
}

#[test]
fn changes_of_an_event_without_end_are_taken_as_fast_as_they_are_read() {
    let (servers, stand_in, cluster) = behind(Duration::from_secs(1));
    let event = cluster.event("event");
    event.set().unwrap();
    stand_in.answer(Manner::EndlessClears);
    let mut wait = event.wait_unset_async();
    wait.begun().unwrap();
    // The window of the stream is full: its server has to wait.
    until("no message is taken any more", || {
        let before = stand_in.made_up();
        thread::sleep(Duration::from_secs(1));
        before > 0 && stand_in.made_up() == before
    });
    let reads = stand_in.requests().iter().filter(|path| path.ends_with("KV/Txn")).count();
    assert!(reads < 100, "{reads}");
    assert!(event.is_set().unwrap(), "the connection goes on");
    stand_in.answer(Manner::Pass);
    let other = Cluster::connect_with(servers.endpoints(), patient().namespace(cluster.namespace())).unwrap();
    other.event("event").clear().unwrap();
    assert!(wait.wait_timeout(LONG).unwrap());
}
