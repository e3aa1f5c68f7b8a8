//! `--note`: why an event was set, and where that is shown.
#![cfg(all(target_os = "linux", in_repository))]

mod scratch;
mod signals;
mod terminal;

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use scratch::Events;
use serde_json::Value;
use terminal::{Terminal, without_control_sequences};

fn listed(events: &Events, name: &str) -> Value {
    let all: Vec<Value> = serde_json::from_str(&events.done(&["ls", name, "--json"])).unwrap();
    all.into_iter().next().unwrap()
}

/// What was printed on standard output and on standard error by a command that has succeeded.
fn printed(output: Output) -> (String, String) {
    assert!(output.status.success(), "{output:?}");
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// In both kinds of places.
fn in_each_place(test: fn(&Events)) {
    test(&Events::new());
    test(&Events::in_a_cluster());
}

#[test]
fn a_note_is_shown_by_wait_and_ls_until_the_next_set() {
    in_each_place(|events| {
        events.done(&["set", "failed", "--note", "disk full"]);
        let last = listed(events, "failed")["last_set"].clone();
        assert_eq!(last["note"], "disk full");
        let table = events.done(&["ls"]);
        assert!(table.lines().any(|line| line.starts_with("failed") && line.ends_with(": disk full")), "{table}");
        for args in [&["wait", "--any", "done", "failed"][..], &["wait", "failed", "--timeout", "0", "--any"]] {
            let (stdout, stderr) = printed(events.run(args));
            assert_eq!(stdout, "failed\n", "one name, for scripts");
            assert!(stderr.starts_with(&format!("tantara: failed was set by {}", last["pid"])), "{stderr}");
            assert!(stderr.ends_with(": disk full\n") && stderr.lines().count() == 1, "{stderr}");
        }
        for quiet in [&["wait", "-q", "failed"][..], &["wait", "-q", "failed", "--timeout", "0"]] {
            assert_eq!(events.done(quiet), "");
        }
        events.done(&["clear", "failed"]);
        assert_eq!(listed(events, "failed")["last_set"]["note"], "disk full");
        let (_, stderr) = printed(events.run(&["wait", "--unset", "failed"]));
        assert_eq!(stderr, "", "why it was set says nothing of why it is unset");
        events.done(&["set", "failed"]);
        assert_eq!(listed(events, "failed")["last_set"]["note"], Value::Null);
        assert_eq!(events.done(&["wait", "failed"]), "");
        // Of a set event.
        events.done(&["set", "failed", "--note", "größe: 5 µs"]);
        assert_eq!(listed(events, "failed")["last_set"]["note"], "größe: 5 µs");
        events.done(&["clear", "failed"]);
        events.done(&["set", "failed", "--note", ""]);
        assert_eq!(listed(events, "failed")["last_set"]["note"], Value::Null, "an empty note is none");
    });
}

#[test]
fn a_wait_that_is_released_says_why_before_it_becomes_a_command() {
    in_each_place(|events| {
        let waiting = events.start(&["wait", "reload", "stop", "--", "sh", "-c", "echo command; echo too >&2"]);
        events.until_waiting("reload");
        events.done(&["pulse", "reload", "--note", "new certificate"]);
        events.done(&["set", "stop"]);
        let (status, stdout, stderr) = waiting.end();
        assert!(status.success() && stdout == "command\n", "{status}: {stderr}");
        let lines: Vec<_> = stderr.lines().collect();
        assert!(lines[0].starts_with("tantara: reload was set by ") && lines[0].ends_with(": new certificate"));
        assert_eq!(lines[1..], ["too"], "stop has no note");
    });
}

#[test]
fn a_wait_for_any_says_why_it_was_released_and_nothing_else() {
    in_each_place(|events| {
        events.done(&["set", "a", "--note", "of yesterday"]);
        events.done(&["clear", "a"]);
        let waiting = events.start(&["wait", "--any", "a", "b"]);
        events.until_waiting("b");
        events.done(&["set", "b", "--note", "of today"]);
        let (status, printed, why) = waiting.end();
        assert!(status.success() && printed == "b\n", "{status}: {printed}");
        assert!(why.contains(": of today\n") && why.lines().count() == 1, "{why}");
    });
}

#[test]
fn a_command_that_decides_sets_with_the_note() {
    let events = Events::new();
    for (command, name) in [("true", "built"), ("false", "failed")] {
        events.run(&["set", "built", "--else", "failed", "--note", "nightly build", "--", command]);
        assert_eq!(listed(&events, name)["last_set"]["note"], "nightly build");
    }
}

#[test]
fn changes_have_the_note_of_their_set() {
    in_each_place(|events| {
        for is_json in [false, true] {
            let args = ["watch", "stop", "begun", "--json"];
            let mut watch = events.start(if is_json { &args } else { &args[..3] });
            let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines().map(Result::unwrap);
            let mut next = |name: &str| lines.find(|line| line.contains(name)).unwrap();
            // A bounded number, so that a watch that has failed ends the test.
            let has_begun = AtomicBool::new(false);
            thread::scope(|scope| {
                scope.spawn(|| {
                    for _ in (0..1_000).take_while(|_| !has_begun.load(SeqCst)) {
                        events.done(&["pulse", "begun"]);
                        thread::sleep(Duration::from_millis(20));
                    }
                });
                next("begun");
                has_begun.store(true, SeqCst);
            });
            events.done(&["set", "stop", "--note", "disk full"]);
            let set = next("stop");
            events.done(&["clear", "stop"]);
            let cleared = next("stop");
            if is_json {
                let [set, cleared] = [set, cleared].map(|line| serde_json::from_str::<Value>(&line).unwrap());
                assert_eq!((&set["note"], &cleared["note"]), (&"disk full".into(), &Value::Null), "{set}");
                assert!(set["pid"].is_u64() && cleared.get("pid").is_none(), "{set} {cleared}");
            } else {
                assert!(set.contains(" stop set by ") && set.ends_with(": disk full"), "{set}");
                assert!(cleared.ends_with(" stop cleared"), "{cleared}");
            }
        }
    });
}

#[test]
fn what_cannot_be_a_note_is_one_error_before_anything_is_done() {
    in_each_place(|events| {
        let long = "é".repeat(33);
        for (note, why) in [("a\nb", "control character"), ("\u{1b}[2J", "control character"), (&*long, "64 bytes")] {
            for args in [&["set", "x", "--note", note][..], &["pulse", "x", "--note", note]] {
                let complaint = events.refused(args, 2);
                assert!(complaint.contains(why) && !complaint.contains('\u{1b}'), "{complaint}");
            }
            let complaint = events.refused(&["set", "x", "--note", note, "--", "touch", "touched"], 2);
            assert!(complaint.contains(why), "{complaint}");
        }
        assert!(!events.home().join("touched").exists() && !events.path().exists());
        events.done(&["set", "x", "--note", &"é".repeat(32)]);
        assert_eq!(listed(events, "x")["last_set"]["note"], "é".repeat(32));
    });
    assert_eq!(Events::new().code(&["clear", "x", "--note", "why"]), 2, "a clear has no note");
}

/// Nothing that another process has written reaches the terminal as a control sequence, or breaks the output.
#[test]
fn hostile_records_are_harmless() {
    let events = Events::new();
    events.done(&["set", "x", "--note", "disk full"]);
    let file = OpenOptions::new().read(true).write(true).open(events.path().join("x")).unwrap();
    for note in [b"\x1b[2J\x1b[31m", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff"] {
        for slot in 0..3 {
            file.write_all_at(note, 384 + 64 * slot).unwrap();
        }
        assert_eq!(listed(&events, "x")["last_set"], Value::Null);
        assert_eq!(events.done(&["wait", "x"]), "");
    }
}

#[test]
fn a_terminal_shows_the_note_in_one_line() {
    let events = Events::new();
    let note = "w".repeat(64);
    events.done(&["set", "failed", "--note", &note]);
    let (code, shown) = Terminal::start(80, &events.command(&["wait", "failed"])).end();
    let shown = without_control_sequences(&shown);
    assert!(code == 0 && shown.contains(&format!(": {note}")), "{shown}");
    for columns in [40, 60, 80] {
        let (code, shown) = Terminal::start(columns, &events.command(&["ls"])).end();
        let shown = without_control_sequences(&shown);
        assert_eq!((code, shown.matches('w').count() >= 64), (0, true), "{shown}");
        assert!(shown.lines().all(|line| line.chars().count() <= columns.into()), "{shown}");
    }
}
