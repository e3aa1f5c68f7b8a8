//! A directory or a namespace of events for a test, and the command in it.
#![allow(dead_code, reason = "each file of tests uses a part of it")]

use std::env;
use std::io::Read;
use std::iter;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use etcd_for_tests::Servers;
use tempfile::TempDir;

use crate::signals;

/// A generous limit for everything that must happen.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Runs the command, which fails with one line on standard error and no output. Returns the line.
pub(crate) fn refused(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {complaint}");
    assert!(output.stdout.is_empty(), "{command:?}: {:?}", String::from_utf8_lossy(&output.stdout));
    assert!(complaint.starts_with("tantara: ") && complaint.lines().count() == 1, "{command:?}: {complaint}");
    complaint
}

pub(crate) struct Events {
    home: TempDir,
    server: Option<Servers>,
}

impl Events {
    pub(crate) fn new() -> Events {
        Events { home: tempfile::tempdir().unwrap(), server: None }
    }

    pub(crate) fn in_a_cluster() -> Events {
        Events { home: tempfile::tempdir().unwrap(), server: Some(Servers::one()) }
    }

    /// Of the cluster.
    pub(crate) fn endpoints(&self) -> String {
        self.server.as_ref().unwrap().endpoints().join(",")
    }

    /// The number of watches that the cluster serves.
    pub(crate) fn watchers(&self) -> u64 {
        self.server.as_ref().unwrap().watchers()
    }

    /// For files of the test.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The directory, which the first event creates.
    pub(crate) fn path(&self) -> PathBuf {
        self.home.path().join("events")
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.program(env!("CARGO_BIN_EXE_tantara"), args)
    }

    /// Another program, which may call the command.
    pub(crate) fn program(&self, program: &str, args: &[&str]) -> Command {
        signals::end_children();
        let mut command = Command::new(program);
        command.args(args).env("TANTARA_DIR", self.path()).env_remove("TANTARA_ETCD").stdin(Stdio::null());
        command.current_dir(self.home());
        let own = Path::new(env!("CARGO_BIN_EXE_tantara")).parent().unwrap().to_owned();
        let rest = env::var_os("PATH").unwrap();
        command.env("PATH", env::join_paths(iter::once(own).chain(env::split_paths(&rest))).unwrap());
        if self.server.is_some() {
            command.env_remove("TANTARA_DIR").env("TANTARA_ETCD", self.endpoints());
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub(crate) fn code(&self, args: &[&str]) -> i32 {
        self.run(args).status.code().unwrap()
    }

    /// Runs the command, which succeeds and prints nothing on standard error. Returns its output.
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs the command, which fails with one line on standard error and no output. Returns the line.
    pub(crate) fn refused(&self, args: &[&str], code: i32) -> String {
        refused(&mut self.command(args), code)
    }

    pub(crate) fn is_set(&self, name: &str) -> bool {
        match self.code(&["is-set", "-q", name]) {
            0 => true,
            1 => false,
            code => panic!("{code}"),
        }
    }

    pub(crate) fn start(&self, args: &[&str]) -> Running {
        Running(self.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Returns once a wait for the event is listed.
    pub(crate) fn until_waiting(&self, name: &str) {
        until(|| {
            let all: serde_json::Value = serde_json::from_str(&self.done(&["ls", "--json"])).unwrap();
            let event = all.as_array().unwrap().iter().find(|event| event["name"] == name).cloned();
            event.is_some_and(|event| !event["waiters"].as_array().unwrap().is_empty())
        });
    }
}

pub(crate) fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline);
        thread::sleep(Duration::from_millis(5));
    }
}

/// A running command. It is killed if the test fails.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn end(mut self) -> (ExitStatus, String, String) {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.0.stdout.take().map(|mut pipe| pipe.read_to_string(&mut stdout).unwrap());
        self.0.stderr.take().map(|mut pipe| pipe.read_to_string(&mut stderr).unwrap());
        (self.0.wait().unwrap(), stdout, stderr)
    }

    /// The output of a command that has succeeded.
    pub(crate) fn done(self) -> String {
        let (status, stdout, stderr) = self.end();
        assert!(status.success() && stderr.is_empty(), "{status}: {stderr}");
        stdout
    }

    pub(crate) fn is_over(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }

    pub(crate) fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
