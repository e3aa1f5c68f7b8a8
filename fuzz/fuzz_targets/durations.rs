//! Durations of the command: each is rejected, or parsed to the same length as its canonical form.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/tantara-cli/src/events/duration.rs"]
mod duration;

use duration::duration;

fuzz_target!(|input: &str| {
    match duration(input) {
        Ok(length) => {
            assert!(input.contains(|c: char| c.is_ascii_digit()) && !input.contains('-'), "{input:?} is no duration");
            if let Ok(seconds) = input.parse() {
                assert_eq!(length, Duration::from_secs(seconds), "{input:?}");
            }
            let again = format!("{}s{}ns", length.as_secs(), length.subsec_nanos());
            assert_eq!(duration(&again), Ok(length), "{input:?}, as {again:?}");
        }
        Err(error) => assert!(error.contains("1h30m"), "{error}"),
    }
});
