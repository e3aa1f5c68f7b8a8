//! Ctrl-C, SIGTERM and SIGHUP: the run ends at once and tidily, and the process ends as that signal, so that a shell
//! knows.

use crate::exit::Failure;

/// From now on a signal ends the process: after the line that is being written, after `farewell`, and without leaving
/// unfinished files behind.
#[cfg(unix)]
pub(crate) fn ends_with(farewell: impl Fn() + Send + 'static) -> Result<(), Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;

    // What whoever started us wants ignored (nohup, a job in the background) stays ignored.
    let listened = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal));
    let mut signals =
        Signals::new(listened).map_err(|error| Failure::internal(format!("signals cannot be received: {error}")))?;
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

/// Whether the signal was ignored when the process was started, as far as the kernel tells.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Elsewhere the system ends the process by itself.
#[cfg(not(unix))]
pub(crate) fn ends_with(_: impl Fn() + Send + 'static) -> Result<(), Failure> {
    Ok(())
}
