//! The command beside that of another system, on one cluster. `$OTHER_TANTARA` names the other one, and
//! `$OTHER_TANTARA_RUNNER` what runs it: `cargo xtask platforms` has Wine run that of Windows. Without them both are
//! the same program.
#![cfg(all(unix, in_repository))]

mod scratch;
mod signals;

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

use etcd_for_tests::Servers;
use scratch::{Events, Running, refused, until};
use serde_json::Value;

const OWN: &str = env!("CARGO_BIN_EXE_tantara");

/// The words that run the other command.
fn other() -> Vec<String> {
    let named = |variable: &str| env::var(variable).ok().filter(|value| !value.is_empty());
    let program = named("OTHER_TANTARA").unwrap_or_else(|| OWN.to_owned());
    named("OTHER_TANTARA_RUNNER").into_iter().chain([program]).collect()
}

fn is_windows() -> bool {
    other().last().is_some_and(|program| program.ends_with(".exe"))
}

/// The words by which the other command runs itself.
fn itself() -> String {
    let program = other().pop().unwrap();
    // Wine's drive for the root.
    if is_windows() { format!("Z:{}", program.replace('/', "\\")) } else { program }
}

/// The words of a command of its shell.
fn shell(script: &'static str) -> [&'static str; 3] {
    if is_windows() { ["cmd", "/c", script] } else { ["sh", "-c", script] }
}

fn other_command(events: &Events, args: &[&str]) -> Command {
    let words = other();
    let args: Vec<&str> = words[1..].iter().map(String::as_str).chain(args.iter().copied()).collect();
    events.program(&words[0], &args)
}

fn run(events: &Events, args: &[&str]) -> Output {
    other_command(events, args).output().unwrap()
}

fn code(events: &Events, args: &[&str]) -> Option<i32> {
    run(events, args).status.code()
}

/// Runs the other command, which succeeds. Returns its output.
fn done(events: &Events, args: &[&str]) -> String {
    let output = run(events, args);
    assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().replace("\r\n", "\n")
}

