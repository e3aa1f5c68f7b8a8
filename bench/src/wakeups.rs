//! From a `set` until a thread, or a task on another thread, runs.

use std::hint::spin_loop;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use std::thread;
use std::time::{Duration, Instant};

use crate::latency::{self, Latencies};
use crate::names::Figures;
use crate::pin;
use crate::tasks::TaskEvent;
use crate::threads::ThreadEvent;

/// The shared state of a cell: the waiter writes `ready`, and the setter `began`.
struct Turn {
    /// The round for which the waiter is about to wait.
    ready: AtomicU64,
    /// When the setter has begun to set, in nanoseconds since the start; zero before.
    began: AtomicU64,
    start: Instant,
}

impl Turn {
    fn now(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Sets once in each round, long after the waiter has begun to wait.
    fn lead(&self, rounds: u64, set: impl Fn(u64)) {
        for round in 1..=rounds {
            while self.ready.load(Acquire) < round {
                thread::yield_now();
            }
            let until = Instant::now() + Duration::from_nanos(latency::PAUSE);
            while Instant::now() < until {
                spin_loop();
            }
            self.began.store(self.now(), Release);
            set(round);
        }
    }

    fn follow(&self, rounds: u64, wait: impl Fn(u64)) -> Figures {
        let mut latencies = Latencies::new();
        for round in 1..=rounds {
            self.ready.store(round, Release);
            wait(round);
            let woken = self.now();
            let began = self.began.swap(0, AcqRel);
            assert_ne!(began, 0, "it is not released before the set");
            latencies.record(woken.saturating_sub(began));
        }
        latencies.figures()
    }
}

fn measure(cpus: [usize; 2], smoke: bool, set: impl Fn(u64) + Send, wait: impl Fn(u64)) -> Figures {
    let rounds = latency::rounds(smoke);
    let turn = Turn { ready: AtomicU64::new(0), began: AtomicU64::new(0), start: Instant::now() };
    thread::scope(|scope| {
        let leader = &turn;
        scope.spawn(move || {
            pin::to(&cpus[..1]);
            leader.lead(rounds, set);
        });
        pin::to(&cpus[1..]);
        turn.follow(rounds, wait)
    })
}

/// One thread sets an event on which another one sleeps.
pub fn of_a_thread<E: ThreadEvent>(cpus: [usize; 2], smoke: bool) -> Figures {
    let event = E::new();
    measure(
        cpus,
        smoke,
        |_| event.set(),
        |_| {
            event.wait();
            event.clear();
        },
    )
}

/// One thread sets an event for which a task waits. The task is alone on its executor, which sleeps meanwhile. Each
/// round has a new event, because some contenders cannot be cleared.
pub fn of_a_task<E: TaskEvent + Sync>(cpus: [usize; 2], smoke: bool) -> Figures {
    let events: Vec<E> = (0..=latency::rounds(smoke)).map(|_| E::new()).collect();
    let event = |round: u64| &events[round as usize];
    measure(cpus, smoke, |round| event(round).set(), |round| _ = pollster::block_on(event(round).wait()))
}
