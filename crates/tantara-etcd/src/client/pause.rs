//! Pauses between attempts.

use std::time::Duration;

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
        let pause = self.0.mul_f64(0.5 + fastrand::f64());
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
        pause
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
}
