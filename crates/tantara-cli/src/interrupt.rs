//! Signals that end the command: the process ends as that signal, so that its shell sees it.
//!
//! The kernel does this by itself, except for process 1 of a PID namespace, such as a container. That process gets only
//! signals for which it has a handler. So as process 1 the command installs handlers, and ends with the exit code by
//! which a shell represents a signal: 128 plus its number.

#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
#[cfg(unix)]
use std::sync::{Arc, OnceLock};

#[cfg(unix)]
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::failure::Failure;

/// The exit code that represents a signal.
#[cfg(unix)]
fn code_of(signal: i32) -> i32 {
    128 + signal
}

#[cfg(unix)]
fn is_process_1() -> bool {
    std::process::id() == 1
}

/// As process 1, installs handlers by which every signal that would end another process ends this one at once. Does
/// nothing in other processes. A command that replaces this process gets the default actions.
#[cfg(unix)]
pub(crate) fn end_by_signals_as_process_1() -> Result<(), Failure> {
    if !is_process_1() {
        return Ok(());
    }
    let at_once = AT_ONCE.get_or_init(|| Arc::new(AtomicBool::new(true)));
    let always = Arc::new(AtomicBool::new(true));
    let cleanup = CLEANUP.map(|signal| (signal, at_once));
    for (signal, condition) in
        cleanup.into_iter().chain([SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM].map(|signal| (signal, &always)))
    {
        if !is_ignored(signal) {
            signal_hook::flag::register_conditional_shutdown(signal, code_of(signal), Arc::clone(condition))
                .map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
        }
    }
    Ok(())
}

/// The signals after which the bank cleans up.
#[cfg(unix)]
const CLEANUP: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Whether these signals end process 1 at once.
#[cfg(unix)]
static AT_ONCE: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on, Ctrl-C, SIGTERM and SIGHUP end the process cleanly: after the line that is being written, after
/// `message` has printed the shutdown message, and after drafts of output files were removed.
#[cfg(unix)]
pub(crate) fn ends_with(message: impl Fn() + Send + 'static) -> Result<(), Failure> {
    use signal_hook::iterator::Signals;

    // Signals that were ignored at the start (nohup, a job in the background) stay ignored.
    let listened = CLEANUP.into_iter().filter(|&signal| !is_ignored(signal));
    let mut signals =
        Signals::new(listened).map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
    let listener = move || {
        if let Some(signal) = signals.forever().next() {
            let _silence = crate::output::silence();
            message();
            crate::outfile::remove_drafts();
            if is_process_1() {
                std::process::exit(code_of(signal));
            }
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(listener)
        .map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
    if let Some(at_once) = AT_ONCE.get() {
        at_once.store(false, Relaxed);
    }
    Ok(())
}

/// Whether the signal was ignored when the process was started; `false` if that is unknown.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// On other systems the default actions suffice.
#[cfg(not(unix))]
pub(crate) fn end_by_signals_as_process_1() -> Result<(), Failure> {
    Ok(())
}

/// On other systems the default actions suffice.
#[cfg(not(unix))]
pub(crate) fn ends_with(_: impl Fn() + Send + 'static) -> Result<(), Failure> {
    Ok(())
}
