//! `tantara wait --pid`, `--file` and `--tcp`, tested with the real binary.
#![cfg(all(target_os = "linux", in_repository))]

mod scratch;
mod signals;

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use scratch::{Events, Running, until};

/// A time limit in which a wait for a file does not look for what the kernel does not report.
const SOONER: &str = "50s";

/// A process that runs for long.
fn sleeper() -> Running {
    Running(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().unwrap())
}

/// Returns once the process sleeps in all of its threads, which are this many at least.
fn until_asleep(process: &Running, threads: usize) {
    until(|| {
        let tasks = fs::read_dir(format!("/proc/{}/task", process.0.id())).unwrap();
        let states = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default());
        let states: Vec<_> =
            states.map(|stat| stat.rsplit_once(") ").map(|(_, state)| state.starts_with('S'))).collect();
        states.len() >= threads && states.iter().all(|state| *state == Some(true))
    });
}

#[test]
fn a_wait_ends_with_a_process() {
    let events = Events::new();
    let mut process = sleeper();
    let pid = process.0.id().to_string();
    assert_eq!(events.code(&["wait", "--pid", &pid, "--timeout", "0"]), 124);
    let complaint = events.refused(&["wait", "--pid", &pid, "--timeout", "50ms"], 124);
    assert_eq!(complaint, format!("tantara: timed out after 50ms: process {pid} has not ended\n"));
    let one = events.start(&["wait", "--any", "--pid", &pid]);
    let other = events.start(&["wait", "--any", "never", "--pid", &pid, "--", "echo", "then"]);
    events.until_waiting("never");
    until_asleep(&one, 2);
    // It has ended, even if its parent has not collected it.
    process.0.kill().unwrap();
    assert_eq!(one.done(), format!("--pid={pid}\n"));
    assert_eq!(other.done(), format!("--pid={pid}\nthen\n"));
    assert_eq!(events.done(&["wait", "--pid", &pid]), "");
    process.0.wait().unwrap();
    assert_eq!(events.done(&["wait", "--pid", &pid, "--timeout", "0"]), "");
    // One that never was.
    assert_eq!(events.done(&["wait", "--pid", "2147483647"]), "");
    assert_eq!(events.code(&["wait", "--pid", "1", "--timeout", "0"]), 124, "another user's");
}

/// How often the threads of a process have gone to sleep.
fn sleeps_of(process: &Running) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{}/task", process.0.id())).unwrap();
    let sleeps = tasks.map(|task| {
        let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        count.trim().parse::<u64>().unwrap()
    });
    sleeps.sum()
}

