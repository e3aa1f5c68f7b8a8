//! The command that `hold`, `set` and `wait` run as a child process. Ctrl-C reaches it as well, and it decides.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, exit};

use super::interrupt::Listener;
use super::program;
use crate::failure::Failure;

/// A command that can be started, as far as is known.
pub(crate) struct Startable<'c> {
    words: (&'c OsString, &'c [OsString]),
    file: PathBuf,
    is_certain: bool,
    listener: Listener,
}

impl<'c> Startable<'c> {
    /// Checks the command. From now on, Ctrl-C does not end this process.
    pub(crate) fn new(words: (&'c OsString, &'c [OsString])) -> Result<Startable<'c>, Failure> {
        let file = program::find(words.0)?;
        let is_certain = program::is_executable_for_certain(&file);
        Ok(Startable { words, file, is_certain, listener: Listener::new()? })
    }

    /// Whether the system executes the command for certain. Otherwise, only an attempt tells.
    pub(crate) fn is_certain(&self) -> bool {
        self.is_certain
    }

    /// Whether Ctrl-C has come already; its number is of no use.
    pub(crate) fn first_signal(&mut self) -> Option<i32> {
        self.listener.has_heard().then_some(0)
    }

    pub(crate) fn start(self) -> Result<Running, Failure> {
        let (program, arguments) = self.words;
        let child = Command::new(&self.file).args(arguments).spawn();
        let child = child.map_err(|error| program::failure(program, &error))?;
        Ok(Running { child, _listener: self.listener })
    }
}

/// A command that runs beside this process.
pub(crate) struct Running {
    child: Child,
    _listener: Listener,
}

impl Running {
    /// Waits until the command ends. Returns how it has ended.
    pub(crate) fn supervise(&mut self) -> Ended {
        Ended(self.child.wait().ok())
    }

    /// Ends the command at once.
    pub(crate) fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How a command has ended; `None` if that is unknown.
#[derive(Clone, Copy)]
pub(crate) struct Ended(Option<ExitStatus>);

impl Ended {
    pub(crate) fn is_success(self) -> bool {
        self.code() == 0
    }

    /// Of 32 bits.
    pub(crate) fn code(self) -> i32 {
        self.0.and_then(|status| status.code()).unwrap_or(crate::failure::FAILED.into())
    }
}

/// Ends this process as the command has ended.
pub(crate) fn end_as(ended: Ended) -> Result<(), Failure> {
    match u8::try_from(ended.code()) {
        Ok(0) => Ok(()),
        Ok(code) => Err(Failure::of_command(code)),
        // The code of an exception, such as that of Ctrl-C.
        Err(_) => exit(ended.code()),
    }
}

/// Runs the program after a wait. No process can become another, so this one runs it, and ends as it does.
pub(crate) fn become_command(program: &OsString, arguments: &[OsString]) -> Failure {
    let started = Startable::new((program, arguments)).and_then(Startable::start);
    match started.map(|mut running| running.supervise()) {
        Ok(ended) => exit(ended.code()),
        Err(failure) => failure,
    }
}
