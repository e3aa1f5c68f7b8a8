//! Waits for something else than that an event is set: until it is unset, and for the next `set`.

use std::thread;
use std::time::{Duration, Instant};

use etcd_for_tests::{Manner, Proxy, Servers, StandIn};
use tantara_etcd::{Cluster, ClusterEvent, ClusterWait, Error};

use crate::{LONG, alone, namespace, patient, server, until};

/// The ways to wait for the same thing.
#[derive(Clone, Copy)]
struct Ways {
    forever: fn(&ClusterEvent) -> Result<(), Error>,
    timeout: fn(&ClusterEvent, Duration) -> Result<bool, Error>,
    deadline: fn(&ClusterEvent, Instant) -> Result<bool, Error>,
    begun: fn(&ClusterEvent) -> ClusterWait,
}

const UNSET: Ways = Ways {
    forever: ClusterEvent::wait_unset,
    timeout: ClusterEvent::wait_unset_timeout,
    deadline: ClusterEvent::wait_unset_deadline,
    begun: ClusterEvent::wait_unset_async,
};

const NEXT: Ways = Ways {
    forever: ClusterEvent::wait_next,
    timeout: ClusterEvent::wait_next_timeout,
    deadline: ClusterEvent::wait_next_deadline,
    begun: ClusterEvent::wait_next_async,
};

/// Begins a wait.
fn begin(ways: Ways, event: &ClusterEvent) -> ClusterWait {
    let mut wait = (ways.begun)(event);
    wait.begun().unwrap();
    wait
}

/// `act` releases a wait that has begun, and none that begins later.
fn releases(ways: Ways, event: &ClusterEvent, act: impl FnOnce(&ClusterEvent)) {
    let [first, second] = [begin(ways, event), begin(ways, event)];
    act(event);
    first.wait().unwrap();
    smol::block_on(second).unwrap();
}

/// In every way, nothing releases a wait.
fn lasts(ways: Ways, event: &ClusterEvent) {
    assert!(!(ways.timeout)(event, Duration::ZERO).unwrap());
    assert!(!(ways.deadline)(event, Instant::now()).unwrap());
    assert!(!(ways.timeout)(event, Duration::from_millis(50)).unwrap());
    assert!(!(ways.deadline)(event, Instant::now() + Duration::from_millis(50)).unwrap());
}

#[test]
fn a_wait_until_unset_is_released_by_a_clear_even_if_a_set_follows() {
    let server = server();
    let event = alone(&server).event("event");
    event.wait_unset().unwrap();
    assert!(event.wait_unset_timeout(Duration::ZERO).unwrap(), "what does not exist is unset");
    event.set().unwrap();
    lasts(UNSET, &event);
    releases(UNSET, &event, |event| event.clear().unwrap());
    for again in [ClusterEvent::set, ClusterEvent::pulse, ClusterEvent::clear] {
        event.set().unwrap();
        releases(UNSET, &event, |event| {
            event.set().unwrap();
            event.clear().unwrap();
            again(event).unwrap();
        });
    }
    event.set().unwrap();
    releases(UNSET, &event, |event| event.pulse().unwrap());
    assert!((UNSET.forever)(&event).is_ok());
}

#[test]
fn a_wait_until_unset_lasts_for_as_long_as_the_event_is_held() {
    let server = server();
    let cluster = alone(&server);
    let event = cluster.event("event");
    // A wait until it is set watches it already.
    let other = event.wait_async();
    let holds = [event.hold().unwrap(), event.hold().unwrap()];
    other.wait().unwrap();
    let wait = begin(UNSET, &event);
    event.set().unwrap();
    event.clear().unwrap();
    event.pulse().unwrap();
    lasts(UNSET, &event);
    let [first, second] = holds;
    drop(first);
    lasts(UNSET, &event);
    drop(second);
    assert!(wait.wait_timeout(LONG).unwrap());
    // Held and set: both have to end.
    let hold = event.hold().unwrap();
    event.set().unwrap();
    let wait = begin(UNSET, &event);
    drop(hold);
    lasts(UNSET, &event);
    event.clear().unwrap();
    assert!(wait.wait_timeout(LONG).unwrap());
}

