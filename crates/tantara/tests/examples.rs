//! The examples of the library, run as a user runs them.
#![cfg(not(any(loom, miri)))]

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// An example's program. A whole `cargo test` has built it; `cargo test --test examples` builds it here.
fn example(name: &str) -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(|deps| deps.parent()).unwrap();
    let program = profile.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    if !program.exists() {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "tantara", "--example", name]);
        // By name: the directory that `$CARGO_TARGET_DIR` names may be relative, and not to that of this process.
        cargo.arg("--target-dir").arg(profile.parent().unwrap());
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().unwrap().success());
    }
    program
}

fn output_of(name: &str) -> String {
    // Standard input is at its end, which is as good as Enter.
    let output = Command::new(example(name)).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn graceful_shutdown() {
    let output = output_of("graceful_shutdown");
    for line in ["cache: flushed", "first task: served", "second task: served", "all workers have ended"] {
        assert!(output.contains(line), "{output}");
    }
}

#[cfg(shared_events)]
#[test]
fn startup_gate() {
    let output = output_of("startup_gate");
    assert_eq!(output.matches("the gate is open").count(), 3, "{output}");
    let ready = output.find("the database is ready").unwrap();
    assert!(output.find("the gate is open").unwrap() > ready, "a worker passed before the gate was open: {output}");
    assert!(output.ends_with("all workers are done\n"), "{output}");
}
