//! Threads that use events at the same time, without ever waiting.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use crate::names::Figures;
use crate::pin;
use crate::threads::ThreadEvent;

fn repetitions(threads: usize, smoke: bool) -> usize {
    if smoke { 1_000 } else { 8_000_000 / threads }
}

/// One turn of a thread, which it repeats for the whole cell.
fn use_it<E: ThreadEvent>(event: &E) {
    let event = black_box(event);
    event.set();
    black_box(event.is_set());
    event.clear();
    black_box(event.is_set());
}

/// All threads set, poll and clear the same event. The time for one thread's turn.
pub fn one_event<E: ThreadEvent>(threads: usize, cpus: &[usize], smoke: bool) -> Figures {
    let event = E::new();
    vec![("set, is_set, clear, is_set", turn(threads, cpus, smoke, |_| &event))]
}

/// Each thread has an event of its own, but they lie side by side.
pub fn side_by_side<E: ThreadEvent>(threads: usize, cpus: &[usize], smoke: bool) -> Figures {
    let events: Vec<E> = (0..threads).map(|_| E::new()).collect();
    vec![("set, is_set, clear, is_set", turn(threads, cpus, smoke, |number| &events[number]))]
}

/// Nanoseconds from the start to the end of all threads, by the number of turns of all.
fn turn<'e, E: ThreadEvent>(threads: usize, cpus: &[usize], smoke: bool, event: impl Fn(usize) -> &'e E + Sync) -> f64 {
    let turns = repetitions(threads, smoke);
    let start = Barrier::new(threads + 1);
    let began = thread::scope(|scope| {
        for number in 0..threads {
            let (start, event) = (&start, &event);
            scope.spawn(move || {
                pin::to(&[cpus[number % cpus.len()]]);
                start.wait();
                (0..turns).for_each(|_| use_it(event(number)));
            });
        }
        start.wait();
        Instant::now()
    });
    began.elapsed().as_nanos() as f64 / (threads * turns) as f64
}
