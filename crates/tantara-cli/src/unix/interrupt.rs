//! Signals that end the command: the process ends as that signal, so that its shell sees it.
//!
//! The kernel does this by itself, except for process 1 of a PID namespace, such as a container. That process gets only
//! signals for which it has a handler. So as process 1 the command installs handlers, and ends with the exit code by
//! which a shell represents a signal: 128 plus its number.
//!
//! `hold` passes signals on to its command instead, and ends as that does.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM};

use crate::failure::Failure;

pub(crate) use passing::end_by;
pub(super) use passing::{Passed, PassedOn, pass_on};

/// The exit code that represents a signal.
fn code_of(signal: i32) -> i32 {
    128 + signal
}

fn is_process_1() -> bool {
    std::process::id() == 1
}

/// As process 1, installs handlers by which every signal that would end another process ends this one at once. Does
/// nothing in other processes. A command that replaces this process gets the default actions.
pub(crate) fn end_by_signals_as_process_1() -> Result<(), Failure> {
    if !is_process_1() {
        return Ok(());
    }
    let at_once = AT_ONCE.get_or_init(|| Arc::new(AtomicBool::new(true)));
    let always = ALWAYS.get_or_init(|| Arc::new(AtomicBool::new(true)));
    let cleanup = CLEANUP.map(|signal| (signal, at_once));
    let ignored = Ignored::now();
    for (signal, condition) in cleanup.into_iter().chain(ENDING.iter().map(|&signal| (signal, always))) {
        if !ignored.contains(signal) {
            signal_hook::flag::register_conditional_shutdown(signal, code_of(signal), Arc::clone(condition))
                .map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
        }
    }
    Ok(())
}

/// The signals after which the bank cleans up.
const CLEANUP: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// Other signals that end a process, and that may be sent to a container.
const ENDING: &[i32] = &[
    SIGQUIT,
    SIGUSR1,
    SIGUSR2,
    SIGALRM,
    SIGVTALRM,
    SIGPROF,
    SIGIO,
    #[cfg(target_os = "linux")]
    rustix::process::Signal::POWER.as_raw(),
];

/// Whether these signals end process 1 at once.
static AT_ONCE: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Whether all other signals do.
static ALWAYS: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on, Ctrl-C, SIGTERM and SIGHUP end the process cleanly: after the line that is being written, after
/// `message` has printed the shutdown message, and after drafts of output files were removed.
pub(crate) fn ends_with(message: impl Fn() + Send + 'static) -> Result<(), Failure> {
    use signal_hook::iterator::Signals;

    // Signals that were ignored at the start (nohup, a job in the background) stay ignored.
    let ignored = Ignored::now();
    let listened = CLEANUP.into_iter().filter(|&signal| !ignored.contains(signal));
    let mut signals =
        Signals::new(listened).map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
    let listener = move || {
        if let Some(signal) = signals.forever().next() {
            let _silence = crate::output::silence();
            message();
            crate::outfile::remove_drafts();
            // Removes the page of waits, which the default action would leave behind.
            tantara::waits::record(false);
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

/// The signals that were ignored when the process was started; none if that is unknown.
struct Ignored(u64);

impl Ignored {
    fn now() -> Ignored {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Ignored(mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default())
    }

    fn contains(&self, signal: i32) -> bool {
        self.0 >> (signal - 1) & 1 == 1
    }
}

/// Signals for a command that runs beside this process.
mod passing {
    use std::process::exit;
    use std::sync::atomic::Ordering::Relaxed;

    use signal_hook::consts::{
        SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH,
    };
    use signal_hook::iterator::SignalsInfo;
    use signal_hook::iterator::exfiltrator::WithOrigin;
    use signal_hook::low_level::emulate_default_handler;
    use signal_hook::low_level::siginfo::{Cause, Origin};

    use super::{ALWAYS, AT_ONCE, CLEANUP, ENDING, Ignored, code_of, is_process_1};
    use crate::failure::Failure;

    /// Signals that are passed on beside those that would end this process. Some servers take SIGWINCH as a request to
    /// end.
    const OTHERS: [i32; 2] = [SIGWINCH, SIGURG];
    /// Signals that stop a process, or let it continue. They act on this process, as the user of a terminal expects.
    /// Process 1 does not stop, so it passes them on.
    const STOPPING: [i32; 4] = [SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT];
    /// Signals that a terminal sends to a group of processes.
    const OF_TERMINAL: [i32; 8] = [SIGHUP, SIGINT, SIGQUIT, SIGWINCH, SIGTSTP, SIGTTIN, SIGTTOU, SIGCONT];
    /// Signals whose default action, when they end a command, is done here as well.
    const DONE_HERE_TOO: [i32; 3] = [SIGHUP, SIGINT, SIGTERM];

    /// Signals that this process has received.
    pub(crate) struct PassedOn(SignalsInfo<WithOrigin>);

    /// A signal to pass on.
    #[derive(Clone, Copy)]
    pub(crate) struct Passed {
        pub(crate) signal: i32,
        /// Its terminal has sent it, to all processes of a group.
        pub(crate) is_of_terminal: bool,
    }

    impl PassedOn {
        /// The signals to pass on that have come so far.
        pub(crate) fn pending(&mut self) -> Vec<Passed> {
            PassedOn::collect(self.0.pending())
        }

        /// As `pending`. Blocks until a signal comes, a child has changed its state, or [`end`](PassedOn::end) is
        /// called.
        pub(crate) fn wait(&mut self) -> Vec<Passed> {
            PassedOn::collect(self.0.wait())
        }

        fn collect(origins: impl Iterator<Item = Origin>) -> Vec<Passed> {
            let passed = origins.filter(|origin| origin.signal != SIGCHLD).map(|origin| {
                // The kernel also sends SIGALRM, for a timer that was set before this program was executed.
                let is_of_terminal = OF_TERMINAL.contains(&origin.signal) && matches!(origin.cause, Cause::Kernel);
                Passed { signal: origin.signal, is_of_terminal }
            });
            passed.collect()
        }

        /// A function that ends the waits, even if this process was started with SIGCHLD blocked.
        pub(crate) fn end(&self) -> impl FnOnce() + Send + 'static {
            let handle = self.0.handle();
            move || handle.close()
        }
    }

    /// From now on, signals do not end this process. Those that were ignored at the start stay ignored, here and in the
    /// command.
    pub(crate) fn pass_on() -> Result<PassedOn, Failure> {
        let ignored = Ignored::now();
        let stopping = STOPPING.into_iter().filter(|_| is_process_1());
        let passed = CLEANUP.into_iter().chain(ENDING.iter().copied()).chain(OTHERS).chain(stopping);
        let passed = passed.filter(|&signal| !ignored.contains(signal));
        let signals = SignalsInfo::<WithOrigin>::new(passed.chain([SIGCHLD]))
            .map_err(|error| Failure::internal(format!("cannot handle signals: {error}")))?;
        for at_once in [AT_ONCE.get(), ALWAYS.get()].into_iter().flatten() {
            at_once.store(false, Relaxed);
        }
        Ok(PassedOn(signals))
    }

    /// Ends this process as a command that the signal has ended.
    pub(crate) fn end_by(signal: i32) -> ! {
        if DONE_HERE_TOO.contains(&signal) && !is_process_1() {
            let _ = emulate_default_handler(signal);
        }
        exit(code_of(signal))
    }
}
