//! Signals that end the command: the process ends as that signal, so that a shell knows.
//!
//! The kernel does that by itself, but not for process 1 of a container (more precisely, of a PID namespace): that one
//! gets only the signals for which it has a handler. So as process 1 the command has handlers, and ends with the exit
//! code that a shell makes of a signal, 128 more than its number.

#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
#[cfg(unix)]
use std::sync::{Arc, OnceLock};

#[cfg(unix)]
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::failure::Failure;

/// The exit code that stands for the end by a signal.
#[cfg(unix)]
fn code_of(signal: i32) -> i32 {
    128 + signal
}

#[cfg(unix)]
fn is_process_1() -> bool {
    std::process::id() == 1
}

/// As process 1, lets every signal that would end another process end this one, at once. It does nothing elsewhere. A
/// command that takes the place of this process finds the default actions.
#[cfg(unix)]
pub(crate) fn end_by_signals_as_process_1() -> Result<(), Failure> {
    if !is_process_1() {
        return Ok(());
    }
    let at_once = AT_ONCE.get_or_init(|| Arc::new(AtomicBool::new(true)));
    let always = Arc::new(AtomicBool::new(true));
    let tidy = TIDY.map(|signal| (signal, at_once));
    for (signal, condition) in
        tidy.into_iter().chain([SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM].map(|signal| (signal, &always)))
    {
        if !is_ignored(signal) {
            signal_hook::flag::register_conditional_shutdown(signal, code_of(signal), Arc::clone(condition))
                .map_err(|error| Failure::internal(format!("signals cannot be received: {error}")))?;
        }
    }
    Ok(())
}

/// The signals after which there may be something to tidy up.
#[cfg(unix)]
const TIDY: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Whether they end process 1 at once.
#[cfg(unix)]
static AT_ONCE: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on Ctrl-C, SIGTERM and SIGHUP end the process tidily: after the line that is being written, after
/// `farewell`, and without leaving unfinished files behind.
#[cfg(unix)]
pub(crate) fn ends_with(farewell: impl Fn() + Send + 'static) -> Result<(), Failure> {
    use signal_hook::iterator::Signals;

    // What whoever started us wants ignored (nohup, a job in the background) stays ignored.
    let listened = TIDY.into_iter().filter(|&signal| !is_ignored(signal));
    let mut signals =
        Signals::new(listened).map_err(|error| Failure::internal(format!("signals cannot be received: {error}")))?;
    let listener = move || {
        if let Some(signal) = signals.forever().next() {
            let _silence = crate::output::silence();
            farewell();
            crate::outfile::remove_unfinished();
            if is_process_1() {
                std::process::exit(code_of(signal));
            }
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listener)
        .map_err(|error| Failure::internal(format!("signals cannot be received: {error}")))?;
    if let Some(at_once) = AT_ONCE.get() {
        at_once.store(false, Relaxed);
    }
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
pub(crate) fn end_by_signals_as_process_1() -> Result<(), Failure> {
    Ok(())
}

/// Elsewhere the system ends the process by itself.
#[cfg(not(unix))]
pub(crate) fn ends_with(_: impl Fn() + Send + 'static) -> Result<(), Failure> {
    Ok(())
}
