//! Python's `multiprocessing.Event` as a contender: a Python program does the same work, and measures it itself.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use super::children;

const PROGRAM: &str = include_str!("python.py");

/// Whether there is a Python with `multiprocessing`.
pub fn is_there() -> bool {
    let mut command = Command::new("python3");
    command.args(["-c", "import multiprocessing.synchronize, ctypes"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Replaces this process by the program, which prints the figures of the cell.
pub fn run(workload: &str, cpus: &[usize], smoke: bool) -> Result<(), String> {
    let cpus = cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut command = Command::new("python3");
    command.args(["-c", PROGRAM, workload, &cpus, if smoke { "smoke" } else { "" }]);
    // SAFETY: the call has no arguments.
    let own = unsafe { libc::getpid() };
    // SAFETY: between fork and exec it makes system calls only.
    unsafe {
        command.pre_exec(move || {
            children::end_with(own);
            Ok(())
        })
    };
    let status = command.status().map_err(|error| format!("python3 cannot be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("python3 failed ({status})")) }
}
