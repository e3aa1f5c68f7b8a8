//! The subcommands for events between machines, tested with the real binary and real servers.
#![cfg(all(target_os = "linux", in_repository))]

mod scratch;
mod signals;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use etcd_for_tests::{Servers, json};
use scratch::refused;
use serde_json::Value;

/// A generous limit for everything that must happen.
const LONG: Duration = Duration::from_secs(60);

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tantara"));
    command.args(args).stdin(Stdio::null());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TANTARA_")) {
        command.env_remove(name);
    }
    command
}

/// A cluster, and the command that uses it.
struct Region(Servers);

impl Region {
    fn new() -> Region {
        Region(Servers::one())
    }

    fn endpoint(&self) -> String {
        self.0.endpoints().join(",")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = command(args);
        command.env("TANTARA_ETCD", self.endpoint());
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

    fn refused(&self, args: &[&str], code: i32) -> String {
        refused(&mut self.command(args), code)
    }

    fn code(&self, args: &[&str]) -> i32 {
        self.run(args).status.code().unwrap()
    }

    fn start(&self, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn listed(&self) -> Vec<Value> {
        serde_json::from_str(&self.done(&["ls", "--json"])).unwrap()
    }

    /// Returns once this many waits for the event are listed.
    fn until_waiting(&self, name: &str, count: u64) {
        let waiting = || {
            let events = self.listed();
            let event = events.iter().find(|event| event["name"] == name)?;
            event["waiters"].as_array()?.iter().map(|waiter| waiter["count"].as_u64()).sum::<Option<u64>>()
        };
        until(|| waiting().unwrap_or(0) == count);
    }
}

fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come to pass");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_subcommands_work_between_machines_as_between_processes() {
    let region = Region::new();
    assert_eq!(region.code(&["is-set", "db-ready"]), 1);
    region.done(&["set", "db-ready", "cache-ready"]);
    assert_eq!(region.code(&["is-set", "db-ready"]), 0);
    region.done(&["wait", "db-ready", "cache-ready"]);
    assert_eq!(region.done(&["wait", "--any", "never", "db-ready"]), "db-ready\n");
    region.done(&["clear", "db-ready"]);
    assert_eq!(region.code(&["is-set", "db-ready"]), 1);
    assert!(region.refused(&["wait", "db-ready", "--timeout", "0.1"], 124).contains("db-ready not set"));
    assert_eq!(region.code(&["wait", "db-ready", "--timeout", "0"]), 124);
    assert_eq!(region.code(&["wait", "--any", "db-ready", "never", "--timeout", "50ms"]), 124);
    let unknown = region.run(&["is-set", "db-raedy"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("did you mean db-ready?"));
    // By the option, with a namespace of its own.
    let mut other = command(&["--etcd", &region.endpoint(), "--namespace", "shop", "set", "door"]);
    assert!(other.output().unwrap().status.success());
    let keys: Vec<String> = region.0.keys("/shop/").into_iter().map(|(key, _)| key).collect();
    let (slots, keys): (Vec<String>, Vec<String>) = keys.into_iter().partition(|key| key.starts_with("/shop/o/"));
    assert_eq!(keys, ["/shop/e/door/l", "/shop/e/door/p"], "whoever has set leaves nothing else of its own");
    assert_eq!(slots.len(), 1, "one of those that all writers share");
    // On a busy machine a lease may not be revoked in time; then it expires.
    until(|| region.0.leases() == 0);
}

#[test]
fn waiters_are_listed_and_released() {
    let region = Region::new();
    let (first, second) = (region.start(&["wait", "job"]), region.start(&["wait", "job", "--", "echo", "go"]));
    region.until_waiting("job", 2);
    let table = region.done(&["ls"]);
    assert!(table.contains("job") && table.contains(" on "), "{table}");
    assert!(table.contains(&first.id().to_string()) && table.contains(&second.id().to_string()), "{table}");
    region.done(&["pulse", "job"]);
    assert!(first.wait_with_output().unwrap().status.success());
    let output = second.wait_with_output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "go\n");
    region.until_waiting("job", 0);
    let events = region.listed();
    assert_eq!(events[0]["state"], "unset");
    assert!(events[0]["last_set"]["pid"].is_u64() && events[0]["last_set"]["host"].is_string());
    // The records of the wait are removed before it becomes a command.
    let mut becomes = region.start(&["wait", "later", "--", "sleep", "60"]);
    region.until_waiting("later", 1);
    region.done(&["set", "later"]);
    region.until_waiting("later", 0);
    until(|| region.0.leases() == 0);
    becomes.kill().unwrap();
    becomes.wait().unwrap();
}

#[test]
fn a_removal_is_reported() {
    let region = Region::new();
    let waiting = region.start(&["wait", "job"]);
    region.until_waiting("job", 1);
    assert!(region.refused(&["rm", "job", "jobb"], 2).contains("did you mean job?"));
    region.done(&["rm", "job"]);
    let output = waiting.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(125));
    assert!(String::from_utf8_lossy(&output.stderr).contains("job was removed"));
    assert!(region.listed().is_empty());
}

