//! External keys: a user who may write under the prefix of one event can spoil that event, and no
//! other.

use std::thread;
use std::time::{Duration, Instant};

use etcd_for_tests::{Manner, Proxy, Servers, StandIn};
use tantara::any;
use tantara_etcd::{Cluster, ClusterEvent, Options};

use crate::{LONG, until};

/// Four values of this size exceed what a client accepts in one answer. One is accepted by servers.
const LARGE: usize = 1_400_000;

const NAMESPACE: &str = "wild";

/// Large values take a while on a busy machine.
fn options() -> Options {
    Options::new().namespace(NAMESPACE).record_waits(true).timeout(LONG)
}

fn connect(servers: &Servers) -> Cluster {
    Cluster::connect_with(servers.endpoints(), options()).unwrap()
}

/// Puts external keys under the prefix of event A: between its keys, behind them, and before its
/// holds.
fn spoil(servers: &Servers) {
    let large = vec![b'x'; LARGE];
    let key = |rest: &str| format!("/{NAMESPACE}/e/A/{rest}");
    for rest in ["m", "n", "o", "p/1"] {
        servers.put_raw(&key(rest), &large);
    }
    servers.put_raw(&key(&format!("h/0{}", "9".repeat(LARGE))), "");
    for rest in ["", "h/x", "h/0x", "h/0000000000000007", "h/1x", "l!", "l/1", "z"] {
        servers.put_raw(&key(rest), "external");
    }
}

/// Waits for A or B in a thread. Returns once the wait has begun. There is no other wait.
fn sleeper(events: [ClusterEvent; 2]) -> thread::JoinHandle<usize> {
    let until_waiting = |count| {
        until("so many waits are recorded", || events.iter().all(|event| event.waiters().unwrap().len() == count));
    };
    until_waiting(0);
    let asleep = {
        let events = events.clone();
        thread::spawn(move || any(&events).try_wait().unwrap())
    };
    // A wait is recorded after it has begun.
    until_waiting(1);
    asleep
}

/// Waits until a timeout confirms that none is set. On a busy machine the last read may fail.
fn until_timed_out(events: &[ClusterEvent]) {
    until("a timeout confirms that none is set", || match any(events).try_wait_timeout(Duration::from_millis(200)) {
        Ok(released) => {
            assert_eq!(released, None);
            true
        }
        Err(error) => {
            assert!(error.to_string().contains("reached"), "{error}");
            false
        }
    });
}

#[test]
fn external_keys_under_one_event_harm_no_event() {
    let servers = Servers::one();
    let other = connect(&servers);
    let mut changes = other.changes().unwrap();
    spoil(&servers);
    for number in 0..4 {
        servers.put_raw(&format!("/{NAMESPACE}/w/A/{number}"), vec![b'x'; LARGE]);
    }
    let cluster = connect(&servers);
    let [a, b] = ["A", "B"].map(|name| cluster.event(name));
    assert!(!a.is_set().unwrap() && !b.is_set().unwrap(), "nobody has set or held them");
    until_timed_out(&[a.clone(), b.clone()]);
    let asleep = sleeper([a.clone(), b.clone()]);
    other.event("B").pulse().unwrap();
    assert_eq!(asleep.join().unwrap(), 1);
    let asleep = sleeper([a.clone(), b.clone()]);
    other.event("A").pulse().unwrap();
    assert_eq!(asleep.join().unwrap(), 0);
    let listed = other.list().unwrap();
    let state = |name: &str| {
        let entry = listed.iter().find(|entry| entry.name == name).unwrap();
        (entry.is_set, entry.last_set.is_some(), entry.holders.len())
    };
    assert_eq!((state("A"), state("B")), ((false, true, 0), (false, true, 0)));
    // A real hold behind the external keys.
    let hold = other.event("A").hold().unwrap();
    assert!(a.is_set().unwrap());
    assert_eq!(any([&a, &b]).try_wait().unwrap(), 0);
    drop(hold);
    until("the hold has ended", || !a.is_set().unwrap());
    // `Changes` has reported all of that, and ignores external keys.
    spoil(&servers);
    other.event("last").set().unwrap();
    let mut sets = [0, 0];
    loop {
        let change = changes.next_timeout(LONG).unwrap().unwrap();
        match &*change.name {
            "A" => sets[0] += change.sets,
            "B" => sets[1] += change.sets,
            name => {
                assert_eq!(name, "last");
                break;
            }
        }
    }
    assert_eq!(sets, [2, 1], "a pulse and a hold; a pulse");
    assert!(a.remove().unwrap());
    assert!(a.is_set().unwrap_err().is_removed() && servers.keys(&format!("/{NAMESPACE}/e/A/")).is_empty());
}

