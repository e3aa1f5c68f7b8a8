//! The command in containers: as process 1, and among processes of other PID namespaces. Skipped without permission to
//! create such a namespace (root).
#![cfg(target_os = "linux")]

mod signals;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A generous limit for everything that must happen.
const LONG: Duration = Duration::from_secs(60);
const TANTARA: &str = env!("CARGO_BIN_EXE_tantara");

/// A directory of events.
struct Events(TempDir);

impl Events {
    /// `None`, with a printed reason, if PID namespaces cannot be created.
    fn new(test: &str) -> Option<Events> {
        let made =
            Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).stderr(Stdio::null()).status();
        if !made.is_ok_and(|status| status.success()) {
            println!("{test} is left out: unshare(1) cannot make a PID namespace here (are you root?)");
            return None;
        }
        Some(Events(tempfile::tempdir().unwrap()))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        signals::end_children();
        let mut command = Command::new(program);
        command.args(args).env("TANTARA_DIR", self.path()).env_remove("TANTARA_ETCD").stdin(Stdio::null());
        command
    }

    /// Runs the command as process 1 of a new PID namespace, with a new /proc or the present one. It ends with the
    /// wrapper.
    fn contained(&self, has_own_proc: bool, args: &[&str]) -> Command {
        let proc = if has_own_proc { &["--mount-proc"][..] } else { &[] };
        self.command("unshare", &[&["--pid", "--fork", "--kill-child"][..], proc, &["--"], args].concat())
    }

    fn start(&self, mut command: Command) -> Running {
        Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// The event in the output of `ls --json`, run by `command`.
    fn listed_by(&self, mut command: Command, name: &str) -> Option<Value> {
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        all.as_array().unwrap().iter().find(|event| event["name"] == name).cloned()
    }

    fn listed(&self, name: &str) -> Option<Value> {
        self.listed_by(self.command(TANTARA, &["ls", "--json"]), name)
    }

    /// Returns once this many waits for the event are listed in this namespace.
    fn until_waiting(&self, name: &str, count: usize) -> Vec<Value> {
        let waiters = || self.listed(name).map_or(Vec::new(), |event| event["waiters"].as_array().unwrap().clone());
        until(|| Some(waiters()).filter(|waiters| waiters.len() == count))
    }
}

fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "it does not come");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running wrapper. It is killed if the test fails.
struct Running(Child);

impl Running {
    /// The ID of the wrapped process in this namespace.
    fn inner(&self) -> String {
        let wrapper = self.0.id();
        until(|| {
            let children = fs::read_to_string(format!("/proc/{wrapper}/task/{wrapper}/children")).unwrap();
            children.split_whitespace().next().map(str::to_owned)
        })
    }