fn start(events: &Events, args: &[&str]) -> Running {
    Running(other_command(events, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn listed(json: &str) -> Vec<Value> {
    serde_json::from_str(json).unwrap()
}

#[test]
fn each_sets_what_the_other_waits_for() {
    let events = Events::in_a_cluster();
    let waits = start(&events, &["wait", "go"]);
    events.until_waiting("go");
    events.done(&["set", "go"]);
    assert_eq!(waits.done(), "");

    let waits = events.start(&["wait", "--any", "never", "back"]);
    events.until_waiting("back");
    done(&events, &["set", "back"]);
    assert_eq!(waits.done(), "back\n");
    assert_eq!(done(&events, &["wait", "--any", "never", "back"]), "back\n");

    assert_eq!(code(&events, &["is-set", "go", "back"]), Some(0));
    done(&events, &["clear", "go"]);
    assert!(!events.is_set("go") && events.is_set("back"));
    assert_eq!(code(&events, &["is-set", "-q", "go"]), Some(1));

    let waits = start(&events, &["wait", "--next", "back"]);
    let unset = start(&events, &["wait", "--unset", "back"]);
    until(|| listed(&events.done(&["ls", "back", "--json"]))[0]["waiters"].as_array().unwrap().len() == 2);
    events.done(&["pulse", "back"]);
    assert_eq!((waits.done(), unset.done()), (String::new(), String::new()));
}

#[test]
fn a_timeout_is_124_and_an_unreachable_cluster_125() {
    let events = Events::in_a_cluster();
    let line = refused(&mut other_command(&events, &["wait", "never", "--timeout", "0.2"]), 124);
    assert!(line.contains("never not set"), "{line}");
    assert_eq!(code(&events, &["wait", "never", "--timeout", "0"]), Some(124));
    assert_eq!(code(&events, &["watch", "--timeout", "100ms"]), Some(124));
    let mut nowhere = other_command(&events, &["--etcd", "127.0.0.1:1", "--connect-timeout", "1", "set", "x"]);
    assert!(refused(nowhere.env_remove("TANTARA_ETCD"), 125).contains("127.0.0.1:1"));
    assert!(refused(&mut other_command(&events, &["set", "a/b"]), 2).contains("cannot be the name of an event"));
}

#[test]
fn both_list_and_print_the_same() {
    let events = Events::in_a_cluster();
    done(&events, &["set", "theirs", "--note", "disk full"]);
    events.done(&["set", "ours", "--note", "größe"]);
    let _waits = start(&events, &["wait", "slow"]);
    events.until_waiting("slow");
    let seen_by_other = listed(&done(&events, &["ls", "--json"]));
    assert_eq!(seen_by_other, listed(&events.done(&["ls", "--json"])));
    let [ours, slow, theirs] = &seen_by_other[..] else { panic!("{seen_by_other:?}") };
    assert_eq!((&ours["last_set"]["note"], &theirs["last_set"]["note"]), (&"größe".into(), &"disk full".into()));
    assert_eq!((&slow["state"], slow["waiters"][0]["host"].is_string()), (&"unset".into(), true));
    assert!(done(&events, &["ls"]).lines().any(|line| line.starts_with("theirs  set") && line.ends_with("disk full")));
    assert!(String::from_utf8(run(&events, &["wait", "ours"]).stderr).unwrap().ends_with(": größe\n"));

    done(&events, &["rm", "ours"]);
    assert_eq!(code(&events, &["rm", "ours"]), Some(2));
    done(&events, &["rm", "-f", "ours"]);
    events.done(&["rm", "--all"]);
    assert_eq!(done(&events, &["ls", "--json"]), "[]\n");
}

#[test]
fn changes_are_printed_as_they_happen() {
    let events = Events::in_a_cluster();
    let watch = start(&events, &["watch", "door", "--json", "-n", "3"]);
    until(|| events.watchers() > 0);
    events.done(&["set", "door", "--note", "knock"]);
    done(&events, &["clear", "door"]);
    events.done(&["rm", "door"]);
    let lines = watch.done();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let changes: Vec<&str> = lines.iter().map(|line| line["change"].as_str().unwrap()).collect();
    assert_eq!((changes, &lines[0]["note"]), (vec!["set", "cleared", "removed"], &"knock".into()));
}

#[test]
fn a_command_runs_after_a_wait_and_decides_the_exit_code() {
    let events = Events::in_a_cluster();
    events.done(&["set", "go"]);
    let [sh, c, script] = shell("exit 7");
    assert_eq!(code(&events, &["wait", "go", "--", sh, c, script]), Some(7));
    let [sh, c, script] = shell("echo served");
    assert_eq!(done(&events, &["wait", "go", "--", sh, c, script]), "served\n");
    assert_eq!(code(&events, &["wait", "never", "--timeout", "0.1", "--", sh, c, script]), Some(124));
    let own = itself();
    assert_eq!(code(&events, &["wait", "go", "--", &own, "wait", "never", "--timeout", "0"]), Some(124));
    assert!(refused(&mut other_command(&events, &["wait", "go", "--", "no-such-program"]), 127).contains("not found"));
    let home = events.home().to_str().unwrap();
    refused(&mut other_command(&events, &["wait", "go", "--", home]), 126);
}

#[test]
fn the_result_of_a_command_decides_which_event_is_set() {
    let events = Events::in_a_cluster();
    let [sh, c, script] = shell("exit 0");
    assert_eq!(code(&events, &["set", "built", "--else", "failed", "--", sh, c, script]), Some(0));
    assert!(events.is_set("built") && !events.is_set("failed"));
    events.done(&["clear", "built"]);
    let [sh, c, script] = shell("exit 3");
    assert_eq!(code(&events, &["set", "built", "--else", "failed", "--", sh, c, script]), Some(3));
    assert!(!events.is_set("built") && events.is_set("failed"));
    events.done(&["clear", "failed"]);
    assert_eq!(code(&events, &["set", "built", "--else", "failed", "--", "no-such-program"]), Some(127));
    assert!(!events.is_set("built") && events.is_set("failed"));
}

#[test]
fn an_event_is_held_while_a_command_runs_and_not_longer() {
    let events = Events::in_a_cluster();
    let own = itself();
    let is_set = run(&events, &["hold", "up", "--", &own, "is-set", "up"]);
    assert_eq!(is_set.status.code(), Some(0), "from its first instruction on: {is_set:?}");
    assert!(!events.is_set("up"));

    let holds = start(&events, &["hold", "up", "--", &own, "wait", "stop"]);
    events.until_waiting("stop");
    assert_eq!(listed(&events.done(&["ls", "up", "--json"]))[0]["holders"].as_array().unwrap().len(), 1);
    events.done(&["clear", "up"]);
    assert!(events.is_set("up"), "a clear ends no hold");
    events.done(&["set", "stop"]);
    assert_eq!(holds.done(), "");
    assert!(!events.is_set("up"));

    events.done(&["clear", "stop"]);
    let mut killed = start(&events, &["hold", "up", "--", &own, "wait", "stop"]);
    events.until_waiting("stop");
    killed.0.kill().unwrap();
    events.done(&["wait", "--unset", "up"]);
    events.done(&["set", "stop"]);
}

#[test]
fn ctrl_c_ends_a_wait_and_the_bank_after_its_last_line() {
    let events = Events::in_a_cluster();
    let mut waits = start(&events, &["wait", "never"]);
    events.until_waiting("never");
    waits.signal("-INT");
    until(|| waits.is_over());

    let mut bank = start(&events, &["bank", "--count", "500", "--pace", "10", "--timeline", "day.svg"]);
    let mut stdout = BufReader::new(bank.0.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    bank.signal("-INT");
    let (status, _, stderr) = bank.end();
    assert_eq!(stderr, "tantara: interrupted; 0 of 500 customers were served\n");
    assert!(!status.success());
    if is_windows() {
        // The low byte of 0xC000013A is what a process of Unix can tell.
        assert_eq!(status.code(), Some(0x3A));
    }
    stdout.read_to_string(&mut line).unwrap();
    assert!(line.ends_with('\n'), "{line}");
    assert_eq!(events.home().read_dir().unwrap().count(), 0, "no draft is left");
}

#[test]
fn the_command_decides_what_ctrl_c_does_to_a_hold() {
    let events = Events::in_a_cluster();
    let own = itself();
    let mut holds = start(&events, &["hold", "up", "--", &own, "wait", "stop"]);
    events.until_waiting("stop");
    holds.signal("-INT");
    if is_windows() {
        // The signal is Ctrl-C for one process. On a console, the command gets it as well.
        std::thread::sleep(std::time::Duration::from_secs(1));
        assert!(!holds.is_over() && events.is_set("up"));
        events.done(&["set", "stop"]);
        assert_eq!(holds.done(), "");
    } else {
        until(|| holds.is_over());
    }
    assert!(!events.is_set("up"));
}

#[test]
fn a_server_is_waited_for_with_and_without_events() {
    let events = Events::in_a_cluster();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    assert_eq!(done(&events, &["wait", "--tcp", &address]), "");
    let option = format!("--tcp={address}");
    assert_eq!(done(&events, &["wait", "--any", "never", &option]), format!("{option}\n"));
    drop(server);
    assert_eq!(code(&events, &["wait", "--tcp", &address, "--timeout", "0.2"]), Some(124));
}

#[test]
fn the_bank_on_machines_has_the_same_lines() {
    let events = Events::in_a_cluster();
    let lines = done(&events, &["bank", "--reach", "machines", "--pace", "0.1"]);
    let ours = events.done(&["bank", "--reach", "threads", "--pace", "0.1"]);
    let sorted = |lines: &str| {
        let mut lines: Vec<String> = lines.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&lines), sorted(&ours));
    assert_eq!(lines.lines().next(), Some("Bank manager is preparing to open the bank."));
    assert_eq!(lines.lines().last(), Some("All customers have completed their transactions."));
    assert_eq!(events.done(&["ls", "--json"]), "[]\n");
    let args = ["bank", "--reach", "machines", "--pace", "0", "--count", "20", "--json", "--timeline", "day.svg"];
    let figures: Value = serde_json::from_str(&done(&events, &args)).unwrap();
    assert_eq!((&figures["customers"], &figures["lost"]), (&20.into(), &Value::Array(Vec::new())));
    assert!(std::fs::read_to_string(events.home().join("day.svg")).unwrap().contains("<svg"));
}

#[test]
fn workers_end_with_a_manager_that_is_interrupted_and_remove_the_events() {
    let events = Events::in_a_cluster();
    let bank = start(&events, &["bank", "--reach", "machines", "--pace", "1000", "--workers", "2"]);
    let all = || listed(&events.done(&["ls", "--json"]));
    let lives = |event: &Value| event["name"].as_str().unwrap().ends_with(".alive") && event["state"] == "set";
    until(|| all().iter().filter(|event| lives(event)).count() == 2);
    bank.signal("-INT");
    let (status, _, stderr) = bank.end();
    assert!(!status.success() && stderr.contains("interrupted"), "{stderr}");
    until(|| all().is_empty());
}

#[test]
fn a_connection_with_tls_and_a_password() {
    let events = Events::new();
    let servers = Servers::build().tls().client_certificates().start();
    let file = |name: &str| servers.folder().join(name).to_str().unwrap().to_owned();
    let [ca, certificate, key] = ["ca.pem", "client.pem", "client-key.pem"].map(file);
    let endpoint = servers.endpoints()[0].clone();
    let tls = ["--etcd", &endpoint, "--cacert", &ca, "--cert", &certificate, "--key", &key];
    let without_directory = |args: &[&str]| {
        let mut command = other_command(&events, &[&tls[..], args].concat());
        command.env_remove("TANTARA_DIR");
        command
    };
    let set = without_directory(&["set", "door"]).output().unwrap();
    assert!(set.status.success() && set.stderr.is_empty(), "{set:?}");
    assert!(events.command(&[&tls[..], &["is-set", "door"]].concat()).status().unwrap().success());

    let servers = Servers::build().user("ann", "sesame", "/shop/").start();
    let args = ["--etcd", &servers.endpoints()[0], "--namespace", "shop", "--user", "ann", "set", "door"];
    let mut command = other_command(&events, &args);
    command.env_remove("TANTARA_DIR").env("TANTARA_ETCD_PASSWORD", "sesame");
    assert!(command.status().unwrap().success());
}

#[test]
fn names_complete_and_the_manual_is_printed() {
    let events = Events::in_a_cluster();
    events.done(&["set", "db-ready", "cache"]);
    for shell in ["bash", "powershell"] {
        let mut command = other_command(&events, &["--", "tantara", "wait", "db-"]);
        command.env("TANTARA_COMPLETE", shell).env("_CLAP_COMPLETE_INDEX", "2");
        let output = String::from_utf8(command.output().unwrap().stdout).unwrap();
        assert!(output.contains("db-ready") && !output.contains("cache"), "{shell}: {output}");
    }
    assert!(done(&events, &["completions", "powershell"]).contains("TANTARA_COMPLETE"));
    assert_eq!(done(&events, &["man"]), events.done(&["man"]));
}

/// What a system without events between processes says.
#[test]
fn what_needs_linux_says_so_in_one_line() {
    if !is_windows() {
        return;
    }
    let events = Events::new();
    let refused = |args: &[&str]| {
        let mut command = other_command(&events, args);
        refused(command.env_remove("TANTARA_DIR"), 2)
    };
    let expected =
        "tantara: events between processes need Linux; with --etcd, the same command works between machines\n";
    for subcommand in ["set", "clear", "pulse", "wait", "is-set", "ls", "watch", "rm"] {
        assert_eq!(refused(&[subcommand, "door"]), expected);
    }
    assert_eq!(refused(&["hold", "door", "--", "cmd"]), expected);
    assert_eq!(refused(&["--dir", ".", "ls"]), expected);
    for args in [&["ps"][..], &["wait", "--pid", "4"], &["wait", "--file", "x"], &["bank", "--reach", "processes"]] {
        let line = refused(args);
        assert!(line.contains(" Linux"), "{line}");
    }
}
