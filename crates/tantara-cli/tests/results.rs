//! `tantara set NAME -- CMD`, and what the subcommands for events do with names that exist, or do not.
#![cfg(all(target_os = "linux", in_repository))]

mod scratch;
mod signals;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use scratch::{Events, Running, until};

/// In both kinds of places.
fn a_result_sets_one_of_two(events: &Events) {
    for (command, code, good, bad) in [
        ("true", 0, true, false),
        ("false", 1, false, true),
        ("exit 7", 7, false, true),
        ("kill -9 $$", 137, false, true),
    ] {
        events.done(&["rm", "-f", "good", "also", "bad"]);
        assert_eq!(
            events.code(&["set", "good", "also", "--else", "bad", "--", "sh", "-c", command]),
            code,
            "{command}"
        );
        let found = ["good", "also", "bad"].map(|name| events.is_set(name));
        assert_eq!(found, [good, good, bad], "{command}");
    }
    events.done(&["rm", "-f", "good", "bad"]);
    let waiting = events.start(&["wait", "--any", "good", "bad"]);
    events.until_waiting("bad");
    let output = events.run(&["set", "good", "--else", "bad", "--", "sh", "-c", "kill -TERM $$"]);
    assert_eq!(output.status.signal(), Some(15));
    assert_eq!(waiting.done(), "bad\n");
    // A command that cannot be run has failed, and nothing else is set or created.
    events.done(&["rm", "--all"]);
    for (command, code) in [("no-such-command", 127), ("/", 126)] {
        events.refused(&["set", "good", "--", command], code);
        assert_eq!(events.done(&["ls", "--json"]), "[]\n");
        events.refused(&["set", "good", "--else", "bad", "--", command], code);
        assert!(events.is_set("bad") && !events.is_set("good"));
        events.done(&["rm", "--all"]);
    }
}

#[test]
fn a_result_sets_one_of_two_between_processes() {
    a_result_sets_one_of_two(&Events::new());
}

#[test]
fn a_result_sets_one_of_two_between_machines() {
    a_result_sets_one_of_two(&Events::in_a_cluster());
}

#[test]
fn signals_are_passed_on_and_the_result_counts() {
    let events = Events::new();
    for (on_signal, code, set) in [("exit 0", 0, "good"), ("exit 3", 3, "bad")] {
        let script = format!("trap '{on_signal}' TERM; echo ready; while :; do sleep 0.01; done");
        let mut command = events.command(&["set", "good", "--else", "bad", "--", "sh", "-c", &script]);
        let mut process = Running(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().as_deref(), Some("ready"));
        assert!(!events.is_set("good") && !events.is_set("bad"));
        process.signal("-TERM");
        assert_eq!(process.0.wait().unwrap().code(), Some(code));
        assert!(events.is_set(set));
        events.done(&["rm", "--all"]);
    }
}

#[test]
fn bad_usage_of_set_runs_nothing() {
    let events = Events::new();
    let marker = events.home().join("ran");
    let touch = ["--", "touch", marker.to_str().unwrap()];
    assert!(events.refused(&["set", "good", "--else", "bad"], 2).contains("-- CMD"));
    events.refused(&["set", "good", "--else", "bad", "--"], 2);
    let both = events.refused(&[&["set", "other", "good", "--else", "good"], &touch[..]].concat(), 2);
    assert!(both.contains("name another one"), "{both}");
    events.refused(&[&["set", "good", "--else", "a/b"], &touch[..]].concat(), 2);
    events.refused(&[&["set"], &touch[..]].concat(), 2);
    assert!(!events.path().exists());
    // An event that cannot be set is known before the command runs.
    std::fs::create_dir_all(events.path().join("folder")).unwrap();
    events.refused(&[&["set", "good", "--else", "folder"], &touch[..]].concat(), 2);
    events.refused(&[&["set", "folder"], &touch[..]].concat(), 2);
    assert!(!marker.exists());
    // The last value counts, in every place.
    events.done(&["--dir", "/no/such", "set", "x", "--else", "y", "--else", "z", "--dir", "events", "--", "true"]);
    assert!(events.is_set("x"));
    assert_eq!(events.code(&["wait", "q", "--timeout", "1h", "--timeout", "0"]), 124);
}

