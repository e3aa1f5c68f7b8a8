//! The record of waits: the waits of this process for events between machines, and their holds.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use etcd_for_tests::{Proxy, Servers};
use tantara::waits::{self, EventKind, Mode, Waiting};
use tantara::{Event, Waitable};
use tantara_etcd::{Cluster, ClusterEvent};

use crate::{LONG, alone, namespace, patient, server, until};

fn until_waiting(label: &str, count: usize) -> Vec<Waiting> {
    let deadline = Instant::now() + LONG;
    loop {
        let mut all = waits::waits();
        all.retain(|wait| wait.events.iter().any(|event| event.label.as_deref() == Some(label)));
        if all.len() == count {
            return all;
        }
        assert!(Instant::now() < deadline, "{count} should wait: {all:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The report of the only wait for the event, once it contains this.
fn until_reported(label: &str, what: &str) -> String {
    let deadline = Instant::now() + LONG;
    loop {
        let report = until_waiting(label, 1).remove(0).to_string();
        if report.contains(what) {
            return report;
        }
        assert!(Instant::now() < deadline, "{what} should be in {report}");
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_wait_is_shown_with_the_name_of_its_event_and_the_place_of_its_call() {
    waits::record(true);
    let server = server();
    let cluster = alone(&server);
    let event: ClusterEvent = cluster.event("recorded");
    let (line, blocked) = (line!() + 1, cluster.event("recorded"));
    let thread = thread::Builder::new().name("blocked".into()).spawn(move || blocked.wait_timeout(LONG).unwrap());
    let wait = until_waiting("recorded", 1).remove(0);
    assert!(wait.place.file.ends_with("machines/recorded.rs") && wait.place.line == line, "{wait}");
    assert_eq!((wait.thread.name.as_deref(), wait.task), (Some("blocked"), None));
    assert_eq!(wait.events[0].kind, EventKind::ClusterEvent);
    let task = thread::spawn({
        let pending = event.wait_async();
        move || smol::block_on(pending).unwrap()
    });
    let waits = until_waiting("recorded", 2);
    let of_task = waits.iter().find(|wait| wait.task.is_some()).unwrap();
    assert!(of_task.place.line == line + 6 && of_task.place.file == wait.place.file, "{of_task}");
    assert_eq!(of_task.events[0].address, wait.events[0].address, "the same event");
    event.set().unwrap();
    assert!(thread.unwrap().join().unwrap());
    task.join().unwrap();
    until_waiting("recorded", 0);
}

#[test]
fn a_wait_for_several_events_is_shown_once_with_their_names() {
    waits::record(true);
    let server = server();
    let (event, stop) = (alone(&server).event("one-of-several"), Event::new());
    thread::scope(|scope| {
        let blocked = scope.spawn(|| tantara::any([&event as &dyn Waitable, &stop]).try_wait_timeout(LONG).unwrap());
        let wait = until_waiting("one-of-several", 1).remove(0);
        assert_eq!((wait.mode, wait.events.len(), wait.events[0].kind), (Mode::Any, 2, EventKind::ClusterEvent));
        event.set().unwrap();
        assert_eq!(blocked.join().unwrap(), Some(0));
    });
    until_waiting("one-of-several", 0);
}

#[test]
fn who_has_declared_to_set_an_event_is_shown_until_it_was_set() {
    waits::record(true);
    let server = server();
    let event = alone(&server).event("declared-here");
    let line = line!() + 1;
    let guard = event.set_on_drop().unwrap();
    event.set_on_drop().unwrap().disarm();
    let waiter = {
        let event = event.clone();
        thread::spawn(move || event.wait())
    };
    let wait = until_waiting("declared-here", 1).remove(0);
    let (report, place) = (wait.to_string(), format!("machines/recorded.rs:{line}"));
    let expected = "declared-here is to be set by thread recorded::who";
    assert!(report.lines().any(|text| text.contains(expected) && text.ends_with(&place)), "{place}: {report}");
    assert_eq!(wait.events[0].setters.len(), 1);
    drop(guard);
    waiter.join().unwrap().unwrap();
    event.clear().unwrap();
    let _wait = thread::spawn(move || event.wait_timeout(LONG));
    assert!(until_waiting("declared-here", 1)[0].events[0].setters.is_empty());
}

#[test]
fn who_holds_an_event_in_this_process_is_shown_until_the_hold_is_dropped_or_lost() {
    waits::record(true);
    let servers = Servers::one();
    let proxy = Proxy::to(&servers.endpoints()[0]);
    let options = patient().namespace(namespace()).hold_ttl(Duration::from_secs(1)).learn_members(false);
    let cluster = Cluster::connect_with(proxy.endpoint(), options).unwrap();
    let event = cluster.event("held-here");
    let line = line!() + 1;
    let hold = event.hold().unwrap();
    let other = smol::block_on(event.hold_async()).unwrap();
    let unset = event.wait_unset_async();
    let waiter = thread::spawn(move || unset.wait());
    let wait = until_waiting("held-here", 1).remove(0);
    assert!(wait.events[0].until_unset);
    let report = wait.to_string();
    for line in [line, line + 1] {
        let (expected, place) = ("held-here is held by thread recorded::who", format!("machines/recorded.rs:{line}"));
        assert!(report.lines().any(|text| text.contains(expected) && text.ends_with(&place)), "{place}: {report}");
    }
    let holders = || until_waiting("held-here", 1)[0].events[0].holders.len();
    drop(other);
    assert_eq!(holders(), 1);
    proxy.drop_everything();
    until("the hold is lost", || hold.is_lost() && holders() == 0);
    proxy.pass();
    waiter.join().unwrap().unwrap();
    drop(hold);
}

/// A process of a machine that dies.
struct Machine(Child);

impl Machine {
    /// It holds the event.
    fn that_holds(name: &str, endpoint: &str, namespace: &str) -> Machine {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "recorded::a_machine_that_holds_an_event", "--nocapture"]);
        child.env(HOLDS, format!("{endpoint} {namespace} {name}")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = child.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let machine = Machine(child);
        assert!(lines.any(|line| line.unwrap().ends_with("it is held")), "the child has failed");
        machine
    }

    /// Nothing of it runs any more, and nothing says good-bye.
    fn dies(mut self) -> u32 {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        self.0.id()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const HOLDS: &str = "TANTARA_TEST_OF_A_DEAD_MACHINE";

#[test]
fn a_machine_that_holds_an_event() {
    let Ok(what) = std::env::var(HOLDS) else { return };
    let [endpoint, namespace, name] = what.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let options = patient().namespace(namespace).hold_ttl(Duration::from_secs(1));
    let _hold = Cluster::connect_with(endpoint, options).unwrap().event(name).hold().unwrap();
    println!("it is held");
    let _ = std::io::stdin().read_line(&mut String::new());
}

/// A program that hangs because of a machine that has died: see also `hangs.rs` of `tantara`.
#[test]
fn a_machine_that_has_died_is_named_as_the_last_that_has_held_the_event() {
    waits::record(true);
    let server = server();
    let (endpoint, namespace) = (server.endpoints().remove(0), namespace());
    let options = || patient().namespace(&namespace).recheck(Duration::from_millis(200));
    let cluster = Cluster::connect_with(&*endpoint, options()).unwrap();
    let event = cluster.event("db-up");
    let machine = Machine::that_holds("db-up", &endpoint, &namespace);
    // It has begun before the machine dies, and nothing else shows that it waits in vain.
    let next = event.wait_next_async();
    let early = thread::spawn(move || next.wait());
    assert!(!until_waiting("db-up", 1)[0].to_string().contains("last held"), "it is held");
    let host = event.last_set().unwrap().expect("a hold sets").host;
    let expected = |pid: u32| format!("db-up was last held by process {pid} on {host}, which let it go or vanished");
    let pid = machine.dies();
    until_reported("db-up", &expected(pid));
    let late = {
        let event = cluster.event("db-up");
        thread::spawn(move || event.wait())
    };
    until("both are told", || until_waiting("db-up", 2).iter().all(|wait| wait.to_string().contains(&expected(pid))));

    // Another one takes over, and says so.
    let machine = Machine::that_holds("db-up", &endpoint, &namespace);
    early.join().unwrap().unwrap();
    late.join().unwrap().unwrap();
    let unset = event.wait_unset_async();
    let waiter = thread::spawn(move || unset.wait());
    assert!(!until_waiting("db-up", 1)[0].to_string().contains("last held"));
    let pid = machine.dies();
    waiter.join().unwrap().unwrap();
    let waiter = {
        let event = cluster.event("db-up");
        thread::spawn(move || event.wait())
    };
    until_reported("db-up", &expected(pid));

    // Somebody has cleared it on purpose, after that.
    event.clear().unwrap();
    until("nothing is said any more", || !until_waiting("db-up", 1)[0].to_string().contains("last held"));
    event.set().unwrap();
    waiter.join().unwrap().unwrap();
}

#[test]
fn what_a_hostile_holder_writes_is_shown_without_control_characters_and_short() {
    waits::record(true);
    let server = server();
    let namespace = namespace();
    let options = patient().namespace(&namespace).recheck(Duration::from_millis(200));
    let event = Cluster::connect_with(server.endpoints(), options).unwrap().event("hostile");
    let key = format!("/{namespace}/e/hostile/p");
    server.put_raw(&key, "18446744073709551615 4294967295 1 0 a\u{1b}[2J\u{9b}\u{202e}b");
    let waiter = {
        let event = event.clone();
        thread::spawn(move || event.wait_next())
    };
    let report = until_reported("hostile", "last held by process 4294967295 on a");
    assert!(report.contains(" on a·2J·b, which") && !report.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{report:?}");
    event.pulse().unwrap();
    waiter.join().unwrap().unwrap();
}
