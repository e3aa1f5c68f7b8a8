//! How the command ends: the exit code, and the one line that says why.

use std::process::ExitCode;

use crate::failure::{FAILED, Failure};
use crate::{outfile, output};

/// Says what went wrong, and turns the outcome into the exit code.
pub(crate) fn code(outcome: Result<(), Failure>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            outfile::remove_unfinished();
            if let Some(message) = failure.message {
                output::note(format_args!("{message}"));
            }
            ExitCode::from(failure.code)
        }
    }
}

/// A panic is a mistake in tantara, or a system that refuses what it needs. Its user gets one line too.
pub(crate) fn say_panics_in_one_line() {
    std::panic::set_hook(Box::new(|panic| {
        outfile::remove_unfinished();
        let payload = panic.payload();
        let what = payload.downcast_ref::<&str>().copied().or(payload.downcast_ref::<String>().map(String::as_str));
        let what = what.unwrap_or("no message");
        let file = |path: &str| path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        let place = panic.location().map(|place| format!(" ({}:{})", file(place.file()), place.line()));
        output::note(format_args!("failed unexpectedly: {what}{}", place.unwrap_or_default()));
        std::process::exit(FAILED.into())
    }));
}
