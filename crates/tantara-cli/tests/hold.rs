//! `tantara hold`, and `tantara wait --unset` and `--next`, tested with the real binary.
#![cfg(all(target_os = "linux", in_repository))]

mod scratch;
mod signals;

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use scratch::{Events, LONG, Running, until};

const TANTARA: &str = env!("CARGO_BIN_EXE_tantara");

impl Events {
    /// A program that executes the command.
    fn by(&self, program: &str, args: &[&str]) -> Running {
        let mut command = Command::new(program);
        signals::end_children();
        command.args(args).env("TANTARA_DIR", self.path()).env_remove("TANTARA_ETCD").env("SHELL", "/bin/sh");
        Running(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
    }

    /// `hold up` with a command that prints its process ID, and runs for long.
    fn hold(&self) -> Held {
        let mut command = self.command(&["hold", "up", "--", "sh", "-c", "echo $$; exec sleep 600"]);
        let mut process = Running(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(process.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Held { process, command: line.trim().parse().unwrap() }
    }
}

impl Running {
    /// The exit code. It must end soon.
    fn code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + LONG;
        while !self.is_over() {
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(5));
        }
        self.0.wait().unwrap().code()
    }
}

/// tantara, and the command that it runs.
struct Held {
    process: Running,
    command: u32,
}

fn send(signal: &str, process: u32) {
    assert!(Command::new("kill").args([signal, &process.to_string()]).status().unwrap().success());
}

fn exists(process: u32) -> bool {
    // Orphans that have ended may not have been collected in this container.
    fs::read_to_string(format!("/proc/{process}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, state)| !state.starts_with('Z')))
}

#[test]
fn an_event_is_set_while_the_command_runs() {
    let events = Events::new();
    // From its first instruction on.
    let output =
        events.done(&["hold", "up", "also", "--", "sh", "-c", "tantara is-set up && tantara is-set also && echo set"]);
    assert_eq!(output, "set\n");
    assert!(!events.is_set("up") && !events.is_set("also"));
    let mut held = events.hold();
    assert!(events.is_set("up"));
    events.done(&["clear", "up"]);
    assert!(events.is_set("up"), "a clear ends no hold");
    let second = events.hold();
    held.process.signal("-TERM");
    held.process.0.wait().unwrap();
    assert!(events.is_set("up"), "another one lives");
    second.process.signal("-TERM");
    let mut second = second;
    second.process.0.wait().unwrap();
    assert!(!events.is_set("up"));
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    let events = Events::new();
    assert_eq!(events.code(&["hold", "up", "--", "true"]), 0);
    assert_eq!(events.code(&["hold", "up", "--", "sh", "-c", "exit 7"]), 7);
    assert_eq!(events.code(&["hold", "up", "--", "sh", "-c", "exit 125"]), 125);
    let killed = |signal: &str| events.run(&["hold", "up", "--", "sh", "-c", &format!("kill {signal} $$")]).status;
    assert_eq!(killed("-KILL").code(), Some(137));
    assert_eq!(killed("-SEGV").code(), Some(139));
    assert_eq!(killed("-INT").signal(), Some(2));
    assert_eq!(killed("-TERM").signal(), Some(15));
    assert!(!events.is_set("up"));
}

#[test]
fn signals_are_passed_on() {
    let events = Events::new();
    // The command ends by itself after a minute, so that a signal that is lost fails the test.
    let signals = ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO", "URG", "WINCH", "PWR"];
    for signal in signals {
        let script =
            format!("trap 'echo {signal}; exit 3' {signal}; echo ready; for step in $(seq 6000); do sleep 0.01; done");
        let mut command = events.command(&["hold", "up", "--", "sh", "-c", &script]);
        let mut process = Running(command.stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(process.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        assert_eq!(lines.next().as_deref(), Some("ready"));
        process.signal(&format!("-{signal}"));
        assert_eq!(lines.next().as_deref(), Some(signal));
        assert_eq!(process.0.wait().unwrap().code(), Some(3), "{signal}");
        assert!(!events.is_set("up"));
    }
    // One that the command does not handle ends both.
    let mut held = events.hold();
    held.process.signal("-HUP");
    assert_eq!(held.process.0.wait().unwrap().signal(), Some(1));
    assert!(!exists(held.command) && !events.is_set("up"));
}

/// The parent process may have blocked SIGCHLD, and a blocked signal stays blocked across `exec`.
#[test]
fn the_end_of_the_command_is_noticed_with_its_signal_blocked() {
    let events = Events::new();
    if !Command::new("env").args(["--block-signal=CHLD", "true"]).status().unwrap().success() {
        println!("left out: env(1) cannot block signals here");
        return;
    }
    let script = "sleep 0.3; exit 3";
    let mut process = events.by("env", &["--block-signal=CHLD", TANTARA, "hold", "up", "--", "sh", "-c", script]);
    assert_eq!(process.code(), Some(3));
}

/// systemd starts services with SIGPIPE ignored. The command gets it as without tantara.
#[test]
fn sigpipe_stays_as_it_was() {
    let events = Events::new();
    events.done(&["set", "up"]);
    let script = events.home().join("script");
    fs::write(&script, "cat /proc/self/status").unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    for (trap, is_ignored) in [("trap '' PIPE", true), ("trap - PIPE", false)] {
        for subcommand in ["wait", "hold", "set"] {
            for command in ["cat /proc/self/status", "./script"] {
                let line = format!("{trap}; exec {TANTARA} {subcommand} up -- {command}");
                let output = events.program("bash", &["-c", &line]).output().unwrap();
                let status = String::from_utf8(output.stdout).unwrap();
                let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
                let mask = u64::from_str_radix(mask.trim(), 16).unwrap();
                assert_eq!(mask >> 12 & 1 == 1, is_ignored, "{line}: {mask:x}");
            }
        }
    }
}

/// A timer that was set before tantara was executed goes on, and its command does not inherit it.
#[test]
fn an_alarm_is_passed_on() {
    let events = Events::new();
    if Command::new("perl").args(["-e", "1"]).status().is_err() {
        println!("left out: there is no perl here");
        return;
    }
    let mut process = events.by("perl", &["-e", "alarm 1; exec @ARGV", TANTARA, "hold", "up", "--", "sleep", "600"]);
    assert_eq!(process.code(), Some(128 + 14));
}

/// A command in a session of its own gets nothing from the terminal.
#[test]
fn ctrl_c_is_passed_on_to_a_command_of_another_group() {
    let events = Events::new();
    let line = format!("exec {TANTARA} hold up -- setsid sleep 600");
    let mut process = events.by("script", &["-qec", &line, "/dev/null"]);
    until(|| events.is_set("up"));
    let mut keyboard = process.0.stdin.take().unwrap();
    // The second one after the command is certainly in its session.
    for _ in 0..2 {
        let _ = std::io::Write::write_all(&mut keyboard, b"\x03");
        thread::sleep(Duration::from_millis(300));
    }
    assert_eq!(process.code(), Some(130));
    assert!(!events.is_set("up"));
}

#[test]
fn the_event_is_unset_when_the_command_or_tantara_is_killed() {
    let events = Events::new();
    let mut held = events.hold();
    send("-KILL", held.command);
    assert_eq!(held.process.0.wait().unwrap().code(), Some(137));
    assert!(!events.is_set("up"));
    let mut held = events.hold();
    let waiting = events.start(&["wait", "--unset", "up", "--timeout", "60"]);
    events.until_waiting("up");
    held.process.signal("-KILL");
    held.process.0.wait().unwrap();
    assert!(!events.is_set("up"));
    let mut waiting = waiting;
    assert!(waiting.0.wait().unwrap().success());
    assert!(exists(held.command), "the command goes on");
    send("-KILL", held.command);
}

#[test]
fn kills_at_random_leave_nothing_set() {
    let rounds = env::var("TANTARA_STRESS_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(50);
    let events = Events::new();
    for round in 0..rounds {
        let mut held = {
            // An orphan lives for a moment only, and keeps no pipe of the tests open.
            let mut command = events.command(&["hold", "up", "--", "sleep", "2"]);
            Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
        };
        let child = || fs::read_to_string(format!("/proc/{0}/task/{0}/children", held.0.id())).unwrap_or_default();
        // Before, while or after it starts the command.
        thread::sleep(Duration::from_micros(fastrand(round) % 6_000));
        let command = match (fastrand(round + 1_000) % 2, child().trim().parse::<u32>()) {
            (1, Ok(command)) => command,
            _ => held.0.id(),
        };
        let orphan: Option<u32> = child().trim().parse().ok();
        let _ = Command::new("kill").args(["-KILL", &command.to_string()]).stderr(Stdio::null()).status();
        let _ = held.0.wait();
        // At once; but a child that is about to execute the command has a copy of the lock until it does.
        until(|| !events.is_set("up"));
        if let Some(orphan) = orphan.filter(|&orphan| command != orphan) {
            let _ = Command::new("kill").args(["-KILL", &orphan.to_string()]).stderr(Stdio::null()).status();
        }
    }
}

/// A number that looks random.
fn fastrand(seed: u64) -> u64 {
    let mixed = (seed + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 31).wrapping_mul(0x94D0_49BB_1331_11EB) >> 33
}

#[test]
fn a_command_that_cannot_be_run_sets_nothing() {
    let events = Events::new();
    let file = |name: &str, content: &str, mode| {
        let path = events.home().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (plain, lost, text) =
        (file("plain", "#!/bin/sh\n", 0o644), file("lost", "#!/no/such/shell\n", 0o755), file("cut", "\x7fELF", 0o755));
    for (command, code) in [("no-such-command", 127), ("/no/such", 127), (&*plain, 126), ("/tmp", 126)] {
        let complaint = events.refused(&["hold", "up", "--", command], code);
        assert!(complaint.contains(command), "{complaint}");
        assert!(!events.path().exists(), "nothing is created for {command}");
    }
    events.done(&["clear", "up"]);
    let mut watch = events.command(&["watch", "up"]);
    let mut watch = Running(watch.stdout(Stdio::piped()).spawn().unwrap());
    let lines = BufReader::new(watch.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    thread::sleep(Duration::from_millis(300));
    for (command, code) in [(&*lost, 127), (&*text, 126)] {
        events.refused(&["hold", "up", "--", command], code);
        assert!(!events.is_set("up"));
    }
    events.done(&["pulse", "up"]);
    let line = { lines }.next().unwrap();
    assert!(line.contains("pulsed"), "the first change is the pulse: {line}");
}

/// Only an attempt tells whether a script without `#!` can be executed, so it runs before the event is set.
#[test]
fn a_command_ends_at_once_if_its_event_cannot_be_set() {
    let events = Events::new();
    events.done(&["clear", "up"]);
    fs::create_dir(events.path().join("folder")).unwrap();
    let script = events.home().join("script");
    fs::write(&script, "sleep 5; echo it goes on").unwrap();
    fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let complaint = events.refused(&["hold", "folder", "--", script.to_str().unwrap()], 2);
    assert!(complaint.contains("it is a directory"), "{complaint}");
}

#[test]
fn bad_usage_gets_one_clear_error() {
    let events = Events::new();
    for args in [&["hold", "up"][..], &["hold", "up", "--"]] {
        let complaint = events.refused(args, 2);
        assert!(complaint.contains("hold needs a command") && complaint.contains("-- CMD"), "{complaint}");
    }
    events.refused(&["hold", "--", "true"], 2);
    events.refused(&["hold", "a/b", "--", "true"], 2);
    let complaint = events.refused(&["wait", "--unset", "--next", "up"], 2);
    assert!(complaint.contains("--unset") && complaint.contains("--next"), "{complaint}");
    assert!(!events.path().exists());
    let help = events.done(&["hold", "--help"]);
    assert!(help.contains("Examples:") && help.contains("Exit codes:"));
}

/// In both kinds of places.
fn waits_until_unset(events: &Events) {
    // An event that does not exist is clear, and is not created.
    events.done(&["wait", "--unset", "up"]);
    assert_eq!(events.done(&["wait", "--unset", "--any", "up", "b"]), "up\n");
    events.done(&["set", "up"]);
    let mut one = events.start(&["wait", "--unset", "--any", "up", "b"]);
    until(|| one.is_over());
    assert_eq!(one.done(), "b\n");
    events.done(&["rm", "up"]);
    events.done(&["rm", "-f", "b"]);
    assert_eq!(events.done(&["ls", "--json"]), "[]\n");
    events.done(&["set", "up", "b"]);
    assert_eq!(events.code(&["wait", "--unset", "up", "--timeout", "0"]), 124);
    let complaint = events.refused(&["wait", "--unset", "up", "b", "--timeout", "50ms"], 124);
    assert!(complaint.contains("still set"), "{complaint}");
    for (wait, output) in [(&["wait", "--unset", "up"][..], ""), (&["wait", "--unset", "--any", "b", "up"], "up\n")] {
        events.done(&["set", "up"]);
        let waiting = events.start(wait);
        events.until_waiting("up");
        // A set that follows does not hide the clear.
        events.done(&["clear", "up"]);
        events.done(&["set", "up"]);
        let mut waiting = waiting;
        let mut printed = String::new();
        std::io::Read::read_to_string(waiting.0.stdout.as_mut().unwrap(), &mut printed).unwrap();
        assert!(waiting.0.wait().unwrap().success());
        assert_eq!(printed, output);
    }
    events.done(&["clear", "b"]);
    assert_eq!(events.done(&["wait", "--unset", "--any", "up", "b", "--", "echo", "then"]), "b\nthen\n");
    let all = events.start(&["wait", "--unset", "up", "b"]);
    events.until_waiting("up");
    events.done(&["clear", "up"]);
    let mut all = all;
    assert!(all.0.wait().unwrap().success());
}

fn waits_for_the_next_set(events: &Events) {
    events.done(&["set", "up"]);
    assert_eq!(events.code(&["wait", "--next", "up", "--timeout", "0"]), 124);
    assert_eq!(events.code(&["wait", "--next", "up", "--timeout", "50ms"]), 124);
    for act in [&["set", "up"][..], &["pulse", "up"], &["hold", "up", "--", "true"], &["set", "other"]] {
        events.done(&["set", "up"]);
        let mut waiting = events.start(&["wait", "--next", "--any", "other", "up"]);
        events.until_waiting("up");
        events.done(&["clear", "other"]);
        assert!(!waiting.is_over());
        events.done(act);
        let mut printed = String::new();
        std::io::Read::read_to_string(waiting.0.stdout.as_mut().unwrap(), &mut printed).unwrap();
        assert!(waiting.0.wait().unwrap().success());
        assert_eq!(printed.trim(), act[1]);
    }
    let mut both = events.start(&["wait", "--next", "other", "up"]);
    events.until_waiting("up");
    events.done(&["set", "up"]);
    thread::sleep(Duration::from_millis(50));
    assert!(!both.is_over());
    events.done(&["set", "other"]);
    assert!(both.0.wait().unwrap().success());
}

#[test]
fn waits_until_unset_between_processes() {
    waits_until_unset(&Events::new());
}

#[test]
fn waits_until_unset_between_machines() {
    waits_until_unset(&Events::in_a_cluster());
}

#[test]
fn waits_for_the_next_set_between_processes() {
    waits_for_the_next_set(&Events::new());
}

#[test]
fn waits_for_the_next_set_between_machines() {
    waits_for_the_next_set(&Events::in_a_cluster());
}

#[test]
fn an_event_of_a_cluster_is_set_while_the_command_runs() {
    let events = Events::in_a_cluster();
    let output = events.done(&["hold", "up", "--", "sh", "-c", "tantara is-set up && echo set"]);
    assert_eq!(output, "set\n");
    until(|| !events.is_set("up"));
    events.refused(&["hold", "up", "--", "no-such-command"], 127);
    let mut held = events.hold();
    assert!(events.is_set("up"));
    send("-KILL", held.command);
    assert_eq!(held.process.0.wait().unwrap().code(), Some(137));
    until(|| !events.is_set("up"));
    // The lease ends.
    let mut held = events.hold();
    let mut waiting = events.start(&["wait", "--unset", "up"]);
    held.process.signal("-KILL");
    held.process.0.wait().unwrap();
    assert!(waiting.0.wait().unwrap().success());
    assert!(!events.is_set("up"));
    send("-KILL", held.command);
}
