//! Turns the record on and off, by a call or by the environment, and starts the threads that
//! publish and report the waits.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::{self, Write};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::time::Duration;

use crate::sys::process;
use crate::waits::known;
use crate::waits::pages;
use crate::waits::switch::{self, State};
use crate::waits::watchdog;

/// Records waits from now on, or no longer.
pub(crate) fn record(on: bool) {
    if on {
        // The environment may also say what is printed.
        ask();
    }
    // Forget before the record is turned on, so that nothing new is lost, and after it is turned
    // off, when nothing more is noted.
    if on && !State::now().records() {
        known::forget_acts();
    }
    if switch::turn(on) && !on {
        known::forget_acts();
    }
    if on {
        goes_on();
        // It has ended if the record was turned off.
        pages::start();
    } else {
        pages::withdraw();
    }
}

/// Looks at the environment, the first time. Whether waits are recorded.
#[cold]
pub(crate) fn ask() -> bool {
    if State::now().is_unasked() {
        let setting = Setting::of(process::variable(c"TANTARA_WAITS"));
        if switch::answer(setting != Setting::Off) {
            setting.begin();
        }
    }
    State::now().records()
}

/// Whether waits are recorded, so that bindings know whether to say where they begin. Not part of
/// the public API.
#[must_use]
pub fn is_wanted() -> bool {
    let state = State::now();
    !state.is_idle() && if state.is_unasked() { ask() } else { state.records() }
}

/// What `TANTARA_WAITS` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Setting {
    Off,
    On,
    /// On, and waits that last longer than that are printed.
    Print(Duration),
    Unknown,
}

impl Setting {
    /// Starts what runs beside the record, which is on already.
    fn begin(self) {
        if self != Setting::Off {
            goes_on();
        }
        match self {
            Setting::Off | Setting::On => {}
            Setting::Print(limit) => watchdog::print(limit),
            Setting::Unknown => {
                let message = "tantara: TANTARA_WAITS is neither 0, 1 nor a duration such as 30s: waits are recorded\n";
                let _ = io::stderr().write_all(message.as_bytes());
            }
        }
    }

    fn of(value: Option<OsString>) -> Setting {
        match value {
            None => Setting::Off,
            Some(value) => match value.to_str() {
                Some("" | "0") => Setting::Off,
                Some("1") => Setting::On,
                Some(text) => duration(text).map_or(Setting::Unknown, Setting::Print),
                None => Setting::Unknown,
            },
        }
    }
}

/// `500ms`, `30s`, `2m` or `1h`.
fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit())?);
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(milliseconds).map(Duration::from_millis)
}

/// The process, as one more than the number of forks before it, in which what runs beside the record
/// was started last.
static STARTED_IN: AtomicUsize = AtomicUsize::new(0);

/// Makes sure that what runs beside the record runs in this process, which may be the child of a
/// fork. Returns `true`.
#[inline]
pub(crate) fn goes_on() -> bool {
    let now = process::generation() + 1;
    if STARTED_IN.load(Relaxed) != now {
        start(now);
    }
    true
}

#[cold]
fn start(now: usize) {
    if STARTED_IN.swap(now, AcqRel) != now {
        known::inherit();
        pages::start();
        watchdog::go_on();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_variable_is_read_as_documented() {
        let of = |value: &str| Setting::of(Some(value.into()));
        assert_eq!(
            (Setting::of(None), of(""), of("0"), of("1")),
            (Setting::Off, Setting::Off, Setting::Off, Setting::On)
        );
        assert_eq!(
            (of("30s"), of("500ms")),
            (Setting::Print(Duration::from_secs(30)), Setting::Print(Duration::from_millis(500)))
        );
        assert_eq!(
            (of("2m"), of("1h")),
            (Setting::Print(Duration::from_secs(120)), Setting::Print(Duration::from_secs(3600)))
        );
        for unknown in ["yes", "2", "30 s", "-1s", "s", "1.5s", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(of(unknown), Setting::Unknown, "{unknown}");
        }
    }
}
