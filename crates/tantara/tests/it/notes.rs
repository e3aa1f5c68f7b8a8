//! Sets with a note, and the record of the last set: who set the event, when and why belong together.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tantara::{LastSet, SharedEvent};
use tempfile::TempDir;

use crate::child_process::{ChildProcess, YES};

/// How often each process of a race sets the event.
const SETS: u32 = if cfg!(debug_assertions) { 20_000 } else { 200_000 };

/// The tasks of this file.
pub(crate) fn run(action: &str, directory: &Path, words: &[&str]) -> Option<i32> {
    match (action, words) {
        ("set_with_notes", [sets]) => set_with_notes(directory, sets.parse().unwrap()),
        _ => return None,
    }
    Some(YES)
}

/// A note of this process: its number, the time, and a filler that tells which it is.
fn note(round: u32) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let note = format!("{} {now} ", std::process::id());
    let filler = char::from(b'a' + (round % 26) as u8);
    // Of different lengths.
    let length = if round % 3 == 0 { note.len() + 1 } else { 64 };
    note.chars().chain(std::iter::repeat(filler)).take(length).collect()
}

fn set_with_notes(directory: &Path, sets: u32) {
    let event = SharedEvent::open_in(directory, "x").unwrap();
    for round in 0..sets {
        match round % 7 {
            0 => event.set().unwrap(),
            1 => event.pulse().unwrap(),
            2 => event.pulse_with_note(&note(round)).unwrap(),
            // Also of a set event.
            _ => event.set_with_note(&note(round)).unwrap(),
        }
        if round % 4 != 3 {
            event.clear().unwrap();
        }
    }
}

/// The clock of records ticks every few milliseconds.
const TICK: Duration = Duration::from_millis(50);

/// The note, if there is one, is of the process that was recorded, and was made before the time that was recorded.
fn belongs_together(last: &LastSet) {
    let Some(note) = &last.note else { return };
    let words: Vec<_> = note.split(' ').collect();
    let [pid, milliseconds, filler] = words[..] else { panic!("torn: {last:?}") };
    assert_eq!(last.pid.unwrap().to_string(), pid, "{last:?}");
    let made = UNIX_EPOCH + Duration::from_millis(milliseconds.parse().unwrap());
    assert!(last.at + TICK >= made && !filler.is_empty(), "{last:?}");
    assert!(filler.bytes().all(|byte| byte == filler.as_bytes()[0]), "torn: {last:?}");
    assert!(note.len() == 64 || filler.len() == 1, "torn: {last:?}");
}

struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn who_when_and_why_belong_together_while_processes_race() {
    let home = tempfile::tempdir().unwrap();
    let event = open(&home);
    let start = || ChildProcess::start(["set_with_notes", home.path().to_str().unwrap(), &SETS.to_string()]);
    let is_over = AtomicBool::new(false);
    let end = EndOnDrop(&is_over);
    let (mut recorded, mut noted) = (0, 0);
    thread::scope(|scope| {
        // Dropped by a panic too.
        let _end = end;
        // So that sets have sleepers to wake, now and then.
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                let _ = event.wait_timeout(Duration::from_micros(100)).unwrap();
                thread::sleep(Duration::from_micros(100));
            }
        });
        let mut killed = start();
        let mut setters = [start(), start(), start()];
        thread::sleep(Duration::from_millis(20));
        killed.0.kill().unwrap();
        while setters.iter_mut().any(|setter| setter.0.try_wait().unwrap().is_none()) {
            for _ in 0..100 {
                let Some(last) = event.last_set().unwrap() else { continue };
                belongs_together(&last);
                recorded += 1;
                noted += u32::from(last.note.is_some());
            }
        }
        assert!(setters.iter_mut().all(ChildProcess::says_yes));
    });
    println!("{recorded} records were read, {noted} of them with a note");
    assert!(noted > 0 && event.last_set().unwrap().is_some(), "the last record stays");
}

fn open(directory: &TempDir) -> SharedEvent {
    SharedEvent::open_in(directory, "x").unwrap()
}

fn last_note(event: &SharedEvent) -> Option<String> {
    event.last_set().unwrap().unwrap().note
}

#[test]
fn a_note_is_shown_until_the_next_set() {
    let home = tempfile::tempdir().unwrap();
    let event = open(&home);
    event.set_with_note("disk full").unwrap();
    let last = event.last_set().unwrap().unwrap();
    assert_eq!((last.note.as_deref(), last.pid), (Some("disk full"), Some(std::process::id())));
    assert_eq!(open(&home).last_set().unwrap().as_ref(), Some(&last), "through another opening");
    assert_eq!(SharedEvent::list_in(&home).unwrap().remove(0).unwrap().last_set.as_ref(), Some(&last));
    event.clear().unwrap();
    assert_eq!(event.last_set().unwrap(), Some(last));
    event.set().unwrap();
    assert_eq!(last_note(&event), None, "a set without a note has none");
    event.clear().unwrap();
    event.pulse_with_note("größe: 5 µs").unwrap();
    assert_eq!((event.is_set().unwrap(), last_note(&event).as_deref()), (false, Some("größe: 5 µs")));
    event.pulse().unwrap();
    assert_eq!(last_note(&event), None);
    event.set_with_note("").unwrap();
    assert_eq!((event.is_set().unwrap(), last_note(&event)), (true, None), "an empty note is none");
}

#[test]
fn a_set_of_a_set_event_counts_if_it_says_why() {
    let event = SharedEvent::anonymous().unwrap();
    event.set().unwrap();
    for why in ["first", "second"] {
        event.set_with_note(why).unwrap();
        assert_eq!(last_note(&event).as_deref(), Some(why));
    }
    let last = event.last_set().unwrap();
    event.set().unwrap();
    assert_eq!(event.last_set().unwrap(), last, "one that does not say why changes nothing");
    event.pulse_with_note("third").unwrap();
    assert_eq!((event.is_set().unwrap(), last_note(&event).as_deref()), (false, Some("third")));
    event.set().unwrap();
    assert_eq!(last_note(&event), None);
    let hold = event.hold().unwrap();
    event.clear().unwrap();
    event.set_with_note("held").unwrap();
    event.clear().unwrap();
    drop(hold);
    assert_eq!((event.is_set().unwrap(), last_note(&event).as_deref()), (false, Some("held")));
}

#[test]
fn what_cannot_be_a_note_is_refused_before_anything_happens() {
    let event = SharedEvent::anonymous().unwrap();
    for (note, why) in
        [("a\nb", "control character"), ("\u{1b}[2J", "control character"), (&*"é".repeat(33), "64 bytes")]
    {
        for refused in [event.set_with_note(note), event.pulse_with_note(note), SharedEvent::check_note(note)] {
            let error = refused.unwrap_err();
            assert!(error.is_invalid_note() && !error.is_invalid_name() && error.to_string().contains(why), "{error}");
        }
    }
    assert_eq!((event.is_set().unwrap(), event.last_set().unwrap()), (false, None));
    event.set_with_note(&"é".repeat(32)).unwrap();
    assert_eq!(last_note(&event), Some("é".repeat(32)));
}
