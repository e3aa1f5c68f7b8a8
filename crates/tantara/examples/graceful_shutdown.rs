//! A graceful shutdown: one event stops threads and async tasks, and each of them finishes what it is doing.
//!
//! Run it with `cargo run -p tantara --example graceful_shutdown`, and press Enter to shut down.

use std::future::Future;
use std::thread;
use std::time::{Duration, Instant};

use tantara::{AutoResetEvent, Event, Waitable, any};

/// Set once, and never cleared: whoever looks later sees it too.
static SHUTDOWN: Event = Event::new();

/// There is work for the next free task.
static JOB: AutoResetEvent = AutoResetEvent::new();

/// Does something periodically. A thread that slept by `thread::sleep` would notice the shutdown late.
fn flush_caches() {
    let mut flushed = 0;
    while !SHUTDOWN.wait_timeout(Duration::from_millis(20)) {
        flushed += 1;
    }
    println!("cache: flushed {flushed} times, and once more at the end");
}

/// Takes jobs until the shutdown, whichever comes first. Each job is finished, and none is taken after the shutdown:
/// if both events are set, `any` returns the lower index.
async fn serve(name: &str) {
    let mut served = 0;
    while any([&SHUTDOWN as &dyn Waitable, &JOB]).await == 1 {
        served += 1;
    }
    println!("{name}: served {served} jobs");
}

/// Runs a task on a thread of its own. With tokio or smol, spawn it there instead.
fn spawn(task: impl Future<Output = ()> + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(|| pollster::block_on(task))
}

fn main() {
    let workers = [thread::spawn(flush_caches), spawn(serve("first task")), spawn(serve("second task"))];

    // In a server a signal handler thread would do this, for example that of the crate `signal-hook`.
    thread::spawn(|| {
        println!("press Enter to shut down");
        let _ = std::io::stdin().read_line(&mut String::new());
        SHUTDOWN.set();
    });

    // The main thread offers a job every 10 ms, and stops by the same event.
    while !SHUTDOWN.wait_timeout(Duration::from_millis(10)) {
        JOB.set();
    }

    let began = Instant::now();
    for worker in workers {
        worker.join().expect("a worker has panicked");
    }
    println!("all workers have ended, after {:.1?}", began.elapsed());
}
