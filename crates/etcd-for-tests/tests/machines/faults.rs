//! Servers that are killed, stopped or reset, and a network that loses data.

use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use etcd_for_tests::{Manner, Proxy, Servers, StandIn};
use tantara_etcd::{Cluster, ClusterEvent, ClusterWait, Error, Options};

use crate::{LONG, alone, namespace, patient, until};

/// A cluster with a proxy in front of each member.
struct Net {
    servers: Servers,
    proxies: Vec<Proxy>,
    namespace: String,
}

impl Net {
    fn new(servers: Servers) -> Net {
        let proxies = servers.endpoints().iter().map(|endpoint| Proxy::to(endpoint)).collect();
        Net { servers, proxies, namespace: namespace() }
    }

    /// Learnt addresses would bypass the proxies.
    fn options(&self) -> Options {
        patient().namespace(&self.namespace).learn_members(false)
    }

    /// A client that bypasses the proxies.
    fn other(&self) -> ClusterEvent {
        Cluster::connect_with(self.servers.endpoints(), self.options()).unwrap().event("event")
    }

    /// A client behind the proxies, which is connected to this member first.
    fn client_of(&self, member: usize, options: Options) -> ClusterEvent {
        let others = || self.proxies.iter().enumerate().filter(move |(index, _)| *index != member);
        others().for_each(|(_, proxy)| proxy.refuse());
        let endpoints: Vec<String> = self.proxies.iter().map(Proxy::endpoint).collect();
        let event = Cluster::connect_with(endpoints, options).unwrap().event("event");
        others().for_each(|(_, proxy)| proxy.pass());
        event
    }

    /// The number of times that the event was set.
    fn sets(&self) -> i64 {
        self.servers.puts(&format!("/{}/e/event/p", self.namespace))
    }
}

/// Begins a wait, which goes on in a thread.
fn sleeper(event: &ClusterEvent) -> JoinHandle<Result<bool, Error>> {
    let mut wait = event.wait_async();
    wait.begun().unwrap();
    thread::spawn(move || wait.wait_timeout(LONG))
}

fn pulse(event: &ClusterEvent) {
    event.set().unwrap();
    event.clear().unwrap();
}

#[test]
fn no_wait_is_lost_when_the_leader_is_killed() {
    let net = Net::new(Servers::three());
    let leader = net.servers.leader();
    let sleepers: Vec<_> = (0..3).map(|member| sleeper(&net.client_of(member, net.options()))).collect();
    net.servers[leader].kill();
    let other = net.other();
    // Requests survive an election.
    pulse(&other);
    for sleeper in sleepers {
        assert!(sleeper.join().unwrap().unwrap());
    }
    net.servers[leader].start();
    net.servers.wait_healthy();
}

#[test]
fn no_wait_is_lost_when_the_leader_is_stopped() {
    let net = Net::new(Servers::three());
    let leader = net.servers.leader();
    let client = net.client_of(leader, net.options());
    let sleeper = sleeper(&client);
    net.servers[leader].pause();
    pulse(&net.other());
    assert!(sleeper.join().unwrap().unwrap(), "over another member");
    // The client's requests use another member, too.
    client.set().unwrap();
    net.servers[leader].resume();
    net.servers.wait_healthy();
    assert!(client.is_set().unwrap());
}

#[test]
fn a_pulse_whose_message_is_lost_is_found_afterwards() {
    let net = Net::new(Servers::one());
    let client = net.client_of(0, net.options());
    let other = net.other();
    for round in 0..3 {
        let sleeper = sleeper(&client);
        match round {
            0 => net.proxies[0].drop_everything(),
            1 => net.proxies[0].swallow_answers(),
            _ => {
                net.proxies[0].refuse();
                net.proxies[0].close_all();
            }
        }
        pulse(&other);
        thread::sleep(Duration::from_millis(300));
        assert!(!sleeper.is_finished());
        net.proxies[0].pass();
        assert!(sleeper.join().unwrap().unwrap());
        assert!(!client.is_set().unwrap());
    }
}

