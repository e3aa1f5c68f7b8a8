//! The record of waits: the waits of this process for events between machines.

use std::thread;
use std::time::{Duration, Instant};

use tantara::waits::{self, Waiting};
use tantara_etcd::ClusterEvent;

use crate::{LONG, alone, server};

fn until_waiting(label: &str, count: usize) -> Vec<Waiting> {
    let deadline = Instant::now() + LONG;
    loop {
        let mut all = waits::waits();
        all.retain(|wait| wait.events[0].label.as_deref() == Some(label));
        if all.len() == count {
            return all;
        }
        assert!(Instant::now() < deadline, "{count} should wait: {all:?}");
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
    let task = thread::spawn({
        let pending = event.wait_async();
        move || smol::block_on(pending).unwrap()
    });
    let waits = until_waiting("recorded", 2);
    let of_task = waits.iter().find(|wait| wait.task.is_some()).unwrap();
    assert!(of_task.place.line == line + 5 && of_task.place.file == wait.place.file, "{of_task}");
    event.set().unwrap();
    assert!(thread.unwrap().join().unwrap());
    task.join().unwrap();
    until_waiting("recorded", 0);
}