/// In both kinds of places.
fn names_that_do_not_exist(events: &Events) {
    events.done(&["set", "db-ready", "cache-ready"]);
    events.done(&["clear", "other"]);
    let table = events.done(&["ls", "cache-ready", "db-ready"]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(!table.contains("other") && events.done(&["ls", "--json", "other"]).contains("\"other\""));
    assert!(events.refused(&["ls", "db-ready", "db-raedy"], 2).contains("did you mean db-ready?"));

    events.done(&["is-set", "db-ready", "cache-ready"]);
    for args in [&["is-set", "db-ready", "other"][..], &["is-set", "-q", "no-such", "db-ready"]] {
        let output = events.run(args);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(1), 0), "{args:?}");
    }
    assert!(events.refused(&["is-set", "dbready", "other"], 1).contains("did you mean db-ready?"));

    events.refused(&["rm", "no-such", "other"], 2);
    assert!(events.run(&["ls", "other"]).status.success());
    events.done(&["rm", "-f", "no-such", "other"]);
    events.refused(&["ls", "other"], 2);
    events.done(&["rm", "-f"]);
    events.refused(&["rm", "--all", "db-ready"], 2);
    events.refused(&["rm"], 2);
    events.done(&["rm", "--all"]);
    events.done(&["rm", "--all"]);
    assert_eq!(events.done(&["ls", "--json"]), "[]\n");
}

#[test]
fn names_that_do_not_exist_between_processes() {
    let events = Events::new();
    names_that_do_not_exist(&events);
    // Files that are no events stay.
    std::fs::write(events.path().join("note.txt"), "text").unwrap();
    events.done(&["set", "x"]);
    let output = events.run(&["rm", "--all"]);
    assert!(output.status.success() && String::from_utf8(output.stderr).unwrap().contains("note.txt"));
    assert!(events.path().join("note.txt").exists() && !events.path().join("x").exists());
}

#[test]
fn names_that_do_not_exist_between_machines() {
    names_that_do_not_exist(&Events::in_a_cluster());
}

/// In both kinds of places.
fn a_watch_ends_after_its_lines_or_its_time(events: &Events) {
    let mut watching = events.start(&["watch", "-n", "3", "--timeout", "10m", "--json", "x"]);
    while !watching.is_over() {
        events.done(&["pulse", "x", "y"]);
    }
    let lines = watching.done();
    assert_eq!((lines.lines().count(), lines.contains("\"y\"")), (3, false), "{lines}");
    let complaint = events.refused(&["watch", "x", "-n", "1", "--timeout", "100ms"], 124);
    assert_eq!(complaint, "tantara: timed out after 100ms: 0 of 1 changes\n");
    for time in ["0.1", "0"] {
        let output = events.run(&["watch", "--timeout", time]);
        assert_eq!((output.status.code(), output.stderr.len()), (Some(124), 0));
    }
    for bad in ["0", "-1", "x", ""] {
        events.refused(&["watch", "-n", bad], 2);
    }
}

#[test]
fn a_watch_ends_after_its_lines_or_its_time_between_processes() {
    a_watch_ends_after_its_lines_or_its_time(&Events::new());
}

#[test]
fn a_watch_ends_after_its_lines_or_its_time_between_machines() {
    a_watch_ends_after_its_lines_or_its_time(&Events::in_a_cluster());
}

/// Each event is opened before one of them is set, and may be removed in between.
#[test]
fn a_set_makes_events_anew_that_are_removed_meanwhile() {
    let events = Events::new();
    let names: Vec<String> = (0..300).map(|number| format!("e{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                events.run(&[&["rm", "-f"], &names[200..]].concat());
            }
        });
        let outcomes: Vec<_> = (0..30).map(|_| events.run(&[&["set"], &names[..]].concat())).collect();
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        for output in outcomes {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    });
}

