//! Turning the record on and off, by a call or by the environment, and what runs beside it.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};

use crate::waits::known;
#[cfg(shared_events)]
use crate::waits::pages;
use crate::waits::switch::{self, State};
use crate::waits::system;

/// Records waits from now on, or no longer.
pub(crate) fn record(on: bool) {
    switch::turn(on);
    if on {
        goes_on();
    }
}

/// Looks at the environment, the first time. Whether waits are recorded.
#[cold]
pub(crate) fn ask() -> bool {
    if switch::is_first_to_ask() {
        match Setting::of(variable()) {
            Setting::Off => {}
            Setting::On => record(true),
        }
    }
    State::now().records()
}

/// What `TANTARA_WAITS` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Setting {
    Off,
    On,
}

impl Setting {
    fn of(value: Option<OsString>) -> Setting {
        match value {
            Some(value) if !value.is_empty() && value != "0" => Setting::On,
            _ => Setting::Off,
        }
    }
}

#[cfg(shared_events)]
fn variable() -> Option<OsString> {
    crate::sys::shared::variable(c"TANTARA_WAITS")
}

#[cfg(not(shared_events))]
fn variable() -> Option<OsString> {
    std::env::var_os("TANTARA_WAITS")
}

/// The process, as one more than the number of forks before it, in which what runs beside the record
/// was started last.
static STARTED_IN: AtomicUsize = AtomicUsize::new(0);

/// Makes sure that what runs beside the record runs in this process, which may be the child of a
/// fork. Returns `true`.
#[inline]
pub(crate) fn goes_on() -> bool {
    let now = system::generation() + 1;
    if STARTED_IN.load(Relaxed) != now {
        start(now);
    }
    true
}

#[cold]
fn start(now: usize) {
    if STARTED_IN.swap(now, AcqRel) != now {
        known::inherit();
        #[cfg(shared_events)]
        pages::start();
    }
}
