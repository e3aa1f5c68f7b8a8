//! The command on systems other than Linux, without a cluster: what it refuses, exit codes, and commands that it runs.
#![cfg(not(target_os = "linux"))]

use std::net::TcpListener;
use std::process::{Command, Output};

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tantara"));
    command.args(args).env_remove("TANTARA_ETCD").env_remove("TANTARA_DIR");
    command
}

fn run(args: &[&str]) -> Output {
    command(args).output().unwrap()
}

/// The command fails with one line on standard error, and no output. Returns the line.
fn refused(args: &[&str], code: i32) -> String {
    let output = run(args);
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {complaint}");
    assert!(output.stdout.is_empty() && complaint.lines().count() == 1, "{args:?}: {complaint}");
    complaint
}

fn shell(script: &'static str) -> [&'static str; 3] {
    if cfg!(windows) { ["cmd", "/c", script] } else { ["sh", "-c", script] }
}

#[test]
fn what_needs_linux_says_so_in_one_line() {
    let expected =
        "tantara: events between processes need Linux; with --etcd, the same command works between machines\n";
    for subcommand in ["set", "clear", "pulse", "wait", "is-set", "ls", "watch", "rm"] {
        assert_eq!(refused(&[subcommand, "door"], 2), expected);
    }
    let [sh, c, script] = shell("exit 0");
    assert_eq!(refused(&["hold", "door", "--", sh, c, script], 2), expected);
    assert_eq!(refused(&["set", "door", "--else", "window", "--", sh, c, script], 2), expected);
    assert_eq!(refused(&["--dir", ".", "ls"], 2), expected);
    for args in [&["ps"][..], &["wait", "--pid", "4"], &["wait", "--file", "x"], &["bank", "--reach", "processes"]] {
        let line = refused(args, 2);
        assert!(line.contains(" Linux"), "{line}");
    }
    assert!(refused(&["bank", "--reach", "machines"], 2).contains("--etcd"));
}

#[test]
fn a_cluster_that_cannot_be_reached_is_125() {
    let line = refused(&["--etcd", "127.0.0.1:1", "--connect-timeout", "1", "set", "door"], 125);
    assert!(line.contains("127.0.0.1:1"), "{line}");
    assert!(refused(&["--etcd", "a b", "set", "door"], 2).contains("a b"));
}

#[test]
fn a_command_runs_after_a_wait_and_decides_the_exit_code() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let wait = ["wait", "--tcp", &address, "--"];
    let after_wait = |words: &[&str]| run(&[&wait[..], words].concat());
    assert_eq!(after_wait(&shell("exit 7")).status.code(), Some(7));
    let served = after_wait(&shell("echo served"));
    assert_eq!(String::from_utf8(served.stdout).unwrap().trim_end(), "served");
    let own = env!("CARGO_BIN_EXE_tantara");
    assert_eq!(after_wait(&[own, "set", "door"]).status.code(), Some(2));
    assert!(refused(&[&wait[..], &["no-such-program"]].concat(), 127).contains("command not found"));
    refused(&[&wait[..], &[env!("CARGO_MANIFEST_DIR")]].concat(), 126);
    drop(server);
    refused(&["wait", "--tcp", &address, "--timeout", "0.2", "--", own, "set", "door"], 124);
}

#[cfg(windows)]
#[test]
fn batch_files_and_codes_of_32_bits() {
    let folder = tempfile::tempdir().unwrap();
    let batch = folder.path().join("batch.cmd");
    std::fs::write(&batch, "@echo %~1\r\n@exit /b 3\r\n").unwrap();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap().to_string();
    let batch = batch.with_extension("");
    let output = run(&["wait", "--tcp", &address, "--", batch.to_str().unwrap(), "a b"]);
    assert_eq!((output.status.code(), String::from_utf8(output.stdout).unwrap().trim_end()), (Some(3), "a b"));
    let output = run(&["wait", "--tcp", &address, "--", "cmd", "/c", "exit -1073741510"]);
    assert_eq!(output.status.code(), Some(-1_073_741_510), "0xC000013A");
}

#[test]
fn help_completions_and_the_manual_are_printed() {
    for args in [&["--version"][..], &["--help"], &["wait", "--help"], &["completions", "powershell"], &["man"]] {
        let output = run(args);
        assert!(output.status.success() && output.stdout.len() > 10, "{args:?}: {output:?}");
    }
}
