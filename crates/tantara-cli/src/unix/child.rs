//! The command that `hold` and `set` run as a child process: how it is started, gets signals, and ends. The command of
//! `wait`, which replaces this process.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread;

use rustix::io::retry_on_intr;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, getpgid, getpgrp, kill_process, wait, waitid,
};

use super::interrupt::{self, Passed, PassedOn};
use super::{program, sigpipe};
use crate::failure::Failure;

/// A command that can be started, as far as is known.
pub(crate) struct Startable<'c> {
    words: (&'c OsString, &'c [OsString]),
    is_certain: bool,
    signals: PassedOn,
}

impl<'c> Startable<'c> {
    /// Checks the command. From now on, signals do not end this process: they are passed on to the command.
    pub(crate) fn new(words: (&'c OsString, &'c [OsString])) -> Result<Startable<'c>, Failure> {
        let is_certain = program::check(words.0)?;
        Ok(Startable { words, is_certain, signals: interrupt::pass_on()? })
    }

    /// Whether the system executes the command for certain. Otherwise, only an attempt tells.
    pub(crate) fn is_certain(&self) -> bool {
        self.is_certain
    }

    /// A signal that has come already.
    pub(crate) fn first_signal(&mut self) -> Option<i32> {
        self.signals.pending().first().map(|passed| passed.signal)
    }

    pub(crate) fn start(self) -> Result<Running, Failure> {
        let (program, arguments) = self.words;
        let started = sigpipe::inherit(Command::new(program).args(arguments)).spawn();
        let started = started.or_else(|error| match program::plain_script(program, &error) {
            // As shells do, and `wait` by `execvp`.
            Some(script) => sigpipe::inherit(Command::new("/bin/sh").arg(script).args(arguments)).spawn(),
            None => Err(error),
        });
        let child = started.map_err(|error| program::failure(program, &error))?;
        Ok(Running { child, signals: self.signals })
    }
}

/// A command that runs beside this process.
pub(crate) struct Running {
    child: Child,
    signals: PassedOn,
}

impl Running {
    /// Passes signals on to the command until it ends. Returns how it has ended. As process 1, this also collects the
    /// orphans that have ended.
    pub(crate) fn supervise(&mut self) -> Ended {
        let child = Pid::from_child(&self.child);
        let end = self.signals.end();
        let notice = move || {
            // The child is collected below, so that its number is not given to another process before that.
            let has_ended = || waitid(WaitId::Pid(child), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let _ = retry_on_intr(has_ended);
            end();
        };
        // If the thread cannot be started, SIGCHLD reports the end.
        let _ = thread::Builder::new().name("command".into()).spawn(notice);
        // Pass on signals that came before the command was started.
        let mut may_have_it = false;
        let mut passed_on = self.signals.pending();
        loop {
            for Passed { signal, is_of_terminal } in passed_on {
                // The terminal has sent its own to the command as well, unless that is in another group.
                let is_in_group = || getpgid(Some(child)).is_ok_and(|group| group == getpgrp());
                let has_it = may_have_it && is_of_terminal && is_in_group();
                if let Some(signal) = Signal::from_named_raw(signal).filter(|_| !has_it) {
                    // An error is ignored: the command may have ended.
                    let _ = kill_process(child, signal);
                }
            }
            while let Ok(Some((process, status))) = wait(WaitOptions::NOHANG) {
                if process == child {
                    return Ended(status);
                }
            }
            may_have_it = true;
            passed_on = self.signals.wait();
        }
    }

    /// Ends the command at once.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command has ended.
#[derive(Clone, Copy)]
pub(crate) struct Ended(WaitStatus);

impl Ended {
    pub(crate) fn is_success(self) -> bool {
        self.0.exit_status() == Some(0)
    }
}

/// Ends this process as the command has ended.
pub(crate) fn end_as(Ended(status): Ended) -> Result<(), Failure> {
    match status.exit_status() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::of_command(code as u8)),
        None => interrupt::end_by(status.terminating_signal().unwrap_or_default()),
    }
}

/// Runs the program after a wait: it replaces this process. Returns only if that fails.
pub(crate) fn become_command(program: &OsString, arguments: &[OsString]) -> Failure {
    program::failure(program, &sigpipe::inherit(Command::new(program).args(arguments)).exec())
}
