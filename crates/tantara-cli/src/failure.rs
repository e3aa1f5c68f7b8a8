//! Why the command ends without having done what was asked, and its exit codes.

use std::fmt;

/// The answer is no.
const NO: u8 = 1;
/// Bad usage or bad input; nothing was run.
const USAGE: u8 = 2;
/// A timeout.
const TIMED_OUT: u8 = 124;
/// tantara itself failed.
pub(crate) const FAILED: u8 = 125;
/// The command of `wait`, `hold` or `set` cannot be executed.
const NOT_EXECUTABLE: u8 = 126;
/// The command of `wait`, `hold` or `set` is not found.
const NOT_FOUND: u8 = 127;

/// Why the command ends without having done what was asked.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: u8,
    pub(crate) message: Option<String>,
    may_pass: bool,
}

impl Failure {
    /// Bad usage or bad input, detected before anything was run.
    pub(crate) fn usage(message: impl fmt::Display) -> Failure {
        Failure { code: USAGE, message: Some(message.to_string()), may_pass: false }
    }

    /// tantara itself failed.
    pub(crate) fn internal(message: impl fmt::Display) -> Failure {
        Failure { code: FAILED, message: Some(message.to_string()), may_pass: false }
    }

    /// Whether a retry may succeed soon.
    pub(crate) fn that_may_pass(self, may_pass: bool) -> Failure {
        Failure { may_pass, ..self }
    }

    /// Whether a retry may succeed: a cluster could not be reached.
    pub(crate) fn may_pass(&self) -> bool {
        self.may_pass
    }

    /// After another failure, both are reported.
    pub(crate) fn after(self, earlier: &Failure) -> Failure {
        Failure { message: Some(format!("{earlier}; {self}")), ..self }
    }

    /// The answer is no; no message is printed.
    pub(crate) fn no() -> Failure {
        Failure { code: NO, message: None, may_pass: false }
    }

    /// A timeout, which has been reported.
    pub(crate) fn timed_out() -> Failure {
        Failure { code: TIMED_OUT, message: None, may_pass: false }
    }

    pub(crate) fn command_not_executable(message: impl fmt::Display) -> Failure {
        Failure { code: NOT_EXECUTABLE, message: Some(message.to_string()), may_pass: false }
    }

    pub(crate) fn command_not_found(message: impl fmt::Display) -> Failure {
        Failure { code: NOT_FOUND, message: Some(message.to_string()), may_pass: false }
    }

    /// The command that was run has ended with this code.
    pub(crate) fn of_command(code: u8) -> Failure {
        Failure { code, message: None, may_pass: false }
    }

    /// A help text was printed, either because it was requested (`done`) or because of bad usage.
    pub(crate) fn already_reported(done: bool) -> Failure {
        Failure { code: if done { 0 } else { USAGE }, message: None, may_pass: false }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message.as_deref().unwrap_or_default())
    }
}
