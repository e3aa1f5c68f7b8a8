//! Whole commands: `tantara set` and `tantara wait`, from start to exit, compared with `/bin/true`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use tantara::SharedEvent;

use super::children;
use super::workloads::median;
use crate::names::processes::BASELINE_COMMAND;
use crate::names::{Figures, OURS};

/// The target directory of the product's workspace.
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Builds the command before the cells run.
pub fn build() -> Result<(), String> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--release", "--package", "tantara-cli", "--bin", "tantara", "--target-dir"]);
    match cargo.arg(std::path::absolute(target()).unwrap_or_default()).current_dir(root()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("the command tantara cannot be built ({status})")),
        Err(error) => Err(format!("cargo cannot be started: {error}")),
    }
}

/// Nanoseconds from the start to the end of a command that sets an event, and of one that waits for a set event.
pub fn spawn(contender: &str, smoke: bool) -> Result<Option<Figures>, String> {
    let times = if smoke { 3 } else { 100 };
    let directory = children::directory("events");
    let event = || SharedEvent::find_in(&directory, "x").ok().flatten();
    Ok(match contender {
        BASELINE_COMMAND => {
            let time = median_of(times, || Command::new("/bin/true"))?;
            Some(vec![("set", time), ("wait", time)])
        }
        OURS => {
            let path = target().join("release/tantara");
            let tantara = |subcommand: &str| {
                let mut command = Command::new(&path);
                command.arg("--dir").arg(&directory).args([subcommand, "x"]);
                command
            };
            let set = median_of(times, || tantara("set"))?;
            let is_set = event().is_some_and(|event| event.is_set().expect("it is there"));
            assert!(is_set, "`tantara set x` has set it");
            let wait = median_of(times, || tantara("wait"))?;
            Some(vec![("set", set), ("wait", wait)])
        }
        _ => None,
    })
}

/// Nanoseconds from the start of a command to its end.
pub fn median_of(times: u32, command: impl Fn() -> Command) -> Result<f64, String> {
    let mut taken = Vec::new();
    for _ in 0..times {
        let mut command = command();
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let began = Instant::now();
        let status = command.status().map_err(|error| format!("{command:?} cannot be started: {error}"))?;
        taken.push(began.elapsed().as_nanos() as u64);
        if !status.success() {
            return Err(format!("{command:?} failed ({status}); does it know the subcommand?"));
        }
    }
    Ok(median(taken))
}
