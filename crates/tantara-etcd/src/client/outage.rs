//! Outages: when there is no connection, although one is wanted. Whoever reports them is called, so
//! that a process that waits need not look for them.

use std::fmt;
use std::sync::{Arc, Mutex};

use tokio::time::Instant;

use crate::lock::lock;

#[derive(Default)]
pub(crate) struct Outages(Mutex<State>);

#[derive(Default)]
struct State {
    since: Option<Instant>,
    /// Called without the lock.
    begins: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Outages {
    /// Since when there is no connection.
    pub(crate) fn since(&self) -> Option<Instant> {
        lock(&self.0).since
    }

    /// A connection has failed, or could not be made.
    pub(crate) fn begin(&self) {
        let begins = {
            let mut state = lock(&self.0);
            if state.since.is_some() {
                return;
            }
            state.since = Some(Instant::now());
            state.begins.clone()
        };
        if let Some(begins) = begins {
            begins();
        }
    }

    pub(crate) fn end(&self) {
        lock(&self.0).since = None;
    }

    /// Calls `begins` at the beginning of each outage, and now if there is one. It replaces what was
    /// called before.
    pub(crate) fn on_begin(&self, begins: impl Fn() + Send + Sync + 'static) {
        let begins: Arc<dyn Fn() + Send + Sync> = Arc::new(begins);
        let (before, has_begun) = {
            let mut state = lock(&self.0);
            (state.begins.replace(Arc::clone(&begins)), state.since.is_some())
        };
        drop(before);
        if has_begun {
            begins();
        }
    }
}

impl fmt::Debug for Outages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outages").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    #[test]
    fn the_beginning_of_each_outage_is_told_once() {
        let outages = Outages::default();
        let tell_to = |told: &Arc<AtomicU64>| {
            let told = Arc::clone(told);
            outages.on_begin(move || {
                told.fetch_add(1, Relaxed);
            });
        };
        let (told, late) = (Arc::default(), Arc::default());
        tell_to(&told);
        for number in 1..=3 {
            outages.begin();
            let since = outages.since();
            outages.begin();
            assert_eq!((told.load(Relaxed), outages.since()), (number, since));
            assert!(since.is_some());
            outages.end();
            assert_eq!(outages.since(), None);
        }
        outages.begin();
        tell_to(&late);
        assert_eq!((told.load(Relaxed), late.load(Relaxed)), (4, 1), "an outage that goes on is told of at once");
    }
}
