//! How times, waiters and names are printed and parsed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) use crate::events::duration::duration;
use crate::events::waiter::Waiter;

/// A length of time, for messages.
pub(crate) fn length(length: Duration) -> String {
    const MINUTE: u128 = 60 * 1_000_000;
    let smallest: u128 = match length.as_secs() {
        0 if length.subsec_millis() < 10 => 1,
        0..10 => 1_000,
        10..3_600 => 1_000_000,
        3_600..86_400 => MINUTE,
        _ => 60 * MINUTE,
    };
    let rounded = (length.as_micros() + smallest / 2) / smallest * smallest;
    let Ok(rounded) = u64::try_from(rounded) else { return "a very long time".into() };
    humantime::format_duration(Duration::from_micros(rounded)).to_string()
}

/// How long ago a moment was, for messages.
pub(crate) fn ago(then: SystemTime) -> String {
    format!("{} ago", since(then))
}

/// How long ago a moment was.
pub(crate) fn since(then: SystemTime) -> String {
    let passed = SystemTime::now().duration_since(then).unwrap_or_default();
    // To the second; milliseconds would only distract.
    if passed < Duration::from_secs(1) { "0s".into() } else { length(Duration::from_secs(passed.as_secs())) }
}

/// A moment for JSON: RFC 3339, in UTC, to the millisecond.
pub(crate) fn moment(time: SystemTime) -> String {
    let after_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    // The first second of the year 10000, which RFC 3339 cannot express.
    let end = Duration::from_secs(253_402_300_800);
    if after_epoch >= end {
        return String::new();
    }
    humantime::format_rfc3339_millis(UNIX_EPOCH + after_epoch).to_string()
}

/// A waiter, for messages: its process, its machine or command line, and how long it has waited.
pub(crate) fn waiter(waiter: &Waiter) -> String {
    const LONGEST: usize = 60;
    let command = waiter.command.as_deref().unwrap_or_default();
    let mut command: String = shown(command).chars().take(LONGEST + 1).collect();
    if command.chars().count() > LONGEST {
        command.pop();
        command.push('…');
    }
    let space = if command.is_empty() { "" } else { " " };
    let host = waiter.host.as_ref().map(|host| format!(" on {}", shown(host))).unwrap_or_default();
    let many = if waiter.count > 1 { format!("{} waits in ", waiter.count) } else { String::new() };
    let process = process(waiter.pid);
    format!("{many}{process}{host}{space}{command} (for {})", since(waiter.since))
}

/// A process, for messages. `None` is a process of another PID namespace, or one that the system hides.
pub(crate) fn process(pid: Option<u32>) -> String {
    pid.map_or("a process not visible here".into(), |pid| pid.to_string())
}

/// Text of another process, without the control characters that would affect the terminal.
pub(crate) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '·' } else { c }).collect()
}

/// As [`shown`], and not long.
pub(crate) fn short(text: &str) -> String {
    cut(&shown(text), 120)
}

/// The first characters of a text that is longer.
pub(crate) fn cut(text: &str, most: usize) -> String {
    let is_short = text.chars().nth(most).is_none();
    if is_short { text.to_owned() } else { text.chars().take(most - 1).chain(['…']).collect() }
}

/// JSON with each control character escaped: some terminals obey those from U+0080 to U+009F, which
/// JSON allows in strings.
pub(crate) fn json(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            '\u{7f}'..='\u{9f}' => text.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => text.push(c),
        }
    }
    text
}

/// The first few items, and the number of the others.
pub(crate) fn some_of<'a>(items: impl Iterator<Item = &'a str>) -> String {
    const MOST: usize = 5;
    let items: Vec<&str> = items.collect();
    let mut text = items[..items.len().min(MOST)].join(", ");
    if items.len() > MOST {
        text.push_str(&format!(" and {} more", items.len() - MOST));
    }
    text
}

/// The most similar name, if one is similar enough.
pub(crate) fn nearest<'a>(name: &str, names: &'a [String]) -> Option<&'a str> {
    let likeness = |other: &&String| (strsim::jaro_winkler(name, other) * 1e6) as u32;
    let nearest = names.iter().max_by_key(likeness)?;
    (likeness(&nearest) > 850_000).then_some(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_short_to_read() {
        for (milliseconds, expected) in [
            (250, "250ms"),
            (1_500, "1s 500ms"),
            (30_000, "30s"),
            (59_700, "1m"),
            (90_000, "1m 30s"),
            (5_400_000, "1h 30m"),
            (262_800_000, "3days 1h"),
        ] {
            assert_eq!(length(Duration::from_millis(milliseconds)), expected);
        }
    }

    #[test]
    fn the_nearest_name_is_one_that_was_meant() {
        let names = ["db-ready", "cache-ready", "done"].map(String::from);
        assert_eq!(nearest("dbready", &names), Some("db-ready"));
        assert_eq!(nearest("db-raedy", &names), Some("db-ready"));
        assert_eq!(nearest("shutdown", &names), None);
        assert_eq!(nearest("x", &[]), None);
    }
}
