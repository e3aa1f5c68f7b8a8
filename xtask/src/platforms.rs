//! The oldest compiler, and processors of 32 bits. Each step is left out where its tools are
//! missing.

use std::process::Command;

use crate::run::{Outcome, Step, cargo};

/// `rust-version` of the library, and of the workspace, and what is checked with it.
pub(crate) const OLDEST: [(&str, &[&str]); 2] =
    [("1.85", &["--package", "tantara", "--features", "serde"]), ("1.88", &["--workspace"])];
/// A processor without atomics of 64 bits.
pub(crate) const WITHOUT_ATOMIC_U64: &str = "powerpc-unknown-linux-gnu";
pub(crate) const I686: &str = "i686-unknown-linux-gnu";

pub(crate) fn test() -> Outcome {
    OLDEST.iter().try_for_each(|(version, packages)| oldest(version, packages))?;
    check_without_atomic_u64()?;
    test_i686()
}

fn oldest(version: &str, packages: &[&str]) -> Outcome {
    let step = Step::new(&format!("Rust {version}: {}", packages.join(" ")));
    let toolchain = format!("+{version}");
    if !cargo(&[&toolchain, "--version"]).succeeds() {
        return step.skip(&format!("it is not installed (rustup toolchain install {version})"));
    }
    step.run(|| cargo(&[&[&toolchain, "check", "--quiet"], packages].concat()).flags("", "oldest").run())
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

pub(crate) fn has_target(target: &str) -> bool {
    let list = Command::new("rustup").args(["target", "list", "--installed"]).output();
    list.is_ok_and(|list| String::from_utf8_lossy(&list.stdout).lines().any(|line| line == target))
}
