//! The subcommands for events between processes, tested with the real binary.
#![cfg(target_os = "linux")]

mod signals;
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A generous limit for everything that must happen.
const LONG: Duration = Duration::from_secs(60);

/// A directory of events, and the command in it.
struct Events(TempDir);

impl Events {
    fn new() -> Events {
        Events(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        signals::end_children();
        let mut command = Command::new(env!("CARGO_BIN_EXE_tantara"));
        command.args(args).env("TANTARA_DIR", self.path()).env_remove("TANTARA_ETCD").stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs the command, which succeeds and prints nothing on standard error. Returns its output.
    fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the command, which fails with one line on standard error and no output. Returns the line.
    fn refused(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {complaint}");
        assert!(output.stdout.is_empty(), "{args:?}: {:?}", String::from_utf8_lossy(&output.stdout));
        assert!(complaint.starts_with("tantara: ") && complaint.lines().count() == 1, "{args:?}: {complaint}");
        complaint
    }

    fn code(&self, args: &[&str]) -> i32 {
        self.run(args).status.code().unwrap()
    }

    fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// The event in the output of `ls --json`.
    fn listed(&self, name: &str) -> Option<Value> {
        let all: Value = serde_json::from_str(&self.done(&["ls", "--json"])).unwrap();
        all.as_array().unwrap().iter().find(|event| event["name"] == name).cloned()
    }

    /// Returns once this many waits for the event are listed.
    fn until_waiting(&self, name: &str, count: usize) -> Vec<Value> {
        let deadline = Instant::now() + LONG;
        loop {
            let waiters = self.listed(name).map_or(Vec::new(), |event| event["waiters"].as_array().unwrap().clone());
            if waiters.len() == count {
                return waiters;
            }
            assert!(Instant::now() < deadline, "{count} should wait for {name}, and these do: {waiters:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A running command. It is killed if the test fails.
struct Running(Child);

impl Running {
    fn end(mut self) -> Output {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        self.0.stdout.take().map(|mut pipe| pipe.read_to_end(&mut stdout).unwrap());
        self.0.stderr.take().map(|mut pipe| pipe.read_to_end(&mut stderr).unwrap());
        Output { status: self.0.wait().unwrap(), stdout, stderr }
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn set_and_clear_are_visible_and_is_set_reports_them_by_its_exit_code() {
    let events = Events::new();
    assert_eq!(events.done(&["set", "a", "b"]), "");
    assert_eq!((events.code(&["is-set", "a"]), events.code(&["is-set", "b"])), (0, 0));
    events.done(&["set", "a"]);
    events.done(&["clear", "a"]);
    events.done(&["clear", "a", "a"]);
    assert_eq!((events.code(&["is-set", "a"]), events.code(&["is-set", "b"])), (1, 0));
    events.done(&["pulse", "a", "b"]);
    assert_eq!((events.code(&["is-set", "a"]), events.code(&["is-set", "b"])), (1, 1));
    events.done(&["clear", "new"]);
    assert!(events.listed("new").is_some());
}

#[test]
fn a_wait_ends_with_the_set_in_either_order() {
    let events = Events::new();
    let waiting = events.start(&["wait", "late"]);
    events.until_waiting("late", 1);
    events.done(&["set", "late"]);
    let output = waiting.end();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
    assert_eq!(events.done(&["wait", "late", "late", "--timeout", "0"]), "");
    // A pulse releases every waiter, and no later one.
    let crowd: Vec<_> = (0..5).map(|_| events.start(&["wait", "tick"])).collect();
    events.until_waiting("tick", 5);
    events.done(&["pulse", "tick"]);
    crowd.into_iter().for_each(|waiting| assert!(waiting.end().status.success()));
    assert_eq!(events.code(&["wait", "tick", "--timeout", "0"]), 124);
}

#[test]
fn a_timeout_has_an_exit_code_of_its_own_and_runs_nothing() {
    let events = Events::new();
    let marker = events.path().join(".ran");
    let touch = ["--", "touch", marker.to_str().unwrap()];
    let complaint = events.refused(&[&["wait", "a", "b", "--timeout", "50ms"][..], &touch].concat(), 124);
    assert_eq!(complaint, "tantara: timed out after 50ms: a, b not set\n");
    for args in [&["wait", "a", "--timeout", "0"][..], &["wait", "a", "-q", "--timeout", "0.01"]] {
        let output = events.run(&[args, &touch].concat());
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(124), ""));
    }
    assert_eq!(events.code(&[&["wait", "--any", "a", "b", "--timeout", "10ms"][..], &touch].concat()), 124);
    assert!(!marker.exists());
    events.done(&["set", "a"]);
    events.done(&[&["wait", "a", "--timeout", "1h30m"][..], &touch].concat());
    assert!(marker.exists());
}

#[test]
fn a_wait_with_timeout_0_creates_neither_event_nor_directory() {
    let events = Events::new();
    let home = events.path().join("not-yet");
    let code = |args: &[&str]| {
        let mut command = events.command(args);
        command.env("TANTARA_DIR", &home).output().unwrap().status.code()
    };
    for args in [&["wait", "x", "--timeout", "0"][..], &["wait", "x", "y", "--any", "--timeout", "0s"]] {
        assert_eq!(code(args), Some(124), "{args:?}");
    }
    assert!(!home.exists());
    assert_eq!(code(&["set", "y"]), Some(0));
    assert_eq!(code(&["wait", "x", "y", "--timeout", "0"]), Some(124));
    let output =
        events.command(&["wait", "x", "y", "--any", "--timeout", "0"]).env("TANTARA_DIR", &home).output().unwrap();
    assert_eq!(text(&output.stdout), "y\n");
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1);
}

#[test]
fn the_command_replaces_the_wait() {
    let events = Events::new();
    let waiting = events.start(&["wait", "go", "--", "sh", "-c", "echo $$; exit 7"]);
    let pid = waiting.0.id();
    events.until_waiting("go", 1);
    events.done(&["set", "go"]);
    let output = waiting.end();
    assert_eq!((text(&output.stdout), output.status.code()), (&*format!("{pid}\n"), Some(7)));

    assert_eq!(events.done(&["wait", "go", "--", "echo", "--timeout", "-x", "--"]), "--timeout -x --\n");
    assert!(events.refused(&["wait", "go", "--", "no-such-command"], 127).contains("no-such-command"));
    let plain = events.path().join("plain.txt");
    fs::write(&plain, "text").unwrap();
    events.refused(&["wait", "go", "--", plain.to_str().unwrap()], 126);
    events.refused(&["wait", "go", "--", "/"], 126);
    // A closed standard output ends the command with SIGPIPE, as it would without `wait`.
    let output = Command::new("bash")
        .args(["-c", "set -o pipefail; \"$0\" wait go -- yes | head -1", env!("CARGO_BIN_EXE_tantara")])
        .env("TANTARA_DIR", events.path())
        .output()
        .unwrap();
    assert_eq!((text(&output.stdout), output.status.code()), ("y\n", Some(128 + 13)), "{output:?}");
}

/// The name is for whoever reads it. The command is what the wait is for.
#[test]
fn the_command_runs_even_if_nobody_reads_which_event_was_set() {
    let events = Events::new();
    events.done(&["set", "a"]);
    let marker = events.path().join(".ran");
    for which in [&["a", "b"][..], &["--pid", "2147483647"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let args = [&["wait", "--any"][..], which, &["--", "touch", marker.to_str().unwrap()]].concat();
        let output = events.command(&args).stdout(writer).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        fs::remove_file(&marker).unwrap();
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = events.command(&["wait", "--any", "a", "b", "--", "touch", marker.to_str().unwrap()]);
    let output = command.stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(125), "{output:?}");
    assert!(!marker.exists());
}

#[test]
fn any_prints_which_and_all_waits_for_each() {
    let events = Events::new();
    for name in ["b", "c", "a"] {
        let waiting = events.start(&["wait", "--any", "a", "b", "c"]);
        ["a", "b", "c"].iter().for_each(|name| drop(events.until_waiting(name, 1)));
        events.done(&["pulse", name]);
        let output = waiting.end();
        assert_eq!((text(&output.stdout), output.status.code()), (&*format!("{name}\n"), Some(0)));
    }
    let waiting = events.start(&["wait", "a", "b", "c", "--", "echo", "all"]);
    for name in ["c", "a", "b"] {
        events.until_waiting(name, 1);
        events.done(&["pulse", name]);
    }
    assert_eq!(text(&waiting.end().stdout), "all\n");
    events.done(&["set", "b", "c"]);
    assert_eq!(events.done(&["wait", "--any", "a", "b", "c"]), "b\n");
    assert_eq!(events.done(&["wait", "--any", "--quiet", "a", "b", "c"]), "");
}

#[test]
fn ls_shows_who_waits_since_when_and_who_set_last() {
    let events = Events::new();
    assert_eq!(events.done(&["ls", "--json"]).trim(), "[]");
    let empty = events.run(&["ls"]);
    assert!(empty.status.success() && text(&empty.stderr).contains("no events in"), "{empty:?}");

    events.done(&["set", "done"]);
    let waiting = events.start(&["wait", "ready", "--timeout", "10m"]);
    let pid = waiting.0.id();
    let waiters = events.until_waiting("ready", 1);
    assert_eq!(waiters[0]["pid"], pid);
    assert!(waiters[0]["command"].as_str().unwrap().ends_with("tantara wait ready --timeout 10m"), "{waiters:?}");
    assert!(waiters[0]["since"].as_str().unwrap().ends_with('Z'));
    let (done, ready) = (events.listed("done").unwrap(), events.listed("ready").unwrap());
    assert_eq!((&done["state"], &ready["state"]), (&Value::from("set"), &Value::from("unset")));
    assert!(done["last_set"]["pid"].is_u64() && done["last_set"]["at"].is_string(), "{done}");
    assert_eq!(ready["last_set"], Value::Null);

    let table = events.done(&["ls"]);
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows[0], ["NAME", "STATE", "LAST", "SET", "WAITING"]);
    assert_eq!(rows[1][..2], ["done", "set"]);
    assert_eq!(rows[2][..4], ["ready", "unset", "never", &*pid.to_string()]);

    // A killed process is no longer listed.
    waiting.signal("-KILL");
    assert_eq!(waiting.end().status.signal(), Some(9));
    events.until_waiting("ready", 0);
    events.done(&["set", "ready"]);
}

#[test]
fn each_of_several_waiters_has_a_line_in_the_column_of_waiters() {
    let events = Events::new();
    let _waiting = [events.start(&["wait", "x"]), events.start(&["wait", "x"])];
    events.until_waiting("x", 2);
    let table = events.done(&["ls"]);
    let column = table.lines().next().unwrap().find("WAITING").unwrap();
    assert!(table.starts_with("NAME"));
    for line in table.lines().skip(1) {
        assert!(line[column..].starts_with(char::is_numeric) && line[column..].contains("wait x"), "{table}");
    }
    assert_eq!(table.lines().count(), 3);
}

#[test]
fn removing_an_event_fails_its_waits() {
    let events = Events::new();
    for args in [&["wait", "x"][..], &["wait", "--any", "y", "x"], &["wait", "y", "x", "--timeout", "1h"]] {
        let waiting = events.start(&[args, &["--", "echo", "never"]].concat());
        events.until_waiting("x", 1);
        events.done(&["rm", "x"]);
        let output = waiting.end();
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(125), ""), "{args:?}");
        assert!(text(&output.stderr).contains("x was removed"), "{output:?}");
    }
    assert!(events.listed("x").is_none() && events.listed("y").is_some());
}

#[test]
fn an_unknown_name_offers_the_nearest() {
    let events = Events::new();
    events.done(&["set", "db-ready", "cache-ready"]);
    assert!(events.refused(&["rm", "db-ready", "db-raedy"], 2).contains("did you mean db-ready?"));
    assert_eq!(events.code(&["is-set", "db-ready"]), 0, "nothing was removed");
    assert!(events.refused(&["is-set", "dbready"], 1).contains("did you mean db-ready?"));
    assert!(!events.refused(&["is-set", "shutdown"], 1).contains("did you mean"));
}

#[test]
fn invalid_names_are_refused_before_anything_happens() {
    let events = Events::new();
    let long = "x".repeat(10_000);
    for name in ["", ".", "..", "../x", "a/b", "/etc/passwd", ".x", "a b", "a\nb", "a\tb", "\u{1b}[2J", &long] {
        for subcommand in ["set", "clear", "pulse", "wait", "rm", "watch"] {
            let complaint = events.refused(&[subcommand, "good", name], 2);
            assert!(complaint.contains("cannot be the name of an event"), "{complaint}");
            assert!(complaint.len() < 600 && !complaint.contains('\u{1b}'), "{complaint}");
        }
        events.refused(&["is-set", name], 2);
    }
    events.refused(&["set", "-rf"], 2);
    events.refused(&["set"], 2);
    for timeout in ["soon", "-1", "", "1x"] {
        let complaint = events.refused(&["wait", "good", "--timeout", timeout], 2);
        assert!(complaint.contains("500ms"), "{complaint}");
    }
    assert_eq!(fs::read_dir(events.path()).unwrap().count(), 0, "nothing was made");
}

#[test]
fn the_directory_is_the_one_that_was_named() {
    let (events, other) = (Events::new(), Events::new());
    events.done(&["--dir", other.path().to_str().unwrap(), "set", "a"]);
    events.done(&["set", "b", "--dir", other.path().to_str().unwrap()]);
    assert!(other.listed("a").is_some() && other.listed("b").is_some() && events.listed("a").is_none());

    let file = events.path().join("file");
    fs::write(&file, "").unwrap();
    let complaint = events.refused(&["--dir", file.to_str().unwrap(), "set", "a"], 2);
    assert!(complaint.contains("not a directory"), "{complaint}");
    events.refused(&["--dir", file.to_str().unwrap(), "ls"], 2);
    let lost = other.path().join("no/where");
    for subcommand in ["set", "wait", "watch"] {
        let complaint = events.refused(&["--dir", lost.to_str().unwrap(), subcommand, "a"], 125);
        let missing = lost.parent().unwrap().display();
        let expected = format!("no/where: cannot be made: there is no directory {missing}; create it");
        assert!(complaint.contains(&expected), "{subcommand}: {complaint}");
    }
    assert_eq!(events.done(&["--dir", lost.to_str().unwrap(), "ls", "--json"]).trim(), "[]");

    // Without a directory: the user's runtime directory. An empty variable counts as unset.
    let runtime = tempfile::tempdir().unwrap();
    let by_default = |args: &[&str]| {
        let mut command = events.command(args);
        command.env("TANTARA_DIR", "").env("XDG_RUNTIME_DIR", runtime.path()).output().unwrap()
    };
    assert!(by_default(&["set", "c"]).status.success());
    let place = runtime.path().join("tantara");
    assert!(place.join("c").exists());
    assert_eq!(place.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    fs::set_permissions(&place, PermissionsExt::from_mode(0o777)).unwrap();
    let output = by_default(&["set", "d"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("chmod 700"), "{output:?}");
}

#[test]
fn files_that_are_no_events_are_named_and_disturb_nothing() {
    let events = Events::new();
    events.done(&["set", "good"]);
    fs::write(events.path().join("short"), "tantara").unwrap();
    fs::create_dir(events.path().join("folder")).unwrap();
    std::os::unix::fs::symlink("good", events.path().join("link")).unwrap();
    assert!(Command::new("mkfifo").arg(events.path().join("pipe")).status().unwrap().success());
    let listed = events.run(&["ls"]);
    assert!(listed.status.success() && text(&listed.stdout).contains("good"), "{listed:?}");
    for (name, why) in
        [("short", "7 bytes"), ("folder", "directory"), ("link", "symbolic link"), ("pipe", "it is a pipe")]
    {
        assert!(text(&listed.stderr).contains(name), "{listed:?}");
        for subcommand in ["set", "clear", "wait", "is-set", "rm"] {
            let complaint = events.refused(&[subcommand, name], 2);
            assert!(complaint.contains("is not an event") && complaint.contains(why), "{subcommand}: {complaint}");
        }
        assert!(events.path().join(name).symlink_metadata().is_ok(), "it is still there");
    }
}

/// A running `watch`, whose output is read by a thread.
struct Watching {
    running: Running,
    lines: mpsc::Receiver<String>,
}

impl Watching {
    /// Returns once it prints a change of the event `begun`.
    fn new(events: &Events, args: &[&str]) -> Watching {
        let mut running = events.start(&[&["watch"], args].concat());
        let stdout = BufReader::new(running.0.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let watching = Watching { running, lines };
        while watching.lines.recv_timeout(Duration::from_millis(20)).is_err() {
            events.done(&["pulse", "begun"]);
        }
        watching
    }

    /// The lines up to the one that contains this text, without those of `begun`.
    fn until(&self, wanted: &str) -> Vec<String> {
        let mut said = Vec::new();
        loop {
            let line = self.lines.recv_timeout(LONG).unwrap_or_else(|_| panic!("nobody says {wanted:?}: {said:?}"));
            if !line.contains("begun") {
                said.push(line);
            }
            if said.last().is_some_and(|line| line.contains(wanted)) {
                return said;
            }
        }
    }
}

#[test]
fn watch_prints_every_change_as_it_happens() {
    let events = Events::new();
    events.done(&["clear", "old", "hidden"]);
    let watching = Watching::new(&events, &["old", "new", "begun"]);
    events.done(&["set", "hidden"]);
    events.done(&["set", "old"]);
    assert!(watching.until("old set by ")[0].ends_with(char::is_numeric));
    events.done(&["set", "old"]);
    events.done(&["clear", "old"]);
    assert!(watching.until("old")[0].ends_with(" old cleared"), "setting a set event is no change");
    events.done(&["pulse", "new"]);
    // In one line, or in two if it has seen the state in between.
    let first = watching.until("new").remove(0);
    assert!(first.contains(" new pulsed by ") || first.contains(" new set by "), "its very first moment: {first}");
    events.done(&["rm", "old"]);
    assert!(watching.until("old").pop().unwrap().ends_with(" old removed"));
    // The event is set again.
    events.done(&["set", "old"]);
    assert_eq!(watching.until("old set by ").len(), 1);
    assert!(events.listed("hidden").is_some());
}

#[test]
fn watch_survives_its_directory_and_invents_no_change_of_a_lost_file() {
    let events = Events::new();
    events.done(&["set", "cut"]);
    let watching = Watching::new(&events, &[]);
    fs::File::create(events.path().join("cut")).unwrap();
    assert!(watching.until("cut").remove(0).ends_with(" cut removed"));
    fs::remove_dir_all(events.path()).unwrap();
    events.done(&["set", "again"]);
    assert_eq!(watching.until("again set by ").len(), 1);
}

#[test]
fn watch_misses_no_set_however_fast_they_come() {
    let events = Events::new();
    let watching = Watching::new(&events, &["--json"]);
    for _ in 0..60 {
        // Repeated names: bursts that are too fast for a watcher.
        events.done(&["pulse", "a", "b", "b", "c", "c", "c"]);
    }
    events.done(&["set", "end"]);
    let expected =
        BTreeMap::from([("a", 60), ("b", 120), ("c", 180), ("end", 1)].map(|(name, n)| (name.to_owned(), n)));
    let mut sets = BTreeMap::new();
    // The lines of one event are in order; that of "end" may come before the last ones of others.
    while sets.values().sum::<u64>() < expected.values().sum() {
        for line in watching.until("\"") {
            let change: Value = serde_json::from_str(&line).unwrap();
            assert!(change["at"].is_string() && change["state"].is_string(), "{line}");
            *sets.entry(change["name"].as_str().unwrap().to_owned()).or_insert(0) += change["sets"].as_u64().unwrap();
        }
    }
    assert_eq!(sets, expected);
}

#[test]
fn signals_end_a_wait_as_that_signal() {
    let events = Events::new();
    for (name, number) in [("-INT", 2), ("-TERM", 15), ("-HUP", 1), ("-KILL", 9)] {
        for args in [&["wait", "x"][..], &["wait", "x", "y", "--any"]] {
            let waiting = events.start(args);
            events.until_waiting("x", 1);
            waiting.signal(name);
            let output = waiting.end();
            assert_eq!(output.status.signal(), Some(number));
            assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
        }
    }
    let watching = Watching::new(&events, &[]);
    watching.running.signal("-INT");
    assert_eq!(watching.running.end().status.signal(), Some(2));
}

#[test]
fn a_closed_standard_output_ends_the_watch_quietly() {
    let events = Events::new();
    let mut watching = events.start(&["watch"]);
    drop(watching.0.stdout.take());
    while watching.0.try_wait().unwrap().is_none() {
        events.done(&["pulse", "x"]);
    }
    let output = watching.end();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

/// Runs the command on a terminal of its own, and returns everything that it printed there.
fn on_a_terminal(events: &Events, args: &str) -> String {
    let command = format!("{} {args}", env!("CARGO_BIN_EXE_tantara"));
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .env("TANTARA_DIR", events.path())
        .stdin(Stdio::null())
        .output()
        .expect("script, of bsdutils, which every Debian has");
    String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")
}

#[test]
fn on_a_terminal_a_long_wait_says_what_it_waits_for_where_and_who_else_does() {
    let events = Events::new();
    let other = events.start(&["wait", "db-ready", "--timeout", "1h"]);
    events.until_waiting("db-ready", 1);
    let said = on_a_terminal(&events, "wait db-ready --timeout 1.5s");
    let first = said.lines().next().unwrap();
    assert!(first.starts_with("tantara: waiting for db-ready in "), "{said}");
    assert!(first.contains(&format!("; so does {} ", other.0.id())) && first.contains("wait db-ready"), "{said}");
    assert_eq!(said.lines().nth(1), Some("tantara: timed out after 1s 500ms: db-ready not set"));

    let said = on_a_terminal(&events, "wait dbready --timeout 1.2s");
    assert!(said.contains("; nobody else does (there is also db-ready)"), "{said}");
    assert!(!on_a_terminal(&events, "wait db-ready --quiet --timeout 1.2s").contains("waiting"));
    let table = on_a_terminal(&events, "ls");
    assert!(table.contains(events.path().to_str().unwrap()) && table.contains("WAITING"), "{table}");
}
