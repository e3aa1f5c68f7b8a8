//! Events for threads: the contenders, and the workloads of one and of two threads.

use std::hint::black_box;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::Instant;

use crate::pin;

/// The methods of a contender for threads.
pub trait ThreadEvent: Send + Sync + 'static {
    fn new() -> Self;
    fn is_set(&self) -> bool;
    fn set(&self);
    fn clear(&self);
    fn wait(&self);
}

/// The baseline: a bare futex word. No pulse, no tasks, no timeouts; 0 unset, 1 set, 2 unset with sleepers.
pub struct BareFutex(AtomicU32);

impl ThreadEvent for BareFutex {
    fn new() -> Self {
        Self(AtomicU32::new(0))
    }
    #[inline]
    fn is_set(&self) -> bool {
        self.0.load(Acquire) == 1
    }
    #[inline]
    fn set(&self) {
        if self.0.swap(1, AcqRel) == 2 {
            // SAFETY: the kernel uses the address only as a key.
            unsafe {
                libc::syscall(libc::SYS_futex, self.0.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, i32::MAX)
            };
        }
    }
    #[inline]
    fn clear(&self) {
        let _ = self.0.compare_exchange(1, 0, AcqRel, Relaxed);
    }
    #[inline]
    fn wait(&self) {
        while self.0.load(Acquire) != 1 {
            if self.0.compare_exchange(0, 2, AcqRel, Acquire) != Err(1) {
                let none = std::ptr::null::<libc::timespec>();
                // SAFETY: the word is valid, and null stands for no timeout.
                unsafe {
                    libc::syscall(
                        libc::SYS_futex,
                        self.0.as_ptr(),
                        libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
                        2,
                        none,
                    )
                };
            }
        }
    }
}

impl ThreadEvent for tantara::Event {
    fn new() -> Self {
        Self::new()
    }
    #[inline]
    fn is_set(&self) -> bool {
        self.is_set()
    }
    #[inline]
    fn set(&self) {
        self.set();
    }
    #[inline]
    fn clear(&self) {
        self.clear();
    }
    #[inline]
    fn wait(&self) {
        self.wait();
    }
}

pub struct StdCondvar(std::sync::Mutex<bool>, std::sync::Condvar);

impl ThreadEvent for StdCondvar {
    fn new() -> Self {
        Self(std::sync::Mutex::new(false), std::sync::Condvar::new())
    }
    fn is_set(&self) -> bool {
        *self.0.lock().unwrap()
    }
    fn set(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
    fn clear(&self) {
        *self.0.lock().unwrap() = false;
    }
    fn wait(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |set| !*set).unwrap());
    }
}

pub struct ParkingLot(parking_lot::Mutex<bool>, parking_lot::Condvar);

impl ThreadEvent for ParkingLot {
    fn new() -> Self {
        Self(parking_lot::Mutex::new(false), parking_lot::Condvar::new())
    }
    fn is_set(&self) -> bool {
        *self.0.lock()
    }
    fn set(&self) {
        *self.0.lock() = true;
        self.1.notify_all();
    }
    fn clear(&self) {
        *self.0.lock() = false;
    }
    fn wait(&self) {
        self.1.wait_while(&mut self.0.lock(), |set| !*set);
    }
}

/// event-listener stores no state, so there is a flag beside it, which is read again after every wake-up.
pub struct EventListener(pub AtomicBool, pub event_listener::Event);

impl ThreadEvent for EventListener {
    fn new() -> Self {
        Self(AtomicBool::new(false), event_listener::Event::new())
    }
    fn is_set(&self) -> bool {
        self.0.load(Acquire)
    }
    fn set(&self) {
        self.0.store(true, Release);
        self.1.notify(usize::MAX);
    }
    fn clear(&self) {
        self.0.store(false, Release);
    }
    fn wait(&self) {
        use event_listener::Listener;
        while !self.0.load(Acquire) {
            let listener = self.1.listen();
            if self.0.load(Acquire) {
                return;
            }
            listener.wait();
        }
    }
}

impl ThreadEvent for rsevents::ManualResetEvent {
    fn new() -> Self {
        Self::new(rsevents::EventState::Unset)
    }
    fn is_set(&self) -> bool {
        rsevents::Awaitable::wait0(self)
    }
    fn set(&self) {
        self.set();
    }
    fn clear(&self) {
        self.reset();
    }
    fn wait(&self) {
        rsevents::Awaitable::wait(self);
    }
}

impl ThreadEvent for futures_intrusive::sync::ManualResetEvent {
    fn new() -> Self {
        Self::new(false)
    }
    fn is_set(&self) -> bool {
        self.is_set()
    }
    fn set(&self) {
        self.set();
    }
    fn clear(&self) {
        self.reset();
    }
    fn wait(&self) {
        pollster::block_on(self.wait());
    }
}

/// It blocks by the executor that it brings.
impl ThreadEvent for asyncband::event::ManualResetEvent {
    fn new() -> Self {
        Self::new()
    }
    fn is_set(&self) -> bool {
        self.is_set()
    }
    fn set(&self) {
        self.set();
    }
    fn clear(&self) {
        self.reset();
    }
    fn wait(&self) {
        asyncband::blocking::FutureExt::block_on(self.wait());
    }
}

impl ThreadEvent for events::ManualResetEvent {
    fn new() -> Self {
        Self::boxed()
    }
    fn is_set(&self) -> bool {
        self.try_wait()
    }
    fn set(&self) {
        self.set();
    }
    fn clear(&self) {
        self.reset();
    }
    fn wait(&self) {
        pollster::block_on(self.wait());
    }
}

impl ThreadEvent for synchronoise::SignalEvent {
    fn new() -> Self {
        Self::manual(false)
    }
    fn is_set(&self) -> bool {
        self.status()
    }
    fn set(&self) {
        self.signal();
    }
    fn clear(&self) {
        self.reset();
    }
    fn wait(&self) {
        self.wait();
    }
}

fn nanoseconds_each(count: u32, mut act: impl FnMut()) -> f64 {
    for _ in 0..count / 10 {
        act();
    }
    let began = Instant::now();
    for _ in 0..count {
        act();
    }
    began.elapsed().as_nanos() as f64 / f64::from(count)
}

fn repetitions(smoke: bool) -> u32 {
    if smoke { 1_000 } else { 10_000_000 }
}

pub fn is_set<E: ThreadEvent>(smoke: bool) -> f64 {
    let event = E::new();
    nanoseconds_each(repetitions(smoke), || {
        black_box(black_box(&event).is_set());
    })
}

pub fn set_clear<E: ThreadEvent>(smoke: bool) -> f64 {
    let event = E::new();
    nanoseconds_each(repetitions(smoke), || {
        black_box(&event).set();
        black_box(&event).clear();
    })
}

pub fn wait_when_set<E: ThreadEvent>(smoke: bool) -> f64 {
    let event = E::new();
    event.set();
    nanoseconds_each(repetitions(smoke), || black_box(&event).wait())
}

/// Two threads, each bound to its processor, answer each other through two events.
pub fn round_trip<E: ThreadEvent>(cpus: [usize; 2], smoke: bool) -> f64 {
    let rounds = if smoke { 100 } else { 60_000 };
    let (ping, pong) = (E::new(), E::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin::to(&cpus[1..]);
            for _ in 0..rounds {
                ping.wait();
                ping.clear();
                pong.set();
            }
        });
        pin::to(&cpus[..1]);
        let began = Instant::now();
        for _ in 0..rounds {
            ping.set();
            pong.wait();
            pong.clear();
        }
        began.elapsed().as_nanos() as f64 / f64::from(rounds)
    })
}
