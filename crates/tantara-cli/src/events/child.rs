//! The command that `hold` and `set` run as a child process: how it is started, gets signals, and ends.

use std::ffi::OsString;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait};

use crate::events::program;
use crate::failure::Failure;
use crate::interrupt::{self, PassedOn};

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

    pub(crate) fn start(self) -> Result<Running, Failure> {
        let (program, arguments) = self.words;
        let child = Command::new(program).args(arguments).spawn().map_err(|error| program::failure(program, &error))?;
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
    pub(crate) fn supervise(&mut self) -> WaitStatus {
        let child = Pid::from_child(&self.child);
        loop {
            while let Ok(Some((process, status))) = wait(WaitOptions::NOHANG) {
                if process == child {
                    return status;
                }
            }
            for signal in self.signals.wait() {
                if let Some(signal) = Signal::from_named_raw(signal) {
                    // It may have ended.
                    let _ = kill_process(child, signal);
                }
            }
        }
    }

    /// Ends the command at once.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
