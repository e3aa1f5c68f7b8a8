//! All clock arithmetic: from the caller's timeout to the moment at which a wait times out.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// When a wait times out. The clock is [`Instant`]'s: monotonic, unaffected by clock steps.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Deadline {
    /// Now: look once, never sleep.
    Poll,
    /// At this moment.
    At(Instant),
    /// When the wait is [interrupted](crate::interruptible), and not before.
    Open,
    /// Never: the method cannot report a timeout.
    Never,
}

impl Deadline {
    /// `timeout` from now. Zero is a poll. A timeout beyond the clock's range (`Duration::MAX`) has
    /// no end.
    pub(crate) fn after(timeout: Duration) -> Deadline {
        if timeout.is_zero() {
            return Deadline::Poll;
        }
        Instant::now().checked_add(timeout).map_or(Deadline::Open, Deadline::At)
    }

    /// When to end a sleep. A poll has no time left.
    pub(crate) fn instant(self) -> Option<Instant> {
        match self {
            Deadline::Poll => Some(Instant::now()),
            Deadline::At(instant) => Some(instant),
            Deadline::Open | Deadline::Never => None,
        }
    }

    pub(crate) fn can_be_given_up(self) -> bool {
        !matches!(self, Deadline::Never)
    }

    /// This deadline, or `limit` if that is earlier.
    pub(crate) fn at_most(self, limit: Instant) -> Instant {
        self.instant().map_or(limit, |instant| instant.min(limit))
    }

    pub(crate) fn has_passed(self) -> bool {
        match self {
            Deadline::Poll => true,
            Deadline::At(instant) => Instant::now() >= instant,
            Deadline::Open | Deadline::Never => false,
        }
    }
}

/// How long to pause after periodic work, so that it takes at most a twentieth of the time. At most
/// five seconds.
pub(crate) fn pause(took: Duration, shortest: Duration) -> Duration {
    const LONGEST: Duration = Duration::from_secs(5);
    (took * 20).clamp(shortest, LONGEST)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn no_duration_panics_and_the_longest_means_never() {
        assert!(matches!(Deadline::after(Duration::ZERO), Deadline::Poll));
        assert!(matches!(Deadline::after(Duration::from_nanos(1)), Deadline::At(_)));
        assert!(matches!(Deadline::after(Duration::MAX), Deadline::Open));
        assert!(!Deadline::after(Duration::MAX).has_passed());
    }

    #[test]
    fn a_past_moment_has_passed() {
        let past = Instant::now();
        std::thread::sleep(Duration::from_millis(1));
        assert!(Deadline::At(past).has_passed());
        assert!(Deadline::Poll.has_passed());
        assert!(!Deadline::after(Duration::from_secs(3600)).has_passed());
    }
}
