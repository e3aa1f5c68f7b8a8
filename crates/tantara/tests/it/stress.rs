//! Races on real processors, many times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use tantara::{AutoResetEvent, Event, all, any};

use crate::{LONG, leaked};

const ROUNDS: u32 = if cfg!(debug_assertions) { 100_000 } else { 1_000_000 };

/// Two threads that answer each other: the basic use of an event, in which two published crates hang.
#[test]
fn a_million_rounds_of_ping_pong() {
    let (ping, pong) = (Event::new(), Event::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS {
                assert!(ping.wait_timeout(LONG), "a signal was lost in round {round}");
                ping.clear();
                pong.set();
            }
        });
        for round in 0..ROUNDS {
            ping.set();
            assert!(pong.wait_timeout(LONG), "a signal was lost in round {round}");
            pong.clear();
        }
    });
}

#[test]
fn a_million_rounds_of_ping_pong_through_auto_reset_events() {
    let (ping, pong) = (AutoResetEvent::new(), AutoResetEvent::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..ROUNDS / 2 {
                assert!(ping.wait_timeout(LONG), "a release was lost in round {round}");
                pong.set();
            }
            for round in ROUNDS / 2..ROUNDS {
                ping.wait();
                assert!(any([&ping, &pong]).wait_timeout(Duration::ZERO).is_none(), "a release too many in {round}");
                pong.set();
            }
        });
        for round in 0..ROUNDS {
            ping.set();
            if round % 2 == 0 {
                assert!(pong.wait_timeout(LONG), "a release was lost in round {round}");
            } else {
                pollster::block_on(pong.wait_async());
            }
        }
    });
}

/// Timeouts as long as the time until the set: both sides win often, and no waiter is lost.
#[test]
fn timeouts_race_sets() {
    let (event, done) = (Event::new(), AtomicBool::new(false));
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    thread::scope(|scope| {
        for waiter in 0..3u32 {
            let (event, done, counts) = (&event, &done, &counts);
            scope.spawn(move || {
                let mut nanoseconds = 1_000 * (waiter + 1);
                while !done.load(Relaxed) {
                    nanoseconds = nanoseconds % 60_000 + 977;
                    let timeout = Duration::from_nanos(nanoseconds.into());
                    let released = match nanoseconds % 3 {
                        0 => event.wait_timeout(timeout),
                        1 => event.wait_deadline(Instant::now() + timeout),
                        _ => any([event]).wait_timeout(timeout).is_some(),
                    };
                    counts[usize::from(released)].fetch_add(1, Relaxed);
                }
                // Whatever happened before, the last set releases all.
                event.wait();
            });
        }
        let until = Instant::now() + Duration::from_millis(1_500);
        while Instant::now() < until {
            for _ in 0..100 {
                event.set();
                event.clear();
            }
            thread::sleep(Duration::from_micros(20));
        }
        done.store(true, Relaxed);
        event.set();
    });
    let [timed_out, released] = counts.map(AtomicUsize::into_inner);
    assert!(timed_out > 0 && released > 0, "no race: {timed_out} timed out, {released} released");
}

/// As many releases as sets that were not merged: none lost, none doubled, although waits begin, time out and end.
#[test]
fn releases_are_counted_exactly() {
    let event = AutoResetEvent::new();
    let (given, taken, done) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        for taker in 0..3u32 {
            let (event, taken, done) = (&event, &taken, &done);
            scope.spawn(move || {
                let mut round = taker;
                while !done.load(SeqCst) {
                    round += 1;
                    let timeout = Duration::from_micros(u64::from(round % 40));
                    let got = match round % 3 {
                        0 => event.wait_timeout(timeout),
                        1 => any([event]).wait_timeout(timeout).is_some(),
                        _ => all([event]).wait_timeout(timeout),
                    };
                    taken.fetch_add(usize::from(got), SeqCst);
                }
            });
        }
        let until = Instant::now() + Duration::from_millis(1_500);
        while Instant::now() < until {
            let before = taken.load(SeqCst);
            event.set();
            given.fetch_add(1, SeqCst);
            // The next set only after this release was taken, so that none is merged.
            while taken.load(SeqCst) == before {
                thread::yield_now();
            }
        }
        done.store(true, SeqCst);
    });
    assert_eq!(given.into_inner(), taken.into_inner() + usize::from(event.is_set()));
}

/// Tasks on a multi-threaded runtime, which wait, are cancelled and move between threads, while another thread pulses.
#[test]
fn tasks_come_and_go_while_others_pulse() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let (event, out) = (Arc::new(Event::new()), Arc::new(AtomicUsize::new(0)));
    let tasks: Vec<_> = (0..200u64)
        .map(|number| {
            let (event, out) = (Arc::clone(&event), Arc::clone(&out));
            runtime.spawn(async move {
                for round in 0..50 {
                    let timeout = Duration::from_micros((number * 7 + round * 13) % 300);
                    let _ = tokio::time::timeout(timeout, event.wait_async()).await;
                }
                event.wait_async().await;
                out.fetch_add(1, SeqCst);
            })
        })
        .collect();
    while out.load(SeqCst) < 200 {
        event.set();
        event.clear();
        thread::sleep(Duration::from_micros(100));
    }
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    assert_eq!(crate::waiting(&*event), 0);
}

/// Many sleeping threads, pulsed again and again: all are released each time.
#[test]
fn a_crowd_of_threads_is_out_every_time() {
    const CROWD: usize = 64;
    // Not scoped: a thread that is left asleep would keep the test from failing.
    let (events, out): (&[Event; 2], _) = (leaked([Event::new(), Event::new()]), leaked(AtomicUsize::new(0)));
    let crowd = (0..CROWD).map(|_| {
        thread::spawn(move || {
            for round in 0..100 {
                events[round % 2].wait();
                out.fetch_add(1, SeqCst);
            }
        })
    });
    let crowd: Vec<_> = crowd.collect();
    for round in 0..100 {
        events[(round + 1) % 2].clear();
        events[round % 2].set();
        let began = Instant::now();
        while out.load(SeqCst) < CROWD * (round + 1) {
            thread::yield_now();
            assert!(began.elapsed() < LONG, "somebody is left asleep in round {round}");
        }
    }
    crowd.into_iter().for_each(|thread| thread.join().unwrap());
}
