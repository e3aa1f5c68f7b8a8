//! The signals that tests send to the command.

/// Lets the signals end the processes that this one starts from now on, as they do by default. What was ignored when
/// the tests were started, as under `nohup` or behind the `&` of a script, stays ignored in all of them otherwise.
pub(crate) fn end_children() {
    #[cfg(unix)]
    {
        use std::sync::atomic::AtomicBool;
        use std::sync::{Arc, Once};

        use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};

        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
            let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
            let ignored = ignored.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
            for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1] {
                if ignored >> (signal - 1) & 1 == 1 {
                    // A handler that does nothing ignores the signal here, and does not survive `exec`.
                    signal_hook::flag::register_conditional_default(signal, Arc::new(AtomicBool::new(false))).unwrap();
                }
            }
        });
    }
}
