//! Whether waits are recorded: one byte, the only thing that events read while waits are not
//! recorded.

#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

/// Waits are recorded.
const RECORDS: u8 = 0b001;
/// Something is known of handles of events outside of this process.
const KNOWS: u8 = 0b010;
/// The environment has not been read yet.
const UNASKED: u8 = 0b100;

static STATE: AtomicU8 = AtomicU8::new(UNASKED);

/// What is recorded at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct State(u8);

impl State {
    /// Models record nothing: they would explore the locks of the record.
    #[inline]
    pub(crate) fn now() -> State {
        State(if cfg!(loom) { 0 } else { STATE.load(Relaxed) })
    }

    /// Nothing is recorded, and the environment need not be asked.
    #[inline]
    pub(crate) fn is_idle(self) -> bool {
        self.0 & !KNOWS == 0
    }

    #[inline]
    pub(crate) fn records(self) -> bool {
        self.0 & RECORDS != 0
    }

    pub(crate) fn knows(self) -> bool {
        self.0 & KNOWS != 0
    }

    pub(crate) fn is_unasked(self) -> bool {
        self.0 & UNASKED != 0
    }
}

/// Records waits from now on, or no longer. Whether it did before.
pub(crate) fn turn(on: bool) -> bool {
    let change = |before: u8| Some((before & KNOWS) | if on { RECORDS } else { 0 });
    STATE.fetch_update(AcqRel, Acquire, change).is_ok_and(|before| before & RECORDS != 0)
}

/// Records waits if the environment says so. Whether this is the first call, and nobody has turned the
/// record on or off before. In one step, so that no wait at the same time finds it off.
pub(crate) fn answer(on: bool) -> bool {
    let change = |before| (before & UNASKED != 0).then_some((before & KNOWS) | if on { RECORDS } else { 0 });
    STATE.fetch_update(AcqRel, Acquire, change).is_ok()
}

/// Something is known of a handle from now on.
pub(crate) fn note_known() {
    if !State::now().knows() {
        STATE.fetch_or(KNOWS, AcqRel);
    }
}
