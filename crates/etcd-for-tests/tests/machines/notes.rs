//! Sets with a note, and the record of the last set.

use etcd_for_tests::Servers;
use tantara_etcd::{ClusterEvent, Origin};

use crate::{LONG, alone, server};

fn why(last: Option<Origin>) -> Option<String> {
    last.expect("the event was set").note
}

#[test]
fn a_note_is_shown_until_the_next_set() {
    let server = server();
    let cluster = alone(&server);
    let event = cluster.event("door");
    assert_eq!(event.last_set().unwrap(), None);
    event.clear().unwrap();
    assert_eq!(event.last_set().unwrap(), None);
    let mut changes = cluster.changes().unwrap();
    let mut next = || changes.next_timeout(LONG).unwrap().unwrap();
    event.set_with_note("disk full").unwrap();
    let last = event.last_set().unwrap().unwrap();
    assert_eq!((last.pid, last.note.as_deref()), (std::process::id(), Some("disk full")));
    assert!(event.is_set().unwrap());
    assert_eq!(cluster.list().unwrap()[0].last_set.as_ref(), Some(&last));
    assert_eq!(next().last_set.as_ref(), Some(&last));
    event.clear().unwrap();
    assert_eq!(event.last_set().unwrap(), Some(last));
    assert_eq!(next().last_set, None, "it was not set");
    event.set().unwrap();
    assert_eq!((why(event.last_set().unwrap()), why(next().last_set)), (None, None));
    smol::block_on(event.set_with_note_async("again")).unwrap();
    assert_eq!(why(smol::block_on(event.last_set_async()).unwrap()).as_deref(), Some("again"), "it was set already");
    assert_eq!(why(next().last_set).as_deref(), Some("again"));
    event.set_with_note("").unwrap();
    assert_eq!((why(event.last_set().unwrap()), why(next().last_set)), (None, None));
    event.pulse_with_note("größe: 5 µs").unwrap();
    assert_eq!((event.is_set().unwrap(), why(next().last_set).as_deref()), (false, Some("größe: 5 µs")));
    smol::block_on(event.pulse_with_note_async(&"x".repeat(64))).unwrap();
    assert_eq!(why(event.last_set().unwrap()), Some("x".repeat(64)));
    event.remove().unwrap();
    assert!(event.last_set().unwrap_err().is_removed());
}

#[test]
fn what_cannot_be_a_note_is_refused_before_anything_is_sent() {
    let server = server();
    let event = alone(&server).event("door");
    for (note, why) in [("a\nb", "control character"), (&*"é".repeat(33), "64 bytes")] {
        for refused in [event.set_with_note(note), event.pulse_with_note(note), ClusterEvent::check_note(note)] {
            let error = refused.unwrap_err();
            assert!(error.is_invalid_input() && error.to_string().contains(why), "{error}");
        }
    }
    assert_eq!(event.last_set().unwrap(), None);
}

#[test]
fn values_without_a_note_and_hostile_ones_show_none() {
    let servers = Servers::one();
    let cluster = alone(&servers);
    let event = cluster.event("door");
    event.clear().unwrap();
    let key = format!("/{}/e/door/p", cluster.namespace());
    for (value, expected) in [
        (&b"1000 7 1 00000000000000ff m1"[..], Some((7, None))),
        (b"1000 7 1 00000000000000ff m1\nwhy", Some((7, Some("why")))),
        (b"1000 7 1 00000000000000ff m1\n\x1b[2J", Some((7, None))),
        (b"1000 7 1 00000000000000ff m1\na\nb", Some((7, None))),
        (b"anything", None),
        (b"\xff\xff", None),
    ] {
        servers.put_raw(&key, value);
        let last = event.last_set().unwrap();
        let shown = last.as_ref().map(|last| (last.pid, last.note.as_deref()));
        assert_eq!(shown, expected, "{value:?}");
        assert_eq!(cluster.list().unwrap()[0].last_set, last);
    }
}
