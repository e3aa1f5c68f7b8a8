//! One etcd server: its process, its ports and its folder.

use std::fmt;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};
use serde_json::{Value, json};

use crate::gateway::{Failure, Gateway, number};
use crate::{lock, program, runs};

/// A member of [`Servers`](crate::Servers).
#[derive(Debug)]
pub struct Member {
    /// For clients, for plain HTTP (without TLS the same) and for peers.
    ports: [Arc<Port>; 3],
    pub(crate) gateway: Gateway,
    pub(crate) is_learner: bool,
    has_left: AtomicBool,
    flags: Vec<String>,
    /// What runs it, and its arguments; empty if nothing does.
    wrapper: Vec<String>,
    folder: PathBuf,
    process: Mutex<Process>,
}

#[derive(Debug)]
enum Process {
    Absent,
    Running(Child),
    Paused(Child),
}

impl Member {
    /// A member that is not started yet, with a folder of its own.
    pub(crate) fn new(folder: PathBuf, ports: [Arc<Port>; 3], flags: Vec<String>, wrapper: Vec<String>) -> Member {
        fs::create_dir_all(&folder).expect("there is a place for a server's data");
        let gateway = Gateway::new(ports[1].number);
        let (is_learner, has_left, process) = (false, AtomicBool::new(false), Mutex::new(Process::Absent));
        Member { ports, gateway, is_learner, has_left, flags, wrapper, folder, process }
    }

