//! Threads that wake one another after a `set`: whatever ends the other sleeps at that moment, nobody is forgotten.

use std::os::unix::thread::JoinHandleExt;
use std::panic::{catch_unwind, resume_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use tantara::{Event, any, interruptible};

use crate::{LONG, leaked};

const ROUNDS: usize = if cfg!(debug_assertions) { 150 } else { 1_500 };
const PATIENT: usize = 12;

/// A signal whose handler does nothing but interrupt sleeps.
const SIGNAL: libc::c_int = libc::SIGWINCH;

fn handle_the_signal() {
    extern "C" fn handler(_: libc::c_int) {}
    static HANDLED: Once = Once::new();
    HANDLED.call_once(|| {
        // SAFETY: all zeros are a valid action, which is completed before it is used.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        // SAFETY: the action is complete, and its handler does nothing.
        unsafe { libc::sigaction(SIGNAL, &action, std::ptr::null_mut()) };
    });
}

/// Waits that end early, in every way: by their time, given up at a signal, by a panic at a signal; and waits that
/// sleep elsewhere.
fn impatient(event: &Event, turn: u64) {
    let timeout = Duration::from_nanos(turn * 977 % 60_000);
    match turn % 5 {
        0 => _ = event.wait_timeout(timeout),
        1 => _ = event.wait_deadline(Instant::now() + timeout),
        2 => _ = interruptible(|| true, || event.wait_timeout(LONG)),
        3 => _ = catch_unwind(|| interruptible(|| resume_unwind(Box::new(())), || event.wait_timeout(LONG))),
        _ => _ = any([event]).wait_timeout(timeout),
    }
}

/// Under a storm of signals, a crowd is released through two events in turn. Each `set` stays until all are out, so a
/// wake-up call that got lost would leave somebody asleep.
#[test]
fn signals_timeouts_and_panics_lose_no_call() {
    handle_the_signal();
    let events: &[Event; 2] = leaked([Event::new(), Event::new()]);
    let (out, is_over): (&AtomicUsize, &AtomicBool) = (leaked(AtomicUsize::new(0)), leaked(AtomicBool::new(false)));
    let patient = (0..PATIENT).map(|number| {
        thread::spawn(move || {
            for round in 0..ROUNDS {
                let event = &events[round % 2];
                let began = Instant::now();
                if (number + round).is_multiple_of(3) {
                    event.wait();
                } else {
                    assert!(event.wait_timeout(LONG));
                }
                assert!(began.elapsed() < LONG, "a call was lost in round {round}");
                out.fetch_add(1, SeqCst);
            }
        })
    });
    let impatient = (0..4).map(|number| {
        thread::spawn(move || {
            let mut turn = number;
            while !is_over.load(SeqCst) {
                turn += 1;
                impatient(&events[turn as usize / 5 % 2], turn);
            }
        })
    });
    let threads: Vec<_> = patient.chain(impatient).collect();
    let signal = |threads: &mut dyn Iterator<Item = &thread::JoinHandle<()>>| {
        for thread in threads {
            // SAFETY: the thread was not joined yet, so its number is its own.
            unsafe { libc::pthread_kill(thread.as_pthread_t() as _, SIGNAL) };
        }
    };
    for round in 0..ROUNDS {
        events[(round + 1) % 2].clear();
        signal(&mut threads.iter());
        events[round % 2].set();
        // Once, and not to all: a signal would also wake a thread whose call got lost.
        signal(&mut threads.iter().skip(round % 3).step_by(3));
        let began = Instant::now();
        while out.load(SeqCst) < PATIENT * (round + 1) {
            thread::yield_now();
            assert!(began.elapsed() < LONG, "a call was lost in round {round}");
        }
    }
    is_over.store(true, SeqCst);
    events.iter().for_each(Event::set);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert_eq!(events.each_ref().map(crate::waiting), [0; 2]);
}
