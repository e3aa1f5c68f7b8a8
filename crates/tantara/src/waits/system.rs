//! What the record asks the system: which process of a line of forks this is, the numbers of threads,
//! and a cheap clock.

#![forbid(unsafe_code)]

use std::time::Duration;

#[cfg(shared_events)]
use crate::sys::shared;

/// How many processes of a line of forks can record. A child after so many forks does not.
pub(crate) const GENERATIONS: usize = if cfg!(shared_events) { 4 } else { 1 };

/// How many forks lie between the first process that recorded and this one.
#[cfg(shared_events)]
#[inline]
pub(crate) fn generation() -> usize {
    shared::forks() as usize
}

/// Forks are not noticed.
#[cfg(not(shared_events))]
#[inline]
pub(crate) fn generation() -> usize {
    0
}

/// The system's number of the current thread.
#[cfg(shared_events)]
pub(crate) fn thread() -> u32 {
    shared::thread()
}

/// A number of the current thread.
#[cfg(not(shared_events))]
pub(crate) fn thread() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// The time that has passed since some moment. On Linux that is at the kernel's last tick, some
/// milliseconds ago, because the precise clock takes as long as all the rest of a record.
#[cfg(shared_events)]
#[inline]
pub(crate) fn clock() -> Duration {
    shared::coarse_monotonic_time()
}

#[cfg(not(shared_events))]
pub(crate) fn clock() -> Duration {
    static FIRST: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    FIRST.get_or_init(std::time::Instant::now).elapsed()
}

/// Starts a thread on which no signal handler of the program runs. Whether that was possible.
pub(crate) fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> bool {
    let thread = std::thread::Builder::new().name(name.to_owned());
    #[cfg(shared_events)]
    let started = shared::starting_without_signals(|| thread.spawn(run));
    #[cfg(not(shared_events))]
    let started = thread.spawn(run);
    started.is_ok()
}