#[test]
fn a_wait_for_a_process_or_a_file_wakes_up_for_nothing_else() {
    let events = Events::new();
    let process = sleeper();
    let pid = process.0.id().to_string();
    fs::create_dir(events.home().join("own")).unwrap();
    let by_pid = events.start(&["wait", "--pid", &pid, "--pid", "1"]);
    let by_file = events.start(&["wait", "--file", "own/file"]);
    let both = events.start(&["wait", "--any", "--pid", &pid, "--file", "own/not/yet"]);
    let waiting = [&by_pid, &by_file, &both];
    waiting.iter().for_each(|waiting| until_asleep(waiting, 2));
    let begun = Instant::now();
    let before = waiting.map(sleeps_of);
    for round in 0..30 {
        fs::write(events.home().join(format!("other-{round}")), "").unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    let after = waiting.map(sleeps_of);
    // Once a minute, it looks for files that the kernel does not report.
    if begun.elapsed() < Duration::from_secs(30) {
        assert_eq!(before, after);
    }
}

#[test]
fn all_waits_for_events_and_conditions() {
    let events = Events::new();
    let (first, second) = (sleeper(), sleeper());
    let pids = [&first, &second].map(|process| process.0.id().to_string());
    let file = events.home().join("file");
    let mut waiting = events.start(&["wait", "ready", "--pid", &pids[0], "--pid", &pids[1], "--file", "file"]);
    events.until_waiting("ready");
    events.done(&["pulse", "ready"]);
    first.signal("-KILL");
    fs::write(&file, "").unwrap();
    thread::sleep(Duration::from_millis(50));
    assert!(!waiting.is_over(), "one is left");
    second.signal("-KILL");
    assert_eq!(waiting.done(), "");
    // The first that holds is printed: events, processes, files, servers.
    events.done(&["clear", "ready"]);
    let any = ["wait", "--any", "ready", "--file", "no-file", "--file", "file", "--pid", &pids[0]];
    assert_eq!(events.done(&any), format!("--pid={}\n", pids[0]));
    assert_eq!(events.done(&any[..7]), "--file=file\n");
    assert_eq!(fs::read_dir(events.path()).unwrap().count(), 1, "only the event");
}

#[test]
fn conditions_alone_need_no_directory_and_no_cluster() {
    let events = Events::new();
    events.done(&["wait", "--pid", "2147483647", "--file", "/", "--any", "-q"]);
    events.done(&["wait", "--etcd", "127.0.0.1:1", "--file", "/"]);
    assert!(!events.path().exists());
}

#[test]
fn a_file_is_noticed_however_it_appears() {
    let events = Events::new();
    let at = |path: &str| events.home().join(path);
    fs::create_dir_all(at("made/next")).unwrap();
    symlink("made/later", at("link")).unwrap();
    symlink("/no/such/place", at("current")).unwrap();
    fs::create_dir_all(at("releases/2")).unwrap();
    fs::write(at("releases/2/ready"), "").unwrap();
    fs::create_dir_all(at("draft/deep")).unwrap();
    fs::write(at("draft/deep/file"), "").unwrap();
    fs::create_dir_all(at("swapped/in")).unwrap();
    let cases: [(&str, &dyn Fn()); 6] = [
        ("made/here", &|| fs::write(at("made/here"), "").unwrap()),
        ("link", &|| fs::write(at("made/later"), "").unwrap()),
        ("not/yet/there/../here", &|| {
            fs::create_dir_all(at("not/yet/there")).unwrap();
            fs::rename(at("made/here"), at("not/yet/here")).unwrap();
        }),
        ("current/ready", &|| {
            symlink("releases/2", at("new")).unwrap();
            fs::rename(at("new"), at("current")).unwrap();
        }),
        ("moved/deep/file", &|| fs::rename(at("draft"), at("moved")).unwrap()),
        // The directory that is watched is moved away, and another one takes its place.
        ("swapped/in/file", &|| {
            fs::rename(at("swapped"), at("old")).unwrap();
            fs::create_dir_all(at("swapped/in")).unwrap();
            fs::write(at("swapped/in/file"), "").unwrap();
        }),
    ];
    for (path, act) in cases {
        assert_eq!(events.code(&["wait", "--file", path, "--timeout", "0"]), 124, "{path}");
        let absolute = at(path);
        let waiting = [
            events.start(&["wait", "--any", "--file", path, "--timeout", SOONER]),
            events.start(&[
                "wait",
                "--any",
                "--file",
                absolute.to_str().unwrap(),
                "--file",
                "/a/b",
                "--timeout",
                SOONER,
            ]),
        ];
        waiting.iter().for_each(|waiting| until_asleep(waiting, 2));
        // Others do not matter.
        fs::write(at("other"), "").unwrap();
        act();
        let outputs = waiting.map(Running::done);
        assert_eq!(outputs, [format!("--file={path}\n"), format!("--file={}\n", absolute.display())]);
    }
}

#[test]
fn a_file_is_noticed_below_a_directory_that_is_mounted_or_was_removed_while_in_use() {
    let events = Events::new();
    let at = |path: &str| events.home().join(path);
    fs::create_dir_all(at("mounted")).unwrap();
    let script = "\"$0\" wait --any --file mounted/deep/file --timeout 50 & \
        until [ \"$(ls /proc/$!/task | wc -l)\" = 2 ]; do sleep 0.01; done; sleep 0.1; \
        mkdir other; mount -t tmpfs none other && mkdir other/deep && touch other/deep/file && \
        mount --bind other mounted; wait $!";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_tantara")])
        .current_dir(events.home())
        .output()
        .unwrap();
    if output.stderr.starts_with(b"unshare:") {
        println!("the mounted directory is left out: {output:?}");
    } else {
        assert_eq!(String::from_utf8_lossy(&output.stdout), "--file=mounted/deep/file\n", "{output:?}");
    }
    // The kernel does not tell that it was removed before nobody uses it, and its name is used again.
    fs::create_dir_all(at("used/deep")).unwrap();
    let user = Command::new("sleep").arg("600").current_dir(at("used/deep")).spawn().unwrap();
    let user = Running(user);
    let waiting = events.start(&["wait", "--file", "used/deep/file"]);
    until_asleep(&waiting, 2);
    fs::remove_dir(at("used/deep")).unwrap();
    fs::create_dir(at("used/deep")).unwrap();
    fs::write(at("used/deep/file"), "").unwrap();
    drop(user);
    waiting.done();
}

#[test]
fn a_file_that_cannot_be_waited_for_gets_one_clear_error() {
    let events = Events::new();
    events.refused(&["wait", "--file", ""], 2);
    let long = format!("/tmp/{}", "x".repeat(300));
    assert!(events.refused(&["wait", "--file", &long], 2).contains("too long"));
    events.refused(&["wait", "--file"], 2);
    // A path need not be Unicode.
    let path = OsStr::from_bytes(b"\xff");
    let output = events.command(&["wait", "--any", "--file", "/", "--file"]).arg(path).output().unwrap();
    assert_eq!(output.stdout, b"--file=/\n");
    fs::write(events.home().join(path), "").unwrap();
    let output = events.command(&["wait", "--any", "--file"]).arg(path).output().unwrap();
    assert_eq!(output.stdout, b"--file=\xff\n");
    // A path below a file does not exist yet.
    fs::write(events.home().join("file"), "").unwrap();
    let complaint = events.refused(&["wait", "--file", "file/below", "--timeout", "50ms"], 124);
    assert!(complaint.ends_with("file/below does not exist\n"), "{complaint}");
    // A loop of links, which is resolved while it is waited for.
    symlink("loop", events.home().join("loop")).unwrap();
    let waiting = events.start(&["wait", "--file", "loop", "--timeout", SOONER]);
    until_asleep(&waiting, 2);
    fs::remove_file(events.home().join("loop")).unwrap();
    fs::write(events.home().join("loop"), "").unwrap();
    waiting.done();
}

#[test]
fn a_server_is_waited_for_until_it_accepts() {
    let events = Events::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    assert_eq!(events.done(&["wait", "--any", "--tcp", &address]), format!("--tcp={address}\n"));
    assert_eq!(events.done(&["wait", "--tcp", &address, "--timeout", "0"]), "");
    drop(listener);
    assert_eq!(events.code(&["wait", "--tcp", &address, "--timeout", "0"]), 124);
    let complaint = events.refused(&["wait", "--tcp", &address, "--timeout", "100ms"], 124);
    assert_eq!(complaint, format!("tantara: timed out after 100ms: {address} not reached: connection refused\n"));
    let mut waiting = events.start(&["wait", "--any", "never", "--tcp", &address, "--", "echo", "then"]);
    events.until_waiting("never");
    assert!(!waiting.is_over());
    let _listener = TcpListener::bind(&address).unwrap();
    assert_eq!(waiting.done(), format!("--tcp={address}\nthen\n"));
}

#[test]
fn a_connection_to_itself_is_none() {
    // Where the only port for clients is that of the server, a client is connected to itself.
    let script = "ip link set lo up && echo '40000 40000' > /proc/sys/net/ipv4/ip_local_port_range || exit 99; \
        exec \"$0\" wait --tcp 127.0.0.1:40000 --timeout 0";
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "sh", "-c", script, env!("CARGO_BIN_EXE_tantara")])
        .output()
        .unwrap();
    if output.stderr.starts_with(b"unshare:") || output.status.code() == Some(99) {
        println!("left out: {output:?}");
    } else {
        assert_eq!(output.status.code(), Some(124), "{output:?}");
    }
}

