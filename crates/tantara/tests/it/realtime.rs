//! Threads with real-time priorities beside ordinary ones: a thread that waits for the lock of the list leaves the
//! processor to the thread that holds it.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::task::Waker;
use std::thread;
use std::time::{Duration, Instant};

use tantara::Event;

use crate::{LONG, poll, until_waiting};

/// Gives the calling thread this real-time priority, or none (0).
fn become_realtime(priority: i32) -> std::io::Result<()> {
    let policy = if priority > 0 { libc::SCHED_FIFO } else { libc::SCHED_OTHER };
    // SAFETY: all-zero is a valid sched_param.
    let mut parameters: libc::sched_param = unsafe { mem::zeroed() };
    parameters.sched_priority = priority;
    // SAFETY: the parameters are valid for the call, which is about the calling thread.
    match unsafe { libc::sched_setscheduler(0, policy, &parameters) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Binds the calling thread to the first processor that it may use.
fn stay_on_one_processor() {
    // SAFETY: all-zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    let size = mem::size_of_val(&set);
    // SAFETY: the set is valid for the call.
    assert_eq!(unsafe { libc::sched_getaffinity(0, size, &mut set) }, 0);
    let is_allowed = |&processor: &usize| {
        // SAFETY: the number is within the set.
        unsafe { libc::CPU_ISSET(processor, &set) }
    };
    let first = (0..libc::CPU_SETSIZE as usize).find(is_allowed).unwrap();
    // SAFETY: all-zero is an empty set.
    let mut only: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the number is within the set.
    unsafe { libc::CPU_SET(first, &mut only) };
    // SAFETY: the set is valid for the call.
    assert_eq!(unsafe { libc::sched_setaffinity(0, size, &only) }, 0);
}

/// Queues a waiter and removes it, which takes the lock twice.
fn use_the_lock(event: &Event) {
    assert!(poll(&mut Box::pin(event.wait_async()), Waker::noop()).is_pending());
}

/// Ordinary threads use the lock of an event all the time, so they are preempted while they hold it. A real-time
/// thread on the same processor uses it too. If it kept the processor while it waits for the lock, it would wait for
/// ever, or until the kernel throttles it. The longest wait is printed. Only the scheduler bounds it: see "Waiter
/// list" in DESIGN.md.
#[test]
fn a_realtime_thread_gets_the_lock_from_a_preempted_one() {
    static EVENT: Event = Event::new();
    let is_over = AtomicBool::new(false);
    let (worst, rounds) = (AtomicU32::new(0), AtomicU32::new(0));
    let refused = thread::scope(|scope| {
        let realtime = scope.spawn(|| {
            if let Err(error) = become_realtime(10) {
                is_over.store(true, SeqCst);
                return Some(error);
            }
            stay_on_one_processor();
            while rounds.fetch_add(1, SeqCst) < 2_000 {
                let began = Instant::now();
                use_the_lock(&EVENT);
                worst.fetch_max(began.elapsed().as_micros().try_into().unwrap_or(u32::MAX), SeqCst);
                thread::sleep(Duration::from_micros(150));
            }
            is_over.store(true, SeqCst);
            None
        });
        for _ in 0..3 {
            scope.spawn(|| {
                stay_on_one_processor();
                while !is_over.load(SeqCst) {
                    use_the_lock(&EVENT);
                }
            });
        }
        realtime.join().unwrap()
    });
    match refused {
        Some(error) => println!("skipped: real-time priorities are not permitted here ({error})"),
        None => println!("the lock was waited for at most {} µs", worst.into_inner()),
    }
}

/// Whether a wait ended before its time. (One that slept on after its release would find it at the end of its time.)
fn is_released(event: &Event) -> bool {
    let began = Instant::now();
    event.wait_timeout(LONG) && began.elapsed() < LONG
}

/// Ordinary threads sleep, and before the first of them gets to wake the next, real-time threads come to sleep on the
/// same event. The kernel wakes those first. But they began to wait after the pulses, so they must neither be released,
/// nor take the wake-up calls of those who were.
fn newcomers_leave_the_calls_to_those_before_them(pulses: u32) {
    let (event, start, out) = (&Event::new(), &Event::new(), &AtomicU32::new(0));
    let refused = thread::scope(|scope| {
        let manager = scope.spawn(move || {
            stay_on_one_processor();
            let ordinary = [(); 20].map(|()| scope.spawn(|| assert!(is_released(event))));
            until_waiting(event, 20);
            // Nobody of a lower priority runs on this processor unless this thread sleeps.
            let refused = become_realtime(30).err();
            let newcomers = [(); 4].map(|()| {
                scope.spawn(move || {
                    let _ = become_realtime(20);
                    start.wait();
                    assert!(is_released(event));
                    out.fetch_add(1, SeqCst);
                })
            });
            until_waiting(start, 4);
            for _ in 0..pulses {
                event.set();
                event.clear();
            }
            start.set();
            ordinary.into_iter().for_each(|thread| thread.join().unwrap());
            assert!(refused.is_some() || out.load(SeqCst) == 0, "a pulse has released newcomers");
            until_waiting(event, 4);
            event.set();
            newcomers.into_iter().for_each(|thread| thread.join().unwrap());
            refused
        });
        manager.join().unwrap()
    });
    if let Some(error) = refused {
        println!("without real-time priorities, which are not permitted here ({error})");
    }
}

#[test]
fn realtime_newcomers_leave_the_calls_to_those_before_them() {
    newcomers_leave_the_calls_to_those_before_them(1);
}

/// Newcomers use the same group of sleepers as those who slept through so many pulses.
#[test]
fn realtime_newcomers_of_a_group_that_is_used_again() {
    newcomers_leave_the_calls_to_those_before_them(32);
}
