//! Many processes wait, the leader is killed, and the event is set as soon as there is a new leader: the time from then
//! until the last process is released.

use std::io::{BufRead, BufReader, PipeReader, pipe};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use etcd_for_tests::Servers;
use tantara_etcd::Cluster;
use tokio::time::{sleep, timeout};

use super::bare::{self, Connection, KEY};
use crate::names::machines::{BASELINE, WAIT, WAIT_BARE};
use crate::names::{Figures, OURS, millis};
use crate::processes::children;

/// How long a write waits for its answer before it is sent again. Without a leader there is no answer.
const ATTEMPT: Duration = Duration::from_millis(100);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(5);
/// After this time all processes have finished what a wait does at its beginning.
const SETTLED: Duration = Duration::from_millis(500);

pub fn survive(contender: &str, processes: usize) -> Result<Option<Figures>, String> {
    let servers = Servers::three();
    let (leader, followers) = (servers.leader(), servers.followers());
    let (figures, children) = match contender {
        OURS => {
            let all = servers.endpoints().join(",");
            let event = Cluster::connect(&all).expect("a cluster").event("event");
            event.clear().expect("it is cleared");
            let (children, reports) = start(processes, WAIT, |_| all.clone())?;
            let set = || match event.set() {
                Ok(()) => true,
                // Setting twice has no effect.
                Err(error) if error.is_unreachable() || error.is_unknown() => false,
                Err(error) => panic!("{error}"),
            };
            (fail_over(&servers, leader, processes, reports, || while !set() {}), children)
        }
        // At members that survive: a bare watch is lost with its server.
        BASELINE => {
            let (children, reports) =
                start(processes, WAIT_BARE, |index| servers[followers[index % followers.len()]].endpoint())?;
            let endpoint = servers[followers[0]].endpoint();
            (fail_over(&servers, leader, processes, reports, || _ = put_until_accepted(&endpoint, KEY)), children)
        }
        _ => return Ok(None),
    };
    for mut process in children {
        let status = process.wait().map_err(|error| format!("cannot wait for a process: {error}"))?;
        assert!(status.success(), "a process of the children failed ({status})");
    }
    Ok(Some(figures))
}

/// Starts processes that wait, each at its endpoints, and that report by a pipe.
fn start(
    processes: usize,
    role: &str,
    endpoints: impl Fn(usize) -> String,
) -> Result<(Vec<Child>, BufReader<PipeReader>), String> {
    let own = std::env::current_exe().map_err(|error| format!("cannot find itself: {error}"))?;
    let (reports, report) = pipe().map_err(|error| format!("no pipe: {error}"))?;
    // SAFETY: takes nothing.
    let parent = unsafe { libc::getpid() };
    let start_one = |index| {
        let mut command = Command::new(&own);
        command.args(["--client", role, &endpoints(index)]).stdin(Stdio::null()).stdout(report.try_clone()?);
        // SAFETY: between fork and exec it makes system calls only.
        unsafe {
            command.pre_exec(move || {
                children::end_with(parent);
                Ok(())
            })
        };
        command.spawn()
    };
    let children = (0..processes).map(start_one).collect::<Result<_, _>>();
    Ok((children.map_err(|error| format!("a process cannot be started: {error}"))?, BufReader::new(reports)))
}

/// Kills the leader once all processes wait, and sets at once.
fn fail_over(
    servers: &Servers,
    leader: usize,
    processes: usize,
    mut reports: BufReader<PipeReader>,
    set: impl FnOnce(),
) -> Figures {
    let mut next = || {
        let mut line = String::new();
        reports.read_line(&mut line).expect("a report");
        line.trim_end().to_owned()
    };
    for _ in 0..processes {
        assert_eq!(next(), "begun");
    }
    while servers.watchers() < processes as u64 {
        thread::sleep(Duration::from_millis(20));
    }
    thread::sleep(SETTLED);
    let probed = servers[servers.followers()[1]].endpoint();
    let killed = children::now();
    servers[leader].kill();
    // The setter may sleep between two attempts when writes are accepted again, and this time counts.
    let probe = thread::spawn(move || put_until_accepted(&probed, "/bare/probe"));
    set();
    let returned = children::now();
    let accepted = probe.join().expect("a write is accepted");
    let outs = (0..processes).map(|_| {
        let line = next();
        let out = line.strip_prefix("out ").and_then(|time| time.parse::<u64>().ok());
        out.unwrap_or_else(|| panic!("expected when a process was out, not {line:?}"))
    });
    let last = outs.max().unwrap_or(accepted);
    let since = |from: u64, to: u64| millis(to.saturating_sub(from) as f64);
    vec![
        ("kill to accepted, ms", since(killed, accepted)),
        ("kill to set returned, ms", since(killed, returned)),
        ("accepted to last out, ms", since(accepted, last)),
        ("set returned to last out, ms", since(returned, last)),
    ]
}

/// Puts a key until a put is accepted. Returns when that attempt began.
fn put_until_accepted(endpoint: &str, key: &str) -> u64 {
    bare::runtime().block_on(async {
        let mut connection = Connection::to(endpoint).await;
        loop {
            let began = children::now();
            if let Ok(Ok(())) = timeout(ATTEMPT, connection.put(key, "1")).await {
                return began;
            }
            sleep(BETWEEN_ATTEMPTS).await;
        }
    })
}

/// A waiting process.
pub fn wait(endpoints: &str) {
    let event = Cluster::connect(endpoints).expect("a cluster").event("event");
    let mut wait = event.wait_async();
    wait.begun().expect("a wait");
    println!("begun");
    wait.wait().expect("a release");
    println!("out {}", children::now());
}

/// A waiting process of the baseline.
pub fn wait_bare(endpoint: &str) {
    bare::runtime().block_on(async {
        let mut watch = Connection::to(endpoint).await.watch(KEY, "", 1).await;
        println!("begun");
        bare::change(&mut watch).await;
        println!("out {}", children::now());
    });
}
