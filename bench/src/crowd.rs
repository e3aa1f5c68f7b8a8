//! Many sleeping threads are released: the time of `set`, and the time until the last thread has returned.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use crate::pin;
use crate::threads::ThreadEvent;

/// The figures, in nanoseconds per thread.
pub struct Release {
    pub set: f64,
    pub all_out: f64,
}

/// Threads that sleep on two events alternately. The setter shares their processors.
pub fn release<E: ThreadEvent>(threads: usize, cpus: &[usize], smoke: bool) -> Release {
    pin::to(cpus);
    let turns = if smoke { 1 } else { (4_000 / threads).clamp(4, 20) };
    let events = [E::new(), E::new()];
    let (out, last_out) = (AtomicUsize::new(0), Mutex::new(Instant::now()));
    let (mut set, mut all_out) = (Vec::new(), Vec::new());
    thread::scope(|scope| {
        for _ in 0..threads {
            thread::Builder::new()
                .name("crowd".into())
                .stack_size(64 * 1024)
                .spawn_scoped(scope, || {
                    for turn in 0..turns {
                        events[turn % 2].wait();
                        if out.fetch_add(1, SeqCst) + 1 == threads * (turn + 1) {
                            *last_out.lock().unwrap() = Instant::now();
                        }
                    }
                })
                .expect("a thread for the crowd");
        }
        for turn in 0..turns {
            events[(turn + 1) % 2].clear();
            until_asleep(threads);
            let began = Instant::now();
            events[turn % 2].set();
            set.push(began.elapsed());
            while out.load(SeqCst) < threads * (turn + 1) {
                thread::sleep(Duration::from_micros(500));
            }
            thread::sleep(Duration::from_micros(100));
            all_out.push(last_out.lock().unwrap().duration_since(began));
        }
    });
    let each = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2].as_nanos() as f64 / threads as f64
    };
    Release { set: each(set), all_out: each(all_out) }
}

/// Returns once `count` of the threads are asleep, according to the kernel.
fn until_asleep(count: usize) {
    loop {
        let tasks = fs::read_dir("/proc/self/task").expect("the list of this process's threads");
        let asleep = tasks.flatten().filter(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.contains("(crowd)") && stat.contains(") S ")
        });
        if asleep.count() == count {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
}
