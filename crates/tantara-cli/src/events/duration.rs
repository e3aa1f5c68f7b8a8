//! Durations on the command line. (The fuzz target `durations` includes this file, so it uses no other file of this
//! crate.)

use std::time::Duration;

/// Parses a duration: `30` (seconds), `1.5s`, `500ms`, `2m`, `1h30m`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let is_bare_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let with_unit = if is_bare_number { format!("{text}s") } else { text.to_owned() };
    // The length of a month or a year is not fixed, so these units are rejected.
    let mut units = text.split(|c: char| !c.is_alphabetic());
    let is_fixed = !units.any(|unit| unit.starts_with(['M', 'y']) || unit.starts_with("mo"));
    let parsed = humantime::parse_duration(&with_unit).ok().filter(|_| is_fixed);
    parsed.ok_or_else(|| "expected a duration such as 30 (seconds), 1.5s, 500ms, 2m, 1h30m or 1d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_the_help_says() {
        let ms = |text: &str| duration(text).map(|duration| duration.as_millis());
        for (text, expected) in [
            ("30", 30_000),
            ("0", 0),
            ("0.25", 250),
            ("1.5s", 1_500),
            ("500ms", 500),
            ("2m", 120_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            ("0s", 0),
            ("1d", 86_400_000),
            ("1d12h", 129_600_000),
            ("1d 500ms", 86_400_500),
            ("1week", 604_800_000),
            ("2 days", 172_800_000),
        ] {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
        let bad = ["", "soon", "-1", "-1s", "+3", "1x", "1.2.3", ".", "s", "1e3", "99999999999999999999", "NaN"];
        for bad in bad.into_iter().chain(["1s ago", "1d ago", "1mo", "1M", "1month", "2years", "1d 1y"]) {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
