//! Elsewhere: what `process.rs` offers, as far as the standard library has it.

#![forbid(unsafe_code)]

use std::ffi::{CStr, OsString};
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

/// Forks are not noticed.
pub(crate) const GENERATIONS: usize = 1;

#[inline]
pub(crate) fn generation() -> usize {
    0
}

/// What belongs to this process, of what there is one for each process of a line of forks: another
/// thread of the parent may have held a lock at the moment of the fork. `None` after too many forks.
#[inline]
pub(crate) fn own<T>(of_all: &'static [T; GENERATIONS]) -> Option<&'static T> {
    of_all.get(generation())
}

/// A number of the current thread, which is a new one at each call.
pub(crate) fn thread() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Relaxed)
}

/// The time that has passed since some moment.
pub(crate) fn clock() -> Duration {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    FIRST.get_or_init(Instant::now).elapsed()
}

/// That clock and the system's time, at the same moment.
pub(crate) fn clocks() -> (Duration, SystemTime) {
    (clock(), SystemTime::now())
}

/// A variable of the environment.
pub(crate) fn variable(name: &CStr) -> Option<OsString> {
    std::env::var_os(name.to_str().ok()?)
}

pub(crate) fn start_thread(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.to_owned()).spawn(run).map(drop)
}
