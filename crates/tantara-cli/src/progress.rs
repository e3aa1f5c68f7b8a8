//! The progress bar: its text, and when it is drawn again. `output.rs` draws it, under the lock of the outputs.

use std::time::{Duration, Instant};

/// How often it is drawn again.
const PERIOD: Duration = Duration::from_millis(100);

const WIDEST_BAR: usize = 32;
const NARROWEST_BAR: usize = 4;
/// Stays free behind the text, so that the `^C` that a terminal shows is not in the next line.
const SPACE_FOR_ECHO: usize = 3;

pub(crate) struct Bar {
    done: usize,
    total: usize,
    began: Instant,
    drawn: Option<Instant>,
    /// The number of columns that the last drawing takes.
    width: usize,
}

impl Bar {
    pub(crate) fn new(total: usize) -> Bar {
        Bar { done: 0, total, began: Instant::now(), drawn: None, width: 0 }
    }

    /// What draws it, if it is time to do so.
    pub(crate) fn advance(&mut self, done: usize, columns: usize) -> Option<String> {
        self.done = done;
        let is_due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= PERIOD);
        is_due.then(|| self.draw(columns))
    }

    /// What draws it, in place of the last drawing.
    pub(crate) fn draw(&mut self, columns: usize) -> String {
        let text = self.text(columns);
        let width = text.chars().count();
        let rest = self.width.saturating_sub(width);
        self.drawn = Some(Instant::now());
        self.width = width;
        // Behind the text, where the echo of Ctrl-C stays in the same line.
        format!("\r{text}{}{}", " ".repeat(rest), "\u{8}".repeat(rest))
    }

    /// What removes the last drawing, with an echo of Ctrl-C behind it.
    pub(crate) fn erase(&mut self) -> String {
        if self.width == 0 {
            return String::new();
        }
        let blank = " ".repeat(self.width + SPACE_FOR_ECHO - 1);
        self.width = 0;
        format!("\r{blank}\r")
    }

    fn text(&self, columns: usize) -> String {
        let seconds = self.began.elapsed().as_secs();
        let passed = if seconds < 60 { format!("{seconds}s") } else { format!("{}m {}s", seconds / 60, seconds % 60) };
        let counts = format!("{} of {} served, {passed}", grouped(self.done), grouped(self.total));
        let columns = columns.saturating_sub(SPACE_FOR_ECHO);
        let bar = columns.saturating_sub(counts.len() + 1).min(WIDEST_BAR);
        if bar < NARROWEST_BAR {
            return counts.chars().take(columns).collect();
        }
        let full = (bar * self.done / self.total.max(1)).min(bar);
        format!("{}{} {counts}", "━".repeat(full), " ".repeat(bar - full))
    }
}

/// A number with commas between groups of three digits.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fits_every_terminal() {
        let mut bar = Bar::new(10_000_000);
        bar.done = 5_000_000;
        bar.began -= Duration::from_secs(3599);
        for columns in 0..200 {
            assert!(bar.text(columns).chars().count() <= columns.saturating_sub(SPACE_FOR_ECHO), "{columns}");
        }
        assert_eq!(bar.text(60), "━━━━━━━━          5,000,000 of 10,000,000 served, 59m 59s");
        assert_eq!(bar.text(30), "5,000,000 of 10,000,000 ser");
        bar.done = 10_000_000;
        assert!(bar.text(100).starts_with(&format!("{} 1", "━".repeat(WIDEST_BAR))));
    }

    #[test]
    fn a_drawing_covers_the_last_one() {
        let mut bar = Bar::new(10);
        assert_eq!(bar.erase(), "");
        let wide = bar.draw(80);
        assert!(wide.starts_with('\r') && wide.ends_with("served, 0s"));
        assert!(bar.draw(30).chars().count() > wide.chars().count());
        assert!(bar.erase().ends_with(" \r") && bar.erase().is_empty());
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
