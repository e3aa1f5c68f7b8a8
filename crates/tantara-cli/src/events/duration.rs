//! Durations on the command line. (The fuzz target `durations` includes this file, so it uses no other file of this
//! crate.)

use std::time::Duration;

use jiff::SpanRelativeTo;
use jiff::fmt::friendly::SpanParser;

/// Parses a duration: `30` (seconds), `1.5s`, `500ms`, `2m`, `1h30m`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let expected = || "expected a duration such as 30 (seconds), 1.5s, 500ms, 2m, 1h30m or 1d".to_owned();
    if text.starts_with(['-', '+']) {
        return Err(expected());
    }
    let is_bare_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let with_unit = if is_bare_number { format!("{text}s") } else { text.to_owned() };
    let parser = SpanParser::new();
    // jiff's durations have no days, because a calendar day need not have 24 hours. Its spans do.
    let parsed = parser.parse_duration(&with_unit).or_else(|_| {
        let span = parser.parse_span(&with_unit)?;
        span.to_duration(SpanRelativeTo::days_are_24_hours())
    });
    parsed.map_err(|_| expected())?.try_into().map_err(|_| expected())
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
        ] {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
        let bad = ["", "soon", "-1", "-1s", "+3", "1x", "1.2.3", ".", "s", "1e3", "99999999999999999999", "NaN"];
        for bad in bad.into_iter().chain(["1s ago", "1d ago", "1mo", "1y"]) {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
