//! `tantara bank --reach machines`: the real binary and a real server.
#![cfg(all(target_os = "linux", in_repository))]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use etcd_for_tests::Servers;
use serde_json::Value;

/// A generous limit for everything that must happen.
const LONG: Duration = Duration::from_secs(60);

fn bank(servers: &Servers, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tantara"));
    command.args(["--etcd", &servers.endpoints()[0], "bank", "--reach", "machines"]).args(args);
    command.stdin(Stdio::null()).env_remove("TANTARA_ETCD").env_remove("TANTARA_DIR");
    command
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "it does not come to pass: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The worker processes of a manager.
fn workers_of(manager: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{manager}/task/{manager}/children")).unwrap_or_default();
    children.split_whitespace().map(|number| number.parse().unwrap()).collect()
}

fn kill(process: u32) {
    assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
}

/// Whether no keys are left except the slots of writes, which all writers of a namespace share.
fn is_clean(servers: &Servers) -> bool {
    let is_slot = |(key, _): &(String, _)| key.starts_with("/tantara/o/");
    servers.keys("/tantara/").iter().all(is_slot) && servers.leases() == 0
}

/// Whether no event is left. Other keys of killed processes end with their leases.
fn has_no_events(servers: &Servers) -> bool {
    servers.keys("/tantara/e/").is_empty() && servers.keys("/tantara/w/").is_empty()
}

fn places(lines: &[String], ending: &str) -> Vec<usize> {
    let places = lines.iter().enumerate().filter(|(_, line)| line.ends_with(ending));
    places.map(|(place, _)| place).collect()
}

#[test]
fn the_lines_are_the_same() {
    let servers = Servers::one();
    let output = bank(&servers, &["--pace", "0.1"]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let lines: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), 3 + 1 + 4 * 2 + 3 * 3 + 1, "{lines:#?}");
    assert_eq!(lines[0], "Bank manager is preparing to open the bank.");
    assert_eq!(lines.last().unwrap(), "All customers have completed their transactions.");
    let open = places(&lines, "Bank is now open!")[0];
    let transactions = places(&lines, "Transactions are now open!")[0];
    let [waiting, entered, starting] =
        ["is waiting for the bank to open.", "entered the bank", "is starting their transaction."]
            .map(|ending| places(&lines, ending));
    assert_eq!((waiting.len(), entered.len(), starting.len()), (4, 4, 3));
    assert!(entered.iter().all(|place| *place > open), "{lines:#?}");
    assert!(starting.iter().all(|place| *place > transactions), "{lines:#?}");
    assert!(lines.contains(&"Customer 2 has exited bank".to_owned()));
    until("nothing is left", || is_clean(&servers));
}

#[test]
fn figures_and_pictures_are_as_at_every_scope() {
    let servers = Servers::one();
    let folder = tempfile::tempdir().unwrap();
    let picture = folder.path().join("day.svg");
    let args = ["--pace", "0.01", "--count", "30", "--workers", "3", "--json", "--timeline", picture.to_str().unwrap()];
    let output = bank(&servers, &args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let figures: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(figures["reach"], "machines");
    assert_eq!((&figures["customers"], &figures["released"]["bank_open"]), (&30.into(), &30.into()));
    assert_eq!(figures["lost"], Value::Array(Vec::new()));
    assert!(fs::read_to_string(picture).unwrap().contains("<svg"));
    until("nothing is left", || is_clean(&servers));
}

#[test]
fn a_killed_worker_loses_only_its_customer() {
    let servers = Servers::one();
    let mut manager = bank(&servers, &["--count", "9", "--workers", "3"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(manager.stdout.take().unwrap()).lines().map(Result::unwrap);
    // All customers wait for the bank to open.
    let waiting = lines.by_ref().filter(|line| line.ends_with("is waiting for the bank to open.")).take(3).count();
    assert_eq!(waiting, 3);
    kill(workers_of(manager.id())[0]);
    let told: Vec<String> = lines.collect();
    let output = manager.wait_with_output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(125), "{complaint}");
    assert!(complaint.contains("was lost: worker ") && complaint.contains("SIGKILL"), "{complaint}");
    assert!(complaint.contains("1 of 9 customers was not served"), "{complaint}");
    assert_eq!(places(&told, "exited bank").len(), 8, "{told:#?}");
    until("all has been tidied up", || has_no_events(&servers));
}

#[test]
fn workers_end_with_their_manager_and_remove_the_events() {
    let servers = Servers::one();
    let mut manager = bank(&servers, &["--workers", "3"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(manager.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().ends_with("is waiting for the bank to open.")));
    let workers = workers_of(manager.id());
    assert!(!workers.is_empty());
    manager.kill().unwrap();
    manager.wait().unwrap();
    let is_gone =
        |worker: &u32| fs::read_to_string(format!("/proc/{worker}/stat")).map_or(true, |stat| stat.contains(") Z "));
    until("the workers have ended", || workers.iter().all(is_gone));
    until("all has been tidied up", || has_no_events(&servers));
}

#[test]
fn without_a_cluster_nothing_runs() {
    let refused = |mut command: Command, code: i32, says: &str| {
        let output = command.output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{complaint}");
        assert!(output.stdout.is_empty() && complaint.lines().count() == 1 && complaint.contains(says), "{complaint}");
    };
    let mut nowhere = Command::new(env!("CARGO_BIN_EXE_tantara"));
    nowhere.args(["bank", "--reach", "machines"]).env_remove("TANTARA_ETCD");
    refused(nowhere, 2, "--etcd");
    let servers = Servers::one();
    refused(bank(&servers, &["--workers", "1001"]), 2, "1000");
    servers[0].kill();
    refused(bank(&servers, &["--pace", "0"]), 125, &servers.endpoints()[0]);
    let stranger: Result<Child, _> = Command::new(env!("CARGO_BIN_EXE_tantara")).arg("far-worker-of-bank").spawn();
    assert_eq!(stranger.unwrap().wait().unwrap().code(), Some(2));
}

#[test]
fn workers_use_the_namespace_of_the_manager() {
    let servers = Servers::one();
    let args = ["--namespace", "shop", "--count", "2", "--workers", "1", "--pace", "0"];
    let mut child = bank(&servers, &args).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.last().as_deref(), Some("All customers have completed their transactions."));
    assert!(child.wait().unwrap().success());
    assert!(servers.keys("/tantara/").is_empty() && !servers.keys("/shop/").is_empty());
}