#[test]
fn a_slow_network_is_waited_for() {
    let net = Net::new(Servers::one());
    let client = net.client_of(0, net.options());
    net.proxies[0].delay(Duration::from_millis(200));
    let sleeper = sleeper(&client);
    pulse(&net.other());
    assert!(sleeper.join().unwrap().unwrap());
    assert!(!client.wait_timeout(Duration::from_millis(10)).unwrap());
    client.set().unwrap();
    assert!(client.is_set().unwrap());
}

#[test]
fn a_compacted_history_hides_no_pulse() {
    let net = Net::new(Servers::one());
    let client = net.client_of(0, net.options());
    let other = net.other();
    let asleep = sleeper(&client);
    net.proxies[0].drop_everything();
    pulse(&other);
    net.servers.compact_now();
    net.proxies[0].close_all();
    net.proxies[0].pass();
    assert!(asleep.join().unwrap().unwrap());
    // The same while the connection is up.
    let asleep = sleeper(&client);
    (0..10).for_each(|_| other.clear().unwrap());
    net.servers.compact_now();
    other.pulse().unwrap();
    assert!(asleep.join().unwrap().unwrap());
}

#[test]
fn a_restarted_server_still_has_the_event() {
    let servers = Servers::one();
    let cluster = alone(&servers);
    let event = cluster.event("event");
    let asleep = sleeper(&event);
    servers[0].kill();
    thread::sleep(Duration::from_millis(300));
    servers[0].start();
    servers.wait_healthy();
    assert!(!asleep.is_finished(), "nobody has set it");
    event.pulse().unwrap();
    assert!(asleep.join().unwrap().unwrap());
}

#[test]
fn a_wait_survives_a_server_that_lost_its_data() {
    for is_back in [false, true] {
        let servers = Servers::one();
        let event = alone(&servers).event("event");
        // This history is longer than the new one will be.
        (0..20).for_each(|_| pulse(&event));
        let asleep = sleeper(&event);
        servers[0].kill();
        servers[0].start_from_scratch();
        servers.wait_healthy();
        if is_back {
            until("the client is back", || event.is_set().is_ok());
            thread::sleep(Duration::from_millis(500));
            assert!(!asleep.is_finished(), "nobody has set it");
        }
        event.pulse().unwrap();
        assert!(asleep.join().unwrap().unwrap());
    }
}

#[test]
fn a_silent_watch_delays_a_wait_and_does_not_lose_it() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    stand_in.answer(Manner::SilentWatches);
    let options = patient().namespace(namespace()).learn_members(false).recheck(Duration::from_millis(200));
    let event = Cluster::connect_with(stand_in.endpoint(), options).unwrap().event("event");
    for _ in 0..3 {
        let asleep = sleeper(&event);
        event.pulse().unwrap();
        assert!(asleep.join().unwrap().unwrap());
    }
    assert!(!event.wait_timeout(Duration::from_millis(700)).unwrap(), "nobody has set it since");
}

#[test]
fn changes_that_a_watch_does_not_show_are_reported_once() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let options = patient().namespace(namespace()).learn_members(false).recheck(Duration::from_millis(200));
    let cluster = Cluster::connect_with(stand_in.endpoint(), options).unwrap();
    let (event, other) = (cluster.event("event"), cluster.event("other"));
    other.set().unwrap();
    let mut changes = cluster.changes().unwrap();
    let mut next = || {
        let change = changes.next_timeout(LONG).unwrap().unwrap();
        (change.name, change.sets, change.is_set, change.is_removed)
    };
    event.pulse().unwrap();
    assert_eq!(next(), ("event".into(), 1, false, false));
    stand_in.answer(Manner::SilentWatches);
    event.pulse().unwrap();
    event.set().unwrap();
    other.remove().unwrap();
    let sets = match next() {
        // On a busy machine a look may come in between.
        (name, 1, false, false) if name == "event" => {
            assert_eq!(next(), ("event".into(), 1, true, false));
            2
        }
        change => change.1,
    };
    assert_eq!(sets, 2);
    assert_eq!(next(), ("other".into(), 0, false, true));
    stand_in.answer(Manner::Pass);
    event.pulse().unwrap();
    assert_eq!(next(), ("event".into(), 1, false, false));
}

