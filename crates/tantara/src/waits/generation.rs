//! Which process of a line of forks this is, and the numbers of its threads.

#![forbid(unsafe_code)]

#[cfg(shared_events)]
use crate::sys::shared;

/// How many processes of a line of forks can record. A child after so many forks does not.
pub(crate) const GENERATIONS: usize = if cfg!(shared_events) { 4 } else { 1 };

/// How many forks lie between the first process that recorded and this one.
#[cfg(shared_events)]
#[inline]
pub(crate) fn current() -> usize {
    shared::forks() as usize
}

/// Forks are not noticed.
#[cfg(not(shared_events))]
#[inline]
pub(crate) fn current() -> usize {
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
