//! Waits that signals end: [`tantara::interruptible`].

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use tantara::{AutoResetEvent, Event, SharedEvent, Waitable, all, any, interruptible};

use crate::LONG;

thread_local! {
    /// How often the callback was called on this thread.
    static ASKED: Cell<u32> = const { Cell::new(0) };
}

fn asked() -> u32 {
    ASKED.get()
}

fn gives_up() -> bool {
    ASKED.set(ASKED.get() + 1);
    true
}

fn goes_on() -> bool {
    ASKED.set(ASKED.get() + 1);
    false
}

/// Runs `waits` while its thread keeps getting signals.
fn under_signals<R>(waits: impl FnOnce() -> R) -> R {
    extern "C" fn handler(_: libc::c_int) {}
    static HANDLES: Once = Once::new();
    HANDLES.call_once(|| {
        // SAFETY: all zeros are a valid action, which is completed before it is used.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as *const () as usize;
        // SAFETY: the action is complete, and its handler does nothing. Without SA_RESTART, as CPython has it.
        unsafe { libc::sigaction(libc::SIGUSR2, &action, std::ptr::null_mut()) };
    });
    let over = &Event::new();
    thread::scope(|scope| {
        // SAFETY: takes nothing.
        let waiter = unsafe { libc::pthread_self() } as usize;
        scope.spawn(move || {
            while !over.wait_timeout(Duration::from_millis(1)) {
                // SAFETY: the thread waits for this one, so it lives.
                unsafe { libc::pthread_kill(waiter as _, libc::SIGUSR2) };
            }
        });
        let outcome = catch_unwind(AssertUnwindSafe(waits));
        over.set();
        outcome
    })
    .unwrap_or_else(|panic| resume_unwind(panic))
}

/// Every wait that can time out.
fn waits_of_every_kind(check: impl Fn(&str, &mut dyn FnMut() -> bool)) {
    let (event, auto_reset, shared) = (Event::new(), AutoResetEvent::new(), SharedEvent::anonymous().unwrap());
    let mixed: [&dyn Waitable; 3] = [&event, &auto_reset, &shared];
    check("event", &mut || event.wait_timeout(Duration::MAX));
    check("event, deadline", &mut || event.wait_deadline(Instant::now() + LONG));
    check("auto_reset", &mut || auto_reset.wait_timeout(Duration::MAX));
    check("shared", &mut || shared.wait_timeout(Duration::MAX).unwrap());
    check("shared, deadline", &mut || shared.wait_deadline(Instant::now() + LONG).unwrap());
    check("any", &mut || any(mixed).wait_timeout(Duration::MAX).is_some());
    check("all", &mut || all(mixed).wait_timeout(LONG));
}

#[test]
fn a_signal_ends_every_wait_that_is_given_up() {
    waits_of_every_kind(|kind, wait| {
        let before = asked();
        assert!(!under_signals(|| interruptible(gives_up, wait)), "{kind}");
        assert_eq!(asked(), before + 1, "{kind}");
    });
}

#[test]
fn who_goes_on_waits_until_it_is_released_or_its_time_has_passed() {
    let event = Event::new();
    let began = Instant::now();
    let wait = || interruptible(goes_on, || event.wait_timeout(Duration::from_millis(50)));
    assert!(!under_signals(wait));
    assert!(began.elapsed() >= Duration::from_millis(50));
    let shared = SharedEvent::anonymous().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            shared.set().unwrap();
        });
        assert!(under_signals(|| interruptible(goes_on, || shared.wait_timeout(LONG).unwrap())));
    });
}

#[test]
fn who_is_asked_may_pulse_the_event() {
    static EVENT: Event = Event::new();
    static AUTO_RESET: AutoResetEvent = AutoResetEvent::new();
    let pulses = || {
        EVENT.set();
        EVENT.clear();
        false
    };
    assert!(under_signals(|| interruptible(pulses, || EVENT.wait_timeout(LONG))));
    let sets = || {
        AUTO_RESET.set();
        true
    };
    assert!(under_signals(|| interruptible(sets, || AUTO_RESET.wait_timeout(LONG))), "on a tie, released wins");
    assert!(!AUTO_RESET.is_set());
}

#[test]
fn a_plain_wait_and_one_outside_are_not_asked() {
    let (event, auto_reset) = (Event::new(), AutoResetEvent::new());
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(20));
            event.set();
            auto_reset.set();
        });
        under_signals(|| {
            interruptible(gives_up, || {
                event.wait();
                auto_reset.wait();
            });
            let empty: [&Event; 0] = [];
            interruptible(|| true, || assert!(!interruptible(goes_on, || any(empty).wait_timeout(SHORT).is_some())));
            assert!(!Event::new().wait_timeout(SHORT));
        });
    });
}

const SHORT: Duration = Duration::from_millis(5);

#[test]
fn a_signal_that_came_just_before_the_sleep_is_noticed() {
    // No signal is sent here. What its handler would record is set from the beginning.
    waits_of_every_kind(|kind, wait| {
        let began = Instant::now();
        assert!(!interruptible(gives_up, wait), "{kind}");
        assert!(began.elapsed() < LONG / 2, "{kind}");
    });
}

#[test]
fn a_panic_of_who_is_asked_loses_nothing() {
    let auto_reset = AutoResetEvent::new();
    let panics = || -> bool { std::panic::panic_any("asked") };
    let wait = || interruptible(panics, || auto_reset.wait_timeout(LONG));
    assert!(catch_unwind(|| under_signals(wait)).is_err());
    auto_reset.set();
    assert!(auto_reset.wait_timeout(Duration::ZERO));
    assert!(!under_signals(|| auto_reset.wait_timeout(SHORT)), "the question is gone with the panic");
}
