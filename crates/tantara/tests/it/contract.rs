//! The contract, line by line. Each test runs at every scope, here and in the crates that build upon this one.

use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::LONG;

/// One scope of the contract: an event, and a way to wait for it.
pub(crate) trait Scope: Clone + Debug + Send + 'static {
    /// A timeout that is mostly long enough for several waiters to be seen at once. (Miri's clock counts steps.)
    const SHORT: Duration = if cfg!(miri) { Duration::from_secs(10) } else { Duration::from_millis(100) };

    fn new() -> Self;
    fn is_set(&self) -> bool;
    fn set(&self);
    fn clear(&self);
    fn wait(&self);
    fn wait_timeout(&self, timeout: Duration) -> bool;
    fn wait_deadline(&self, deadline: Instant) -> bool;
    fn any(events: &[Self], timeout: Duration) -> Option<usize>;
    fn all(events: &[Self], timeout: Duration) -> bool;

    /// How many wait.
    fn waiting(&self) -> usize {
        crate::waiting(self)
    }

    /// Returns once `count` wait, with a timeout that is not short.
    fn until_waiting(&self, count: usize) {
        let deadline = Instant::now() + LONG;
        while self.waiting() != count {
            assert!(Instant::now() < deadline, "{count} should wait, but {} do: {self:?}", self.waiting());
            thread::sleep(Duration::from_micros(100));
        }
    }

    /// Asserts that there are no waiters left.
    fn assert_left(&self) {
        assert_eq!(self.waiting(), 0);
    }
}

