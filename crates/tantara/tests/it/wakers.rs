//! Wakers are foreign code: they use events, panic, drop things, and are replaced.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Wake, Waker};

use tantara::{AutoResetEvent, Event, Wait, all, any};

use crate::{WakeCounter, leaked, poll, waiting};

/// A waker that runs a closure when it is woken, and one when it is dropped.
struct Foreign {
    on_wake: Box<dyn Fn() + Send + Sync>,
    on_drop: Box<dyn Fn() + Send + Sync>,
}

impl Wake for Foreign {
    fn wake(self: Arc<Self>) {
        (self.on_wake)();
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        (self.on_drop)();
    }
}

fn on_wake(act: impl Fn() + Send + Sync + 'static) -> Waker {
    Waker::from(Arc::new(Foreign { on_wake: Box::new(act), on_drop: Box::new(|| {}) }))
}

fn on_drop(act: impl Fn() + Send + Sync + 'static) -> Waker {
    Waker::from(Arc::new(Foreign { on_wake: Box::new(|| {}), on_drop: Box::new(act) }))
}

#[test]
fn a_waker_may_use_the_event_that_wakes_it() {
    let event: &'static Event = leaked(Event::new());
    let calls = Arc::new(AtomicUsize::new(0));
    let waker = on_wake({
        let calls = Arc::clone(&calls);
        move || {
            calls.fetch_add(1, SeqCst);
            assert!(event.is_set());
            event.wait();
            event.set();
            let mut newcomer = Box::pin(event.wait_async());
            assert!(poll(&mut newcomer, &WakeCounter::new().1).is_ready());
            event.clear();
            let mut newcomer = Box::pin(event.wait_async());
            assert!(poll(&mut newcomer, &WakeCounter::new().1).is_pending());
            let _ = format!("{event:?}");
            event.set();
        }
    });
    // More than one batch.
    let mut waits: Vec<_> = (0..100).map(|_| Box::pin(event.wait_async())).collect();
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &waker).is_pending()));
    event.set();
    assert_eq!(calls.load(SeqCst), 100);
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &waker).is_ready()));
}

#[test]
fn a_waker_that_is_dropped_by_the_drain_may_use_the_event() {
    let event: &'static Event = leaked(Event::new());
    let dropped = Arc::new(AtomicUsize::new(0));
    let mut wait = Box::pin(event.wait_async());
    {
        let dropped = Arc::clone(&dropped);
        let waker = on_drop(move || {
            event.set();
            assert_eq!(waiting(event), 0);
            dropped.fetch_add(1, SeqCst);
        });
        assert!(poll(&mut wait, &waker).is_pending());
    }
    event.set();
    assert_eq!(dropped.load(SeqCst), 1);
}

#[test]
fn a_replaced_or_cancelled_waker_is_dropped_outside_the_lock() {
    let event: &'static Event = leaked(Event::new());
    let dropped = Arc::new(AtomicUsize::new(0));
    let waker = || {
        let dropped = Arc::clone(&dropped);
        on_drop(move || {
            let _ = waiting(event);
            dropped.fetch_add(1, SeqCst);
        })
    };
    let mut wait = Box::pin(event.wait_async());
    for expected in 0..3 {
        assert!(poll(&mut wait, &waker()).is_pending());
        assert_eq!(dropped.load(SeqCst), expected);
    }
    drop(wait);
    assert_eq!(dropped.load(SeqCst), 3);
    assert_eq!(waiting(event), 0);
}

#[test]
fn a_panicking_waker_does_not_affect_other_waiters() {
    let event = Event::new();
    let counters: Vec<_> = (0..100).map(|_| WakeCounter::new()).collect();
    let mut waits: Vec<_> = counters
        .iter()
        .enumerate()
        .map(|(number, (_, waker))| {
            let mut wait = Box::pin(event.wait_async());
            let panics = on_wake(move || panic!("waker {number}"));
            assert!(poll(&mut wait, if number % 10 == 5 { &panics } else { waker }).is_pending());
            wait
        })
        .collect();
    let panic = catch_unwind(AssertUnwindSafe(|| event.set())).unwrap_err();
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "waker 5", "the first panic goes on");
    assert!(event.is_set());
    for (number, (counter, _)) in counters.iter().enumerate() {
        assert_eq!(counter.wakes(), usize::from(number % 10 != 5), "waiter {number}");
    }
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &counters[0].1).is_ready()));
    event.clear();
    assert!(!event.is_set());
}

