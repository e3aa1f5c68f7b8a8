//! Events for tasks: the contenders, polled by hand with a waker that only counts.

use std::future::Future;
use std::hint::black_box;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::task::{Context, Poll, RawWaker, RawWakerVTable, Waker};
use std::time::{Duration, Instant};

use crate::threads::EventListener;

/// The methods of a contender for tasks.
pub trait TaskEvent: 'static {
    fn new() -> Self;
    fn wait(&self) -> impl Future + '_;
    fn set(&self);
}

/// The baseline: a flag and a vector of wakers, without cancellation.
pub struct WakerVec(AtomicBool, Mutex<Vec<Waker>>);

/// By a reference, or by an `Arc`.
pub struct WakerVecWait<E>(pub E);

impl<E: Deref<Target = WakerVec> + Unpin> Future for WakerVecWait<E> {
    type Output = ();
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.0.0.load(Acquire) {
            return Poll::Ready(());
        }
        self.0.1.lock().unwrap().push(context.waker().clone());
        Poll::Pending
    }
}

impl TaskEvent for WakerVec {
    fn new() -> Self {
        Self(AtomicBool::new(false), Mutex::new(Vec::new()))
    }
    fn wait(&self) -> impl Future + '_ {
        WakerVecWait(self)
    }
    fn set(&self) {
        self.0.store(true, Release);
        for waker in std::mem::take(&mut *self.1.lock().unwrap()) {
            waker.wake();
        }
    }
}

impl TaskEvent for tantara::Event {
    fn new() -> Self {
        Self::new()
    }
    fn wait(&self) -> impl Future + '_ {
        self.wait_async()
    }
    fn set(&self) {
        self.set();
    }
}

/// `Notify` stores no state. The benchmark leaves out the work for that, so its figures flatter it.
impl TaskEvent for tokio::sync::Notify {
    fn new() -> Self {
        Self::new()
    }
    fn wait(&self) -> impl Future + '_ {
        self.notified()
    }
    fn set(&self) {
        self.notify_waiters();
    }
}

pub struct TokioWatch(tokio::sync::watch::Sender<bool>);

impl TaskEvent for TokioWatch {
    fn new() -> Self {
        Self(tokio::sync::watch::channel(false).0)
    }
    fn wait(&self) -> impl Future + '_ {
        let mut receiver = self.0.subscribe();
        async move { receiver.wait_for(|set| *set).await.is_ok() }
    }
    fn set(&self) {
        self.0.send_replace(true);
    }
}

/// It cannot be cleared.
impl TaskEvent for tokio_util::sync::CancellationToken {
    fn new() -> Self {
        Self::new()
    }
    fn wait(&self) -> impl Future + '_ {
        self.cancelled()
    }
    fn set(&self) {
        self.cancel();
    }
}

impl TaskEvent for EventListener {
    fn new() -> Self {
        <Self as crate::threads::ThreadEvent>::new()
    }
    fn wait(&self) -> impl Future + '_ {
        async {
            while !self.0.load(Acquire) {
                let listener = self.1.listen();
                if self.0.load(Acquire) {
                    return;
                }
                listener.await;
            }
        }
    }
    fn set(&self) {
        <Self as crate::threads::ThreadEvent>::set(self);
    }
}

impl TaskEvent for futures_intrusive::sync::ManualResetEvent {
    fn new() -> Self {
        Self::new(false)
    }
    fn wait(&self) -> impl Future + '_ {
        self.wait()
    }
    fn set(&self) {
        self.set();
    }
}

pub struct AsyncEvent(AtomicBool, async_event::Event);

impl TaskEvent for AsyncEvent {
    fn new() -> Self {
        Self(AtomicBool::new(false), async_event::Event::new())
    }
    fn wait(&self) -> impl Future + '_ {
        self.1.wait_until(|| self.0.load(Acquire).then_some(()))
    }
    fn set(&self) {
        self.0.store(true, Release);
        self.1.notify_all();
    }
}

/// `WaitQueue` stores no state. The benchmark leaves out the work for that, so its figures flatter it.
impl TaskEvent for maitake_sync::WaitQueue {
    fn new() -> Self {
        Self::new()
    }
    fn wait(&self) -> impl Future + '_ {
        self.wait()
    }
    fn set(&self) {
        self.wake_all();
    }
}

impl TaskEvent for asyncband::event::ManualResetEvent {
    fn new() -> Self {
        Self::new()
    }
    fn wait(&self) -> impl Future + '_ {
        self.wait()
    }
    fn set(&self) {
        self.set();
    }
}

/// The event of `events` that does not lie in an `Arc`. Its futures borrow it, which the caller promises.
pub struct Embedded(Pin<Box<events::EmbeddedManualResetEvent>>);

