//! A start-up gate: worker processes wait until another process has prepared what they need.
//!
//! Run it with `cargo run -p tantara --example startup_gate`. It starts three copies of itself as workers. They could
//! as well be other programs in other languages: all that they share is the name of the event.

#[cfg(shared_events)]
mod gate {
    use std::error::Error;
    use std::path::Path;
    use std::process::Command;
    use std::thread;
    use std::time::Duration;

    use tantara::SharedEvent;

    /// What a worker does. It may start before or after the event exists, and before or after it is set.
    pub(crate) fn work(directory: &Path) -> Result<(), Box<dyn Error>> {
        let ready = SharedEvent::open_in(directory, "database-ready")?;
        if !ready.wait_timeout(Duration::from_secs(60))? {
            return Err("the database was not ready within a minute".into());
        }
        println!("worker {}: the gate is open", std::process::id());
        Ok(())
    }

    pub(crate) fn supervise() -> Result<(), Box<dyn Error>> {
        // `SharedEvent::open` without a directory uses one that belongs to the user.
        let directory = std::env::temp_dir().join(format!("startup-gate-{}", std::process::id()));
        let ready = SharedEvent::open_in(&directory, "database-ready")?;
        let program = std::env::current_exe()?;
        let start = |_| Command::new(&program).arg("worker").arg(&directory).spawn();
        let mut workers = (0..3).map(start).collect::<Result<Vec<_>, _>>()?;

        // The preparation. A worker that is killed meanwhile does not disturb it.
        thread::sleep(Duration::from_millis(100));
        println!("the database is ready; {} workers wait", ready.waiters()?.len());
        ready.set()?;

        for worker in &mut workers {
            if !worker.wait()?.success() {
                return Err("a worker has failed".into());
            }
        }
        // Processes that still waited would get an error.
        ready.remove()?;
        std::fs::remove_dir(directory)?;
        println!("all workers are done");
        Ok(())
    }
}

#[cfg(shared_events)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match &arguments[..] {
        [] => gate::supervise(),
        [role, directory] if role == "worker" => gate::work(directory.as_ref()),
        _ => Err("usage: startup_gate".into()),
    }
}

#[cfg(not(shared_events))]
fn main() {
    eprintln!("events between processes exist on Linux only");
}
