//! Two numbers of the page, one behind the other.

#![forbid(unsafe_code)]

use std::sync::atomic::Ordering::Relaxed;

use crate::sync;

/// Two numbers. 64-bit processors write them in one step: a `set` waits until all that it has
/// written before is in the cache. On others the page, which may be mapped for reading only, must
/// not be read by larger atomics than of four bytes.
#[cfg(target_pointer_width = "64")]
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Pair(sync::AtomicU64);

#[cfg(not(target_pointer_width = "64"))]
#[repr(C, align(8))]
#[derive(Debug)]
pub(crate) struct Pair([sync::AtomicU32; 2]);

impl Pair {
    /// Both as one number. In memory the first one stands first, in each order of bytes.
    #[inline]
    pub(crate) const fn join(first: u32, second: u32) -> u64 {
        let [low, high] = if cfg!(target_endian = "little") { [first, second] } else { [second, first] };
        (high as u64) << 32 | low as u64
    }

    #[inline]
    pub(crate) const fn split(both: u64) -> (u32, u32) {
        let (high, low) = ((both >> 32) as u32, both as u32);
        if cfg!(target_endian = "little") { (low, high) } else { (high, low) }
    }
}

#[cfg(target_pointer_width = "64")]
impl Pair {
    pub(crate) fn new((first, second): (u32, u32)) -> Pair {
        Pair(sync::AtomicU64::new(Pair::join(first, second)))
    }

    #[inline]
    pub(crate) fn store(&self, (first, second): (u32, u32)) {
        self.0.store(Pair::join(first, second), Relaxed);
    }

    #[inline]
    pub(crate) fn load(&self) -> (u32, u32) {
        Pair::split(self.0.load(Relaxed))
    }
}

#[cfg(not(target_pointer_width = "64"))]
impl Pair {
    pub(crate) fn new((first, second): (u32, u32)) -> Pair {
        Pair([sync::AtomicU32::new(first), sync::AtomicU32::new(second)])
    }

    pub(crate) fn store(&self, (first, second): (u32, u32)) {
        self.0[0].store(first, Relaxed);
        self.0[1].store(second, Relaxed);
    }

    pub(crate) fn load(&self) -> (u32, u32) {
        (self.0[0].load(Relaxed), self.0[1].load(Relaxed))
    }
}
