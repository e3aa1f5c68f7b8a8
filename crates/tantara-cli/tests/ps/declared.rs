//! What processes have declared to do, for those who wait for it in others.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tantara::{SharedEvent, waits};
use tempfile::TempDir;

use crate::{Running, pages, ps, recording, run, until};

/// A program that declares to set an event between processes, or holds one, and sleeps: `duties` does so if it is
/// called as a child of the test.
fn duty(dir: &Path, what: &str) -> Running {
    let child = child(dir, what);
    until(|| declared(dir, child.0.id()) == 1);
    child
}

fn child(dir: &Path, what: &str) -> Running {
    child_in(dir, dir, what)
}

/// It publishes its waits in one directory, and its event is in another.
fn child_in(pages: &Path, events: &Path, what: &str) -> Running {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child
        .args(["--exact", "declared::duties", "--nocapture"])
        .env("TANTARA_WAITS", "1")
        .env("TANTARA_DIR", pages)
        .env(EVENTS, events)
        .env(DUTY, what);
    Running(child.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
}

fn declared(dir: &Path, pid: u32) -> usize {
    let page = ps(dir).into_iter().find(|page| page["pid"] == pid);
    page.map_or(0, |page| page["declared"].as_array().unwrap().len())
}

/// On a full disk, for example.
#[test]
fn a_process_whose_page_cannot_be_written_anew_stays_alive_and_its_page_outdated() {
    let dir = TempDir::new().unwrap();
    let mut child = duty(dir.path(), "wait");
    let pid = child.0.id();
    let limit = |bytes: &str| {
        let mut prlimit = Command::new("prlimit");
        prlimit.args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:unlimited")]);
        assert!(prlimit.status().expect("prlimit, of util-linux").success());
    };
    let page = || ps(dir.path()).into_iter().find(|page| page["pid"] == pid);
    let waiter = recording(dir.path(), &["wait", "migrated"]);
    limit("1");
    // It begins a wait, so that its page has to change.
    std::io::Write::write_all(child.0.stdin.as_mut().unwrap(), b"\n").unwrap();
    until(|| {
        let page = page().expect("it lives");
        assert_eq!(page["has_ended"], false, "{page}");
        page["is_outdated"] == true
    });
    assert_eq!(page().unwrap()["total"], 0, "the page from before");
    let shown = String::from_utf8(run(dir.path(), &["ps"]).stdout).unwrap();
    assert!(shown.contains("outdated: the process cannot write its waits anew"), "{shown}");
    let shown = known(dir.path(), &waiter);
    assert!(shown.contains(&format!("to be set by process {pid} (outdated): by ")), "{shown}");
    limit("unlimited");
    until(|| page().is_some_and(|page| page["is_outdated"] == false && page["total"] == 1));
}

/// Its moment does not fit into 64 bits.
#[test]
fn a_wait_with_a_very_long_timeout_hides_no_other_wait() {
    let dir = TempDir::new().unwrap();
    let child = child(dir.path(), "endless");
    let waiter = || {
        let page = ps(dir.path()).into_iter().find(|page| page["pid"] == child.0.id())?;
        page["groups"][0]["waiters"][0].as_object().cloned()
    };
    until(|| waiter().is_some_and(|waiter| !waiter.contains_key("until")));
}

const DUTY: &str = "TANTARA_TEST_OF_DUTIES";
const EVENTS: &str = "TANTARA_TEST_OF_DUTIES_IN";
const SET_LINE: u32 = line!() + 22;

#[test]
fn duties() {
    let Ok(what) = std::env::var(DUTY) else { return };
    let event = SharedEvent::open_in(std::env::var(EVENTS).unwrap(), "migrated").unwrap();
    if what == "label" {
        waits::label(&event, "schema");
    }
    let _first_wait = event.wait_timeout(Duration::from_millis(1));
    if what == "switched" {
        // Each line turns the record off or on again.
        for on in [false, true] {
            let _ = std::io::stdin().read_line(&mut String::new());
            waits::record(on);
        }
        let _ = event.wait();
    }
    if what == "endless" || what == "label" {
        let _ = event.wait_timeout(Duration::from_millis(u64::MAX));
    }
    let _hold = (what == "hold").then(|| event.hold().unwrap());
    let _set = (what == "set" || what == "exit").then(|| event.set_on_drop().unwrap());
    let _set = (what == "wait").then(|| event.set_on_drop().unwrap());
    let _ = std::io::stdin().read_line(&mut String::new());
    if what == "exit" {
        std::process::exit(3);
    }
    if what == "wait" {
        event.wait().unwrap();
    }
    if what == "set" {
        event.set().unwrap();
    }
}

/// What `tantara ps` says about the waits of a process.
fn known(dir: &Path, waiter: &Running) -> String {
    String::from_utf8(run(dir, &["ps", &waiter.0.id().to_string()]).stdout).unwrap()
}

#[test]
fn who_was_to_set_an_event_in_another_process_is_named_alive_and_killed() {
    let dir = TempDir::new().unwrap();
    let waiter = recording(dir.path(), &["wait", "migrated"]);
    let place = format!("{}:{SET_LINE}", file!());
    let mut setter = duty(dir.path(), "set");
    let pid = setter.0.id();
    let shown = known(dir.path(), &waiter);
    assert!(shown.contains(&format!("to be set by process {pid}: by declared::duties at {place}, ")), "{shown}");

    setter.0.kill().unwrap();
    setter.0.wait().unwrap();
    let shown = known(dir.path(), &waiter);
    assert!(
        shown.contains(&format!("was to be set by process {pid}, which has ended: by declared::duties at {place}, ")),
        "{shown}"
    );
    let all = String::from_utf8(run(dir.path(), &["ps"]).stdout).unwrap();
    assert!(all.contains(&format!("{pid}  has ended before it had done what it had declared")), "{all}");
    assert!(all.contains(&format!("migrated was to be set by declared::duties at {place}, ")), "{all}");

    // Processes that record later leave that page.
    let later = recording(dir.path(), &["wait", "migrated"]);
    assert!(known(dir.path(), &later).contains("which has ended"));
    drop(later);

    // Another process does its duty.
    let mut other = duty(dir.path(), "set");
    drop(other.0.stdin.take());
    other.0.wait().unwrap();
    drop(waiter);
    assert!(run(dir.path(), &["clear", "migrated"]).status.success());
    let waiter = recording(dir.path(), &["wait", "migrated"]);
    let shown = known(dir.path(), &waiter);
    assert!(!shown.contains("by process"), "{shown}");
    assert_eq!(ps(dir.path()).len(), 1, "nothing is left undone");
}

#[test]
fn who_holds_an_event_is_named_for_those_who_wait_for_its_end() {
    let dir = TempDir::new().unwrap();
    let mut holder = duty(dir.path(), "hold");
    let pid = holder.0.id();
    let place = format!("{}:{}", file!(), SET_LINE - 1);
    let waiter = recording(dir.path(), &["wait", "--unset", "migrated"]);
    let shown = known(dir.path(), &waiter);
    assert!(shown.contains("migrated (until unset)"), "{shown}");
    assert!(shown.contains(&format!("held by process {pid}: by declared::duties at {place}, ")), "{shown}");

    holder.0.kill().unwrap();
    holder.0.wait().unwrap();
    drop(waiter);
    let waiter = recording(dir.path(), &["wait", "migrated"]);
    let shown = known(dir.path(), &waiter);
    assert!(
        shown.contains(&format!("was held by process {pid}, which has ended: by declared::duties at {place}, ")),
        "{shown}"
    );
}

/// Somebody has removed it on purpose, with all that was in it.
#[test]
fn a_directory_that_was_removed_is_not_made_again_and_used_if_somebody_else_makes_it() {
    let [parent, events] = [(); 2].map(|()| TempDir::new().unwrap());
    let dir = parent.path().join("events");
    fs::create_dir(&dir).unwrap();
    let _child = child_in(&dir, events.path(), "endless");
    until(|| ps(&dir).first().is_some_and(|page| page["total"] == 1));
    fs::remove_dir_all(&dir).unwrap();
    // It would be made within two seconds and a bit.
    for _ in 0..40 {
        assert!(!dir.exists());
        thread::sleep(Duration::from_millis(100));
    }
    fs::create_dir(&dir).unwrap();
    until(|| ps(&dir).len() == 1);
}

/// The thread that publishes has nothing to do while nothing is recorded.
#[test]
fn the_publisher_ends_when_the_record_is_turned_off_and_starts_again() {
    let dir = TempDir::new().unwrap();
    let mut child = child(dir.path(), "switched");
    let pid = child.0.id();
    let mut switch = || std::io::Write::write_all(child.0.stdin.as_mut().unwrap(), b"\n").unwrap();
    let is_running = || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let names = threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).unwrap_or_default());
        names.into_iter().any(|name| name.trim() == "tantara-waits")
    };
    until(|| is_running() && ps(dir.path()).len() == 1);
    switch();
    until(|| !is_running() && pages(dir.path()).is_empty());
    switch();
    until(|| is_running() && ps(dir.path()).first().is_some_and(|page| page["total"] == 1));
}