#[test]
fn a_wait_for_the_next_set_is_released_by_a_set_of_a_set_event() {
    let server = server();
    let event = alone(&server).event("event");
    for is_set in [false, true] {
        for act in [
            |event: &ClusterEvent| event.set().unwrap(),
            |event: &ClusterEvent| event.pulse().unwrap(),
            |event: &ClusterEvent| event.clear().and_then(|()| event.set()).unwrap(),
            |event: &ClusterEvent| drop(event.hold().unwrap()),
        ] {
            if is_set {
                event.set().unwrap()
            } else {
                event.clear().unwrap()
            }
            lasts(NEXT, &event);
            releases(NEXT, &event, act);
        }
    }
    event.set().unwrap();
    let wait = begin(NEXT, &event);
    event.clear().unwrap();
    assert!(!wait.wait_timeout(Duration::from_millis(100)).unwrap(), "by a clear");
    let waiting = event.clone();
    let wait = thread::spawn(move || (NEXT.forever)(&waiting));
    while !wait.is_finished() {
        event.set().unwrap();
    }
    wait.join().unwrap().unwrap();
}

#[test]
fn a_removal_ends_every_wait() {
    let server = server();
    let event = alone(&server).event("event");
    for ways in [UNSET, NEXT] {
        event.set().unwrap();
        let wait = begin(ways, &event);
        event.remove().unwrap();
        assert!(wait.wait().unwrap_err().is_removed());
    }
}

/// The connection is interrupted while the event is unset and set again, or set again.
#[test]
fn what_happens_during_an_outage_is_found_afterwards() {
    let server = Servers::one();
    let proxy = Proxy::to(&server.endpoints()[0]);
    let options = || patient().namespace(namespace()).learn_members(false);
    let space = options();
    let client = Cluster::connect_with([proxy.endpoint()], space.clone()).unwrap().event("event");
    let other = Cluster::connect_with(server.endpoints(), space).unwrap().event("event");
    for (ways, act) in [
        (UNSET, (|event: &ClusterEvent| event.clear().and_then(|()| event.set()).unwrap()) as fn(&ClusterEvent)),
        (NEXT, |event: &ClusterEvent| event.set().unwrap()),
        (UNSET, |event: &ClusterEvent| event.pulse().and_then(|()| event.set()).unwrap()),
    ] {
        for is_closed in [false, true] {
            other.set().unwrap();
            let wait = begin(ways, &client);
            if is_closed {
                proxy.refuse();
                proxy.close_all();
            } else {
                proxy.drop_everything();
            }
            act(&other);
            thread::sleep(Duration::from_millis(200));
            proxy.pass();
            assert!(wait.wait_timeout(LONG).unwrap(), "a wait was not released");
        }
    }
}

#[test]
fn a_time_that_passes_while_it_is_read_whether_an_event_was_unset_is_not_the_end() {
    let server = Servers::one();
    let stand_in = StandIn::of(&server.endpoints()[0]);
    let options = patient().namespace(namespace()).learn_members(false).recheck(Duration::from_secs(86_400));
    let client = Cluster::connect_with(stand_in.endpoint(), options.clone()).unwrap().event("event");
    let other = Cluster::connect_with(server.endpoints(), options).unwrap().event("event");
    other.set().unwrap();
    for (again, outcome) in [(ClusterEvent::clear as fn(&ClusterEvent) -> _, true), (ClusterEvent::set, false)] {
        let wait = begin(UNSET, &client);
        stand_in.answer(Manner::SlowPast(Duration::from_secs(2)));
        let before = stand_in.requests().len();
        again(&other).unwrap();
        other.set().unwrap();
        if outcome {
            until("the moment is read", || stand_in.requests().len() > before);
        }
        assert_eq!(wait.wait_timeout(Duration::ZERO).unwrap(), outcome);
        stand_in.answer(Manner::Pass);
    }
}
