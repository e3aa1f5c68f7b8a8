//! Packages of Debian's, on the systems that have apt.

use std::process::{Command, Stdio};

use crate::run::Outcome;

/// Installs a package, where that is possible.
pub(crate) fn install(name: &str) -> Outcome {
    let is_there = Command::new("dpkg-query").args(["--show", "--showformat=${Status}", name]).output();
    if is_there.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).ends_with(" installed")) {
        return Ok(());
    }
    let apt = |before: &[&str], args: &[&str]| {
        let words = [before, &["apt-get", "--yes", "--quiet"], args].concat();
        let mut apt = Command::new(words[0]);
        apt.args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive");
        let status = apt.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    };
    let install = ["install", "--no-install-recommends", name];
    for before in [&[][..], &["sudo", "--non-interactive"]] {
        // The system's lists may be empty, or too old.
        if apt(before, &install) || (apt(before, &["update"]) && apt(before, &install)) {
            return Ok(());
        }
    }
    Err(format!("{name} is missing, and cannot be installed; on Debian: apt install {name}"))
}