#[test]
fn external_keys_under_one_event_do_not_delay_others_after_a_reconnect() {
    let servers = Servers::one();
    let proxy = Proxy::to(&servers.endpoints()[0]);
    let cluster = Cluster::connect_with(proxy.endpoint(), options()).unwrap();
    let other = connect(&servers);
    for is_spoilt_first in [true, false] {
        let events = ["A", "B"].map(|name| cluster.event(name));
        if is_spoilt_first {
            spoil(&servers);
        }
        let asleep = sleeper(events);
        proxy.drop_everything();
        spoil(&servers);
        other.event("B").pulse().unwrap();
        proxy.close_all();
        proxy.pass();
        assert_eq!(asleep.join().unwrap(), 1);
        other.event("A").remove().unwrap();
    }
}

#[test]
fn large_values_of_one_event_do_not_spoil_another() {
    let servers = Servers::one();
    let cluster = connect(&servers);
    let large = vec![b'1'; LARGE];
    let long = "9".repeat(LARGE);
    // The event's own keys: together they are too large for one answer.
    for (key, value) in [("l", &large[..]), ("p", &large[..]), (&format!("h/0{long}"), b"")] {
        servers.put_raw(&format!("/{NAMESPACE}/e/A/{key}"), value);
    }
    let events = ["A", "B", "C"].map(|name| cluster.event(name));
    until_timed_out(&events);
    let mut waits: Vec<_> = events.iter().map(ClusterEvent::wait_async).collect();
    waits.iter_mut().for_each(|wait| wait.begun().unwrap());
    events[1].set().unwrap();
    assert_eq!(any(&events).try_wait().unwrap(), 1);
    assert_eq!(cluster.list().unwrap().iter().filter(|entry| entry.is_set).count(), 1);
    // The events can still be set.
    events.iter().for_each(|event| event.pulse().unwrap());
    waits.into_iter().for_each(|wait| wait.wait().unwrap());
}

#[test]
fn an_external_key_is_no_set() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    for manner in [Manner::Pass, Manner::SilentWatches] {
        stand_in.answer(manner);
        let options = options().learn_members(false).recheck(Duration::from_millis(100));
        let event = Cluster::connect_with(stand_in.endpoint(), options).unwrap().event("A");
        let mut wait = event.wait_async();
        wait.begun().unwrap();
        for round in 0..10 {
            for key in ["l!", "m", "p!", "p/1", "l/1", "h/1", "h/0000000000000001"] {
                servers.put_raw(&format!("/{NAMESPACE}/e/A/{key}"), format!("{round}"));
            }
            thread::sleep(Duration::from_millis(50));
        }
        assert!(!wait.wait_deadline(Instant::now()).unwrap());
        let mut wait = event.wait_async();
        wait.begun().unwrap();
        event.pulse().unwrap();
        wait.wait().unwrap();
    }
}

#[test]
fn an_event_that_may_not_be_read_fails_alone() {
    let prefix = format!("/{NAMESPACE}/e/B/");
    let servers = Servers::build().user("ann", "sesame", &prefix).root("root").start();
    let options = Options::new().namespace(NAMESPACE).recheck(Duration::from_millis(100));
    let cluster = Cluster::connect_with(servers.endpoints(), options.user("ann", "sesame")).unwrap();
    let [a, b] = ["A", "B"].map(|name| cluster.event(name));
    let mut asleep = b.wait_async();
    asleep.begun().unwrap();
    for _ in 0..5 {
        let mut waits = [a.wait_async(), b.wait_async()];
        assert!(waits[0].begun().unwrap_err().is_permission_denied());
        waits[1].begun().unwrap();
        assert!(any([&a, &b]).try_wait_timeout(Duration::from_millis(50)).is_err());
    }
    servers.put_raw(&format!("{prefix}p"), "an external set");
    asleep.wait().unwrap();
}

#[test]
fn a_server_that_allows_fewer_operations_is_asked_more_often() {
    let servers = Servers::build().flag("--max-txn-ops=8").start();
    let cluster = connect(&servers);
    let events: Vec<ClusterEvent> = (0..50).map(|number| cluster.event(format!("event-{number}"))).collect();
    let mut waits: Vec<_> = events.iter().map(ClusterEvent::wait_async).collect();
    waits.iter_mut().for_each(|wait| wait.begun().unwrap());
    events[30].set().unwrap();
    assert_eq!(any(&events).try_wait().unwrap(), 30);
    events.iter().for_each(|event| event.pulse().unwrap());
    waits.into_iter().for_each(|wait| wait.wait().unwrap());
}
