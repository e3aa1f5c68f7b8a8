//! `tantara ps`, tested with the real binary: the waits of other processes.
#![cfg(target_os = "linux")]

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
    for verb in [&["wait", "db-ready"][..], &["bank", "--pace", "100"]] {
        let mut process = command(other.path(), &["--dir", dir.path().to_str().unwrap()]);
        let process = process.args(verb).env("TANTARA_WAITS", "1").stdout(Stdio::null()).spawn().unwrap();
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
fn hostile_pages_are_ignored_or_reported_in_one_line_and_hide_nothing() {
    let dir = TempDir::new().unwrap();
    let waiter = recording(dir.path(), &["wait", "db-ready"]);
    let namespace = fs::metadata("/proc/self/ns/pid").unwrap().ino();
    let path = |pid: u32| dir.path().join(format!(".waits-{pid}-{namespace}"));
    // Without the lock of a living process: whatever they contain.
    fs::write(path(4_000_001), b"{").unwrap();
    fs::create_dir(path(4_000_002)).unwrap();
    std::os::unix::fs::symlink("/dev/zero", path(4_000_003)).unwrap();
    assert!(Command::new("mkfifo").arg(path(4_000_004)).status().unwrap().success());
    fs::File::create(path(4_000_005)).unwrap().set_len(1 << 40).unwrap();
    fs::write(dir.path().join(".waits-x-y"), b"").unwrap();
    fs::write(dir.path().join(".waits-"), b"").unwrap();
    let output = run(dir.path(), &["ps"]);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");

    // Locked by a living process, so that it is read.
    let deep = "[".repeat(100_000);
    let long = "x".repeat(100_000);
    let event = json!({"name": "\u{1b}[2J\n", "labelled": true, "kind": "Event", "setters": []});
    let group = json!({
        "count": u64::MAX, "place": long, "mode": "one", "released": true, "abandoned": true, "number_of_events": 0,
        "events": [event], "waiters": [{"tid": 1, "since": u64::MAX}],
    });
    let page =
        |groups: Vec<Value>| json!({"version": 1, "total": u64::MAX, "missed": u64::MAX, "groups": groups}).to_string();
    let mut late = group.clone();
    late["waiters"][0]["until"] = json!(1e30);
    let texts = [deep, "{}".into(), "\u{0}".repeat(5_000), page(vec![group.clone(), group, late]), page(vec![])];
    for (number, text) in texts.iter().enumerate() {
        let file = path(4_100_000);
        let _ = fs::remove_file(&file);
        fs::write(&file, text).unwrap();
        let _lock = locked(&file);
        let output = run(dir.path(), &["ps"]);
        let (table, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success(), "{error}");
        assert!(table.contains(&waiter.0.id().to_string()) && table.contains("db-ready"), "{table}");
        assert!(!table.contains('\u{1b}') && table.len() < 5_000, "{table}");
        assert_eq!(table.contains("18446744073709551615 more were not recorded so far"), number >= 3, "{table}");
        assert_eq!(error.lines().count(), usize::from(number < 3), "{number}: {error}");
        assert_eq!(error.contains("the page of waits of process 4100000 cannot be read"), number < 3, "{error}");
        assert!(run(dir.path(), &["ps", "--json"]).status.success());
    }
}

/// Locks a file as a process locks its page, until the result is dropped.
fn locked(file: &Path) -> Running {
    let python = "import fcntl, struct, sys, time\n\
        f = open(sys.argv[1], 'r+b')\n\
        fcntl.fcntl(f, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 1, 0))\n\
        print(flush=True)\n\
        time.sleep(600)";
    let mut locker = Command::new("python3");
    locker.args(["-c", python]).arg(file).stdout(Stdio::piped()).stdin(Stdio::null());
    let mut locker = Running(locker.spawn().expect("python3"));
    let mut line = [0];
    std::io::Read::read_exact(locker.0.stdout.as_mut().unwrap(), &mut line).expect("it has the lock");
    locker
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

/// A program that declares to set an event between processes, or holds one, and sleeps: `duties` does so if it is
/// called as a child of the test.
fn duty(dir: &Path, what: &str) -> Running {
    let child = child(dir, what);
    until(|| declared(dir, child.0.id()) == 1);
    child
}

fn child(dir: &Path, what: &str) -> Running {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "duties", "--nocapture"]).env("TANTARA_WAITS", "1").env("TANTARA_DIR", dir).env(DUTY, what);
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
const SET_LINE: u32 = line!() + 11;

#[test]
fn duties() {
    let Ok(what) = std::env::var(DUTY) else { return };
    let event = tantara::SharedEvent::open_in(std::env::var("TANTARA_DIR").unwrap(), "migrated").unwrap();
    let _first_wait = event.wait_timeout(Duration::from_millis(1));
    if what == "endless" {
        let _ = event.wait_timeout(Duration::from_millis(u64::MAX));
    }
    let _hold = (what == "hold").then(|| event.hold().unwrap());
    let _set = (what == "set").then(|| event.set_on_drop().unwrap());
    let _set = (what == "wait").then(|| event.set_on_drop().unwrap());
    let _ = std::io::stdin().read_line(&mut String::new());
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
    assert!(shown.contains(&format!("to be set by process {pid}: by duties at {place}, ")), "{shown}");

    setter.0.kill().unwrap();
    setter.0.wait().unwrap();
    let shown = known(dir.path(), &waiter);
    assert!(
        shown.contains(&format!("was to be set by process {pid}, which was killed: by duties at {place}, ")),
        "{shown}"
    );
    let all = String::from_utf8(run(dir.path(), &["ps"]).stdout).unwrap();
    assert!(all.contains(&format!("{pid}  was killed before it had done what it had declared")), "{all}");
    assert!(all.contains(&format!("migrated was to be set by duties at {place}, ")), "{all}");

    // Processes that record later leave that page.
    let later = recording(dir.path(), &["wait", "migrated"]);
    assert!(known(dir.path(), &later).contains("which was killed"));
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
    assert!(shown.contains(&format!("held by process {pid}: by duties at {place}, ")), "{shown}");

    holder.0.kill().unwrap();
    holder.0.wait().unwrap();
    drop(waiter);
    let waiter = recording(dir.path(), &["wait", "migrated"]);
    let shown = known(dir.path(), &waiter);
    assert!(shown.contains(&format!("was held by process {pid}, which was killed: by duties at {place}, ")), "{shown}");
}
