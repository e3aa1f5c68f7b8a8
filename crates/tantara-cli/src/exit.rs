//! The end of the command: its exit code, and one line with the reason.

use std::process::ExitCode;

use crate::failure::{FAILED, Failure};
use crate::{outfile, output};

/// Prints the error, and returns the exit code.
pub(crate) fn code(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            outfile::remove_drafts();
            if let Some(message) = failure.message {
                output::note(format_args!("{message}"));
            }
            ExitCode::from(failure.code)
        }
    }
}

/// Reports a panic in one line, as other errors. It is a bug in tantara, or the system refused a resource.
pub(crate) fn report_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        outfile::remove_drafts();
        let payload = panic.payload();
        let what = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let what = what.unwrap_or("no message");
        let file = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        let place = panic.location().map(|place| format!(" ({}:{})", file(place.file()), place.line()));
        output::note(format_args!("internal error: {what}{}", place.unwrap_or_default()));
        std::process::exit(FAILED.into())
    }));
}