#[test]
fn a_host_that_cannot_be_resolved_is_tried_until_the_timeout() {
    let events = Events::new();
    let args = ["wait", "--tcp", "no-such-host.invalid:80", "--timeout"];
    let output = events.run(&[&args[..], &["20s", "--any", "--pid", "2147483647"]].concat());
    assert!(output.status.success(), "another one holds: {output:?}");
    let complaint = events.refused(&[&args[..], &["300ms"]].concat(), 124);
    assert!(complaint.contains("no-such-host.invalid:80 not reached"), "{complaint}");
    for bad in ["db", "db:", ":80", "db:0", "db:65536", "::1:80", "http://db:80", ""] {
        let complaint = events.refused(&["wait", "--tcp", bad], 2);
        assert!(complaint.contains("HOST:PORT"), "{complaint}");
    }
}

#[test]
fn bad_usage_of_conditions_gets_one_clear_error() {
    let events = Events::new();
    for bad in ["0", "-1", "", "x", "1.5", "+1", "99999999999"] {
        let complaint = events.refused(&["wait", "good", "--pid", bad], 2);
        assert!(complaint.contains("ID of a process"), "{complaint}");
    }
    // A thread is no process. (This test runs in a thread of its own.)
    let thread = fs::read_link("/proc/thread-self").unwrap();
    let complaint = events.refused(&["wait", "--pid", thread.file_name().unwrap().to_str().unwrap()], 2);
    assert!(complaint.contains("this is a thread"), "{complaint}");
    for option in ["--unset", "--next"] {
        assert!(events.refused(&["wait", option, "--pid", "1"], 2).contains("no NAME"));
    }
    events.refused(&["wait", "--any"], 2);
    assert!(!events.path().exists());
    // `--unset` is about the events alone.
    events.done(&["wait", "--unset", "missing", "--pid", "2147483647"]);
    assert_eq!(events.code(&["wait", "--unset", "missing", "--pid", "1", "--timeout", "50ms"]), 124);
    assert_eq!(events.done(&["wait", "--unset", "--any", "missing", "--pid", "1"]), "missing\n");
}