/// Waits in a thread, which says its name when the wait has failed.
fn tell_failure(wait: ClusterWait, name: &'static str, failures: &Sender<&'static str>) {
    let failures = failures.clone();
    thread::spawn(move || {
        assert!(wait.wait().unwrap_err().is_unreachable());
        let _ = failures.send(name);
    });
}

#[test]
fn a_wait_that_begins_during_the_read_of_another_fails_no_later() {
    let servers = Servers::one();
    let stand_in = StandIn::of(&servers.endpoints()[0]);
    let options = |seconds| patient().learn_members(false).connect_timeout(LONG).timeout(Duration::from_secs(seconds));
    let [event, other] = [8, 4].map(|seconds| {
        let event = Cluster::connect_with(stand_in.endpoint(), options(seconds)).unwrap().event("event");
        assert!(!event.is_set().unwrap(), "in sync");
        event
    });
    // The member serves, and answers no read.
    stand_in.answer(Manner::Slow(10 * LONG));
    let reads = || stand_in.requests().iter().filter(|path| path.ends_with("KV/Txn")).count();
    let before = reads();
    let (failures, failed) = channel();
    tell_failure(event.wait_async(), "first", &failures);
    until("its read goes on", || reads() > before);
    tell_failure(event.wait_async(), "second", &failures);
    assert_eq!(failed.recv_timeout(LONG).unwrap(), "first");
    // This one fails after half of the time that a read of the second one alone would take.
    tell_failure(other.wait_async(), "later", &failures);
    assert_eq!(failed.recv_timeout(LONG).unwrap(), "second");
    assert_eq!(failed.recv_timeout(LONG).unwrap(), "later");
}

#[test]
fn an_unreachable_cluster_is_no_timeout() {
    let net = Net::new(Servers::one());
    let client = net.client_of(0, net.options().timeout(Duration::from_secs(1)));
    assert!(!client.wait_timeout(Duration::from_millis(50)).unwrap(), "in sync");
    type Wait = fn(&ClusterEvent) -> Result<bool, Error>;
    let waits: [Wait; 4] = [
        |event| event.wait_timeout(Duration::from_millis(500)),
        |event| event.wait_timeout(Duration::ZERO),
        |event| event.wait_deadline(Instant::now()),
        |event| event.wait().map(|()| true),
    ];
    for wait in waits {
        net.servers[0].pause();
        let error = wait(&client).unwrap_err();
        assert!(error.is_unreachable(), "{error}");
        assert!(error.to_string().contains(&net.proxies[0].endpoint()), "{error}");
        net.servers[0].resume();
        until("it is back", || client.is_set().is_ok());
    }
    let many = tantara::any([&client, &client]);
    net.servers[0].pause();
    let error = many.try_wait_timeout(Duration::from_millis(300)).unwrap_err();
    let ours = std::error::Error::source(&error).unwrap().downcast_ref::<Error>().unwrap();
    assert!(ours.is_unreachable());
    let error = tantara::all([&client, &client]).try_wait_timeout(Duration::from_millis(300)).unwrap_err();
    assert!(error.to_string().contains("reached"), "{error}");
    net.servers[0].resume();
    // A wait that has begun survives the outage; if its time passes meanwhile, it fails.
    let mut wait = client.wait_async();
    wait.begun().unwrap();
    net.servers[0].kill();
    assert!(wait.wait_timeout(Duration::from_millis(500)).unwrap_err().is_unreachable());
}

