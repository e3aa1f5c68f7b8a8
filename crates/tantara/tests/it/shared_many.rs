//! Many events between processes: in one wait, with other kinds, tasks that come and go, and reactor threads.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use tantara::{AutoResetEvent, Event, SharedEvent, Waitable, all, any};

use crate::child_process::{ChildProcess, YES};
use crate::children::{self, Child};
use crate::refused::allow_descriptors;
use crate::shared::until_waiters;
use crate::waiting::thread_number;
use crate::{LONG, WakeCounter, poll};

/// The tasks of this file.
pub(crate) fn run(action: &str, directory: &Path, words: &[&str]) -> Option<i32> {
    match (action, words) {
        ("ping_pong", [rounds]) => ping_pong(rounds.parse().unwrap()),
        ("await_after_fork", []) => await_after_fork(),
        ("rest", []) => rest(),
        ("leave", [name]) => {
            let event = SharedEvent::open_in(directory, name).unwrap();
            let waker = WakeCounter::new().1;
            let mut wait = Box::pin(event.wait_async());
            assert!(poll(&mut wait, &waker).is_pending());
            until_waiters(&event, 1);
            // The reactor thread sleeps, and this thread ends the process.
        }
        _ => return None,
    }
    Some(YES)
}

fn anonymous(count: usize) -> Vec<SharedEvent> {
    allow_descriptors(count + 200);
    (0..count).map(|_| SharedEvent::anonymous().unwrap()).collect()
}

/// How many waiters each of so many events shows, if a thread blocks and a task waits for them: the thread sleeps on up
/// to 127 by itself, else the reactor thread waits for both.
fn waiters_of_both(count: usize) -> usize {
    if count <= 127 { 2 } else { 1 }
}

/// Each of `count` events releases a wait for any of them: one that blocks and one that is awaited, half of them
/// during the sleep and half before.
fn each_releases_any(count: usize, step: usize) {
    let events = anonymous(count);
    for index in (0..count).step_by(step) {
        thread::scope(|scope| {
            let blocking = scope.spawn(|| any(&events).wait_timeout(LONG));
            let awaiting = scope.spawn(|| pollster::block_on(any(&events)));
            if (index / step).is_multiple_of(16) {
                until_waiters(&events[index], waiters_of_both(count));
                until_waiters(&events[count - 1], waiters_of_both(count));
            }
            events[index].set().unwrap();
            assert_eq!(blocking.join().unwrap(), Some(index));
            assert_eq!(awaiting.join().unwrap(), index);
        });
        events[index].clear().unwrap();
    }
    for event in &events {
        assert_eq!(event.waiters().unwrap(), []);
    }
}

#[test]
fn each_of_as_many_as_a_helper_takes_releases_any() {
    each_releases_any(127, 1);
}

#[test]
fn each_of_one_more_than_a_helper_takes_releases_any() {
    each_releases_any(128, 1);
}

#[test]
fn each_of_three_hundred_releases_any() {
    each_releases_any(300, 3);
}

#[test]
fn some_of_a_thousand_release_any() {
    each_releases_any(1_000, 111);
}

/// All of `count` events, pulsed one by one, from both ends.
fn each_is_needed_by_all(count: usize) {
    let events = anonymous(count);
    thread::scope(|scope| {
        let blocking = scope.spawn(|| all(&events).wait_timeout(LONG));
        let awaiting = scope.spawn(|| pollster::block_on(all(&events)));
        // Each wait is queued at each event before the first signal.
        until_waiters(&events[0], waiters_of_both(count));
        until_waiters(&events[count - 1], waiters_of_both(count));
        for index in (0..count / 2).flat_map(|index| [index, count - 1 - index]) {
            assert!(!blocking.is_finished() && !awaiting.is_finished());
            events[index].set().unwrap();
            events[index].clear().unwrap();
        }
        if count % 2 == 1 {
            events[count / 2].set().unwrap();
        }
        assert!(blocking.join().unwrap());
        awaiting.join().unwrap();
    });
    for event in &events {
        assert_eq!(event.waiters().unwrap(), []);
    }
}

#[test]
fn each_of_as_many_as_a_helper_takes_is_needed_by_all() {
    each_is_needed_by_all(127);
}

#[test]
fn each_of_a_thousand_is_needed_by_all() {
    each_is_needed_by_all(1_000);
}

