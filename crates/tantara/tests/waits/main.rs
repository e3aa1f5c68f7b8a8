//! The record of waits. A program of its own, because the record is that of a whole process; each test looks at its own
//! events only.
#![cfg(not(loom))]
#![allow(clippy::incompatible_msrv, reason = "only the library is built with the oldest compiler")]

#[cfg(shared_events)]
mod forks;
mod hangs;
mod late;
mod noted;
mod record;
#[cfg(shared_events)]
mod shared;

use std::panic::Location;
use std::thread;
use std::time::{Duration, Instant};

use tantara::Waitable;
use tantara::waits::{self, Waiting};

/// Longer than anything takes. A test that waits this long fails instead of hanging.
const LONG: Duration = Duration::from_secs(60);

/// The waits that have an event with this label.
fn waits_for(label: &str) -> Vec<Waiting> {
    let mut all = waits::waits();
    all.retain(|waiting| waiting.events.iter().any(|event| event.label.as_deref() == Some(label)));
    all
}

/// Returns those waits once there are so many.
fn until_waiting(label: &str, count: usize) -> Vec<Waiting> {
    until(|| Some(waits_for(label)).filter(|waits| waits.len() == count))
}

/// Returns what `look` finds, once it finds something.
#[track_caller]
fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{}: {:#?}", Location::caller(), waits::waits());
        thread::sleep(Duration::from_millis(1));
    }
}

/// Records waits, and gives the event a label.
fn labelled<W: Waitable>(event: W, label: &str) -> W {
    waits::record(true);
    waits::label(&event, label);
    event
}

/// Runs the test with this name in a process of its own, whose record no other test uses. Whether this is that process.
fn is_alone(name: &str) -> bool {
    const CHILD: &str = "ALONE";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    let output = child.args([name, "--exact"]).env(CHILD, "1").env_remove("TANTARA_WAITS").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    false
}
