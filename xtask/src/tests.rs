//! The tests of the workspace, several programs of tests at once.
//!
//! `cargo test` runs one program of tests after the other. Most tests wait and leave the processor
//! alone, so here the programs run beside each other. What a program prints is shown when it has
//! ended.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::etcd;
use crate::python;
use crate::run::{Outcome, Step, TESTS_AT_ONCE, cargo, check_bank, root, wait_within};

/// How many programs run at once. Each runs several tests at once.
const AT_ONCE: usize = 2;

/// No program takes longer, on a busy machine too: one that does hangs.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// A program of tests, and the folder of its package, in which it runs.
struct Program {
    name: String,
    executable: PathBuf,
    folder: PathBuf,
}

/// Builds all tests of the workspace and runs them beside the bank, and then the examples of the
/// documentation.
pub(crate) fn run() -> Outcome {
    let (programs, tantara) = build()?;
    let programs = Mutex::new(programs);
    let failures = Mutex::new(Vec::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            if let Err(error) = check_bank(&mut Command::new(&tantara)) {
                locked(&failures).push(error);
            }
        });
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(program) = { locked(&programs).pop() } {
                    if !program.run() {
                        locked(&failures).push(program.name);
                    }
                }
            });
        }
    });
    let failures = locked(&failures);
    if !failures.is_empty() {
        return Err(format!("tests have failed, see above: {}", failures.join(", ")));
    }
    cargo(&["test", "--workspace", "--doc"]).crowded().run()
}

/// On systems other than Linux: the crates that have something to offer there. On Windows, tests
/// that start an etcd are left out.
pub(crate) fn run_elsewhere() -> Outcome {
    let tested = ["--package", "tantara", "--package", "tantara-bank", "--package", "tantara-cli"];
    Step::new("lints").run(|| {
        let clippy = |args: &[&str]| cargo(&[&["clippy"], args, &["--", "--deny", "warnings"]].concat()).run();
        clippy(&[&tested[..], &["--all-targets"]].concat())?;
        clippy(&["--package", "tantara-etcd"])
    })?;
    if cfg!(unix) {
        etcd::provide()?;
    }
    Step::new("tests and examples of the documentation")
        .run(|| cargo(&[&["test"], &tested[..]].concat()).crowded().run())?;
    Step::new("the bank").run(|| check_bank(Command::new("cargo").args(["run", "--quiet", "--"])))?;
    println!("   left out: events between processes, and the tests of tantara-etcd, which need Linux; conventions");
    python::test_elsewhere()
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The programs of tests, those last that are to run first: the largest take longest. And the
/// command.
fn build() -> Result<(Vec<Program>, PathBuf), String> {
    let messages = cargo(&["test", "--workspace", "--no-run", "--message-format=json-render-diagnostics"]).output()?;
    let (mut programs, mut tantara) = (Vec::new(), None);
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).map_err(|error| format!("cargo prints {line}: {error}"))?;
        let Some(executable) = message["executable"].as_str() else { continue };
        if message["profile"]["test"] == false {
            if message["target"]["name"] == "tantara" {
                tantara = Some(PathBuf::from(executable));
            }
            continue;
        }
        let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
        let folder = manifest.parent().ok_or("cargo names no package")?.to_path_buf();
        let package = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = format!("{package}: {}", message["target"]["name"].as_str().unwrap_or_default());
        programs.push(Program { name, executable: executable.into(), folder });
    }
    let size = |program: &Program| program.executable.metadata().map_or(0, |metadata| metadata.len());
    programs.sort_by_key(size);
    Ok((programs, tantara.ok_or("cargo has not built the command")?))
}

impl Program {
    /// Whether its tests have passed.
    fn run(&self) -> bool {
        let began = Instant::now();
        let (outcome, printed) = match self.run_within(LIMIT) {
            Ok(ended) => ended,
            Err(error) => {
                println!("   {} cannot be run: {error}", self.name);
                return false;
            }
        };
        // Without the lines of tests that have passed.
        let shown: Vec<_> = printed.lines().filter(|line| !line.ends_with(" ... ok") && !line.is_empty()).collect();
        println!("   {}, {:.1} s\n{}", self.name, began.elapsed().as_secs_f64(), shown.join("\n"));
        match outcome {
            Some(status) if status.success() => return true,
            Some(status) => println!("\n   {} failed ({status})", self.name),
            None => println!(
                "\n   {} had not ended after {} minutes and was killed; the tests that hang are named above",
                self.name,
                LIMIT.as_secs() / 60
            ),
        }
        false
    }

    /// How it ended, unless it had to be killed, and what it printed. It prints to a file, so that a
    /// process that it leaves behind keeps nobody waiting.
    fn run_within(&self, limit: Duration) -> io::Result<(Option<ExitStatus>, String)> {
        let logs = root().join("target/logs");
        fs::create_dir_all(&logs)?;
        let path = logs.join(self.name.replace(": ", "-"));
        let log = File::create(&path)?;
        let mut child = Command::new(&self.executable)
            .current_dir(&self.folder)
            .env("CARGO_MANIFEST_DIR", &self.folder)
            .env("RUST_TEST_THREADS", TESTS_AT_ONCE)
            .env("RUST_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let status = wait_within(&mut child, limit)?;
        Ok((status, String::from_utf8_lossy(&fs::read(&path)?).into_owned()))
    }
}