#[test]
fn a_process_that_exits_before_it_has_set_an_event_is_named_for_a_day() {
    let dir = TempDir::new().unwrap();
    let waiter = recording(dir.path(), &["wait", "migrated"]);
    let mut setter = duty(dir.path(), "exit");
    let page = pages(dir.path()).into_iter().find(|page| page.to_str().unwrap().contains(&setter.0.id().to_string()));
    drop(setter.0.stdin.take());
    assert_eq!(setter.0.wait().unwrap().code(), Some(3));
    let shown = known(dir.path(), &waiter);
    let expected = format!("was to be set by process {}, which has ended: by declared::duties", setter.0.id());
    assert!(shown.contains(&expected), "{shown}");
    assert_eq!(ps(dir.path()).len(), 2);

    let page = fs::File::options().write(true).open(page.unwrap()).unwrap();
    page.set_modified(SystemTime::now() - Duration::from_secs(25 * 60 * 60)).unwrap();
    let shown = known(dir.path(), &waiter);
    assert!(!shown.contains("by process"), "{shown}");
    assert_eq!(ps(dir.path()).len(), 1);
}

/// How many waits inside of processes `ls` shows for the event.
fn inside(dir: &Path) -> usize {
    let listed: Vec<Value> = serde_json::from_slice(&run(dir, &["ls", "--json", "migrated"]).stdout).unwrap();
    listed[0]["inside"].as_array().map_or(0, Vec::len)
}

