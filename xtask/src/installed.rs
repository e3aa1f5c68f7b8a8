//! Each part of a release, installed and used as by somebody who has nothing else of this
//! repository.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::run::Outcome;
use crate::venv::run;

/// For how long anything that should happen at once is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a new user of the package does first; without Rust, as the first line checks.
const FIRST_STEPS: &str = "\
import shutil; assert not shutil.which('cargo') and not shutil.which('rustc'), 'there is Rust on the path'
import sys, threading, tantara
event = tantara.Event()
waiter = threading.Thread(target=event.wait)
waiter.start(); event.set(); waiter.join()
with tantara.SharedEvent('ready', dir=sys.argv[1]) as ready:
    assert not ready.wait(0)
    ready.set()
    assert tantara.SharedEvent('ready', dir=sys.argv[1]).wait()
    assert ready.remove()
assert tantara.__version__ == sys.argv[2], tantara.__version__
";

/// Unpacks the archive, and runs its command in a root that contains nothing else.
pub(crate) fn archive(archive: &Path, name: &str, work: &Path) -> Outcome {
    let unpacked = new_folder(&work.join("unpacked"))?;
    run(Command::new("tar").arg("--extract").arg("--file").arg(archive).arg("--directory").arg(&unpacked))?;
    let unpacked = unpacked.join(name);
    check_contents(&unpacked)?;
    let root = new_folder(&work.join("root"))?;
    // For events.
    new_folder(&root.join("events"))?;
    let program = unpacked.join("tantara");
    fs::copy(&program, root.join("tantara")).map_err(|error| format!("{}: {error}", program.display()))?;
    let Some(changer) = RootChanger::find(&root) else {
        println!("   left out: an empty root, because neither chroot nor unshare may be used here");
        return Ok(());
    };
    let version = changer.output(&["--version"])?;
    if !name.contains(version.trim().trim_start_matches("tantara ")) {
        return Err(format!("the command in {name} calls itself {version}"));
    }
    let mut waiter = Waiter::start(&changer, "ready")?;
    changer.output(&["--dir", "/events", "set", "ready"])?;
    waiter.is_released()?;
    let list = changer.output(&["--dir", "/events", "ls", "--json"])?;
    if !list.contains("\"ready\"") {
        return Err(format!("ls does not name the event: {list}"));
    }
    let bank = changer.output(&["bank", "--pace", "0"])?;
    if bank.lines().count() != 22 || !bank.ends_with("All customers have completed their transactions.\n") {
        return Err(format!("the bank prints something else: {bank}"));
    }
    Ok(())
}

/// What belongs to the command is there, and is what it says.
fn check_contents(folder: &Path) -> Outcome {
    for file in ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        let text = fs::read_to_string(folder.join(file)).map_err(|error| format!("{file}: {error}"))?;
        if text.is_empty() {
            return Err(format!("{file} is empty"));
        }
    }
    for (file, sign) in [
        ("LICENSES-OF-DEPENDENCIES", "\nrustls "),
        ("tantara.1", ".SH TANTARA WAIT"),
        ("completions/tantara.bash", "complete "),
        ("completions/_tantara", "#compdef tantara"),
        ("completions/tantara.fish", "complete "),
    ] {
        let text = fs::read_to_string(folder.join(file)).map_err(|error| format!("{file}: {error}"))?;
        if !text.contains(sign) {
            return Err(format!("{file} is something else: it does not contain {sign:?}"));
        }
    }
    Ok(())
}

/// A way to run the command in a root of its own.
struct RootChanger<'r> {
    words: &'static [&'static str],
    root: &'r Path,
}

