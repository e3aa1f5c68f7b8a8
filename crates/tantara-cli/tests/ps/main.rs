//! `tantara ps`, tested with the real binary: the waits of other processes.
#![cfg(target_os = "linux")]

mod declared;
mod folded;
mod hostile;
#[cfg(in_repository)]
mod machines;
#[path = "../signals/mod.rs"]
mod signals;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A generous limit for everything that must happen.
const LONG: Duration = Duration::from_secs(60);

/// A process that is killed at the end.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(dir: &Path, args: &[&str]) -> Command {
    signals::end_children();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tantara"));
    command.args(args).env("TANTARA_DIR", dir).env_remove("TANTARA_ETCD").env_remove("TANTARA_WAITS");
    command.stdin(Stdio::null());
    command
}

fn run(dir: &Path, args: &[&str]) -> Output {
    command(dir, args).output().unwrap()
}

fn ps(dir: &Path) -> Vec<Value> {
    let output = run(dir, &["ps", "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A process that waits for an event, and records that.
fn recording(dir: &Path, args: &[&str]) -> Running {
    let process = Running(command(dir, args).env("TANTARA_WAITS", "1").stderr(Stdio::null()).spawn().unwrap());
    until(|| ps(dir).into_iter().any(|page| page["pid"] == process.0.id() && page["total"] == 1));
    process
}

#[track_caller]
fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "it should have happened");
        thread::sleep(Duration::from_millis(10));
    }
}

fn pages(dir: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(".waits-")).collect()
}

#[test]
fn it_shows_who_waits_for_what_where_and_since_when() {
    let dir = TempDir::new().unwrap();
    let waiter = recording(dir.path(), &["wait", "db-ready", "--timeout", "1h"]);
    let shown = ps(dir.path());
    assert_eq!((shown.len(), &shown[0]["pid"]), (1, &json!(waiter.0.id())));
    assert!(shown[0]["command"].as_str().unwrap().ends_with("wait db-ready --timeout 1h"), "{shown:?}");
    let group = &shown[0]["groups"][0];
    assert_eq!((&group["count"], &group["mode"], &group["released"]), (&json!(1), &json!("one"), &json!(false)));
    assert_eq!((&group["events"][0]["name"], &group["events"][0]["kind"]), (&json!("db-ready"), &json!("SharedEvent")));
    assert!(group["place"].as_str().unwrap().contains(".rs:"), "{group}");
    assert_eq!(group["waiters"][0]["thread"], "main");
    assert!(group["waiters"][0]["since"].as_str().unwrap().ends_with('Z') && group["waiters"][0]["until"].is_string());

    let pid = waiter.0.id().to_string();
    let table = String::from_utf8(run(dir.path(), &["ps", &pid]).stdout).unwrap();
    let lines: Vec<_> = table.lines().collect();
    assert!(lines[0].starts_with(&pid) && lines[0].ends_with("wait db-ready --timeout 1h: 1 wait"), "{table}");
    assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["FOR", "WHO", "EVENT", "WHERE", "KNOWN"]);
    assert!(lines[2].contains("main") && lines[2].contains("db-ready") && lines[2].contains(".rs:"), "{table}");
}

