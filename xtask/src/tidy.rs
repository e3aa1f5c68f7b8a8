//! Checks the conventions of this repository.

use std::process::Command;

use crate::run::root;

/// The files of the library that may contain unsafe code. Every other file forbids it.
const UNSAFE_FILES: [&str; 10] = [
    "crates/tantara/src/external.rs",
    "crates/tantara/src/tasks.rs",
    "crates/tantara/src/wakers.rs",
    "crates/tantara/src/wait.rs",
    "crates/tantara/src/sys/linux.rs",
    "crates/tantara/src/sys/shared.rs",
    "crates/tantara/src/sys/files.rs",
    "crates/tantara/src/shared/reactor.rs",
    "crates/tantara/src/shared/mapping.rs",
    "crates/tantara/src/shared/wait.rs",
];
/// Modules that contain such files, and so cannot forbid it.
const UNSAFE_FOLDERS: [&str; 3] =
    ["crates/tantara/src/lib.rs", "crates/tantara/src/sys/mod.rs", "crates/tantara/src/shared/mod.rs"];
/// A longer file should be split.
const LONGEST_FILE: usize = 560;

pub(crate) fn check() -> Result<(), String> {
    let mut faults = Vec::new();
    for path in tracked()? {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        if path.ends_with(".rs") {
            check_source(&path, &text, &mut faults);
        }
        // Inputs of the fuzz targets may end in any way.
        let is_input = path.starts_with("fuzz/corpus/");
        if !path.ends_with(".lock") && !is_input && !text.is_empty() && !text.ends_with('\n') {
            faults.push(format!("{path}: does not end with a newline"));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(format!("\n  {}", faults.join("\n  "))) }
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
        if code.starts_with("#[ignore") {
            faults.push(format!("{path}:{}: a test must not be ignored", number + 1));
        }
    }
    if path.starts_with("crates/tantara/src/")
        && !UNSAFE_FILES.contains(&path)
        && !UNSAFE_FOLDERS.contains(&path)
        && !text.contains("forbid(unsafe_code)")
    {
        faults.push(format!("{path}: does not forbid unsafe code"));
    }
}
