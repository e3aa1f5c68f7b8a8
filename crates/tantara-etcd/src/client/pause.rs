//! Pauses between attempts, and between wake-ups of a process that waits.

use std::time::Duration;

use tokio::time::Instant;

use crate::random;

const SHORTEST: Duration = Duration::from_millis(10);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// A pause that doubles each time, with jitter so that clients do not retry in step.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

impl Pause {
    pub(crate) fn new() -> Pause {
        Pause(SHORTEST)
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0.mul_f64(0.5 + random::share());
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// A turn of a wheel of tokio's timers, in milliseconds.
///
/// Tokio keeps timers that are more than a turn ahead in slots of that length. At the beginning of its
/// slot a timer is moved to the wheel with shorter ones, which wakes the process up, unless it is due at
/// that very moment.
#[derive(Clone, Copy)]
pub(crate) struct Turn(u64);

impl Turn {
    pub(crate) const SHORT: Turn = Turn(64);
    pub(crate) const LONG: Turn = Turn(64 * 64);

    pub(crate) const fn length(self) -> Duration {
        Duration::from_millis(self.0)
    }

    /// The last beginning of a slot of this length before `time`. The wheels turn since `epoch`.
    pub(crate) fn last_beginning(self, epoch: Instant, time: Instant) -> Instant {
        let since = time.saturating_duration_since(epoch).as_millis() as u64;
        // Tokio rounds up to milliseconds since the runtime was built.
        epoch + Duration::from_millis(since - since % self.0) - Duration::from_micros(900)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut pause = Pause::new();
        assert!(pause.next() < Duration::from_millis(16));
        for _ in 0..20 {
            assert!(pause.next() < LONGEST_PAUSE * 2);
        }
        assert!(pause.next() >= LONGEST_PAUSE / 2);
    }

    #[test]
    fn a_long_turn_ends_when_a_short_one_does_and_never_later_than_asked_for() {
        let epoch = Instant::now();
        for milliseconds in (0..20_000).step_by(7) {
            let time = epoch + Duration::from_millis(milliseconds);
            for turn in [Turn::SHORT, Turn::LONG] {
                let at = turn.last_beginning(epoch, time);
                assert!(at <= time && time - at <= turn.length() + Duration::from_millis(1));
                // Rounded up to milliseconds.
                let due = (at + Duration::from_micros(900)).saturating_duration_since(epoch).as_millis() as u64;
                assert_eq!(due % turn.0, 0);
            }
        }
    }
}
