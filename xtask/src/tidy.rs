//! Checks the conventions of this repository.

use std::process::Command;

use crate::run::root;

/// A longer file should be split.
const LONGEST_FILE: usize = 560;

pub(crate) fn check() -> Result<(), String> {
    let mut faults = Vec::new();
    for path in tracked()? {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        if path.ends_with(".rs") {
            check_source(&path, &text, &mut faults);
        }
        if path == ".ci/run" {
            check_test_command(&text, &mut faults)?;
        }
        // Inputs of the fuzz targets may end in any way.
        let is_input = path.starts_with("fuzz/corpus/");
        if !path.ends_with(".lock") && !is_input && !text.is_empty() && !text.ends_with('\n') {
            faults.push(format!("{path}: does not end with a newline"));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(format!("\n  {}", faults.join("\n  "))) }
}

/// The test command of README.md is what the continuous integration runs.
fn check_test_command(script: &str, faults: &mut Vec<String>) -> Result<(), String> {
    let readme = std::fs::read_to_string(root().join("README.md")).map_err(|error| format!("README.md: {error}"))?;
    for command in script.lines().filter(|line| line.starts_with("cargo ")) {
        if !readme.contains(&format!("`{command}`")) {
            faults.push(format!("README.md: does not name `{command}`, which .ci/run runs"));
        }
    }
    Ok(())
}

pub(crate) fn tracked() -> Result<Vec<String>, String> {
    let output = Command::new("git").args(["ls-files"]).current_dir(root()).output();
    let output = output.map_err(|error| format!("git cannot be started: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

fn check_source(path: &str, text: &str, faults: &mut Vec<String>) {
    let opens = text.lines().find(|line| !line.is_empty()).unwrap_or_default();
    if !opens.starts_with("//!") && !opens.starts_with("#![doc") {
        faults.push(format!("{path}: must begin with a description of what it contains (//! …)"));
    }
    if text.lines().count() > LONGEST_FILE {
        faults.push(format!("{path}: longer than {LONGEST_FILE} lines; split it"));
    }
    for (number, line) in text.lines().enumerate() {
        if line.chars().count() > 120 {
            faults.push(format!("{path}:{}: longer than 120 characters", number + 1));
        }
        let code = line.trim_start();
        let is_row = code.starts_with("//! |") || code.starts_with("/// |");
        if is_row && !code.trim_end().ends_with('|') {
            faults.push(format!("{path}:{}: a row of a table ends with |, and is one line", number + 1));
        }
        if code.starts_with("#[ignore") {
            faults.push(format!("{path}:{}: a test must not be ignored", number + 1));
        }
    }
    // `map` checks that ARCHITECTURE.md names the files with unsafe code. The root of a crate and
    // of a folder cannot forbid it for the files below.
    let has_unsafe = ["unsafe {", "unsafe impl", "unsafe fn"].iter().any(|code| text.contains(code));
    let is_root = path.ends_with("/lib.rs") || path.ends_with("/mod.rs");
    if path.starts_with("crates/tantara/src/") && !has_unsafe && !is_root && !text.contains("forbid(unsafe_code)") {
        faults.push(format!("{path}: does not forbid unsafe code"));
    }
}