#[test]
fn a_thread_that_blocks_on_many_sleeps_by_itself_and_is_shown_as_long_as_it_waits() {
    let events = anonymous(3);
    let stays = AtomicU32::new(0);
    thread::scope(|scope| {
        // In the opposite order, and through the same handles.
        let leaves = scope.spawn(|| any(events.iter().rev()).wait_timeout(LONG));
        for event in &events {
            until_waiters(event, 1);
        }
        let all_of_them = scope.spawn(|| {
            stays.store(thread_number(), Relaxed);
            all(&events).wait_timeout(LONG)
        });
        for event in &events {
            until_waiters(event, 2);
            assert!(format!("{event:?}").contains("waiting: 2"), "{event:?}");
        }
        events[2].pulse().unwrap();
        assert_eq!(leaves.join().unwrap(), Some(0));
        for event in &events[..2] {
            assert_eq!(until_waiters(event, 1)[0].tid, Some(stays.load(Relaxed)), "the other one still waits");
            event.pulse().unwrap();
        }
        assert!(all_of_them.join().unwrap());
    });
    for event in &events {
        assert!(event.waiters().unwrap().is_empty() && format!("{event:?}").contains("waiting: 0"), "{event:?}");
    }
}

#[test]
fn a_poll_of_many_by_a_thread_leaves_no_trace() {
    let events = anonymous(3);
    let page = |event: &SharedEvent| {
        let mut page = [0; 4096];
        fs::File::from(event.as_fd().try_clone_to_owned().unwrap()).read_exact_at(&mut page, 0).unwrap();
        page
    };
    let before: Vec<_> = events.iter().map(page).collect();
    assert_eq!(any(&events).wait_timeout(Duration::ZERO), None);
    assert!(!all(&events).wait_timeout(Duration::ZERO));
    assert!(events.iter().map(page).eq(before), "a set would make a system call");
}

#[test]
fn kinds_are_mixed() {
    let (local, auto_reset, shared) = (Event::new(), AutoResetEvent::new(), SharedEvent::anonymous().unwrap());
    let events: [&dyn Waitable; 3] = [&local, &auto_reset, &shared];
    let signals: [&(dyn Fn() + Sync); 3] = [&|| local.set(), &|| auto_reset.set(), &|| shared.set().unwrap()];
    for (index, signal) in signals.iter().enumerate() {
        thread::scope(|scope| {
            let participant = scope.spawn(|| any(events).wait_timeout(LONG));
            until_waiters(&shared, 1);
            signal();
            assert_eq!(participant.join().unwrap(), Some(index));
        });
        local.clear();
        shared.clear().unwrap();
        assert!(!auto_reset.is_set(), "it was used up");
    }
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        thread::scope(|scope| {
            let participant = scope.spawn(|| all(events).wait_timeout(LONG));
            until_waiters(&shared, 1);
            for index in order {
                assert!(!participant.is_finished());
                signals[index]();
                local.clear();
                shared.clear().unwrap();
            }
            assert!(participant.join().unwrap());
        });
    }
    // A release of an auto-reset event that was given to a wait that fails is handed on.
    let home = tempfile::tempdir().unwrap();
    let doomed = SharedEvent::open_in(&home, "doomed").unwrap();
    thread::scope(|scope| {
        let participant = scope.spawn(|| all([&auto_reset as &dyn Waitable, &local, &doomed]).try_wait());
        until_waiters(&doomed, 1);
        auto_reset.set();
        doomed.remove().unwrap();
        assert!(participant.join().unwrap().unwrap_err().is_removed());
    });
    assert!(auto_reset.is_set());
}

#[test]
fn futures_that_are_dropped_leave_no_trace() {
    let events = anonymous(3);
    let waker = WakeCounter::new().1;
    for _ in 0..3 {
        let mut single = Box::pin(events[0].wait_async());
        let mut several = Box::pin(any(&events));
        let mut changed = Box::pin(events[1].changed(events[1].state()));
        assert!(poll(&mut single, &waker).is_pending() && poll(&mut several, &waker).is_pending());
        assert!(poll(&mut changed, &waker).is_pending());
        for event in &events {
            until_waiters(event, 1);
        }
        drop(single);
        assert_eq!(events[0].waiters().unwrap().len(), 1, "another still waits");
        drop((several, changed));
        for event in &events {
            assert_eq!(event.waiters().unwrap(), []);
        }
    }
}

/// Waits begin and end all the time, so the reactor thread drops its registration again and again, just when another
/// wait begins.
#[test]
fn a_wait_that_begins_when_another_ends_is_not_forgotten() {
    const ROUNDS: u32 = if cfg!(debug_assertions) { 20_000 } else { 100_000 };
    let event = SharedEvent::anonymous().unwrap();
    let (round, waker) = (AtomicU32::new(0), WakeCounter::new().1);
    thread::scope(|scope| {
        scope.spawn(|| {
            for number in 1..=ROUNDS {
                let mut left = Box::pin(event.wait_async());
                let _ = poll(&mut left, &waker);
                drop(left);
                event.set().unwrap();
                event.clear().unwrap();
                (0..number % 100).for_each(|_| std::hint::spin_loop());
                let wait = event.wait_async();
                round.store(number, Relaxed);
                let began = Instant::now();
                pollster::block_on(wait).unwrap();
                assert!(began.elapsed() < LONG / 2, "no notification in round {number}");
            }
        });
        for number in 1..=ROUNDS {
            while round.load(Relaxed) != number {
                thread::yield_now();
            }
            event.set().unwrap();
            event.clear().unwrap();
        }
    });
}

