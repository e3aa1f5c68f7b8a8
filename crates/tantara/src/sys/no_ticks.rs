//! Processors without a counter that is known to be steady and cheap to read: no time is noted.

#![forbid(unsafe_code)]

pub(crate) fn recent_time() -> Option<(u32, u32)> {
    None
}

pub(crate) fn noted(clock: fn() -> (u32, u32)) -> (u32, u32) {
    clock()
}

pub(crate) fn forget() {}
