//! Many waits at one place, as one line.

use std::fs::{self, File};
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::task::{Context, Waker};
use std::thread;

use serde_json::Value;
use tantara::{Event, waits};
use tempfile::TempDir;

use crate::{Running, ps, run, until};

const CHILD: &str = "TANTARA_TEST_OF_FOLDING";

/// Starts `many_waits`, and waits until that many wait. What it prints is in `stderr`.
fn child(dir: &Path, what: &str, number: u64) -> Running {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "folded::many_waits", "--nocapture"]).env("TANTARA_WAITS", "300ms");
    child.env("TANTARA_DIR", dir).env(CHILD, what).stdin(Stdio::piped()).stdout(Stdio::null());
    let child = Running(child.stderr(File::create(dir.join(".stderr")).unwrap()).spawn().unwrap());
    until(|| ps(dir).iter().any(|page| page["total"] == number));
    child
}

const OWN_LINE: u32 = line!() + 16;

/// Threads at one place wait for an own event each.
#[test]
fn many_waits() {
    let Ok(what) = std::env::var(CHILD) else { return };
    let events: &'static [Event; 4] = Box::leak(Box::default());
    let mut task = pin!(events[0].wait_async());
    if what == "released" {
        assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        events[0].set();
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    if what == "declared" {
        // The first two are declared at one place, the third at another; of the last, nothing is known.
        events[..2].iter().for_each(|event| std::mem::forget(event.set_on_drop()));
        std::mem::forget(events[2].set_on_drop());
    } else {
        let mistaken: &'static Event = Box::leak(Box::default());
        waits::record(true);
        waits::label(mistaken, "mistaken");
        mistaken.set();
        // Each waits at a place of its own.
        thread::spawn(|| events[0].wait());
        thread::spawn(|| events[1].wait());
    }
    events.iter().skip(if what == "declared" { 0 } else { 2 }).for_each(|event| {
        thread::spawn(|| event.wait());
    });
    let _ = std::io::stdin().read_line(&mut String::new());
}

#[test]
fn what_is_known_of_a_group_is_true_for_all_its_members() {
    let dir = TempDir::new().unwrap();
    let child = child(dir.path(), "declared", 4);
    let page = ps(dir.path()).remove(0);
    let group = |group: &Value| {
        let setters = group["events"][0]["setters"].as_array().unwrap();
        let place = setters.first().map(|setter| setter["place"].as_str().unwrap().to_owned());
        (place, group["count"].as_u64().unwrap(), group["same_events"].as_bool().unwrap())
    };
    let mut groups: Vec<_> = page["groups"].as_array().unwrap().iter().map(group).collect();
    groups.sort();
    let place = |line: u32| Some(format!("{}:{line}", file!()));
    assert_eq!(groups, [(None, 1, true), (place(OWN_LINE), 2, false), (place(OWN_LINE + 1), 1, true)]);

    let table = String::from_utf8(run(dir.path(), &["ps", &child.0.id().to_string()]).stdout).unwrap();
    let of_oldest = table.lines().filter(|line| line.contains("of the oldest: to be set by "));
    assert_eq!(of_oldest.count(), 1, "{table}");
    assert_eq!(table.matches("to be set by ").count(), 2, "{table}");

    // So it is with those that are printed because they last too long: only the first two may share a report.
    let printed = || fs::read_to_string(dir.path().join(".stderr")).unwrap();
    let of = |text: &str| printed().matches(text).count();
    until(|| of(" waits for ") + of("and 1 more like it") + 2 * of("and 2 more like it") + 3 * of("and 3 more") == 4);
    assert_eq!(of("and 2 more like it") + of("and 3 more like it"), 0, "{}", printed());
}

/// It is a guess, which does not become better by repetition.
#[test]
fn an_event_that_was_perhaps_set_by_mistake_is_shown_once_for_a_process() {
    let dir = TempDir::new().unwrap();
    let child = child(dir.path(), "mistaken", 4);
    let is_guessed = |group: &Value| group["set_in_vain"].as_array().is_some_and(|events| !events.is_empty());
    // Of young waits nothing is guessed.
    until(|| ps(dir.path())[0]["groups"].as_array().unwrap().iter().all(is_guessed));
    let table = String::from_utf8(run(dir.path(), &["ps", &child.0.id().to_string()]).stdout).unwrap();
    assert_eq!(table.matches("perhaps the wrong event was set: mistaken by ").count(), 1, "{table}");
    assert_eq!(ps(dir.path())[0]["groups"].as_array().unwrap().len(), 3);
}

#[test]
fn a_wait_that_was_released_and_does_not_run_is_shown_with_the_time_since() {
    let dir = TempDir::new().unwrap();
    let child = child(dir.path(), "released", 1);
    let pid = child.0.id().to_string();
    until(|| {
        let table = String::from_utf8(run(dir.path(), &["ps", &pid]).stdout).unwrap();
        table.lines().any(|line| line.contains("  released ") && line.contains("s ago, not polled since"))
    });
}