fn participant(words: &[&str]) -> i32 {
    let home = tempfile::tempdir().unwrap();
    let (action, words) = words.split_first().unwrap();
    ChildProcess::start([*action, home.path().to_str().unwrap()].iter().chain(words)).answer()
}

#[test]
fn a_process_ends_while_its_reactor_thread_sleeps() {
    assert_eq!(participant(&["leave", "x"]), YES);
}

/// The number of reactor threads, by their name.
fn reactor_threads() -> usize {
    let threads = fs::read_dir("/proc/self/task").unwrap();
    let names = threads.filter_map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "tantara").count()
}

/// A thread gets its name a moment after its start, and ends a moment after its last work.
fn until_reactor_threads(count: usize) {
    let deadline = Instant::now() + LONG;
    while reactor_threads() != count {
        assert!(Instant::now() < deadline, "there are {} reactor threads, not {count}", reactor_threads());
        thread::sleep(Duration::from_millis(1));
    }
}

/// They end without work, and others are started when there is work.
fn rest() {
    let events = anonymous(200);
    for _ in 0..2 {
        assert_eq!(reactor_threads(), 0);
        let waker = WakeCounter::new().1;
        let mut wait = Box::pin(any(&events));
        assert!(poll(&mut wait, &waker).is_pending());
        until_reactor_threads(2);
        events[150].set().unwrap();
        assert_eq!(pollster::block_on(wait), 150);
        events[150].clear().unwrap();
        until_reactor_threads(0);
    }
}

#[test]
fn reactor_threads_end_when_there_is_nothing_to_do() {
    assert_eq!(participant(&["rest"]), YES);
}

/// The child of a fork has its parent's events, and no reactor thread.
fn await_after_fork() {
    let (ping, pong) = (SharedEvent::anonymous().unwrap(), SharedEvent::anonymous().unwrap());
    let waker = WakeCounter::new().1;
    let mut wait = Box::pin(pong.wait_async());
    assert!(poll(&mut wait, &waker).is_pending());
    until_reactor_threads(1);
    let mut child = Child::fork(|| {
        assert_eq!(reactor_threads(), 0);
        pollster::block_on(any([&ping, &pong]));
        assert!(ping.is_set().unwrap());
        until_reactor_threads(1);
        pong.set().unwrap();
    });
    until_waiters(&ping, 1);
    ping.set().unwrap();
    pollster::block_on(wait).unwrap();
    assert_eq!(child.status(), 0);
    assert_eq!(pong.last_set().unwrap().unwrap().pid, Some(child.pid as u32));
}

#[test]
fn a_child_of_a_fork_awaits_by_a_helper_of_its_own() {
    assert_eq!(participant(&["await_after_fork"]), YES);
}

/// Each process writes to shared memory, and signals. The other reads what was written before the signal, whether it
/// looks, blocks or awaits.
fn ping_pong(rounds: u32) {
    let letter = children::shared_memory();
    let [ping, pong] = [(); 2].map(|()| SharedEvent::anonymous().unwrap());
    let hear = |event: &SharedEvent, round: u32| {
        match round % 3 {
            0 => assert!(event.wait_timeout(LONG).unwrap(), "a signal was lost in round {round}"),
            1 => pollster::block_on(event.wait_async()).unwrap(),
            _ => {
                while !event.is_set().unwrap() {
                    std::hint::spin_loop();
                }
            }
        }
        event.clear().unwrap();
    };
    let mut child = Child::fork(|| {
        for round in 0..rounds {
            hear(&ping, round);
            assert_eq!(letter.load(Relaxed), 2 * round + 1);
            letter.store(2 * round + 2, Relaxed);
            pong.set().unwrap();
        }
    });
    for round in 0..rounds {
        letter.store(2 * round + 1, Relaxed);
        ping.set().unwrap();
        hear(&pong, round);
        assert_eq!(letter.load(Relaxed), 2 * round + 2);
    }
    assert_eq!(child.status(), 0);
}

#[test]
fn what_came_before_the_set_is_visible_in_the_other_process() {
    assert_eq!(participant(&["ping_pong", "5000"]), YES);
}
