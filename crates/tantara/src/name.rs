//! Which names events may have: the same rules in a directory and in a cluster, on every system.

#![forbid(unsafe_code)]

/// The longest name, in bytes. File systems allow 255; the rest is for names made from it.
const LONGEST: usize = 200;

/// Checks a name: letters and digits of any script, and punctuation without a meaning in shells and
/// paths. The error says what is wrong.
pub fn check(name: &str) -> Result<(), &'static str> {
    let is_fine = |c: char| c.is_alphanumeric() || "._-+:@=,%~".contains(c);
    if name.is_empty() {
        Err("it is empty")
    } else if name.len() > LONGEST {
        Err("it is longer than 200 bytes")
    } else if name.starts_with(['.', '-', '~']) {
        Err("it begins with a dot, a dash or a tilde; use a letter or a digit")
    } else if !name.chars().all(is_fine) {
        Err("names consist of letters, digits and . _ - + : @ = , % ~")
    } else {
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_are_words_and_nothing_that_leads_elsewhere() {
        let longest = "x".repeat(LONGEST);
        for name in ["a", "db-ready", "job_7", "build:42", "größe", "イベント", "v1.2", "a@b=c,d+e%f~", &longest]
        {
            assert!(check(name).is_ok(), "{name}");
        }
        let too_long = "x".repeat(LONGEST + 1);
        for name in [
            "",
            ".",
            "..",
            "../x",
            "/etc/passwd",
            "a/b",
            ".hidden",
            "-rf",
            "~",
            "a b",
            "a\nb",
            "a\0b",
            "\u{202e}x",
            &too_long,
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
    }
}