/// Makes a module of tests for each scope.
macro_rules! contract {
    ($($(#[$attribute:meta])* $module:ident: $scope:ty;)*) => {$(
        $(#[$attribute])*
        mod $module {
            crate::contract::contract! { @tests $scope:
                starts_unset_and_set_and_clear_are_idempotent
                a_wait_on_a_set_event_returns_at_once
                set_releases_everyone_who_waits
                a_set_then_clear_releases_everyone_who_waited
                no_wait_is_released_without_a_set
                a_zero_or_past_deadline_is_a_poll
                a_timeout_says_so_and_leaves_no_trace
                the_longest_timeout_waits
                what_came_before_the_set_is_visible_after_the_wait
                a_cancelled_wait_loses_nothing_for_others
                newcomers_wait_for_the_next_set
                any_says_which
                all_latches
                any_and_all_time_out
            }
        }
    )*};
    (@tests $scope:ty: $($test:ident)*) => {$(
        #[test]
        fn $test() {
            crate::contract::$test::<$scope>();
        }
    )*};
}
pub(crate) use contract;

/// Starts `count` waiters, and returns once all of them wait.
fn waiters<S: Scope>(event: &S, count: usize) -> Vec<thread::JoinHandle<bool>> {
    let participants = (0..count)
        .map(|_| {
            let event = event.clone();
            thread::spawn(move || event.wait_timeout(LONG))
        })
        .collect();
    event.until_waiting(count);
    participants
}

/// Starts `count` waits that will time out, and returns once all of them wait at once.
///
/// On a busy machine some may time out before the last has begun; all are begun again then, with
/// twice the timeout.
fn waits_that_time_out<S: Scope>(event: &S, count: usize) -> Vec<thread::JoinHandle<bool>> {
    let mut timeout = S::SHORT;
    loop {
        let participants: Vec<_> = (0..count)
            .map(|_| {
                let event = event.clone();
                thread::spawn(move || event.wait_timeout(timeout))
            })
            .collect();
        while participants.iter().all(|participant| !participant.is_finished()) {
            if event.waiting() == count {
                return participants;
            }
            thread::sleep(Duration::from_micros(100));
        }
        for participant in participants {
            assert!(!participant.join().unwrap(), "a wait was released without a set");
        }
        timeout *= 2;
    }
}

fn all_released(participants: Vec<thread::JoinHandle<bool>>) -> bool {
    participants.into_iter().all(|participant| participant.join().unwrap())
}

pub(crate) fn starts_unset_and_set_and_clear_are_idempotent<S: Scope>() {
    let event = S::new();
    assert!(!event.is_set());
    event.clear();
    assert!(!event.is_set());
    for _ in 0..2 {
        event.set();
        event.set();
        assert!(event.is_set());
        event.clear();
        event.clear();
        assert!(!event.is_set());
    }
}

pub(crate) fn a_wait_on_a_set_event_returns_at_once<S: Scope>() {
    let event = S::new();
    event.set();
    event.wait();
    assert!(event.wait_timeout(Duration::ZERO));
    assert!(event.wait_timeout(LONG));
    assert!(event.wait_deadline(Instant::now()));
    assert!(event.is_set(), "a wait uses nothing up");
}

pub(crate) fn set_releases_everyone_who_waits<S: Scope>() {
    let event = S::new();
    let participants = waiters(&event, 8);
    event.set();
    assert!(all_released(participants));
    event.assert_left();
}

pub(crate) fn a_set_then_clear_releases_everyone_who_waited<S: Scope>() {
    for _ in 0..if cfg!(miri) { 2 } else { 20 } {
        let event = S::new();
        let participants = waiters(&event, 8);
        event.set();
        event.clear();
        assert!(all_released(participants), "a signal was lost");
        assert!(!event.is_set());
    }
}

pub(crate) fn no_wait_is_released_without_a_set<S: Scope>() {
    let event = S::new();
    let participants = waits_that_time_out(&event, 4);
    for participant in &participants {
        // What another library may do to a thread at any time.
        participant.thread().unpark();
    }
    event.clear();
    for participant in participants {
        assert!(!participant.join().unwrap());
    }
}

pub(crate) fn a_zero_or_past_deadline_is_a_poll<S: Scope>() {
    let event = S::new();
    let past = Instant::now();
    thread::sleep(Duration::from_millis(1));
    assert!(!event.wait_timeout(Duration::ZERO));
    assert!(!event.wait_deadline(past));
    event.set();
    assert!(event.wait_timeout(Duration::ZERO));
    assert!(event.wait_deadline(past));
}

pub(crate) fn a_timeout_says_so_and_leaves_no_trace<S: Scope>() {
    let event = S::new();
    let timeout = Duration::from_millis(20);
    let began = Instant::now();
    assert!(!event.wait_timeout(timeout));
    assert!(began.elapsed() >= timeout, "it gave up too early");
    assert!(!event.wait_deadline(Instant::now() + timeout));
    event.assert_left();
    assert!(!event.is_set());
    event.set();
    assert!(event.is_set());
    assert!(event.wait_timeout(timeout));
}

pub(crate) fn the_longest_timeout_waits<S: Scope>() {
    let event = S::new();
    let participant = {
        let event = event.clone();
        thread::spawn(move || event.wait_timeout(Duration::MAX))
    };
    event.until_waiting(1);
    event.set();
    assert!(participant.join().unwrap());
}

pub(crate) fn what_came_before_the_set_is_visible_after_the_wait<S: Scope>() {
    for round in 0..if cfg!(miri) { 10 } else { 200 } {
        let (event, letter) = (S::new(), Arc::new(AtomicU32::new(0)));
        if round % 2 == 0 {
            event.set();
            event.clear();
        }
        let participant = {
            let (event, letter) = (event.clone(), Arc::clone(&letter));
            thread::spawn(move || {
                event.wait();
                letter.load(Relaxed)
            })
        };
        letter.store(7, Relaxed);
        event.set();
        assert_eq!(participant.join().unwrap(), 7);
    }
}

pub(crate) fn a_cancelled_wait_loses_nothing_for_others<S: Scope>() {
    let event = S::new();
    let short = waits_that_time_out(&event, 4);
    let participants: Vec<_> = (0..4)
        .map(|_| {
            let event = event.clone();
            thread::spawn(move || event.wait_timeout(LONG))
        })
        .collect();
    for participant in short {
        assert!(!participant.join().unwrap());
    }
    event.until_waiting(4);
    event.set();
    event.clear();
    assert!(all_released(participants));
}

pub(crate) fn newcomers_wait_for_the_next_set<S: Scope>() {
    let event = S::new();
    let old = waiters(&event, 2);
    event.set();
    event.clear();
    assert!(!event.wait_timeout(Duration::from_millis(5)), "a newcomer was released by an old pulse");
    assert!(all_released(old));
    let new = waiters(&event, 2);
    event.set();
    assert!(all_released(new));
}

pub(crate) fn any_says_which<S: Scope>() {
    let events = [S::new(), S::new(), S::new()];
    for index in [2, 0, 1] {
        let participant = {
            let events = events.clone();
            thread::spawn(move || S::any(&events, LONG))
        };
        events.iter().for_each(|event| event.until_waiting(1));
        events[index].set();
        events[index].clear();
        assert_eq!(participant.join().unwrap(), Some(index));
        events.iter().for_each(|event| event.assert_left());
    }
    events[1].set();
    events[2].set();
    assert_eq!(S::any(&events, Duration::ZERO), Some(1), "the lowest of several");
}

pub(crate) fn all_latches<S: Scope>() {
    let events = [S::new(), S::new(), S::new()];
    let participant = {
        let events = events.clone();
        thread::spawn(move || S::all(&events, LONG))
    };
    events[0].until_waiting(1);
    for event in events.iter().rev() {
        assert!(!participant.is_finished());
        event.set();
        event.clear();
    }
    assert!(participant.join().unwrap());
}

pub(crate) fn any_and_all_time_out<S: Scope>() {
    let events = [S::new(), S::new()];
    events[0].set();
    let timeout = Duration::from_millis(10);
    assert_eq!(S::any(&events[1..], timeout), None);
    assert!(!S::all(&events, timeout));
    assert!(!S::all(&events, Duration::ZERO));
    events.iter().for_each(|event| event.assert_left());
    events[1].set();
    assert!(S::all(&events, Duration::ZERO));
}
