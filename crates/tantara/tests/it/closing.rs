//! Closed executors: waking a task drops it, and its wait hands the release on to the next. Such a chain must not use
//! stack in proportion to its length.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

use tantara::{AutoResetEvent, Event, Waitable, all, any};

use crate::{LONG, WakeCounter, leaked, poll, until_waiting, waiting};

/// This many nested calls overflow the stack of any thread here. (Under Miri a few suffice.)
const MANY: usize = if cfg!(miri) { 50 } else { 20_000 };

/// Longer than queueing the tasks takes; otherwise the first of them gets the release from `set` itself.
const SOME_TIME: Duration = Duration::from_secs(2);

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A task of a closed executor: waking it drops it.
struct Closed(Mutex<Option<Boxed>>);

impl Wake for Closed {
    fn wake(self: Arc<Self>) {
        let future = self.0.lock().unwrap().take();
        drop(future);
    }
}

impl Closed {
    /// A task that was polled once and waits.
    fn waiting(future: impl Future<Output = ()> + Send + 'static) -> Arc<Closed> {
        let task = Arc::new(Closed(Mutex::new(Some(Box::pin(future)))));
        let waker = Waker::from(Arc::clone(&task));
        let mut slot = task.0.lock().unwrap();
        assert!(slot.as_mut().unwrap().as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        drop(slot);
        task
    }

    fn is_dropped(&self) -> bool {
        self.0.lock().unwrap().is_none()
    }
}

/// Each task has a guard that sets the event which the next task waits for.
#[test]
fn guards_that_set_the_event_of_the_next_task() {
    fn chain<E: Sync>(new: fn() -> E, task: fn(&'static E, &'static E) -> Boxed) -> (&'static [E], Vec<Arc<Closed>>) {
        let events: &'static [E] = leaked((0..=MANY).map(|_| new()).collect::<Vec<_>>());
        let tasks = events.windows(2).map(|pair| Closed::waiting(task(&pair[0], &pair[1]))).collect();
        (events, tasks)
    }
    fn are_dropped(tasks: &[Arc<Closed>]) -> bool {
        tasks.iter().all(|task| task.is_dropped())
    }

    let (events, tasks) = chain(Event::new, |own, next| {
        let guard = next.set_on_drop();
        Box::pin(async move {
            let _guard = guard;
            own.wait_async().await;
        })
    });
    events[0].set();
    assert!(are_dropped(&tasks) && events.iter().all(Event::is_set));

    let (events, tasks) = chain(AutoResetEvent::new, |own, next| {
        let guard = next.set_on_drop();
        Box::pin(async move {
            let _guard = guard;
            own.wait_async().await;
        })
    });
    events[0].set();
    // Each release but the last is handed on by the wait to which it was given.
    assert!(are_dropped(&tasks) && events.iter().all(AutoResetEvent::is_set));

    let (events, tasks) = chain(
        || Arc::new(Event::new()),
        |own, next| {
            let (guard, wait) = (Arc::clone(next).set_on_drop_owned(), Arc::clone(own).wait_owned());
            Box::pin(async move {
                let _guard = guard;
                wait.await;
            })
        },
    );
    // The first guard is dropped by a panic.
    let panic = std::panic::catch_unwind(|| {
        let _guard = events[0].set_on_drop();
        std::panic::resume_unwind(Box::new(()));
    });
    assert!(panic.is_err() && are_dropped(&tasks) && events.iter().all(|event| event.is_set()));
}

fn in_line(event: &'static AutoResetEvent) -> Vec<Arc<Closed>> {
    (0..MANY).map(|_| Closed::waiting(event.wait_async())).collect()
}

#[test]
fn a_release_that_no_task_wants_goes_back_into_the_event() {
    let event: &'static AutoResetEvent = leaked(AutoResetEvent::new());
    let tasks = in_line(event);
    event.set();
    assert!(tasks.iter().all(|task| task.is_dropped()));
    assert!(event.is_set());
}

#[test]
fn it_passes_tasks_that_wait_for_any_of_many() {
    let events: &'static [AutoResetEvent; 2] = leaked([AutoResetEvent::new(), AutoResetEvent::new()]);
    let wait = || async move { _ = any(events).await };
    let tasks: Vec<_> = (0..MANY).map(|_| Closed::waiting(wait())).collect();
    events[1].set();
    assert!(tasks.iter().all(|task| task.is_dropped()));
    assert!(!events[0].is_set() && events[1].is_set());
    assert_eq!(waiting(&events[0]), 0);
}

/// Each task has a release of its own event, and is queued at its neighbour's.
#[test]
fn a_chain_across_as_many_events() {
    let events: &'static [AutoResetEvent] = leaked((0..=MANY).map(|_| AutoResetEvent::new()).collect::<Vec<_>>());
    let tasks: Vec<_> = (0..MANY)
        .map(|number| {
            events[number + 1].set();
            Closed::waiting(all([&events[number + 1], &events[number]]))
        })
        .collect();
    events[0].set();
    assert!(tasks.iter().all(|task| task.is_dropped()));
    assert!(events.iter().all(AutoResetEvent::is_set), "each release is stored again");
}

#[test]
fn a_blocking_wait_that_times_out_hands_on_to_them() {
    let held: &'static AutoResetEvent = leaked(AutoResetEvent::new());
    let never = Event::new();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| all([held as &dyn Waitable, &never]).wait_timeout(SOME_TIME));
        until_waiting(held, 1);
        let tasks = in_line(held);
        held.set();
        assert!(!waiter.join().unwrap());
        assert!(tasks.iter().all(|task| task.is_dropped()));
    });
    assert!(held.is_set());
}