    fn end(&mut self) -> Output {
        let status = until(|| self.0.try_wait().unwrap());
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        std::io::Read::read_to_end(&mut self.0.stdout.take().unwrap(), &mut stdout).unwrap();
        std::io::Read::read_to_end(&mut self.0.stderr.take().unwrap(), &mut stderr).unwrap();
        Output { status, stdout, stderr }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn send(signal: &str, pid: &str) {
    assert!(Command::new("kill").args([signal, pid]).status().unwrap().success());
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

// Waiters and setters of other namespaces.

#[test]
fn who_waits_in_another_namespace_is_shown_without_a_number() {
    let Some(events) = Events::new("who_waits_in_another_namespace_is_shown_without_a_number") else { return };
    let _containers = [(); 2].map(|()| events.start(events.contained(true, &[TANTARA, "wait", "x"])));
    let own = events.start(events.command(TANTARA, &["wait", "x"]));
    let waiters = events.until_waiting("x", 3);
    for waiter in &waiters {
        assert!(waiter["since"].as_str().unwrap().ends_with('Z'), "{waiter}");
        if waiter["pid"].is_null() {
            assert!(waiter.get("tid").is_none() && waiter.get("command").is_none(), "{waiter}");
        } else {
            assert_eq!(waiter["pid"], own.0.id());
            assert!(waiter["command"].as_str().unwrap().ends_with("tantara wait x"), "{waiter}");
        }
    }
    assert_eq!(waiters.iter().filter(|waiter| waiter["pid"].is_null()).count(), 2, "{waiters:?}");
    let table = text(&events.command(TANTARA, &["ls"]).output().unwrap().stdout).to_owned();
    assert_eq!(table.matches("a process not visible here (for ").count(), 2, "{table}");
}

/// A process waits in a new namespace, with a new /proc or the present one, and `ls` runs in the same namespace.
#[test]
fn who_waits_in_the_own_namespace_has_the_number_that_counts_there() {
    let Some(events) = Events::new("who_waits_in_the_own_namespace_has_the_number_that_counts_there") else { return };
    let _outside = events.start(events.command(TANTARA, &["wait", "x"]));
    events.until_waiting("x", 1);
    let script = [
        &format!("{TANTARA} wait x & echo $! >&2"),
        "until [ -e $TANTARA_DIR/.go ]; do sleep 0.01; done",
        &format!("{TANTARA} ls --json"),
    ];
    let script = script.join("; ");
    for has_own_proc in [true, false] {
        let mut container = events.start(events.contained(has_own_proc, &["sh", "-c", &script]));
        events.until_waiting("x", 2);
        fs::write(events.path().join(".go"), "").unwrap();
        let output = container.end();
        fs::remove_file(events.path().join(".go")).unwrap();
        let all: Value = serde_json::from_slice(&output.stdout).unwrap();
        let waiters = all[0]["waiters"].as_array().unwrap().clone();
        let (own, others): (Vec<&Value>, Vec<&Value>) = waiters.iter().partition(|waiter| waiter["pid"].is_u64());
        assert_eq!((own.len(), others.len()), (1, 1), "{waiters:?}");
        assert_eq!(own[0]["pid"].to_string(), text(&output.stderr).trim());
        let command = own[0].get("command").and_then(Value::as_str);
        // In the present /proc that ID is another process.
        assert_eq!(command.is_some_and(|command| command.ends_with("tantara wait x")), has_own_proc, "{waiters:?}");
        assert_eq!(command.is_some(), has_own_proc, "{waiters:?}");
        events.until_waiting("x", 1);
    }
}

#[test]
fn who_has_set_it_in_another_namespace_is_shown_without_a_number() {
    let Some(events) = Events::new("who_has_set_it_in_another_namespace_is_shown_without_a_number") else { return };
    assert!(events.contained(true, &[TANTARA, "set", "x"]).status().unwrap().success());
    assert!(events.command(TANTARA, &["set", "y"]).status().unwrap().success());
    let inside = |name| events.listed_by(events.contained(true, &[TANTARA, "ls", "--json"]), name).unwrap();
    for (from_another, from_here) in [(events.listed("x"), events.listed("y")), (Some(inside("y")), None)] {
        let last = &from_another.unwrap()["last_set"];
        assert!(last["pid"].is_null() && last["at"].is_string(), "{last}");
        if let Some(event) = from_here {
            assert!(event["last_set"]["pid"].is_u64(), "{event}");
        }
    }
    let table = text(&events.command(TANTARA, &["ls"]).output().unwrap().stdout).to_owned();
    assert!(table.contains("ago by a process not visible here"), "{table}");
}

#[test]
fn who_waits_is_shown_also_where_proc_hides_the_processes_of_others() {
    let Some(events) = Events::new("who_waits_is_shown_also_where_proc_hides_the_processes_of_others") else { return };
    fs::set_permissions(events.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let waiting = events.start(events.command(TANTARA, &["wait", "x"]));
    events.until_waiting("x", 1);
    fs::set_permissions(events.path().join("x"), PermissionsExt::from_mode(0o644)).unwrap();
    // A copy of the command that all users may run, made by another process: see `places.rs`.
    let copy = events.path().join(".tantara");
    assert!(Command::new("cp").arg(TANTARA).arg(&copy).status().unwrap().success());
    let as_nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let hidden = format!("mount -t proc -o hidepid=2 proc /proc && ! {as_nobody} ls /proc/1/ >&- 2>&-");
    let look = format!("{hidden} && exec {as_nobody} {} ls --json", copy.display());
    let command = |script: &str| events.command("unshare", &["--mount", "--", "sh", "-c", script]);
    if !command(&hidden).stderr(Stdio::null()).status().unwrap().success() {
        println!("left out: /proc cannot be mounted with hidepid=2, or setpriv(1) is not there");
        return;
    }
    let event = events.listed_by(command(&look), "x").unwrap();
    let waiters = event["waiters"].as_array().unwrap();
    assert_eq!(waiters.len(), 1, "{event}");
    assert_eq!(waiters[0]["pid"], waiting.0.id());
    assert!(waiters[0].get("command").is_none(), "{event}");
}

// The command as process 1.

#[test]
fn signals_end_process_1_too() {
    let Some(events) = Events::new("signals_end_process_1_too") else { return };
    let signals = [("-INT", 2), ("-TERM", 15), ("-HUP", 1), ("-QUIT", 3), ("-USR1", 10), ("-PROF", 27), ("-PWR", 30)];
    for (name, number) in signals {
        for args in [&["wait", "x"][..], &["wait", "x", "y", "--any"]] {
            let mut running = events.start(events.contained(true, &[&[TANTARA], args].concat()));
            events.until_waiting("x", 1);
            send(name, &running.inner());
            let output = running.end();
            assert_eq!(output.status.code(), Some(128 + number), "{output:?}");
            assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
        }
    }
    // A signal that was ignored stays ignored.
    let script = format!("trap '' TERM; exec {TANTARA} wait x");
    let mut running = events.start(events.contained(true, &["sh", "-c", &script]));
    events.until_waiting("x", 1);
    send("-TERM", &running.inner());
    assert!(events.command(TANTARA, &["set", "x"]).status().unwrap().success());
    assert_eq!(running.end().status.code(), Some(0));
}

#[test]
fn a_signal_ends_the_bank_tidily_as_process_1() {
    let Some(events) = Events::new("a_signal_ends_the_bank_tidily_as_process_1") else { return };
    let out = events.path().join("day.svg");
    let bank = [TANTARA, "bank", "--quiet", "--pace", "1000", "--timeline", out.to_str().unwrap()];
    let mut running = events.start(events.contained(true, &bank));
    let inner = running.inner();
    // The handlers are installed before the draft of the file exists.
    until(|| (fs::read_dir(events.path()).unwrap().count() > 0).then_some(()));
    send("-TERM", &inner);
    let output = running.end();
    assert_eq!(output.status.code(), Some(143), "{output:?}");
    assert!(text(&output.stderr).contains("interrupted; 0 of 4 customers"), "{output:?}");
    assert_eq!(fs::read_dir(events.path()).unwrap().count(), 0, "nothing is left behind");
}

#[test]
fn what_process_1_becomes_has_the_default_actions() {
    let Some(events) = Events::new("what_process_1_becomes_has_the_default_actions") else { return };
    assert!(events.command(TANTARA, &["set", "x"]).status().unwrap().success());
    let become_cat = [TANTARA, "wait", "x", "--", "cat", "/proc/self/status"];
    let dispositions = |mut command: Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let of_signals = text(&output.stdout).lines().filter(|line| line.starts_with("Sig"));
        of_signals.filter(|line| !line.starts_with("SigQ")).map(str::to_owned).collect::<Vec<String>>()
    };
    let as_process_1 = dispositions(events.contained(true, &become_cat));
    let elsewhere = dispositions(events.command(TANTARA, &become_cat[1..]));
    assert_eq!(as_process_1, elsewhere);
    assert!(as_process_1.contains(&"SigCgt:\t0000000000000000".to_owned()), "{as_process_1:?}");
}

#[test]
fn hold_as_process_1_passes_signals_on_and_collects_orphans() {
    let Some(events) = Events::new("hold_as_process_1_passes_signals_on_and_collects_orphans") else { return };
    // The orphan ends while the command runs.
    let script = "trap 'exit 3' TERM USR1 WINCH TSTP CONT; (sleep 0.01 &); sleep 0.3; \
        echo zombies: $(grep -l '^State:.Z' /proc/[0-9]*/status | wc -l); while :; do sleep 0.01; done";
    let signals =
        [("-TERM", 3), ("-USR1", 3), ("-WINCH", 3), ("-TSTP", 3), ("-CONT", 3), ("-INT", 130), ("-KILL", 137)];
    for (signal, code) in signals {
        let mut container = events.start(events.contained(true, &[TANTARA, "hold", "up", "--", "sh", "-c", script]));
        until(|| events.listed("up").filter(|event| event["state"] == "set"));
        let tantara = container.inner();
        let children = || fs::read_to_string(format!("/proc/{tantara}/task/{tantara}/children")).unwrap_or_default();
        let command = until(|| children().split_whitespace().next().map(str::to_owned));
        let mut line = String::new();
        let mut output = std::io::BufReader::new(container.0.stdout.as_mut().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        assert_eq!(line, "zombies: 0\n");
        // A signal that the command does not handle ends it. The exit code of tantara stands for the signal.
        send(signal, if signal == "-KILL" { &command } else { &tantara });
        assert_eq!(until(|| container.0.try_wait().unwrap()).code(), Some(code), "{signal}");
        until(|| events.listed("up").filter(|event| event["state"] != "set"));
    }
}
