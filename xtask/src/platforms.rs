//! The oldest compiler, and processors of 32 bits. Each step is left out where its tools are missing.

use std::process::Command;

use crate::run::{Outcome, Step, cargo};

/// `rust-version` of the workspace.
const OLDEST: &str = "1.88";
/// A processor without atomics of 64 bits.
const WITHOUT_ATOMIC_U64: &str = "powerpc-unknown-linux-gnu";
const I686: &str = "i686-unknown-linux-gnu";

pub(crate) fn test() -> Outcome {
    oldest()?;
    check_without_atomic_u64()?;
    test_i686()
}

fn oldest() -> Outcome {
    let step = Step::new(&format!("Rust {OLDEST}"));
    if !cargo(&[&format!("+{OLDEST}"), "--version"]).succeeds() {
        return step.skip(&format!("it is not installed (rustup toolchain install {OLDEST})"));
    }
    step.run(|| cargo(&[&format!("+{OLDEST}"), "check", "--quiet", "--workspace"]).flags("", "oldest").run())
}

fn check_without_atomic_u64() -> Outcome {
    let step = Step::new(&format!("lints for {WITHOUT_ATOMIC_U64}"));
    if !has_target(WITHOUT_ATOMIC_U64) {
        return step.skip(&format!("rustup target add {WITHOUT_ATOMIC_U64}"));
    }
    let clippy = ["clippy", "--quiet", "--package", "tantara", "--target", WITHOUT_ATOMIC_U64];
    step.run(|| cargo(&[&clippy[..], &["--", "--deny", "warnings"]].concat()).run())
}

fn test_i686() -> Outcome {
    let step = Step::new(&format!("tests on {I686}"));
    if !has_target(I686) {
        return step.skip(&format!("rustup target add {I686}"));
    }
    let libraries = Command::new("cc").args(["-m32", "-print-file-name=crt1.o"]).output();
    if !libraries.is_ok_and(|answer| answer.stdout.contains(&b'/')) {
        return step.skip("there are no C libraries of 32 bits (Debian: apt install gcc-multilib)");
    }
    step.run(|| cargo(&["test", "--package", "tantara", "--target", I686]).crowded().run())
}

fn has_target(target: &str) -> bool {
    let list = Command::new("rustup").args(["target", "list", "--installed"]).output();
    list.is_ok_and(|list| String::from_utf8_lossy(&list.stdout).lines().any(|line| line == target))
}