#[test]
fn events_of_a_cluster_and_conditions_mix() {
    let events = Events::in_a_cluster();
    let process = sleeper();
    let pid = process.0.id().to_string();
    let waiting = events.start(&["wait", "--any", "ready", "--pid", &pid]);
    events.until_waiting("ready");
    process.signal("-KILL");
    assert_eq!(waiting.done(), format!("--pid={pid}\n"));
    let waiting = events.start(&["wait", "ready", "--file", "file"]);
    events.until_waiting("ready");
    fs::write(events.home().join("file"), "").unwrap();
    events.done(&["set", "ready"]);
    assert_eq!(waiting.done(), "");
}

#[test]
fn on_a_terminal_a_long_wait_says_which_conditions_are_missing() {
    let events = Events::new();
    let command =
        format!("{} wait --pid 1 --pid 2147483647 --file no-file --timeout 4s", env!("CARGO_BIN_EXE_tantara"));
    let output = Command::new("script")
        .args(["--quiet", "--return", "--command", &command, "/dev/null"])
        .current_dir(events.home())
        .stdin(Stdio::null())
        .output()
        .expect("script, of bsdutils, which every Debian has");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "tantara: waiting for the end of process 1, the file no-file",
            "tantara: timed out after 4s: process 1 has not ended; no-file does not exist"
        ]
    );
}
