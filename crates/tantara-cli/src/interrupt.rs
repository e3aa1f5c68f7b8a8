//! Ctrl-C and SIGTERM: the run ends at once and tidily, and the process ends as that signal, so that a shell knows.

use crate::exit::Failure;

/// From now on a signal ends the process: after the line that is being written, after `farewell`, and without leaving
/// unfinished files behind.
#[cfg(unix)]
pub(crate) fn ends_with(farewell: impl Fn() + Send + 'static) -> Result<(), Failure> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    let mut signals = Signals::new([SIGINT, SIGTERM])
        .map_err(|error| Failure::internal(format!("signals cannot be received: {error}")))?;
    let listener = move || {
        if let Some(signal) = signals.forever().next() {
            let _silence = crate::output::silence();
            farewell();
            crate::outfile::remove_unfinished();
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listener)
        .map_err(|error| Failure::internal(format!("signals cannot be received: {error}")))?;
    Ok(())
}

/// Elsewhere the system ends the process by itself.
#[cfg(not(unix))]
pub(crate) fn ends_with(_: impl Fn() + Send + 'static) -> Result<(), Failure> {
    Ok(())
}