#[test]
fn changes_that_follow_too_fast_are_merged_with_their_number() {
    let events = Events::new();
    let mut watching = events.start(&["watch", "x"]);
    let stdout = watching.0.stdout.take().unwrap();
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let lines = std::io::BufRead::lines(std::io::BufReader::new(stdout)).map_while(Result::ok);
        lines.for_each(|line| sender.send(line).unwrap_or_default());
    });
    let next = || lines.recv_timeout(scratch::LONG).expect("a line");
    // It watches, and has printed everything so far.
    until(|| {
        events.done(&["pulse", "x"]);
        lines.try_recv().is_ok()
    });
    events.done(&["set", "x"]);
    while !next().contains(" set by ") {}
    watching.signal("-STOP");
    events.done(&["clear", "x"]);
    for _ in 0..5 {
        events.done(&["pulse", "x"]);
    }
    watching.signal("-CONT");
    let line = next();
    assert!(line.contains(" cleared by ") && line.ends_with(" (5 sets merged)"), "{line}");
}

/// In both kinds of places.
fn a_watch_ends_with_its_reader(events: &Events) {
    let mut watching = events.start(&["watch", "--json"]);
    let mut first = String::new();
    let mut lines = std::io::BufReader::new(watching.0.stdout.take().unwrap());
    let pulsing = std::thread::scope(|scope| {
        let read = scope.spawn(|| std::io::BufRead::read_line(&mut lines, &mut first).unwrap());
        while !read.is_finished() {
            events.done(&["pulse", "x"]);
        }
        read.join().unwrap()
    });
    assert!(pulsing > 0);
    // Nothing changes any more.
    drop(lines);
    until(|| watching.is_over());
    let (status, _, complaint) = watching.end();
    assert!(status.success() && complaint.is_empty(), "{status}: {complaint}");
}

#[test]
fn a_watch_ends_with_its_reader_between_processes() {
    a_watch_ends_with_its_reader(&Events::new());
}

#[test]
fn a_watch_ends_with_its_reader_between_machines() {
    a_watch_ends_with_its_reader(&Events::in_a_cluster());
}

#[test]
fn what_is_wrong_is_said_before_a_cluster_is_connected_to() {
    let events = Events::new();
    let complaint = events.refused(&["--etcd", "127.0.0.1:1", "ps"], 2);
    assert!(complaint.contains("use it without --etcd"), "{complaint}");
    let mut command = events.command(&["set"]);
    let bytes = std::os::unix::ffi::OsStrExt::from_bytes(b"a\xff");
    command.arg::<&std::ffi::OsStr>(bytes);
    let complaint = scratch::refused(&mut command, 2);
    assert_eq!(complaint, "tantara: \"a\\xFF\" is not text; expected UTF-8\n");
}

/// A wrong file may be of any length.
#[test]
fn a_file_for_the_connection_is_short() {
    let events = Events::new();
    for option in [&["--user", "ann", "--password-file"][..], &["--cacert"]] {
        let args = [&["--etcd", "127.0.0.1:1"][..], option, &["/dev/zero", "set", "x"]].concat();
        let complaint = events.refused(&args, 2);
        assert!(complaint.contains("/dev/zero: longer than 1 MiB"), "{complaint}");
        let args: Vec<&str> = args.iter().map(|arg| if *arg == "/dev/zero" { "/no/such" } else { arg }).collect();
        let complaint = events.refused(&args, 2);
        assert!(complaint.contains("cannot read /no/such: No such file"), "{complaint}");
    }
}