#[test]
fn a_panicking_waker_takes_no_release_along() {
    let event = AutoResetEvent::new();
    let mut wait = Box::pin(event.wait_async());
    assert!(poll(&mut wait, &on_wake(|| panic!("no"))).is_pending());
    assert!(catch_unwind(AssertUnwindSafe(|| event.set())).is_err());
    drop(wait);
    assert!(event.is_set(), "the release passed on, into the store");
}

/// The first of several panics propagates. The payloads of the others are dropped, even if that panics.
#[test]
fn the_payloads_of_panics_that_do_not_go_on_are_dropped() {
    struct Payload(Arc<AtomicUsize>);

    impl Drop for Payload {
        fn drop(&mut self) {
            // (The payload of that panic is leaked, on purpose.)
            if self.0.fetch_add(1, SeqCst) == 1 && !cfg!(miri) {
                panic!("a payload that panics when it is dropped");
            }
        }
    }

    let dropped = Arc::new(AtomicUsize::new(0));
    let panics = on_wake({
        let dropped = Arc::clone(&dropped);
        move || std::panic::panic_any(Payload(Arc::clone(&dropped)))
    });
    let (event, auto_reset) = (Event::new(), AutoResetEvent::new());
    let mut waits: Vec<_> = (0..4).map(|_| Box::pin(event.wait_async())).collect();
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &panics).is_pending()));
    let first = catch_unwind(AssertUnwindSafe(|| event.set())).unwrap_err();
    assert_eq!(dropped.load(SeqCst), 3);
    drop(first);
    assert_eq!(dropped.load(SeqCst), 4);
    // In a destructor none propagates.
    let mut given = Box::pin(auto_reset.wait_async());
    let mut next = Box::pin(auto_reset.wait_async());
    assert!(poll(&mut given, &WakeCounter::new().1).is_pending());
    assert!(poll(&mut next, &panics).is_pending());
    auto_reset.set();
    drop(given);
    assert_eq!(dropped.load(SeqCst), 5);
}

#[test]
fn the_last_waker_is_the_one_that_is_woken() {
    let event = Event::new();
    let (first, first_waker) = WakeCounter::new();
    let (second, second_waker) = WakeCounter::new();
    let mut wait = Box::pin(event.wait_async());
    assert!(poll(&mut wait, &first_waker).is_pending());
    assert!(poll(&mut wait, &second_waker).is_pending());
    assert!(poll(&mut wait, &second_waker).is_pending());
    event.set();
    assert_eq!((first.wakes(), second.wakes()), (0, 1));
}

/// Wakers are neither leaked nor dropped twice, however a wait ends.
#[test]
fn waker_counts_return_to_where_they_were() {
    let (counter, waker) = WakeCounter::new();
    let event = Event::new();
    let auto_reset = AutoResetEvent::new();
    for way in 0..5 {
        let mut wait = Box::pin(event.wait_async());
        let mut turn = Box::pin(auto_reset.wait_async());
        let _ = poll(&mut wait, &waker);
        let _ = poll(&mut turn, &waker);
        match way {
            0 => {}
            1 => event.set(),
            2 => auto_reset.set(),
            3 => {
                event.set();
                assert!(poll(&mut wait, &waker).is_ready());
            }
            _ => {
                let _ = poll(&mut turn, &waker);
            }
        }
        drop(wait);
        drop(turn);
        event.clear();
        auto_reset.clear();
        assert_eq!(Arc::strong_count(&counter), 2, "after way {way}");
    }
}

/// A waker that begins a new wait each time: `set` must not release that too, or it would never return.
#[test]
fn a_set_ends_although_newcomers_keep_coming() {
    static EVENT: Event = Event::new();
    static NEWCOMERS: Mutex<Vec<std::pin::Pin<Box<Wait<'static>>>>> = Mutex::new(Vec::new());
    static CALLS: AtomicUsize = AtomicUsize::new(0);

    fn again() -> Waker {
        on_wake(|| {
            assert!(CALLS.fetch_add(1, SeqCst) < 1_000, "the drain serves newcomers");
            // The pulse is over before this wait begins.
            EVENT.clear();
            let mut newcomer = Box::pin(EVENT.wait_async());
            assert!(poll(&mut newcomer, &again()).is_pending());
            NEWCOMERS.lock().unwrap().push(newcomer);
        })
    }

    let mut waits: Vec<_> = (0..100).map(|_| Box::pin(EVENT.wait_async())).collect();
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &again()).is_pending()));
    EVENT.set();
    assert_eq!(CALLS.load(SeqCst), 100);
    assert_eq!(waiting(&EVENT), 100);
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &WakeCounter::new().1).is_ready()));
}