#[test]
fn events_of_the_same_name_in_different_directories_are_different_and_labels_change_nothing() {
    let [dir, other] = [(); 2].map(|()| TempDir::new().unwrap());
    for dir in [&dir, &other] {
        assert!(run(dir.path(), &["clear", "migrated"]).status.success());
    }
    let is_waiting = |name| ps(dir.path()).iter().any(|page| page["groups"][0]["events"][0]["name"] == name);
    let waiter = child_in(dir.path(), other.path(), "endless");
    until(|| is_waiting("migrated"));
    assert_eq!(inside(dir.path()), 0, "it waits for another event");
    drop(waiter);
    let waiter = child(dir.path(), "label");
    until(|| is_waiting("schema"));
    assert_eq!(inside(dir.path()), 1);
    drop(waiter);

    // A killed process should have set the event in the other directory.
    let waiter = child_in(dir.path(), other.path(), "endless");
    until(|| ps(dir.path()).iter().any(|page| page["total"] == 1));
    let mut setter = child_in(dir.path(), other.path(), "set");
    until(|| declared(dir.path(), setter.0.id()) == 1);
    setter.0.kill().unwrap();
    setter.0.wait().unwrap();
    assert!(run(dir.path(), &["pulse", "migrated"]).status.success());
    assert!(known(dir.path(), &waiter).contains("which has ended"), "another event was set");
    let event = SharedEvent::open_in(other.path(), "migrated").unwrap();
    drop(waiter);
    event.pulse().unwrap();
    let waiter = child_in(dir.path(), other.path(), "endless");
    until(|| ps(dir.path()).iter().any(|page| page["total"] == 1));
    let shown = known(dir.path(), &waiter);
    assert!(!shown.contains("which has ended"), "{shown}");
}