#[test]
fn a_name_that_is_a_command_gets_a_hint() {
    let events = Events::new();
    let hint = |args: &[&str]| {
        let output = events.run(args);
        assert_eq!(output.status.code(), Some(124), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = hint(&["wait", "ready", "sh", "run", "--timeout", "0"]);
    assert_eq!(said, "tantara: waiting for an event sh; to run the command sh, write tantara wait ready -- sh run\n");
    assert!(hint(&["wait", "sh", "--pid", "1", "--timeout", "0"]).contains("tantara wait -- sh"));
    assert_eq!(hint(&["wait", "sh", "--timeout", "0"]), "", "a wait needs a name");
    assert_eq!(hint(&["wait", "ready", "sh", "--timeout", "0", "-q"]), "");
    assert_eq!(hint(&["wait", "ready", "sh", "--timeout", "0", "--", "true"]), "");
    events.done(&["clear", "sh"]);
    assert_eq!(hint(&["wait", "ready", "sh", "--timeout", "0"]), "", "there is such an event");
    let complaint = events.refused(&["wait", "ready", "/bin/sh"], 2);
    assert!(complaint.contains("put -- before it"), "{complaint}");
    let complaint = events.refused(&["wait", "ready", "/no/such"], 2);
    assert!(complaint.ends_with("; to wait for a file, write --file /no/such\n"), "{complaint}");
    assert!(!events.refused(&["set", "/no/such"], 2).contains("--file"));
}

#[test]
fn a_command_that_cannot_be_run_gets_the_reason_or_what_was_meant() {
    let events = Events::new();
    events.done(&["set", "x"]);
    let file = |name: &str, content: &str, mode| {
        let path = events.home().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let lost = file("lost", "#!/no/such/shell -e\n", 0o755);
    let plain = file("plain", "#!/bin/sh\n", 0o644);
    let empty = file("empty", "\x7fELF", 0o755);
    for (command, code, expected) in [
        ("", 127, "tantara: \"\": command not found; it is empty"),
        ("echo hi", 127, "-- sh -c 'echo hi'"),
        ("cd", 127, "-- sh -c 'cd ...'"),
        ("LEVEL=1", 127, "-- env LEVEL=1 CMD"),
        ("no-such-command", 127, "no-such-command: command not found\n"),
        (&lost, 127, "its interpreter /no/such/shell does not exist"),
        (&plain, 126, "chmod +x "),
        ("/", 126, "it is a directory"),
        (&empty, 126, "cannot be executed: "),
    ] {
        // `wait` executes files without a format as `execvp` does.
        let subcommands = if command == empty { &["hold", "set"][..] } else { &["wait", "hold", "set"] };
        for subcommand in subcommands {
            let complaint = events.refused(&[subcommand, "x", "--", command], code);
            assert!(complaint.contains(expected), "{subcommand} {command}: {complaint}");
        }
    }
    // Shells execute a script without `#!`.
    let script = file("script", "echo ran $1\n", 0o755);
    for subcommand in ["wait", "hold", "set"] {
        assert_eq!(events.done(&[subcommand, "x", "--", &script, "well"]), "ran well\n", "{subcommand}");
    }
}

#[test]
fn a_misspelt_option_gets_the_right_one() {
    let events = Events::new();
    for (args, expected) in [
        (&["wait", "x", "-timeout", "3"][..], "; did you mean --timeout?"),
        (&["wait", "x", "-timeout=3", "--", "true"], "; did you mean --timeout?"),
        (&["wait", "x", "--timout", "3"], "'--timeout'"),
        (&["watch", "-n", "x"], "a whole number from 1 on"),
    ] {
        let complaint = events.refused(args, 2);
        assert!(complaint.contains(expected) && !complaint.contains("as a value"), "{complaint}");
    }
    assert!(!events.path().exists());
}

#[test]
fn of_many_waiters_some_are_listed_and_the_others_counted() {
    let events = Events::new();
    let waiting: Vec<_> = (0..10).map(|_| events.start(&["wait", "x"])).collect();
    until(|| events.done(&["ls"]).contains("and 2 more"));
    let table = events.done(&["ls"]);
    assert_eq!(table.matches("tantara wait x (for ").count(), 8, "{table}");
    drop(waiting);
}
