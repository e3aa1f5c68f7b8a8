//! The feature `serde`: records of events and of their waiters, to JSON and back.
#![cfg(all(shared_events, not(loom)))]

use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{from_str, json, to_string, to_value};
use tantara::{Entry, LastSet, SharedEvent, Waiter};

#[test]
fn what_describes_an_event_survives_json() {
    let dir = tempfile::tempdir().unwrap();
    let event = SharedEvent::open_in(dir.path(), "door").unwrap();
    event.pulse().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| event.wait().unwrap());
        while event.waiters().unwrap().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        let entry = SharedEvent::list_in(dir.path()).unwrap().remove(0).unwrap();
        assert!(entry.waiters.len() == 1 && entry.last_set.is_some(), "{entry:?}");
        assert_eq!(from_str::<Entry>(&to_string(&entry).unwrap()).unwrap(), entry);
        event.set().unwrap();
    });
}

/// The names and their form are part of the public API.
#[test]
fn the_form_is_that_of_the_fields() {
    let time = json!({"secs_since_epoch": 7, "nanos_since_epoch": 1});
    let waiter = json!({"pid": 1, "tid": null, "since": time, "command": "sleep 1"});
    let entry = json!({
        "name": "door",
        "is_set": true,
        "last_set": {"at": time, "pid": null, "note": "disk full"},
        "waiters": [waiter],
    });
    let parsed: Entry = from_str(&entry.to_string()).unwrap();
    let at = SystemTime::UNIX_EPOCH + Duration::new(7, 1);
    assert_eq!(parsed.waiters[0].since, at);
    assert_eq!((parsed.waiters[0].pid, parsed.waiters[0].tid), (Some(1), None));
    let last = parsed.last_set.clone().unwrap();
    assert_eq!((last.at, last.pid, last.note.as_deref()), (at, None, Some("disk full")));
    assert_eq!(to_value(&parsed).unwrap(), entry);
    // What may be unknown may also be left out.
    let last: LastSet = from_str(&json!({"at": time}).to_string()).unwrap();
    assert_eq!((last.at, last.pid, last.note), (at, None, None));
    assert!(from_str::<Waiter>(r#"{"pid": 1}"#).unwrap_err().to_string().contains("since"));
}
