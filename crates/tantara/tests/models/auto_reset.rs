//! `AutoResetEvent`: no release is lost, none is used twice.

use std::pin::Pin;
use std::time::Duration;

use tantara::{AutoResetEvent, OwnedAutoResetWait};

use crate::fixture::{Letter, SOON, WakeCounter, block_on, explore, leaked, poll, thread};

struct Post {
    event: AutoResetEvent,
    letter: Letter,
}

fn post() -> &'static Post {
    leaked(Post { event: AutoResetEvent::new(), letter: Letter::new() })
}

fn released_once(wait: fn(&'static AutoResetEvent)) {
    explore(None, move || {
        let post = post();
        let waiter = thread::spawn(move || {
            wait(&post.event);
            post.letter.read();
        });
        post.letter.write();
        post.event.set();
        waiter.join().unwrap();
        assert!(!post.event.is_set(), "the release was used up");
    });
}

#[test]
fn a_thread_is_released_once() {
    released_once(AutoResetEvent::wait);
}

#[test]
fn a_task_is_released_once() {
    released_once(|event| block_on(event.wait_async()));
}

/// Two sets and two queued waiters: each gets a release.
#[test]
fn two_in_line_get_two_releases() {
    explore(None, || {
        let post = post();
        let (counters, mut waits): (Vec<_>, Vec<_>) =
            (0..2).map(|_| (WakeCounter::new(), Box::pin(post.event.wait_async()))).unzip();
        for (wait, (_, waker)) in waits.iter_mut().zip(&counters) {
            assert!(poll(wait, waker).is_pending());
        }
        let other = thread::spawn(|| post.event.set());
        post.event.set();
        other.join().unwrap();
        for (wait, (counter, waker)) in waits.iter_mut().zip(&counters) {
            assert_eq!(counter.wakes(), 1);
            assert!(poll(wait, waker).is_ready());
        }
        assert!(!post.event.is_set());
    });
}

/// The first waiter leaves while a release may be given to it: the second gets it in any case.
#[test]
fn a_release_in_the_hands_of_a_leaver_passes_on() {
    explore(None, || {
        let post = post();
        let mut first = Box::pin(post.event.wait_async());
        let mut second = Box::pin(post.event.wait_async());
        let (counter, waker) = WakeCounter::new();
        assert!(poll(&mut first, &WakeCounter::new().1).is_pending());
        assert!(poll(&mut second, &waker).is_pending());
        let setter = thread::spawn(|| post.event.set());
        drop(first);
        setter.join().unwrap();
        assert_eq!(counter.wakes(), 1, "the release got lost, or was given twice");
        assert!(poll(&mut second, &waker).is_ready());
        assert!(!post.event.is_set());
    });
}

/// The same for waits that own the event, which the last of them and the setter frees.
#[test]
fn a_release_passes_on_between_the_owners_of_an_event() {
    explore(None, || {
        let event = std::sync::Arc::new(AutoResetEvent::new());
        let [mut first, mut second] =
            [(); 2].map(|()| -> Pin<Box<OwnedAutoResetWait>> { Box::pin(std::sync::Arc::clone(&event).wait_owned()) });
        let (counter, waker) = WakeCounter::new();
        assert!(poll(&mut first, &WakeCounter::new().1).is_pending());
        assert!(poll(&mut second, &waker).is_pending());
        let setter = thread::spawn(move || event.set());
        drop(first);
        setter.join().unwrap();
        assert_eq!(counter.wakes(), 1, "the release got lost, or was given twice");
        assert!(poll(&mut second, &waker).is_ready());
    });
}

/// A wait that times out as the release comes: either it was released, or the release is stored.
#[test]
fn a_timeout_loses_no_release() {
    explore(None, || {
        let post = post();
        let setter = thread::spawn(|| {
            post.letter.write();
            post.event.set();
        });
        let released = post.event.wait_timeout(SOON);
        setter.join().unwrap();
        assert_ne!(released, post.event.is_set(), "one release, no more and no less");
        post.letter.read();
    });
}

/// Two polls, one release: one of them gets it.
#[test]
fn one_release_is_used_once() {
    explore(None, || {
        let post = post();
        post.event.set();
        let take = || post.event.wait_timeout(Duration::ZERO);
        let other = thread::spawn(take);
        let own = take();
        let other = other.join().unwrap();
        assert!(own != other, "used by {}", if own { "both" } else { "neither" });
    });
}

/// A clear discards a stored release, never one that was given.
#[test]
fn a_clear_takes_nothing_from_a_waiter() {
    explore(None, || {
        let post = post();
        let mut wait = Box::pin(post.event.wait_async());
        let (counter, waker) = WakeCounter::new();
        assert!(poll(&mut wait, &waker).is_pending());
        let clearer = thread::spawn(|| post.event.clear());
        post.event.set();
        clearer.join().unwrap();
        assert_eq!(counter.wakes(), 1);
        assert!(poll(&mut wait, &waker).is_ready());
    });
}
