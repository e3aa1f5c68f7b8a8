//! Running one step after the other, and saying which one it is and how long it took.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The platform that this was built for: sanitizers want it named.
pub(crate) const HOST: &str = env!("XTASK_HOST");

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// How a task ends: the error says which step failed.
pub(crate) type Outcome = Result<(), String>;

/// One step of a task.
pub(crate) struct Step(String);

impl Step {
    pub(crate) fn new(what: &str) -> Step {
        println!("\n── {what}");
        Step(what.to_owned())
    }

    pub(crate) fn run(self, step: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
        let began = Instant::now();
        step().map_err(|error| format!("{}: {error}", self.0))?;
        println!("   {:.1} s", began.elapsed().as_secs_f64());
        Ok(())
    }

    pub(crate) fn skip(self, why: &str) -> Result<(), String> {
        println!("   left out: {why}");
        Ok(())
    }
}

/// Runs a task here and others beside it, each in a process of its own. What those print is kept in
/// a file under `target` and shown when they end, so that no two tasks print at the same time.
///
/// All tasks run to their end, and every failure is reported.
pub(crate) fn beside(others: &[&str], here: impl FnOnce() -> Outcome) -> Outcome {
    let failed = |what: &str, error: io::Error| format!("{what}: {error}");
    let program = std::env::current_exe().map_err(|error| failed("xtask", error))?;
    let logs = root().join("target/logs");
    fs::create_dir_all(&logs).map_err(|error| failed("target/logs", error))?;
    let mut running = Vec::new();
    for task in others {
        let path = logs.join(task);
        let log = File::create(&path).map_err(|error| failed(task, error))?;
        let mut command = Command::new(&program);
        command.arg(task).stdin(Stdio::null()).stdout(log.try_clone().map_err(|error| failed(task, error))?);
        running.push((task, path, command.stderr(log).spawn().map_err(|error| failed(task, error))?));
        println!("\n── {task}: runs beside what follows; its output is in target/logs/{task} until it ends");
    }
    let mut failures: Vec<String> = here().err().into_iter().collect();
    for (task, path, mut child) in running {
        let status = child.wait().map_err(|error| failed(task, error))?;
        print!("{}", String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()));
        if !status.success() {
            failures.push(format!("{task} failed: its output is above"));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) }
}

/// No call of cargo takes longer, with all that it builds.
const LIMIT: Duration = Duration::from_secs(40 * 60);

/// Waits until a process has ended, and kills it after the limit.
pub(crate) fn wait_within(process: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if let Some(status) = process.try_wait()? {
            return Ok(Some(status));
        }
        thread::sleep(Duration::from_millis(20));
    }
    process.kill()?;
    process.wait()?;
    Ok(None)
}

/// A call of cargo, from the root of the repository.
pub(crate) fn cargo(args: &[&str]) -> Call {
    // With a toolchain named, only rustup's own `cargo` will do.
    let program = match args.first() {
        Some(first) if first.starts_with('+') => "cargo".into(),
        _ => std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()),
    };
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    // Set by the toolchain that runs this; another one must find its own way.
    for variable in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
        command.env_remove(variable);
    }
    Call { command, words: args.join(" ") }
}

/// The same command, in a process in which the signals that ask for an end are ignored, as they are
/// under `nohup` and behind the `&` of a script.
pub(crate) fn ignoring_signals(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", r#"trap "" HUP INT QUIT TERM USR1; exec "$@""#, "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(dir) = command.get_current_dir() {
        shell.current_dir(dir);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// How many tests of a program run at once. Most wait for something and leave the processor alone.
pub(crate) const TESTS_AT_ONCE: &str = "8";

/// Clippy's lints of a workspace, as errors.
pub(crate) fn lints(dir: &str) -> Outcome {
    let all = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    Step::new(&format!("lints of {}", if dir == "." { "the workspace" } else { dir }))
        .run(|| cargo(&all).dir(dir).run())
}

pub(crate) struct Call {
    command: Command,
    words: String,
}

impl Call {
    pub(crate) fn ignoring_signals(self) -> Call {
        Call { command: ignoring_signals(&self.command), words: self.words }
    }

    pub(crate) fn dir(mut self, dir: &str) -> Call {
        self.command.current_dir(root().join(dir));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Call {
        self.command.env(name, value);
        self
    }

    /// Flags for the compiler, and a target directory for what is built with them, so that nothing
    /// else is built anew.
    pub(crate) fn flags(self, flags: &str, dir: &str) -> Call {
        let dir = root().join("target").join(dir);
        self.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", &dir.to_string_lossy())
    }

    /// Runs more tests at once than there are cores.
    pub(crate) fn crowded(self) -> Call {
        self.env("RUST_TEST_THREADS", TESTS_AT_ONCE)
    }

    pub(crate) fn quiet(mut self) -> Call {
        self.command.stdout(Stdio::null());
        self
    }

    /// Whether it can be run, and succeeds; nothing is printed.
    pub(crate) fn succeeds(mut self) -> bool {
        let command = self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    /// What it prints to standard output.
    pub(crate) fn output(mut self) -> Result<String, String> {
        let output = self.command.stderr(Stdio::inherit()).output();
        let output = output.map_err(|error| format!("cargo cannot be started: {error}"))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!("cargo {} failed ({})", self.words, output.status))
        }
    }

    pub(crate) fn run(mut self) -> Result<(), String> {
        let ended = self.command.spawn().and_then(|mut cargo| wait_within(&mut cargo, LIMIT));
        match ended.map_err(|error| format!("cargo cannot be run: {error}"))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("cargo {} failed ({status})", self.words)),
            None => Err(format!("cargo {} had not ended after {} minutes", self.words, LIMIT.as_secs() / 60)),
        }
    }
}

/// Runs the bank, with its pauses of seven seconds, and checks what it prints.
pub(crate) fn check_bank(command: &mut Command) -> Outcome {
    let output = command.arg("bank").current_dir(root()).output();
    let output = output.map_err(|error| format!("{command:?} cannot be started: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() || text.lines().count() != 22 || !text.contains("Customer 4 completed transaction") {
        return Err(format!("the bank has failed: {text}{}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(())
}
