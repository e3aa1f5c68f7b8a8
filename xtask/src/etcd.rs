//! An etcd for the tests: the system's, or else Debian's, unpacked under `target` and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{Step, root};

/// What Debian and its descendants call it.
const PACKAGE: &str = "etcd-server";

pub(crate) fn provide() -> Result<(), String> {
    Step::new("an etcd for the tests").run(|| {
        let home = root().join("target/etcd");
        // `crates/etcd-for-tests` looks in the same places.
        let mut places = vec!["etcd".into(), "/usr/bin/etcd".into(), home.join("usr/bin/etcd")];
        if let Some(named) = std::env::var_os("ETCD").filter(|named| !named.is_empty()) {
            places = vec![PathBuf::from(named)];
        } else if places.iter().all(|place| version(place).is_none()) {
            download(&home)?;
        }
        let found = places.iter().find_map(|place| Some((version(place)?, place)));
        let (version, place) = found.ok_or_else(|| {
            let place = places[places.len() - 1].display();
            format!("{place} is not an etcd that can be run: point $ETCD to one that is")
        })?;
        println!("   {version}  {}", place.display());
        Ok(())
    })
}

fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().next()?.strip_prefix("etcd Version: ")?;
    output.status.success().then(|| version.to_owned())
}

/// Unpacks Debian's package there. Nothing of the system's is touched, and so nobody need be root.
fn download(home: &Path) -> Result<(), String> {
    let mine = home.join("apt");
    let failed = |error: String| {
        format!(
            "etcd is missing and cannot be fetched ({error}): install Debian's {PACKAGE}, or point $ETCD to an etcd"
        )
    };
    let fetch = || {
        let _ = fs::remove_dir_all(&mine);
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(mine.join(folder)).map_err(|error| format!("{}: {error}", mine.display()))?;
        }
        // The system's lists may be empty, or too old.
        apt(&mine, false, &["download", PACKAGE]).or_else(|_| {
            apt(&mine, true, &["update"])?;
            apt(&mine, true, &["download", PACKAGE])
        })?;
        let mut files = fs::read_dir(&mine).into_iter().flatten().flatten().map(|entry| entry.path());
        let package = files.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
        let package = package.ok_or("apt-get has downloaded nothing")?;
        run(Command::new("dpkg-deb").arg("--extract").args([&package, home]))?;
        let _ = fs::remove_dir_all(&mine);
        Ok(())
    };
    fetch().map_err(failed)
}

/// Calls `apt-get` in this folder, with its own lists there or with the system's.
fn apt(folder: &Path, own: bool, args: &[&str]) -> Result<(), String> {
    let mut apt = Command::new("apt-get");
    if own {
        let folder = folder.canonicalize().map_err(|error| format!("{}: {error}", folder.display()))?;
        for place in ["State", "Cache"] {
            apt.arg("-o").arg(format!("Dir::{place}={}", folder.display()));
        }
    }
    run(apt.args(args).current_dir(folder))
}

/// Runs a command, and tells of its first complaint.
fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.env("LC_ALL", "C").stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{name} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaints = String::from_utf8_lossy(&output.stderr);
    let first = complaints.lines().find(|line| !line.starts_with("W:")).unwrap_or("it does not say why");
    Err(format!("{name} has failed: {first}"))
}
