//! `any` and `all`.

use std::sync::Arc;

use tantara::{AutoResetEvent, Event, Waitable, all, any};

use crate::fixture::{Letter, SOON, block_on, explore, leaked, thread};

#[test]
fn any_is_released_by_either() {
    explore(Some(3), || {
        let events = leaked([Event::new(), Event::new()]);
        let letters = leaked([Letter::new(), Letter::new()]);
        let setters = [0, 1].map(|index: usize| {
            thread::spawn(move || {
                letters[index].write();
                events[index].set();
            })
        });
        let index = any(events).wait();
        letters[index].read();
        for setter in setters {
            setter.join().unwrap();
        }
    });
}

/// The same for events that the wait owns, together with their setters.
#[test]
fn any_that_owns_its_events_is_released_by_either() {
    explore(Some(3), || {
        let events = [(); 2].map(|()| Arc::new(Event::new()));
        let either = any(events.clone());
        let setters = events.map(|event| thread::spawn(move || event.set()));
        either.wait();
        for setter in setters {
            setter.join().unwrap();
        }
    });
}

/// Of two auto-reset events that are set at once, `any` uses up one release and leaves the other.
#[test]
fn any_uses_up_one_release_only() {
    explore(Some(3), || {
        let events = leaked([AutoResetEvent::new(), AutoResetEvent::new()]);
        let setters = [0, 1].map(|index: usize| thread::spawn(move || events[index].set()));
        let index = block_on(any(events));
        for setter in setters {
            setter.join().unwrap();
        }
        assert!(!events[index].is_set(), "its release was used up");
        assert!(events[1 - index].is_set(), "the other's was not");
    });
}

/// Either the timed wait used up the release, or it is stored.
#[test]
fn a_timeout_of_any_loses_no_release() {
    explore(None, || {
        let events = leaked((Event::new(), AutoResetEvent::new()));
        let setter = thread::spawn(|| events.1.set());
        let outcome = any([&events.0 as &dyn Waitable, &events.1]).wait_timeout(SOON);
        setter.join().unwrap();
        match outcome {
            Some(index) => assert_eq!((index, events.1.is_set()), (1, false)),
            None => assert!(events.1.is_set()),
        }
    });
}

/// Pulses one after the other are latched.
#[test]
fn all_remembers_pulses() {
    explore(Some(3), || {
        let events = leaked([Event::new(), Event::new()]);
        let both = all(events);
        let other = thread::spawn(|| {
            events[1].set();
            events[1].clear();
        });
        let one = thread::spawn(|| {
            events[0].set();
            events[0].clear();
        });
        both.wait();
        other.join().unwrap();
        one.join().unwrap();
    });
}

/// `all` that times out with one release hands it back.
#[test]
fn a_timeout_of_all_gives_back_what_it_had() {
    explore(None, || {
        let events = leaked([AutoResetEvent::new(), AutoResetEvent::new()]);
        let setter = thread::spawn(|| events[0].set());
        assert!(!all(events).wait_timeout(SOON));
        setter.join().unwrap();
        assert!(events[0].is_set());
        assert!(!events[1].is_set());
    });
}

/// `all` uses up its releases together, at the end.
#[test]
fn all_uses_up_each_release_once() {
    explore(Some(3), || {
        let events = leaked([AutoResetEvent::new(), AutoResetEvent::new()]);
        let setters = [0, 1].map(|index: usize| thread::spawn(move || events[index].set()));
        block_on(all(events));
        for setter in setters {
            setter.join().unwrap();
        }
        assert!(!events[0].is_set() && !events[1].is_set());
    });
}