    /// The sum of the values that one of its metrics has under all labels, or under those that
    /// `name` ends with.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    #[track_caller]
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        self.gateway.gauge(name).unwrap_or_else(|error| panic!("{}", error.into_text())) as u64
    }

    /// Where clients find it: `127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.ports[0].to_string()
    }

    /// Where the other members find it.
    pub(crate) fn peer(&self) -> String {
        self.ports[2].to_string()
    }

    /// It is not part of the cluster any more.
    pub(crate) fn leave(&self) {
        self.has_left.store(true, Ordering::Relaxed);
        self.kill();
    }

    pub(crate) fn is_part(&self) -> bool {
        !self.has_left.load(Ordering::Relaxed)
    }

    /// Kills it at once, as a crash does. Its data stay.
    pub fn kill(&self) {
        let mut process = lock(&self.process);
        if let Process::Running(child) | Process::Paused(child) = &mut *process {
            let _ = child.kill();
            let _ = child.wait();
        }
        *process = Process::Absent;
    }

    /// Starts it again on its data, unless it runs. It is not waited for: see
    /// [`Servers::wait_healthy`](crate::Servers::wait_healthy).
    pub fn start(&self) {
        let mut process = lock(&self.process);
        if let Process::Absent = *process {
            *process = Process::Running(self.spawn().expect("etcd can be started"));
        }
    }

    /// Kills it, forgets its data and starts it again: the same server to all appearances, but at
    /// its first revision. For a server that stands alone; like [`start`](Member::start) it does
    /// not wait.
    pub fn start_from_scratch(&self) {
        self.kill();
        let data = self.folder.join("data");
        fs::remove_dir_all(&data).expect("a server's data can be removed");
        self.start();
    }

    /// Stops it, as if its machine hung: its connections stay open and nothing is answered.
    pub fn pause(&self) {
        let mut process = lock(&self.process);
        *process = match std::mem::replace(&mut *process, Process::Absent) {
            Process::Running(child) => {
                let pid = Pid::from_child(&child);
                let _ = kill_process(pid, Signal::STOP);
                // A signal takes its time.
                let _ =
                    waitid(WaitId::Pid(pid), WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
                Process::Paused(child)
            }
            other => other,
        };
    }

    /// Lets it go on after a [`pause`](Member::pause).
    pub fn resume(&self) {
        let mut process = lock(&self.process);
        *process = match std::mem::replace(&mut *process, Process::Absent) {
            Process::Paused(child) => {
                let _ = kill_process(Pid::from_child(&child), Signal::CONT);
                Process::Running(child)
            }
            other => other,
        };
    }

    /// Whether it takes itself for the leader. One that is killed or paused does not.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.is_running() && self.status().is_ok_and(|status| status.member == status.leader)
    }

    /// What it has logged, since it was made.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.folder.join("log")).map_or_else(|_| String::new(), |log| String::from_utf8_lossy(&log).into())
    }

    pub(crate) fn is_running(&self) -> bool {
        matches!(*lock(&self.process), Process::Running(_))
    }

    /// Whether it has ended by itself.
    pub(crate) fn has_died(&self) -> bool {
        match &mut *lock(&self.process) {
            Process::Running(child) => !matches!(child.try_wait(), Ok(None)),
            _ => false,
        }
    }

    pub(crate) fn status(&self) -> Result<Status, Failure> {
        self.gateway.ask("maintenance/status", &json!({})).map(|status| Status::new(&status))
    }

    fn spawn(&self) -> io::Result<Child> {
        let log = File::options().create(true).append(true).open(self.folder.join("log"))?;
        let mut command = match self.wrapper.split_first() {
            Some((wrapper, arguments)) => {
                let mut command = obedient(wrapper.into());
                command.args(arguments).arg(program());
                command
            }
            None => obedient(program()),
        };
        command.args(&self.flags).arg("--data-dir").arg(self.folder.join("data"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        for (name, _) in std::env::vars_os() {
            // etcd takes them for flags.
            if name.to_string_lossy().starts_with("ETCD_") {
                command.env_remove(name);
            }
        }
        if cfg!(target_arch = "aarch64") {
            // Before 3.5, etcd wanted to be asked twice.
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        nurse(command)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a member says of itself.
#[derive(PartialEq)]
pub(crate) struct Status {
    pub(crate) member: i64,
    pub(crate) leader: i64,
    pub(crate) term: i64,
}

impl Status {
    fn new(status: &Value) -> Status {
        let header = &status["header"];
        let (member, term) = (number(&header["member_id"]), number(&status["raftTerm"]));
        Status { member, leader: number(&status["leader"]), term }
    }
}

/// A command whose process does not outlive this one, where there is a `setpriv` to see to that.
fn obedient(program: PathBuf) -> Command {
    static IS_THERE: LazyLock<bool> =
        LazyLock::new(|| runs(Command::new("setpriv").args(["--pdeathsig", "KILL", "true"])));
    if !*IS_THERE {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// Starts a process from a thread that never ends: for the kernel, the parent whose death counts is
/// the thread.
fn nurse(command: Command) -> io::Result<Child> {
    type Order = (Command, Sender<io::Result<Child>>);
    static NURSE: LazyLock<Sender<Order>> = LazyLock::new(|| {
        let (orders, ordered) = channel::<Order>();
        thread::spawn(move || {
            for (mut command, done) in ordered {
                let _ = done.send(command.spawn());
            }
        });
        orders
    });
    let (done, child) = channel();
    NURSE.send((command, done)).map_err(io::Error::other)?;
    child.recv().map_err(io::Error::other)?
}

/// A loopback port for a server, which no other test takes in the meantime, not even while the
/// server is dead.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// UDP has ports of its own: this one is held as a sign for everybody who looks for a port as
    /// we do.
    _claim: UdpSocket,
}

impl Port {
    /// A port that is free. It lies below those that the system gives out by itself: out of these,
    /// a client that tries again and again to reach a server that is dead would at last be
    /// connected to itself.
    pub(crate) fn free() -> Arc<Port> {
        const FIRST: u64 = 10_000;
        const COUNT: u64 = 22_768;
        static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one(0) >> 1));
        let mut ports = (0..COUNT).filter_map(|_| {
            let number = (FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) as u16;
            let claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
            Some(Port { number, _claim: claim })
        });
        Arc::new(ports.next().expect("there is a free port"))
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "127.0.0.1:{}", self.number)
    }
}
