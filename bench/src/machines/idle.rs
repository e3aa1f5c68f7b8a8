//! Many processes wait, and nothing happens: what they cost together.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use etcd_for_tests::Servers;

use super::bare::{self, Connection, KEY};
use crate::names::machines::{BASELINE, LEASES, WAIT_IDLE};
use crate::names::{Figures, OURS};
use crate::processes::children;
use crate::processes::command::target;

/// After this time all processes have finished what a wait does at its beginning.
const SETTLED: Duration = Duration::from_secs(3);
/// How many processes may begin to wait at the same time.
const AT_ONCE: u64 = 32;
/// The period of what a waiting process does most rarely: it reads its event, and asks for the members' addresses.
const MEASURED: Duration = Duration::from_secs(30);

pub fn wait(contender: &str, processes: usize, smoke: bool) -> Result<Option<Figures>, String> {
    let servers = Servers::one();
    let endpoint = servers[0].endpoint();
    let command = || match contender {
        OURS => {
            let mut command = Command::new(target().join("release/tantara"));
            command.args(["--etcd", &endpoint, "wait", "x"]);
            Some(Ok(command))
        }
        BASELINE => Some(std::env::current_exe().map(|own| {
            let mut command = Command::new(own);
            command.args(["--client", WAIT_IDLE, &endpoint]);
            command
        })),
        _ => None,
    };
    // SAFETY: takes nothing.
    let parent = unsafe { libc::getpid() };
    let mut waiting = Vec::new();
    for started in 0..processes {
        // The server accepts some at a time.
        while servers.watchers() + AT_ONCE < started as u64 {
            thread::sleep(Duration::from_millis(5));
        }
        let Some(command) = command() else { return Ok(None) };
        let started = command.and_then(|mut command| {
            // SAFETY: between fork and exec it makes system calls only.
            unsafe {
                command.pre_exec(move || {
                    children::end_with(parent);
                    Ok(())
                })
            };
            command.stdin(Stdio::null()).spawn()
        });
        waiting.push(Waiting(started.map_err(|error| format!("a process cannot be started: {error}"))?));
    }
    while servers.watchers() < processes as u64 {
        thread::sleep(Duration::from_millis(50));
    }
    let (settled, measured) = if smoke { (SETTLED / 10, MEASURED / 20) } else { (SETTLED, MEASURED) };
    thread::sleep(settled);
    let leases = servers.leases();
    let (began, before, at_server) = (Instant::now(), processor_time(&waiting), servers.processor_seconds());
    thread::sleep(measured);
    let lasted = began.elapsed().as_secs_f64();
    let (all, server) = (processor_time(&waiting) - before, servers.processor_seconds() - at_server);
    let memory: u64 = waiting.iter().map(Waiting::private_memory).sum();
    Ok(Some(vec![
        ("all, share of a core", all / lasted),
        ("the server, share of a core", server / lasted),
        ("memory of each, MB", memory as f64 / processes as f64 / 1e6),
        (LEASES, leases as f64 / processes as f64),
    ]))
}

/// A waiting process, which is killed in the end.
struct Waiting(Child);

impl Waiting {
    /// In seconds. `/proc` has hundredths only.
    fn processor_time(&self) -> f64 {
        let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
        // SAFETY: the pointer refers to a clock's number that outlives the call.
        let found = unsafe { libc::clock_getcpuclockid(self.0.id() as libc::pid_t, &mut clock) };
        assert_eq!(found, 0, "a process that waits");
        // SAFETY: the pointer refers to a time that outlives the call.
        let read = unsafe { libc::clock_gettime(clock, &mut time) };
        assert_eq!(read, 0, "a clock of a process");
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    }

    /// The memory that is neither shared with other processes nor part of a file.
    fn private_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a process that waits") * 1_024
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How many seconds the processes have run so far.
fn processor_time(processes: &[Waiting]) -> f64 {
    processes.iter().map(Waiting::processor_time).sum()
}

/// A waiting process of the baseline.
pub fn wait_bare(endpoint: &str) {
    bare::runtime().block_on(async {
        let mut watch = Connection::to(endpoint).await.watch(KEY, "", 1).await;
        bare::change(&mut watch).await;
    });
}
