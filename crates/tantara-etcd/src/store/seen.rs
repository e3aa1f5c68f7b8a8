//! Whether a handle of an event has seen it. Then the absence of the event is a removal.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use crate::error::Error;

/// The latest revision at which a handle knows that its event existed; 0 if there is none. Clones of
/// the handle share it.
#[derive(Debug, Default)]
pub struct Seen(AtomicI64);

impl Seen {
    /// What a request that begins now may rely on: it will be answered at this revision, or a later
    /// one.
    pub(crate) fn by_now(&self) -> i64 {
        self.0.load(Relaxed)
    }

    /// The event existed at this revision.
    pub(crate) fn exists_at(&self, revision: i64) {
        // All waits of a handle tell the same.
        if self.by_now() < revision {
            self.0.fetch_max(revision, Relaxed);
        }
    }

    /// A read shows whether the event exists at a revision. `before` was known when it began. Fails if
    /// the event was removed in between.
    pub(crate) fn look(&self, before: i64, revision: i64, exists: bool, name: &str) -> Result<(), Error> {
        if revision < before {
            // The history was replaced, and its revisions with it.
            let known = if exists { revision } else { 0 };
            let _ = self.0.compare_exchange(before, known, Relaxed, Relaxed);
        } else if exists {
            self.exists_at(revision);
        } else if before > 0 {
            return Err(Error::removed(name));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_absence_of_an_event_that_was_seen_is_a_removal() {
        let seen = Seen::default();
        let look = |before, revision, exists| seen.look(before, revision, exists, "event").is_ok();
        assert!(look(0, 5, false), "it may come to be");
        assert!(look(0, 6, true) && seen.by_now() == 6);
        assert!(!look(6, 7, false) && !look(6, 6, false));
        assert!(look(0, 5, false), "an older read");
        seen.exists_at(9);
        assert!(look(6, 10, true) && seen.by_now() == 10);
        seen.exists_at(8);
        assert_eq!(seen.by_now(), 10);
    }

    #[test]
    fn a_history_that_was_replaced_shows_no_removal() {
        let seen = Seen::default();
        seen.exists_at(100);
        assert!(seen.look(100, 7, true, "event").is_ok() && seen.by_now() == 7);
        assert!(seen.look(7, 8, false, "event").is_err());
        assert!(seen.look(7, 3, false, "event").is_ok() && seen.by_now() == 0);
        assert!(seen.look(0, 4, false, "event").is_ok());
    }
}