#[test]
fn a_hold_of_a_removed_event_ends_and_its_command_goes_on() {
    let region = Region::new();
    let mut holding = region.command(&["hold", "job", "up", "--", "sh", "-c", "read line; exit 7"]);
    let mut holding = holding.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    region.done(&["wait", "job", "up"]);
    region.done(&["rm", "job"]);
    let mut warnings = BufReader::new(holding.stderr.take().unwrap());
    let mut warning = String::new();
    warnings.read_line(&mut warning).unwrap();
    assert_eq!(warning, "tantara: warning: job was removed, and is not held any more\n");
    assert_eq!((region.code(&["is-set", "job"]), region.code(&["is-set", "up"])), (1, 0));
    drop(holding.stdin.take());
    assert_eq!(holding.wait().unwrap().code(), Some(7));
    assert_eq!(warnings.lines().count(), 0, "the other event was held to the end");
}

#[test]
fn changes_are_printed_as_they_happen() {
    let region = Region::new();
    region.done(&["clear", "door"]);
    let mut watch = region.start(&["watch", "--json"]);
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    // The watch may not have begun yet.
    thread::sleep(Duration::from_millis(500));
    for subcommand in ["set", "clear", "pulse", "rm"] {
        region.done(&[subcommand, "door"]);
    }
    for (change, state, sets) in
        [("set", "set", 1), ("cleared", "unset", 0), ("pulsed", "unset", 1), ("removed", "unset", 0)]
    {
        let line: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!((&line["name"], &line["change"]), (&"door".into(), &change.into()));
        assert_eq!((&line["state"], &line["sets"]), (&state.into(), &sets.into()));
    }
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn an_unreachable_cluster_is_never_a_timeout() {
    let region = Region::new();
    let mut waiting = region.start(&["wait", "job", "--timeout", "2"]);
    region.until_waiting("job", 1);
    region.0[0].kill();
    assert_eq!(waiting.wait().unwrap().code(), Some(125));
    for args in [
        &["wait", "job", "--timeout", "1"][..],
        &["wait", "job", "--timeout", "0"],
        &["wait", "--any", "job", "door", "--timeout", "1"],
        &["is-set", "job"],
        &["set", "job"],
        &["ls"],
        &["rm", "job"],
        &["watch"],
    ] {
        let complaint = region.refused(args, 125);
        assert!(complaint.contains(&region.endpoint()) && complaint.contains("refused"), "{complaint}");
    }
    // The command of `wait` does not run.
    let mark = tempfile::tempdir().unwrap();
    let file = mark.path().join("ran");
    region.refused(&["wait", "job", "--timeout", "1", "--", "touch", file.to_str().unwrap()], 125);
    assert!(!file.exists());
}

#[test]
fn bad_input_gets_one_clear_error_before_anything_happens() {
    let region = Region::new();
    assert!(region.refused(&["set", "fine", "a/b"], 2).contains("a/b"));
    assert!(region.listed().is_empty(), "nothing has happened");
    assert!(region.refused(&["--namespace", "a/b", "set", "x"], 2).contains("namespace"));
    for endpoints in ["a b:1", "host:port", ",", "ftp://a:1", "a:1:2"] {
        let text = refused(&mut command(&["--etcd", endpoints, "set", "x"]), 2);
        assert!(text.contains("HOST:PORT"), "{text}");
    }
    assert!(refused(&mut command(&["--namespace", "shop", "set", "x"]), 2).contains("--etcd"));
    refused(&mut command(&["--dir", "/tmp", "--etcd", "a:1", "set", "x"]), 2);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    assert!(region.refused(&["--cacert", file.to_str().unwrap(), "ls"], 2).contains("ca.pem"));
    fs::write(&file, "nonsense").unwrap();
    assert!(region.refused(&["--cacert", file.to_str().unwrap(), "ls"], 2).contains("PEM"));
    fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    region.refused(&["--cert", file.to_str().unwrap(), "ls"], 2);
    region.refused(&["--cacert", file.to_str().unwrap(), "ls"], 125);
    assert!(region.refused(&["--user", "ann", "ls"], 2).contains("TANTARA_ETCD_PASSWORD"));
}

#[test]
fn users_and_tls() {
    let servers = Servers::build().user("ann", "sesame", "/shop/").start();
    let as_ann = |password: &str, args: &[&str]| {
        let mut command =
            command(&[&["--etcd", &servers.endpoints()[0], "--namespace", "shop", "--user", "ann"], args].concat());
        command.env("TANTARA_ETCD_PASSWORD", password);
        command
    };
    assert!(as_ann("sesame", &["set", "door"]).output().unwrap().status.success());
    let text = refused(&mut as_ann("wrong", &["set", "door"]), 125);
    assert!(text.contains("ann") && text.contains(&servers.endpoints()[0]) && !text.contains("wrong"), "{text}");
    let mut elsewhere = command(&["--etcd", &servers.endpoints()[0], "--user", "ann", "set", "door"]);
    elsewhere.env("TANTARA_ETCD_PASSWORD", "sesame").env("TANTARA_NAMESPACE", "other");
    assert!(refused(&mut elsewhere, 125).contains("roles"));
    // Files are read once at the start, so they may be pipes.
    let by_pipe = ["--etcd", &servers.endpoints()[0], "--namespace", "shop", "--user", "ann"];
    let by_pipe = [&by_pipe[..], &["--password-file", "/dev/stdin", "set", "door"]].concat();
    piped(command(&by_pipe), "sesame\n");

    let servers = Servers::build().tls().client_certificates().start();
    let file = |name: &str| servers.folder().join(name).to_str().unwrap().to_owned();
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client-key.pem"].map(file);
    let endpoint = &servers.endpoints()[0];
    let tls = ["--cacert", &ca, "--cert", &certificate, "--key", &key];
    let output = command(&[&["--etcd", endpoint][..], &tls, &["set", "door"]].concat()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let by_pipe = ["--etcd", endpoint, "--cacert", "/dev/stdin", "--cert", &certificate, "--key", &key, "set", "door"];
    piped(command(&by_pipe), &fs::read_to_string(&ca).unwrap());
    refused(&mut command(&["--etcd", endpoint, "wait", "door", "--timeout", "1"]), 125);
}

/// Runs a command that succeeds, with this standard input.
fn piped(mut command: Command, input: &str) {
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn names_complete() {
    let region = Region::new();
    region.done(&["set", "db-ready", "db-full", "cache"]);
    let complete = |words: &[&str], variable: bool| {
        let mut command = if variable { region.command(&[]) } else { command(&[]) };
        command.env("TANTARA_COMPLETE", "bash");
        String::from_utf8(command.arg("--").args(words).output().unwrap().stdout).unwrap()
    };
    assert!(complete(&["tantara", "set", "db-"], true).contains("db-ready"));
    assert!(complete(&["tantara", "--etcd", &region.endpoint(), "wait", "c"], false).contains("cache"));
    assert!(!complete(&["tantara", "--etcd", "127.0.0.1:1", "wait", "c"], false).contains("cache"));
}

#[test]
fn an_unreachable_cluster_is_tried_until_the_timeout() {
    let region = Region::new();
    region.0[0].kill();
    let longer_than_a_request = Duration::from_secs(7);
    for args in [&["wait", "job", "--timeout", "120"][..], &["--connect-timeout", "2m", "set", "job"]] {
        let mut child = region.start(args);
        thread::sleep(longer_than_a_request);
        assert!(child.try_wait().unwrap().is_none(), "{args:?} has given up: {:?}", child.wait_with_output());
        region.0[0].start();
        region.0.wait_healthy();
        region.done(&["set", "job"]);
        assert!(child.wait().unwrap().success(), "{args:?}");
        region.0[0].kill();
    }
    // … and not longer.
    region.refused(&["wait", "job", "--connect-timeout", "1"], 125);
    region.refused(&["wait", "job", "--timeout", "1", "--connect-timeout", "1h"], 125);
    assert!(region.refused(&["wait", "job", "--connect-timeout", "soon"], 2).contains("duration"));
}

/// Waits for a line of standard error that contains this.
fn until_told(lines: &mut impl Iterator<Item = std::io::Result<String>>, what: &str) {
    let told = lines.map(Result::unwrap).find(|line| line.contains(what));
    assert!(told.is_some(), "it ends without telling of {what:?}");
}

#[test]
fn a_wait_reports_an_outage_and_survives_it() {
    let region = Region::new();
    let mut waiting = region.start(&["wait", "job"]);
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    region.until_waiting("job", 1);
    region.0[0].kill();
    until_told(&mut lines, "no contact with the cluster for ");
    region.0[0].start();
    region.0.wait_healthy();
    until_told(&mut lines, "in contact with the cluster again");
    region.done(&["set", "job"]);
    assert!(waiting.wait().unwrap().success());
}

#[test]
fn a_password_file_is_read_again() {
    let servers = Servers::build().user("ann", "sesame", "/shop/").start();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    let as_ann = |args: &[&str]| {
        let file = file.to_str().unwrap();
        let mut command = command(&["--etcd", &servers.endpoints()[0], "--namespace", "shop", "--user", "ann"]);
        command.args(["--password-file", file]).args(args);
        command
    };
    assert!(refused(&mut as_ann(&["set", "door"]), 2).contains("password: "), "it is not there");
    fs::write(&file, "\n").unwrap();
    assert!(refused(&mut as_ann(&["set", "door"]), 2).contains("no password in its first line"));
    fs::write(&file, "sesame\n").unwrap();
    let mut waiting = as_ann(&["wait", "door"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(waiting.stderr.take().unwrap()).lines();
    until(|| servers.watchers() == 1);
    servers.call("auth/user/changepw", &json!({"name": "ann", "password": "open"})).unwrap();
    // A restarted server forgets all tokens.
    servers[0].kill();
    servers[0].start();
    servers.wait_healthy();
    until_told(&mut lines, "cannot log in");
    fs::write(&file, "open\n").unwrap();
    until_told(&mut lines, "in contact with the cluster again");
    assert!(as_ann(&["set", "door"]).output().unwrap().status.success());
    assert!(waiting.wait().unwrap().success());
}

#[test]
fn secrets_are_not_printed() {
    let region = Region::new();
    let endpoint = region.endpoint();
    let userinfo = format!("http://ann:sesame@{endpoint}");
    let in_halves = format!("ann:ses,ame@{endpoint}");
    for (args, code) in [
        (&["--user", "ann:sesame", "ls"][..], 2),
        (&["--user=ann:sesame", "wait", "job", "--timeout", "1"], 2),
        (&["--etcd", &userinfo, "ls"], 2),
        (&["--etcd", &in_halves, "set", "job"], 2),
    ] {
        for password in [None, Some("sesame")] {
            let mut command = region.command(args);
            if let Some(password) = password {
                command.env("TANTARA_ETCD_PASSWORD", password);
            }
            let text = refused(&mut command, code);
            assert!(!text.contains("ses") && !text.contains("ame@"), "{text}");
            assert!(text.contains("user"), "{text}");
        }
    }
    let mut variable = command(&["ls"]);
    variable.env("TANTARA_ETCD", &userinfo);
    assert!(!refused(&mut variable, 2).contains("sesame"));
    // An address for documentation (RFC 5737), which is unreachable.
    let mut exposed = command(&["--etcd", "192.0.2.1:2379", "--connect-timeout", "1", "--user", "ann", "ls"]);
    let output = exposed.env("TANTARA_ETCD_PASSWORD", "sesame").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("warning: the password goes to 192.0.2.1:2379 without TLS"), "{text}");
    assert!(!text.contains("sesame") && output.status.code() == Some(125), "{text}");
}

#[test]
fn a_tls_error_mentions_certificates() {
    let servers = Servers::build().tls().start();
    // On a busy machine the handshake may take too long, which is another error.
    let complaint_about = |endpoint: &str, what: &str| {
        for seconds in ["2", "8", "32"] {
            let text = refused(&mut command(&["--etcd", endpoint, "--connect-timeout", seconds, "ls"]), 125);
            assert!(!text.contains("majority"), "{text}");
            if text.contains(what) {
                return;
            }
            assert!(text.contains("does not answer"), "{text}");
        }
        panic!("nothing is said of {what}");
    };
    complaint_about(&format!("https://{}", servers.endpoints()[0]), "certificate");
    complaint_about(&servers.endpoints()[0], "https://");
}