#[test]
fn a_cluster_without_a_quorum_says_so() {
    let servers = Servers::three();
    let options = || Options::new().timeout(Duration::from_secs(3));
    let event = Cluster::connect_with(servers.endpoints(), options()).unwrap().event("event");
    let asleep = sleeper(&event);
    servers[0].kill();
    servers[1].kill();
    let error = event.set().unwrap_err();
    assert!(error.is_unreachable() || error.is_unknown(), "{error}");
    assert!(event.wait_timeout(Duration::from_millis(200)).unwrap_err().is_unreachable());
    let error = Cluster::connect_with(servers.endpoints(), options()).unwrap_err();
    assert!(error.is_unreachable());
    let text = error.to_string();
    assert!(text.contains(&servers[2].endpoint()) && text.contains("quorum"), "{text}");
    assert!(!asleep.is_finished());
    servers[0].start();
    servers[1].start();
    servers.wait_healthy();
    event.set().unwrap();
    assert!(asleep.join().unwrap().unwrap());
}

#[test]
fn a_write_whose_answer_is_lost_is_made_once() {
    let net = Net::new(Servers::one());
    let client = net.client_of(0, net.options());
    client.set().unwrap();
    for _ in 0..2 {
        let before = net.sets();
        net.proxies[0].swallow_answers();
        let setting = {
            let client = client.clone();
            thread::spawn(move || client.set())
        };
        until("it was set", || net.sets() > before);
        net.proxies[0].pass();
        setting.join().unwrap().unwrap();
        assert_eq!(net.sets(), before + 1, "sent again, and made once");
    }
    // A request that is lost, and sent again.
    let before = net.sets();
    net.proxies[0].drop_everything();
    let setting = {
        let client = client.clone();
        thread::spawn(move || client.set())
    };
    thread::sleep(Duration::from_millis(200));
    net.proxies[0].pass();
    setting.join().unwrap().unwrap();
    assert_eq!(net.sets(), before + 1);
}

#[test]
fn an_unknown_outcome_can_be_found_out() {
    let net = Net::new(Servers::one());
    let client = net.client_of(0, net.options().timeout(Duration::from_secs(2)));
    client.set().unwrap();
    let before = net.sets();
    net.proxies[0].swallow_answers();
    let error = client.set().unwrap_err();
    assert!(error.is_unknown() && !error.is_unreachable(), "{error}");
    let pending = error.pending().unwrap();
    assert!(pending.resolve().unwrap_err().is_unreachable(), "not yet");
    net.proxies[0].pass();
    assert!(pending.resolve().unwrap(), "it was set");
    assert!(pending.resolve().unwrap(), "and the answer stays the same");
    assert_eq!(net.sets(), before + 1);
    // A request that is lost. A free slot is known, so there is no read before it.
    client.set().unwrap();
    net.proxies[0].drop_everything();
    let error = client.clear().unwrap_err();
    net.proxies[0].close_all();
    net.proxies[0].pass();
    let pending = error.pending().unwrap();
    let done = pending.resolve().unwrap();
    assert_eq!(pending.resolve().unwrap(), done);
    assert_eq!(client.is_set().unwrap(), !done);
    client.set().unwrap();
    assert_eq!(net.sets(), before + 3);
}

#[test]
fn a_hold_ends_when_its_process_is_cut_off() {
    let net = Net::new(Servers::one());
    let ttl = Duration::from_secs(2);
    let holder = net.client_of(0, net.options().hold_ttl(ttl).timeout(Duration::from_secs(2)));
    let other = net.other();
    let asleep = sleeper(&other);
    let hold = holder.hold().unwrap();
    assert!(asleep.join().unwrap().unwrap(), "a hold releases");
    assert!(other.is_set().unwrap() && !hold.is_lost());
    other.clear().unwrap();
    assert!(other.is_set().unwrap(), "it is held");
    // The lease is kept alive.
    assert!(!hold.lost().wait_timeout(2 * ttl));
    assert!(other.is_set().unwrap());
    net.proxies[0].drop_everything();
    assert!(hold.lost().wait_timeout(LONG));
    until("the cluster has ended the hold", || !other.is_set().unwrap());
    net.proxies[0].pass();
    drop(hold);
    // Dropping the hold ends it at once.
    let hold = holder.hold().unwrap();
    assert!(other.is_set().unwrap());
    drop(hold);
    until("the hold has ended", || !other.is_set().unwrap());
}

