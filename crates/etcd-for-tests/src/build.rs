//! How a cluster is to be: its size, its users, its disks, and the flags that make etcd so.

use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::member::{Member, Port};
use crate::{disks, program, runs};

/// How servers are to be: begun with [`Servers::build`](crate::Servers::build).
#[derive(Clone, Debug)]
#[must_use]
pub struct Build {
    pub(crate) members: usize,
    heartbeat: Duration,
    election: Duration,
    pub(crate) tls: Option<Tls>,
    pub(crate) root: Option<String>,
    pub(crate) users: Vec<User>,
    flags: Vec<String>,
    is_durable: bool,
    disk_delay: Option<Duration>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Tls {
    Servers,
    Clients,
}

#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) prefix: String,
    pub(crate) may: &'static str,
}

impl Build {
    /// Servers as [`Servers::build`](crate::Servers::build) describes them.
    pub(crate) fn new() -> Build {
        Build {
            members: 1,
            heartbeat: Duration::from_millis(100),
            election: Duration::from_secs(1),
            tls: None,
            root: None,
            users: Vec::new(),
            flags: Vec::new(),
            is_durable: false,
            disk_delay: None,
        }
    }

    /// How many; one, unless said otherwise.
    pub fn members(mut self, members: usize) -> Build {
        self.members = members;
        self
    }

    /// The time between heartbeats, and after how long without them a leader is elected; 100 ms and
    /// a second, unless said otherwise, as etcd has them by itself.
    pub fn times(mut self, heartbeat: Duration, election: Duration) -> Build {
        (self.heartbeat, self.election) = (heartbeat, election);
        self
    }

    /// Servers speak TLS to clients, with certificates for 127.0.0.1 and localhost.
    pub fn tls(mut self) -> Build {
        self.tls = self.tls.or(Some(Tls::Servers));
        self
    }

    /// … and want a certificate from clients, too.
    pub fn client_certificates(mut self) -> Build {
        self.tls = Some(Tls::Clients);
        self
    }

    /// Servers ask for users, and this is the password of `root`, who may do everything.
    pub fn root(mut self, password: &str) -> Build {
        self.root = Some(password.to_owned());
        self
    }

    /// Servers ask for users, and this one may read and write the keys with this prefix. The
    /// password of `root` is `root`, unless said otherwise.
    pub fn user(self, name: &str, password: &str, prefix: &str) -> Build {
        self.further(name, password, prefix, "READWRITE")
    }

    /// … and this one may read them.
    pub fn reader(self, name: &str, password: &str, prefix: &str) -> Build {
        self.further(name, password, prefix, "READ")
    }

    fn further(mut self, name: &str, password: &str, prefix: &str, may: &'static str) -> Build {
        let [name, password, prefix] = [name, password, prefix].map(str::to_owned);
        self.root.get_or_insert_with(|| "root".to_owned());
        self.users.push(User { name, password, prefix, may });
        self
    }

    /// For how long the token of a user is good that nobody uses: in seconds, as etcd has it.
    pub fn token_ttl(self, seconds: u32) -> Build {
        self.flag(&format!("--auth-token-ttl={seconds}"))
    }

    /// A flag of etcd's, such as `--max-txn-ops=64`.
    pub fn flag(mut self, flag: &str) -> Build {
        self.flags.push(flag.to_owned());
        self
    }

    /// They wait for their disks, as they do where it matters. Tests need not.
    pub fn durable(mut self) -> Build {
        self.is_durable = true;
        self
    }

    /// Every `fsync` and `fdatasync` of theirs takes this much longer.
    ///
    /// # Panics
    ///
    /// Where [`can_delay_disks`](Build::can_delay_disks) says no.
    pub fn slow_disks(mut self, delay: Duration) -> Build {
        assert!(Build::can_delay_disks(), "strace and setpriv are needed");
        self.disk_delay = Some(delay);
        self.durable()
    }

    /// Whether disks can be made [slow](Build::slow_disks) here: there is an `strace` that may
    /// trace, and a `setpriv`.
    #[must_use]
    pub fn can_delay_disks() -> bool {
        disks::can_be_slowed()
    }

    /// One member, which is not started yet.
    pub(crate) fn member(&self, folder: &Path, index: usize, peer: &Arc<Port>, cluster: &str, state: &str) -> Member {
        let clients = Port::free();
        let (door, scheme) = if self.tls.is_some() { (Port::free(), "https") } else { (clients.clone(), "http") };
        let mut flags = self.common_flags(folder);
        flags.extend([
            format!("--name=m{index}"),
            format!("--listen-peer-urls=http://{peer}"),
            format!("--initial-advertise-peer-urls=http://{peer}"),
            format!("--initial-cluster={cluster}"),
            format!("--initial-cluster-state={state}"),
            format!("--advertise-client-urls={scheme}://{clients}"),
            match self.tls {
                Some(_) => format!("--listen-client-urls=https://{clients},http://{door}"),
                None => format!("--listen-client-urls=http://{clients}"),
            },
        ]);
        flags.extend(self.flags.clone());
        let wrapper = self.disk_delay.map(disks::slowed).unwrap_or_default();
        Member::new(folder.join(format!("m{index}")), [clients, door, peer.clone()], flags, wrapper)
    }

    fn common_flags(&self, folder: &Path) -> Vec<String> {
        // The writes of a killed server survive in the page cache; only a failing machine loses
        // them. Old versions of etcd do not know the flag.
        static UNSAFE_NO_FSYNC: LazyLock<bool> =
            LazyLock::new(|| runs(Command::new(program()).args(["--unsafe-no-fsync", "--version"])));
        let mut flags = vec![
            "--logger=zap".to_owned(),
            "--log-outputs=stderr".to_owned(),
            "--log-level=error".to_owned(),
            "--bcrypt-cost=4".to_owned(),
            format!("--heartbeat-interval={}", self.heartbeat.as_millis()),
            format!("--election-timeout={}", self.election.as_millis()),
        ];
        if *UNSAFE_NO_FSYNC && !self.is_durable {
            flags.push("--unsafe-no-fsync".to_owned());
        }
        if let Some(tls) = self.tls {
            flags.push(format!("--cert-file={}", folder.join("server.pem").display()));
            flags.push(format!("--key-file={}", folder.join("server-key.pem").display()));
            if tls == Tls::Clients {
                flags.push(format!("--trusted-ca-file={}", folder.join("ca.pem").display()));
                flags.push("--client-cert-auth".to_owned());
            }
        }
        flags
    }
}