#[test]
fn tasks_are_woken_in_the_order_in_which_they_came() {
    let event = Event::new();
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut waits: Vec<_> = (0..100)
        .map(|number| {
            let mut wait = Box::pin(event.wait_async());
            let order = Arc::clone(&order);
            assert!(poll(&mut wait, &on_wake(move || order.lock().unwrap().push(number))).is_pending());
            wait
        })
        .collect();
    drop(waits.remove(50));
    event.set();
    let expected: Vec<_> = (0..100).filter(|&number| number != 50).collect();
    assert_eq!(*order.lock().unwrap(), expected);
}

/// Handing a release on runs another task's waker during a poll or drop. Its panic does not propagate.
mod other_waiters {
    use super::*;

    /// Another waiter in the queue of `auto_reset`, whose waker panics.
    fn other_waiter(auto_reset: &'static AutoResetEvent) -> std::pin::Pin<Box<tantara::AutoResetWait<'static>>> {
        let mut wait = Box::pin(auto_reset.wait_async());
        assert!(poll(&mut wait, &on_wake(|| panic!("another task's waker"))).is_pending());
        wait
    }

    fn auto_resets() -> &'static [AutoResetEvent; 2] {
        leaked([AutoResetEvent::new(), AutoResetEvent::new()])
    }

    #[test]
    fn any_keeps_its_release_if_the_waker_for_the_other_panics() {
        let auto_resets = auto_resets();
        let (_, waker) = WakeCounter::new();
        let mut either = Box::pin(any(auto_resets));
        assert!(poll(&mut either, &waker).is_pending());
        let other = other_waiter(&auto_resets[1]);
        auto_resets.iter().for_each(AutoResetEvent::set);
        assert_eq!(poll(&mut either, &waker), std::task::Poll::Ready(0));
        drop(other);
        assert!(auto_resets[1].is_set(), "the other waiter got the other release, and handed it on");
    }

    #[test]
    fn all_hands_on_two_releases_to_two_wakers_that_panic() {
        let auto_resets = auto_resets();
        let third = leaked(AutoResetEvent::new());
        let mut every = Box::pin(all(auto_resets.iter().chain([third])));
        assert!(poll(&mut every, &WakeCounter::new().1).is_pending());
        let others = auto_resets.each_ref().map(|auto_reset| other_waiter(auto_reset));
        auto_resets.iter().for_each(AutoResetEvent::set);
        drop(every);
        drop(others);
        assert!(auto_resets.iter().all(AutoResetEvent::is_set));
    }

    #[test]
    fn a_wait_that_is_dropped_by_a_panic_hands_on_to_a_waker_that_panics() {
        let auto_reset = &auto_resets()[0];
        let mut wait = Box::pin(auto_reset.wait_async());
        assert!(poll(&mut wait, &WakeCounter::new().1).is_pending());
        let other = other_waiter(auto_reset);
        auto_reset.set();
        let panic = catch_unwind(AssertUnwindSafe(move || {
            let _wait = wait;
            panic!("our own");
        }));
        assert_eq!(panic.unwrap_err().downcast_ref::<&str>(), Some(&"our own"));
        drop(other);
        assert!(auto_reset.is_set());
    }

    #[test]
    fn a_waker_that_panics_when_it_is_dropped_leaves_the_line_in_order() {
        let event: &'static Event = leaked(Event::new());
        let mut wait = Box::pin(event.wait_async());
        assert!(poll(&mut wait, &on_drop(|| panic!("dropped"))).is_pending());
        drop(wait);
        assert_eq!(waiting(event), 0);
    }

    /// A waker whose clone panics: nothing was queued, and no lock is left locked.
    #[test]
    fn a_waker_that_panics_when_it_is_cloned_leaves_the_event_usable() {
        use std::task::{RawWaker, RawWakerVTable};
        const TABLE: RawWakerVTable = RawWakerVTable::new(|_| panic!("cloned"), |_| {}, |_| {}, |_| {});
        // SAFETY: the functions of the table ignore the pointer.
        let waker = unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &TABLE)) };
        let event = Event::new();
        let mut fresh = Box::pin(event.wait_async());
        assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut fresh, &waker))).is_err());
        assert_eq!(waiting(&event), 0);
        let (counter, good) = WakeCounter::new();
        assert!(poll(&mut fresh, &good).is_pending());
        assert!(catch_unwind(AssertUnwindSafe(|| poll(&mut fresh, &waker))).is_err());
        event.set();
        assert_eq!(counter.wakes(), 1);
        assert!(poll(&mut fresh, &good).is_ready());
    }
}
