//! Virtual environments of Python, and what is installed into them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::debian;
use crate::run::Outcome;

/// A virtual environment, unless there is one already.
pub(crate) fn environment(program: &Path, place: &Path) -> Outcome {
    if run(python(place).args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null())).is_ok() {
        return Ok(());
    }
    let mut venv = Command::new(program);
    venv.args(["-m", "venv", "--clear"]).arg(place);
    if run(venv.stdout(Stdio::null())).is_ok() {
        return Ok(());
    }
    // Debian keeps it apart.
    debian::install("python3-venv")?;
    run(&mut venv)
}

pub(crate) fn python(place: &Path) -> Command {
    Command::new(program(place, "python"))
}

/// A program of an environment. The path is absolute, so that it can be started in any folder.
pub(crate) fn program(place: &Path, name: &str) -> PathBuf {
    let programs = place.join(if cfg!(windows) { "Scripts" } else { "bin" });
    let program = programs.join(name).with_extension(std::env::consts::EXE_EXTENSION);
    std::path::absolute(&program).unwrap_or(program)
}

pub(crate) fn pip(place: &Path, what: &[&str]) -> Outcome {
    run(&mut install(place, what))
}

/// Whether it can be installed, and now is. Nothing is printed.
pub(crate) fn has(place: &Path, what: &str) -> bool {
    run(install(place, &[what]).stdout(Stdio::null()).stderr(Stdio::null())).is_ok()
}

fn install(place: &Path, what: &[&str]) -> Command {
    let mut pip = python(place);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(what);
    pip
}

pub(crate) fn run(command: &mut Command) -> Outcome {
    let status = command.status().map_err(|error| format!("{command:?} cannot be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed ({status})")) }
}

/// Runs a command, and shows what it has printed if it fails.
pub(crate) fn run_quietly(command: &mut Command) -> Outcome {
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{command:?} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Err(format!("{command:?} failed ({})", output.status))
}
