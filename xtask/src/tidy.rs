//! The conventions of this repository, as a check.

use std::path::Path;
use std::process::Command;

use crate::run::root;

/// Where unsafe code may stand. Everything else forbids it.
const UNSAFE_ROOMS: [&str; 10] = [
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
/// Rooms that hold others: they cannot forbid what those need.
const CORRIDORS: [&str; 3] =
    ["crates/tantara/src/lib.rs", "crates/tantara/src/sys/mod.rs", "crates/tantara/src/shared/mod.rs"];
/// Longer than this is two rooms.
const LONGEST_FILE: usize = 560;

pub(crate) fn check() -> Result<(), String> {
    let mut faults = Vec::new();
    for path in tracked()? {
        let Ok(text) = std::fs::read_to_string(root().join(&path)) else { continue };
        if path.ends_with(".rs") {
            check_source(&path, &text, &mut faults);
        }
        // Inputs of the fuzz targets are what they are.
        let is_input = path.starts_with("fuzz/corpus/");
        if !path.ends_with(".lock") && !is_input && !text.is_empty() && !text.ends_with('\n') {
            faults.push(format!("{path}: does not end with a newline"));
        }
    }
    check_map(&mut faults)?;
    if faults.is_empty() { Ok(()) } else { Err(format!("\n  {}", faults.join("\n  "))) }
}

fn tracked() -> Result<Vec<String>, String> {
    let output = Command::new("git").args(["ls-files"]).current_dir(root()).output();
    let output = output.map_err(|error| format!("git cannot be started: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

fn check_source(path: &str, text: &str, faults: &mut Vec<String>) {
    let opens = text.lines().find(|line| !line.is_empty()).unwrap_or_default();
    if !opens.starts_with("//!") && !opens.starts_with("#![doc") {
        faults.push(format!("{path}: does not open with what the room holds (//! …)"));
    }
    if text.lines().count() > LONGEST_FILE {
        faults.push(format!("{path}: longer than {LONGEST_FILE} lines; it is two rooms"));
    }
    for (number, line) in text.lines().enumerate() {
        if line.chars().count() > 120 {
            faults.push(format!("{path}:{}: longer than 120 characters", number + 1));
        }
        let code = line.trim_start();
        if code.starts_with("#[ignore") {
            faults.push(format!("{path}:{}: a test that is switched off", number + 1));
        }
    }
    if path.starts_with("crates/tantara/src/")
        && !UNSAFE_ROOMS.contains(&path)
        && !CORRIDORS.contains(&path)
        && !text.contains("forbid(unsafe_code)")
    {
        faults.push(format!("{path}: does not forbid unsafe code"));
    }
}

/// Every folder and every file of the library is on the map.
fn check_map(faults: &mut Vec<String>) -> Result<(), String> {
    let map = std::fs::read_to_string(root().join("ARCHITECTURE.md")).map_err(|e| format!("ARCHITECTURE.md: {e}"))?;
    for path in tracked()? {
        let folder =
            path.split('/').take(if path.starts_with("crates/") { 2 } else { 1 }).collect::<Vec<_>>().join("/");
        if Path::new(&path).components().count() > 1 && !folder.starts_with('.') && !map.contains(&folder) {
            faults.push(format!("ARCHITECTURE.md does not name {folder}"));
        }
        if let Some(room) = path.strip_prefix("crates/tantara/src/")
            && !map.contains(&format!("`{room}`"))
        {
            faults.push(format!("ARCHITECTURE.md does not name the library's room `{room}`"));
        }
    }
    faults.dedup();
    Ok(())
}