#[test]
fn only_its_owner_can_read_a_page_and_it_ends_with_its_process() {
    let dir = TempDir::new().unwrap();
    let mut waiter = recording(dir.path(), &["wait", "db-ready"]);
    let page = pages(dir.path()).remove(0);
    assert_eq!(fs::metadata(&page).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(run(dir.path(), &["set", "db-ready"]).status.success());
    assert!(waiter.0.wait().unwrap().success());
    assert_eq!(pages(dir.path()), Vec::<PathBuf>::new(), "removed at the exit");

    assert!(run(dir.path(), &["clear", "db-ready"]).status.success());
    let mut waiter = recording(dir.path(), &["wait", "db-ready"]);
    waiter.0.kill().unwrap();
    waiter.0.wait().unwrap();
    assert_eq!(pages(dir.path()).len(), 1, "left by a killed process");
    assert_eq!(ps(dir.path()), Vec::<Value>::new());
    let listed = run(dir.path(), &["ls", "--json"]);
    assert_eq!(serde_json::from_slice::<Value>(&listed.stdout).unwrap().as_array().unwrap().len(), 1, "{listed:?}");
    let _next = recording(dir.path(), &["wait", "db-ready"]);
    assert_eq!(pages(dir.path()).len(), 1, "the next process that records removes it");
}

#[test]
fn waits_are_published_in_the_directory_of_the_option() {
    let [dir, other] = [(); 2].map(|()| TempDir::new().unwrap());
    for subcommand in [&["wait", "db-ready"][..], &["bank", "--pace", "100"]] {
        let mut process = command(other.path(), &["--dir", dir.path().to_str().unwrap()]);
        let process = process.args(subcommand).env("TANTARA_WAITS", "1").stdout(Stdio::null()).spawn().unwrap();
        let process = Running(process);
        until(|| ps(dir.path()).iter().any(|page| page["pid"] == process.0.id() && page["total"] != 0));
        assert_eq!(pages(other.path()), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_page_that_was_removed_is_written_again() {
    let dir = TempDir::new().unwrap();
    let _waiter = recording(dir.path(), &["wait", "db-ready"]);
    let before = fs::metadata(pages(dir.path()).remove(0)).unwrap().ino();
    fs::remove_file(pages(dir.path()).remove(0)).unwrap();
    until(|| pages(dir.path()).iter().any(|page| !page.to_str().unwrap().ends_with(".new")));
    assert_ne!(fs::metadata(pages(dir.path()).remove(0)).unwrap().ino(), before);
}

/// Also if it has a deadline: its moments do not move.
#[test]
fn a_page_is_written_again_only_if_a_wait_has_changed() {
    let dir = TempDir::new().unwrap();
    let _waiter = recording(dir.path(), &["wait", "db-ready", "--timeout", "1h"]);
    let page = || fs::metadata(pages(dir.path()).remove(0)).unwrap().ino();
    until(|| {
        let before = page();
        (0..8).all(|_| {
            thread::sleep(Duration::from_millis(250));
            page() == before
        })
    });
}

/// Processes are killed at any moment, while others read.
#[test]
fn no_reader_sees_half_a_page_however_its_writer_ends() {
    let dir = TempDir::new().unwrap();
    let mut waiters: Vec<_> = (0..4)
        .map(|_| Running(command(dir.path(), &["wait", "x"]).env("TANTARA_WAITS", "1").spawn().unwrap()))
        .collect();
    for round in 0..24 {
        let output = run(dir.path(), &["ps", "--json"]);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        for page in serde_json::from_slice::<Vec<Value>>(&output.stdout).unwrap() {
            assert_eq!(page["total"], page["groups"].as_array().unwrap().len(), "{page}");
        }
        let (at, delay) = (round % waiters.len(), Duration::from_millis(7 * (round as u64 % 5)));
        waiters[at] = Running(command(dir.path(), &["wait", "x"]).env("TANTARA_WAITS", "1").spawn().unwrap());
        thread::sleep(delay);
    }
}

#[test]
fn what_it_cannot_show_is_said() {
    let dir = TempDir::new().unwrap();
    let none = run(dir.path(), &["ps"]);
    assert!(none.status.success() && none.stdout.is_empty());
    let said = String::from_utf8(none.stderr).unwrap();
    assert!(said.contains("no process publishes its waits in ") && said.contains("TANTARA_WAITS=1"), "{said}");
    assert_eq!(run(dir.path(), &["ps", "--json"]).stdout, b"[]\n");

    let unknown = run(dir.path(), &["ps", "1"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(String::from_utf8(unknown.stderr).unwrap().contains("process 1 publishes no waits in "));
    for no_process in ["0", "-1", "abc", "99999999999"] {
        let refused = run(dir.path(), &["ps", no_process]);
        assert_eq!(refused.status.code(), Some(2), "{no_process}");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains("expected the ID of a process, a number from 1 on"), "{said}");
    }
}

#[test]
fn the_bank_shows_who_waits_for_what_and_who_is_to_set_it() {
    let dir = TempDir::new().unwrap();
    for (reach, who) in [("threads", "4 threads: worker, worker, worker, …"), ("tasks", "4 tasks")] {
        let mut bank = command(dir.path(), &["bank", "--pace", "100", "--reach", reach]);
        let bank = Running(bank.stdout(Stdio::null()).spawn().unwrap());
        let four = || ps(dir.path()).iter().any(|page| page["pid"] == bank.0.id() && page["groups"][0]["count"] == 4);
        until(four);
        let table = String::from_utf8(run(dir.path(), &["ps", &bank.0.id().to_string()]).stdout).unwrap();
        assert!(table.contains(who) && table.contains("bank_open"), "{table}");
        assert!(table.contains(&format!("crates/tantara-bank/src/{reach}.rs:")), "{table}");
        assert!(table.contains("to be set by ") && table.contains("crates/tantara-bank/src/bank.rs:"), "{table}");
    }
}

/// A line without what differs from run to run, and with the last part of each path only.
fn essence(line: &str) -> String {
    let word = |word: &str| {
        let last = word.rsplit('/').next().unwrap_or_default();
        // Line numbers stay.
        if last.contains(".rs:") { last.to_owned() } else { last.replace(|c: char| c.is_ascii_digit(), "") }
    };
    line.split_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// The transcripts of documents are what the command prints, except for numbers and folders.
#[test]
fn documents_show_what_ps_prints_about_the_bank() {
    let dir = TempDir::new().unwrap();
    let mut bank = command(dir.path(), &["bank", "--pace", "100"]);
    let bank = Running(bank.stdout(Stdio::null()).spawn().unwrap());
    until(|| ps(dir.path()).iter().any(|page| page["pid"] == bank.0.id() && page["groups"][0]["count"] == 4));
    let printed = String::from_utf8(run(dir.path(), &["ps"]).stdout).unwrap();
    let printed: Vec<_> = printed.lines().map(essence).collect();
    assert_eq!(printed.len(), 3, "{printed:?}");
    for document in ["README.md", "docs/hangs.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(document)).unwrap();
        let lines: Vec<_> = text.lines().map(essence).collect();
        assert!(lines.windows(3).any(|lines| lines == printed), "{document} does not show this: {printed:#?}");
    }
}

#[test]
fn late_waits_are_printed_if_the_environment_says_so() {
    let dir = TempDir::new().unwrap();
    let mut waits = command(dir.path(), &["wait", "db-ready", "--timeout", "2s"]);
    let output = waits.env("TANTARA_WAITS", "300ms").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let line = said.lines().find(|line| line.contains("main (")).unwrap_or_else(|| panic!("{said}"));
    assert!(line.starts_with("tantara: thread main (") && line.contains(") waits for db-ready at "), "{said}");

    let mut waits = command(dir.path(), &["wait", "db-ready", "--timeout", "0.3s"]);
    let output = waits.env("TANTARA_WAITS", "soon").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("TANTARA_WAITS is neither 0, 1 nor a duration such as 30s"), "{said}");
}

#[test]
fn ls_shows_how_many_wait_inside_of_the_processes_that_record() {
    let dir = TempDir::new().unwrap();
    let waiter = recording(dir.path(), &["wait", "db-ready", "other"]);
    assert!(run(dir.path(), &["clear", "unrelated"]).status.success());
    let listed: Vec<Value> = serde_json::from_slice(&run(dir.path(), &["ls", "--json"]).stdout).unwrap();
    for event in &listed {
        if event["name"] == "unrelated" {
            assert_eq!(event.get("inside"), None, "{event}");
            continue;
        }
        let inside = event["inside"].as_array().unwrap();
        assert_eq!((inside.len(), &inside[0]["pid"], &inside[0]["waits"]), (1, &json!(waiter.0.id()), &json!(1)));
        assert!(inside[0]["oldest_place"].as_str().unwrap().contains(".rs:"), "{event}");
        assert!(inside[0]["since"].as_str().unwrap().ends_with('Z'), "{event}");
    }
    assert_eq!(listed.len(), 3);
    let table = String::from_utf8(run(dir.path(), &["ls", "db-ready"]).stdout).unwrap();
    let expected = format!("inside of {}: 1, the oldest at ", waiter.0.id());
    assert!(table.contains(&expected), "{table}");
}