#[test]
fn a_lost_lease_ends_holds_and_is_replaced_for_writes() {
    let servers = Servers::one();
    let event = alone(&servers).event("event");
    event.set().unwrap();
    let hold = event.hold().unwrap();
    servers.revoke_all_leases();
    event.clear().unwrap();
    assert!(!event.is_set().unwrap());
    assert!(hold.lost().wait_timeout(LONG));
    event.set().unwrap();
    assert!(event.is_set().unwrap());
    // Removing the event ends its holds.
    let hold = event.hold().unwrap();
    event.remove().unwrap();
    assert!(event.is_set().unwrap_err().is_removed());
    assert!(hold.lost().wait_timeout(LONG));
}

#[test]
fn a_removal_is_noticed_after_an_outage() {
    let net = Net::new(Servers::one());
    let client = net.client_of(0, net.options());
    let other = net.other();
    for is_cut_off in [false, true] {
        other.clear().unwrap();
        let asleep = sleeper(&client);
        if is_cut_off {
            net.proxies[0].drop_everything();
        }
        assert!(other.remove().unwrap());
        assert!(!other.remove().unwrap(), "it does not exist any more");
        if is_cut_off {
            net.servers.compact_now();
            net.proxies[0].pass();
        }
        assert!(asleep.join().unwrap().unwrap_err().is_removed());
    }
    // Set and removed while the client is cut off, for which the event did not exist.
    let asleep = sleeper(&net.client_of(0, net.options()));
    net.proxies[0].drop_everything();
    other.set().unwrap();
    other.remove().unwrap();
    net.proxies[0].pass();
    assert!(asleep.join().unwrap().unwrap(), "the history shows the set");
}

#[test]
fn nothing_is_left_behind() {
    let servers = Servers::one();
    let options = patient().namespace("tidy").record_waits(true);
    let cluster = Cluster::connect_with(servers.endpoints(), options).unwrap();
    let event = cluster.event("event");
    event.set().unwrap();
    event.clear().unwrap();
    let hold = cluster.event("held").hold().unwrap();
    let wait = event.wait_async();
    until("the wait is recorded", || event.waiters().unwrap().len() == 1);
    assert!(servers.leases() >= 2);
    drop((wait, hold, event, cluster));
    until("all leases are revoked", || servers.leases() == 0);
    let keys: Vec<String> = servers.keys("/tidy/").into_iter().map(|(key, _)| key).collect();
    let (slots, keys): (Vec<String>, Vec<String>) = keys.into_iter().partition(|key| key.starts_with("/tidy/o/"));
    assert_eq!(keys, ["/tidy/e/event/l", "/tidy/e/event/p", "/tidy/e/held/p"]);
    assert!(slots.len() <= 4, "a few of the shared slots: {slots:?}");
}

#[test]
fn an_event_that_could_not_be_created_is_created_when_the_cluster_is_back() {
    let net = Net::new(Servers::one());
    let client = net.client_of(0, net.options().timeout(Duration::from_millis(500)));
    let asleep = sleeper(&client);
    // At once: the event is created when the wait has lasted for a tenth of a second.
    net.proxies[0].drop_everything();
    thread::sleep(Duration::from_secs(2));
    net.proxies[0].pass();
    until("the event exists", || !net.servers.keys(&format!("/{}/e/event/l", net.namespace)).is_empty());
    net.other().remove().unwrap();
    assert!(asleep.join().unwrap().unwrap_err().is_removed());
}
