//! Pauses between attempts.

use std::time::Duration;

/// Between rounds through all endpoints, and between attempts.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// A wait that doubles, and differs from everybody else's.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

impl Pause {
    pub(crate) fn new() -> Pause {
        Pause(SHORTEST_PAUSE)
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