/// Each wait's waker owns the next wait: leaving the queue drops the waker, which drops the next wait.
#[test]
fn wakers_that_own_the_next_wait() {
    struct Owner(#[expect(dead_code, reason = "it is dropped")] Mutex<Option<Boxed>>);

    impl Wake for Owner {
        fn wake(self: Arc<Self>) {}
    }

    fn chain(wait: impl Fn() -> Boxed) -> Boxed {
        let mut next = None;
        for _ in 0..MANY {
            let mut this = wait();
            let waker = Waker::from(Arc::new(Owner(Mutex::new(next.take()))));
            assert!(this.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            next = Some(this);
        }
        next.unwrap()
    }

    let (event, auto_reset): &'static (Event, AutoResetEvent) = leaked(Default::default());
    let both: [&dyn Waitable; 2] = [event, auto_reset];
    let both: &'static [&dyn Waitable; 2] = leaked(both);
    drop(chain(|| Box::pin(event.wait_async())));
    drop(chain(|| Box::pin(auto_reset.wait_async())));
    drop(chain(|| Box::pin(async move { _ = any(both.iter().copied()).await })));
    // Woken, and not only dropped: the drain of the first drops the others.
    let first = chain(|| Box::pin(event.wait_async()));
    event.set();
    drop(first);
    assert_eq!((waiting(event), waiting(auto_reset)), (0, 0));
}

/// At the end of a thread, when its thread-locals are dropped.
#[test]
fn an_executor_in_a_thread_local() {
    thread_local! {
        static TASKS: RefCell<Vec<Boxed>> = const { RefCell::new(Vec::new()) };
    }

    let event: &'static AutoResetEvent = leaked(AutoResetEvent::new());
    let tasks = thread::spawn(move || {
        let mut first: Boxed = Box::pin(event.wait_async());
        assert!(first.as_mut().poll(&mut Context::from_waker(&WakeCounter::new().1)).is_pending());
        TASKS.with_borrow_mut(|tasks| tasks.push(first));
        let tasks = in_line(event);
        event.set();
        tasks
    });
    let tasks = tasks.join().unwrap();
    assert!(tasks.iter().all(|task| task.is_dropped()));
    assert!(event.is_set());
}

/// A waker that runs for long, because it waits for what another thread does with the release that was handed on.
#[test]
fn a_release_is_handed_on_before_the_waker_around_it_returns() {
    struct Nested {
        drops: Mutex<Option<Boxed>>,
        then_waits_for: &'static Event,
        in_time: Arc<AtomicUsize>,
    }

    impl Wake for Nested {
        fn wake(self: Arc<Self>) {
            let future = self.drops.lock().unwrap().take();
            drop(future);
            self.in_time.fetch_add(usize::from(self.then_waits_for.wait_timeout(LONG)), SeqCst);
        }
    }

    let (outer, inner): &'static (AutoResetEvent, AutoResetEvent) = leaked(Default::default());
    let done: &'static Event = leaked(Event::new());
    let mut dropped_by_waker = Box::pin(inner.wait_async());
    assert!(poll(&mut dropped_by_waker, &WakeCounter::new().1).is_pending());
    let waiter = thread::spawn(|| {
        inner.wait();
        done.set();
    });
    until_waiting(inner, 2);
    inner.set();
    let mut first = Box::pin(outer.wait_async());
    let mut second = Box::pin(outer.wait_async());
    assert!(poll(&mut first, &WakeCounter::new().1).is_pending());
    let in_time = Arc::new(AtomicUsize::new(0));
    let nested =
        Nested { drops: Mutex::new(Some(dropped_by_waker)), then_waits_for: done, in_time: Arc::clone(&in_time) };
    assert!(poll(&mut second, &Waker::from(Arc::new(nested))).is_pending());
    outer.set();
    drop(first);
    waiter.join().unwrap();
    assert_eq!(in_time.load(SeqCst), 1, "the release was queued behind the waker");
}

/// A panic in the middle of the chain does not stop it, and does not change the count of nested calls.
#[test]
fn a_waker_that_panics_in_the_middle_of_the_chain() {
    struct Panics(Arc<Closed>, Arc<AtomicUsize>);

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            Arc::clone(&self.0).wake();
            if self.1.fetch_add(1, SeqCst).is_multiple_of(20) {
                panic!("in the middle of the chain");
            }
        }
    }

    let event: &'static AutoResetEvent = leaked(AutoResetEvent::new());
    let woken = Arc::new(AtomicUsize::new(1));
    for _ in 0..2 {
        let mut first = Box::pin(event.wait_async());
        assert!(poll(&mut first, &WakeCounter::new().1).is_pending());
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let task = Arc::new(Closed(Mutex::new(Some(Box::pin(event.wait_async()) as Boxed))));
                let waker = Waker::from(Arc::new(Panics(Arc::clone(&task), Arc::clone(&woken))));
                let mut slot = task.0.lock().unwrap();
                assert!(slot.as_mut().unwrap().as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                drop(slot);
                task
            })
            .collect();
        event.set();
        drop(first);
        assert!(tasks.iter().all(|task| task.is_dropped()));
        assert!(event.is_set());
        event.clear();
    }
    assert_eq!(woken.load(SeqCst), 201);
}