impl RootChanger<'_> {
    /// As root, as the root of a user namespace, or as one who may become root.
    fn find(root: &Path) -> Option<RootChanger<'_>> {
        let ways: [&[&str]; 3] =
            [&["chroot"], &["unshare", "--map-root-user", "--root"], &["sudo", "--non-interactive", "chroot"]];
        let ways = ways.into_iter().map(|words| RootChanger { words, root });
        ways.into_iter().find(|way| way.command(&["--version"]).output().is_ok_and(|output| output.status.success()))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.words[0]);
        command.args(&self.words[1..]).arg(self.root).arg("/tantara").args(args);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
        command
    }

    fn output(&self, args: &[&str]) -> Result<String, String> {
        let output = self.command(args).output().map_err(|error| format!("tantara cannot be started: {error}"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let errors = String::from_utf8_lossy(&output.stderr);
        Err(format!("in an empty root, tantara {} failed ({}): {errors}", args.join(" "), output.status))
    }
}

/// `tantara wait` in the root, which is listed as a waiter.
struct Waiter(Child);

impl Waiter {
    fn start(changer: &RootChanger, event: &str) -> Result<Waiter, String> {
        let wait = ["--dir", "/events", "wait", event, "--timeout", "60s"];
        let child = changer.command(&wait).spawn().map_err(|error| format!("tantara cannot be started: {error}"))?;
        let waiter = Waiter(child);
        let began = Instant::now();
        while !changer.output(&["--dir", "/events", "ls", "--json"])?.contains("\"pid\"") {
            if began.elapsed() > PATIENCE {
                return Err("in an empty root, ls does not list the waiter".into());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(waiter)
    }

    fn is_released(&mut self) -> Outcome {
        let status = self.0.wait().map_err(|error| error.to_string())?;
        if status.success() { Ok(()) } else { Err(format!("in an empty root, wait ended with {status}")) }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Installs a wheel into a new environment with nothing of Rust's on the path, and uses it.
pub(crate) fn wheel(wheel: &Path, version: &str, python: &Path, place: &Path) -> Outcome {
    let place = new_folder(place)?;
    run(Command::new(python).args(["-m", "venv", "--clear"]).arg(place.join("venv")).stdout(Stdio::null()))?;
    let events = new_folder(&place.join("events"))?;
    let bin = place.join("venv/bin");
    let began = Instant::now();
    let mut install = Command::new(bin.join("python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]).arg(wheel);
    run(install.env("PATH", &bin))?;
    let installed = began.elapsed();
    let mut use_it = Command::new(bin.join("python"));
    run(use_it.args(["-c", FIRST_STEPS]).arg(events).arg(version).current_dir(&place).env("PATH", &bin))?;
    let (installed, whole) = (installed.as_secs_f64(), began.elapsed().as_secs_f64());
    println!("   pip install {installed:.1} s; with import, set and wait {whole:.1} s");
    Ok(())
}

/// Builds a wheel from the sources alone, outside of the repository, and uses it.
pub(crate) fn sdist(sdist: &Path, version: &str, python: &Path, work: &Path) -> Outcome {
    let place = new_folder(&std::env::temp_dir().join(format!("tantara-sdist-{}", std::process::id())))?;
    let built = build_elsewhere(sdist, python, work, &place).and_then(|()| {
        let built = fs::read_dir(place.join("wheel")).ok().and_then(|mut files| files.next()?.ok());
        let built = built.ok_or("pip has built no wheel of the sources")?.path();
        wheel(&built, version, python, &work.join("from-sources"))
    });
    let _ = fs::remove_dir_all(&place);
    built
}

fn build_elsewhere(sdist: &Path, python: &Path, work: &Path, place: &Path) -> Outcome {
    run(Command::new(python).args(["-m", "venv", "--clear"]).arg(place.join("venv")).stdout(Stdio::null()))?;
    let mut build = Command::new(place.join("venv/bin/python"));
    build.args(["-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--wheel-dir", "wheel"]);
    // pip would find the wheel of the last time.
    build.arg("--no-cache-dir");
    // What is compiled is kept for the next time; the sources are somewhere else each time.
    build.arg(sdist).current_dir(place).env("CARGO_TARGET_DIR", work.join("sources"));
    // Whether the sources are complete does not depend on how well they are optimised.
    for (setting, value) in [("LTO", "off"), ("OPT_LEVEL", "0"), ("CODEGEN_UNITS", "16")] {
        build.env(format!("CARGO_PROFILE_RELEASE_{setting}"), value);
    }
    run(&mut build)
}

/// An empty folder of that name, and its absolute path.
fn new_folder(path: &Path) -> Result<PathBuf, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let _ = fs::remove_dir_all(path);
    fs::create_dir_all(path).map_err(failed)?;
    path.canonicalize().map_err(failed)
}