impl Embedded {
    fn event(&self) -> events::EmbeddedManualResetEventRef {
        // SAFETY: this value outlives the handle, which is used within its methods, and the futures, which borrow it.
        unsafe { events::ManualResetEvent::embedded(self.0.as_ref()) }
    }
}

impl TaskEvent for Embedded {
    fn new() -> Self {
        Self(Box::pin(events::EmbeddedManualResetEvent::new()))
    }
    fn wait(&self) -> impl Future + '_ {
        self.event().wait()
    }
    fn set(&self) {
        self.event().set();
    }
}

/// The figures, in nanoseconds per waiter.
pub struct Lifetime {
    /// Create the future and poll it for the first time.
    pub register: f64,
    pub set: f64,
    /// Poll it again, when it is ready, and drop it.
    pub finish: f64,
    /// Create it, poll it, and drop it while the event is unset.
    pub register_and_drop: f64,
    pub event_bytes: f64,
    pub future_bytes: f64,
}

impl Lifetime {
    pub fn whole(&self) -> f64 {
        self.register + self.set + self.finish
    }
}

/// Counts wake-ups without an atomic read-modify-write, which would cost more than what is measured.
static WOKEN: AtomicUsize = AtomicUsize::new(0);

static COUNTING: RawWakerVTable = RawWakerVTable::new(
    |_| RawWaker::new(std::ptr::null(), &COUNTING),
    |_| WOKEN.store(WOKEN.load(Relaxed) + 1, Relaxed),
    |_| WOKEN.store(WOKEN.load(Relaxed) + 1, Relaxed),
    |_| {},
);

pub fn lifetime<E: TaskEvent>(waiters: usize, smoke: bool) -> Lifetime {
    let turns = if smoke { 1 } else { (2_000_000 / waiters).clamp(7, 400) };
    // SAFETY: the functions of the vtable ignore the pointer.
    let waker = unsafe { Waker::from_raw(RawWaker::new(std::ptr::null(), &COUNTING)) };
    let mut bytes = (0, 0);
    let mut phases: [Vec<Duration>; 4] = Default::default();
    for turn in 0..turns + 1 {
        // A new event for each half, because some contenders cannot be cleared, and the baseline keeps the wakers of
        // cancelled waits.
        let timed = turn_of([&E::new(), &E::new()], waiters, &waker, &mut bytes);
        // The first round warms up the allocator.
        if turn > 0 {
            phases.iter_mut().zip(timed).for_each(|(phase, time)| phase.push(time));
        }
    }
    let [register, set, finish, register_and_drop] = phases.map(|mut times| {
        times.sort_unstable();
        times[times.len() / 2].as_nanos() as f64 / waiters as f64
    });
    let (event_bytes, future_bytes) = (bytes.0 as f64, bytes.1 as f64);
    Lifetime { register, set, finish, register_and_drop, event_bytes, future_bytes }
}

fn turn_of<E: TaskEvent>(
    [left, event]: [&E; 2],
    waiters: usize,
    waker: &Waker,
    bytes: &mut (usize, usize),
) -> [Duration; 4] {
    let mut context = Context::from_waker(waker);
    let register_and_drop = {
        let mut futures = Vec::with_capacity(waiters);
        let began = Instant::now();
        for _ in 0..waiters {
            push_and_poll(&mut futures, left.wait(), &mut context);
        }
        drop(black_box(futures));
        began.elapsed()
    };
    let mut futures = Vec::with_capacity(waiters);
    let began = Instant::now();
    for _ in 0..waiters {
        *bytes = push_and_poll(&mut futures, event.wait(), &mut context);
    }
    let register = began.elapsed();
    bytes.0 = size_of::<E>();

    let woken = WOKEN.load(Relaxed);
    let began = Instant::now();
    event.set();
    let set = began.elapsed();
    assert_eq!(WOKEN.load(Relaxed) - woken, waiters, "everyone is woken once");

    let began = Instant::now();
    for future in &mut futures {
        // SAFETY: the vector is neither moved nor grown any more, only dropped.
        let future = unsafe { Pin::new_unchecked(future) };
        assert!(future.poll(&mut context).is_ready(), "everyone is released");
    }
    drop(futures);
    let finish = began.elapsed();
    [register, set, finish, register_and_drop]
}

/// Puts the future into its place and polls it there. Returns its size.
#[inline]
fn push_and_poll<F: Future>(futures: &mut Vec<F>, future: F, context: &mut Context<'_>) -> (usize, usize) {
    assert!(futures.len() < futures.capacity(), "the futures would move");
    futures.push(future);
    let future = futures.last_mut().expect("it was just pushed");
    // SAFETY: the vector has capacity for all futures, so it never moves them, and it drops them in place.
    assert!(unsafe { Pin::new_unchecked(future) }.poll(context).is_pending());
    (0, size_of::<F>())
}
