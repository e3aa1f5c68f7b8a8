//! Which texts may be notes: the same rules in a directory and in a cluster, on every system.

#![forbid(unsafe_code)]

/// The longest note, in bytes.
pub(crate) const LONGEST: usize = 64;

/// Checks a note: a text of one line, without control characters. The error says what is wrong. An
/// empty text is no note, and allowed.
pub fn check(note: &str) -> Result<(), &'static str> {
    if note.chars().any(char::is_control) {
        Err("it contains a control character, such as a line break; use one line of text")
    } else if note.len() > LONGEST {
        Err("it is longer than 64 bytes of UTF-8; shorten it")
    } else {
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_one_line_of_text() {
        for note in ["", "disk full", "größe: 5 µs", "イベント", " 'quoted' \\ ", &"x".repeat(64), &"é".repeat(32)]
        {
            assert!(check(note).is_ok(), "{note}");
        }
        for note in ["a\nb", "\t", "\0", "\u{1b}[2J", "\u{7f}", "\u{85}", &"x".repeat(65), &"é".repeat(33)] {
            assert!(check(note).is_err(), "{note:?}");
        }
    }
}
