//! `Event`: threads that wake one another.

use tantara::Event;

use crate::fixture::{Letter, SOON, explore, leaked, thread};

struct Post {
    event: Event,
    letter: Letter,
}

type Act = fn(&'static Post);

fn waits(post: &'static Post) {
    post.event.wait();
    post.letter.read();
}

fn pulses(post: &'static Post) {
    post.event.set();
    post.event.clear();
}

/// So many sleep, or are about to. Then come so many pulses, and then newcomers. Who slept is released before the event
/// is set again, for the newcomers.
fn released(bound: usize, sleepers: &'static [Act], pulse_count: usize, newcomers: usize) {
    explore(Some(bound), move || {
        let post = leaked(Post { event: Event::new(), letter: Letter::new() });
        let sleepers = sleepers.iter().map(|act| thread::spawn(move || act(post))).collect::<Vec<_>>();
        while post.event.waiting() < sleepers.len() {
            thread::yield_now();
        }
        post.letter.write();
        (0..pulse_count).for_each(|_| pulses(post));
        let newcomers = (0..newcomers).map(|_| thread::spawn(|| waits(post))).collect::<Vec<_>>();
        sleepers.into_iter().for_each(|sleeper| sleeper.join().unwrap());
        post.event.set();
        newcomers.into_iter().for_each(|newcomer| newcomer.join().unwrap());
    });
}

#[test]
fn each_wakes_the_next() {
    released(1, &[waits as Act; 2], 1, 0);
    released(0, &[waits as Act; 3], 1, 0);
}

#[test]
fn newcomers_leave_the_calls_to_those_before_them() {
    released(1, &[waits as Act; 2], 1, 1);
}

/// Those who leave without a wake-up call do not owe one; those who were called as their time passed do.
#[test]
fn some_run_out_of_time() {
    fn timed(post: &'static Post) {
        if post.event.wait_timeout(SOON) {
            post.letter.read();
        }
    }

    explore(Some(2), || {
        let post = leaked(Post { event: Event::new(), letter: Letter::new() });
        let waiters = [timed as Act, waits].map(|act| thread::spawn(move || act(post)));
        post.letter.write();
        pulses(post);
        post.event.set();
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
    });
}

/// One that pulses may be late with its wake-up calls, while the other has pulsed again.
#[test]
fn two_pulse_at_once() {
    explore(Some(1), || {
        let post = leaked(Post { event: Event::new(), letter: Letter::new() });
        let waiters = [(); 2].map(|()| thread::spawn(|| post.event.wait()));
        while post.event.waiting() < 2 {
            thread::yield_now();
        }
        let other = thread::spawn(|| pulses(post));
        pulses(post);
        waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        other.join().unwrap();
    });
}

/// After four pulses (in models) newcomers use the same group. A thread that was late with the call for the first pulse
/// then wakes a newcomer instead of the one that it has released.
#[test]
fn a_group_is_used_again_while_a_pulse_is_late() {
    explore(Some(1), || {
        let post = leaked(Post { event: Event::new(), letter: Letter::new() });
        let sleeper = thread::spawn(|| waits(post));
        while post.event.waiting() < 1 {
            thread::yield_now();
        }
        post.letter.write();
        let others = thread::spawn(|| {
            // The first one may find the event set.
            (0..4).for_each(|_| pulses(post));
            thread::spawn(|| waits(post))
        });
        pulses(post);
        sleeper.join().unwrap();
        let newcomer = others.join().unwrap();
        post.event.set();
        newcomer.join().unwrap();
    });
}
