//! The servers.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::gateway;

/// Until when a server must be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// The password of every user that is made here.
const PASSWORD: &str = "open sesame";

/// Where etcd is: `$ETCD`, or on the path, or where `cargo xtask etcd` puts it.
///
/// # Panics
///
/// If it is nowhere.
#[must_use]
pub fn program() -> PathBuf {
    if let Some(program) = std::env::var_os("ETCD").filter(|program| !program.is_empty()) {
        return program.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/etcd/usr/bin");
    let places = std::env::split_paths(&path).chain(["/usr/bin".into(), unpacked]);
    let found = places.map(|place| place.join("etcd")).find(|program| program.is_file());
    found.expect("etcd is missing: run `cargo xtask etcd`, or install Debian's etcd-server, or let $ETCD name it")
}

/// What is to be started.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// How many members; none is one.
    pub members: usize,
    /// Whether clients must speak TLS, and show a certificate.
    pub tls: bool,
    /// Users, each with a prefix of the keys that they may use; all of them have [`Servers::password`]. The user `root`
    /// comes with the first.
    pub users: Vec<(&'static str, &'static str)>,
    /// More flags for etcd.
    pub flags: Vec<&'static str>,
}

/// The certificates of a cluster that speaks TLS, in PEM.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authority's.
    pub ca: String,
    /// A client's, and its key.
    pub client: (String, String),
    server: (String, String),
}

#[derive(Debug)]
struct Member {
    name: String,
    client_port: u16,
    peer_port: u16,
    child: Mutex<Option<Child>>,
}

/// Some servers, which end with this.
#[derive(Debug)]
pub struct Servers {
    plan: Plan,
    members: Vec<Member>,
    certificates: Option<Certificates>,
    token: Mutex<Option<String>>,
    folder: TempDir,
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

impl Servers {
    /// A single server.
    #[must_use]
    pub fn one() -> Servers {
        Servers::start(Plan::default())
    }

    /// A cluster of three.
    #[must_use]
    pub fn three() -> Servers {
        Servers::start(Plan { members: 3, ..Plan::default() })
    }

    /// Starts what was planned, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If it does not.
    #[must_use]
    pub fn start(plan: Plan) -> Servers {
        // A port that was free may be taken by somebody else before etcd takes it.
        for attempt in 0.. {
            let servers = Servers::prepare(plan.clone());
            (0..servers.members.len()).for_each(|member| servers.begin(member));
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline && servers.all_run() {
                if servers.are_healthy() {
                    servers.make_users();
                    return servers;
                }
                thread::sleep(Duration::from_millis(20));
            }
            assert!(attempt < 3, "etcd does not start:\n{}", servers.logs());
        }
        unreachable!("it has started or it has not")
    }

    fn prepare(plan: Plan) -> Servers {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let members = (0..plan.members.max(1)).map(|index| Member {
            name: format!("m{index}"),
            client_port: free_port(),
            peer_port: free_port(),
            child: Mutex::new(None),
        });
        let certificates = plan.tls.then(|| make_certificates(folder.path()));
        Servers { members: members.collect(), certificates, token: Mutex::new(None), folder, plan }
    }

    fn begin(&self, index: usize) {
        let member = &self.members[index];
        let scheme = if self.plan.tls { "https" } else { "http" };
        let client = format!("{scheme}://127.0.0.1:{}", member.client_port);
        let peer = |member: &Member| format!("http://127.0.0.1:{}", member.peer_port);
        let all: Vec<String> = self.members.iter().map(|member| format!("{}={}", member.name, peer(member))).collect();
        let log = File::options().create(true).append(true).open(self.log(index)).expect("a log");
        let errors = log.try_clone().expect("the log again");
        // It must not outlive a test that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(program());
        if Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_err() {
            command = Command::new(program());
        }
        command
            .args(["--name", &member.name, "--data-dir"])
            .arg(self.folder.path().join(&member.name))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer(member), "--initial-advertise-peer-urls", &peer(member)])
            .args(["--initial-cluster", &all.join(","), "--log-level", "error"])
            .args(&self.plan.flags)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors);
        if self.plan.tls {
            let file = |name| self.folder.path().join(name);
            command.arg("--cert-file").arg(file("server.pem")).arg("--key-file").arg(file("server.key"));
            command.arg("--trusted-ca-file").arg(file("ca.pem")).arg("--client-cert-auth");
        }
        *self.child(index) = Some(command.spawn().expect("etcd starts"));
    }

    fn child(&self, index: usize) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.members[index].child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log(&self, index: usize) -> PathBuf {
        self.folder.path().join(format!("{}.log", self.members[index].name))
    }

    fn logs(&self) -> String {
        (0..self.members.len()).map(|index| fs::read_to_string(self.log(index)).unwrap_or_default()).collect()
    }

    fn all_run(&self) -> bool {
        (0..self.members.len())
            .all(|index| self.child(index).as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))))
    }

    /// Whether every member answers a read that takes a quorum.
    fn are_healthy(&self) -> bool {
        (0..self.members.len()).all(|index| {
            if self.plan.tls {
                // The gateway cannot be asked without a certificate; that the port is open must do.
                return std::net::TcpStream::connect(self.endpoint(index)).is_ok() && self.settled();
            }
            self.ask(index, "/v3/kv/range", &json!({ "key": gateway::base64(b"health") })).is_some()
        })
    }

    fn settled(&self) -> bool {
        thread::sleep(Duration::from_millis(300));
        true
    }

    /// Waits until every member that runs answers.
    ///
    /// # Panics
    ///
    /// If it takes too long.
    pub fn wait_healthy(&self) {
        let deadline = Instant::now() + PATIENCE;
        while !self.are_healthy() {
            assert!(Instant::now() < deadline, "etcd does not recover:\n{}", self.logs());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn make_users(&self) {
        if self.plan.users.is_empty() {
            return;
        }
        let must = |path: &str, body: Value| {
            assert!(self.ask(0, path, &body).is_some(), "{path} {body}");
        };
        must("/v3/auth/user/add", json!({ "name": "root", "password": PASSWORD }));
        must("/v3/auth/role/add", json!({ "name": "root" }));
        must("/v3/auth/user/grant", json!({ "user": "root", "role": "root" }));
        for (name, prefix) in &self.plan.users {
            must("/v3/auth/user/add", json!({ "name": name, "password": PASSWORD }));
            must("/v3/auth/role/add", json!({ "name": name }));
            self.grant(name, prefix);
            must("/v3/auth/user/grant", json!({ "user": name, "role": name }));
        }
        must("/v3/auth/enable", json!({}));
        self.log_in();
    }

    /// Gives a role the keys under a prefix.
    pub fn grant(&self, role: &str, prefix: &str) {
        let (key, range_end) = range(prefix);
        let permission = json!({ "permType": "READWRITE", "key": key, "range_end": range_end });
        self.ask(0, "/v3/auth/role/grant", &json!({ "name": role, "perm": permission })).expect("granted");
    }

    /// Takes them away again.
    pub fn deny(&self, role: &str, prefix: &str) {
        let (key, range_end) = range(prefix);
        self.ask(0, "/v3/auth/role/revoke", &json!({ "role": role, "key": key, "range_end": range_end }))
            .expect("revoked");
    }

    fn log_in(&self) {
        let login = json!({ "name": "root", "password": PASSWORD });
        let answer = gateway::post(&self.endpoint(0), "/v3/auth/authenticate", &login, None).expect("root may log in");
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = answer["token"].as_str().map(str::to_owned);
    }

    fn ask(&self, member: usize, path: &str, body: &Value) -> Option<Value> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        gateway::post(&self.endpoint(member), path, body, token.as_deref())
    }

    /// Asks any member that answers.
    fn ask_any(&self, path: &str, body: &Value) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = (0..self.members.len()).find_map(|member| self.ask(member, path, body)) {
                return answer;
            }
            assert!(Instant::now() < deadline, "nobody answers {path} {body}:\n{}", self.logs());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where a member listens.
    #[must_use]
    pub fn endpoint(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.members[member].client_port)
    }

    /// Where the members listen.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        (0..self.members.len()).map(|member| self.endpoint(member)).collect()
    }

    /// The certificates, if they speak TLS.
    #[must_use]
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The password of every user.
    #[must_use]
    pub fn password(&self) -> &'static str {
        PASSWORD
    }

    fn pid(&self, member: usize) -> Option<Pid> {
        self.child(member).as_ref().and_then(|child| Pid::from_raw(i32::try_from(child.id()).ok()?))
    }

    fn signal(&self, member: usize, signal: Signal) {
        if let Some(pid) = self.pid(member) {
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills a member.
    pub fn kill(&self, member: usize) {
        self.signal(member, Signal::KILL);
        if let Some(mut child) = self.child(member).take() {
            let _ = child.wait();
        }
    }

    /// Stops a member in the middle of what it does, with its connections open.
    pub fn pause(&self, member: usize) {
        self.signal(member, Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self, member: usize) {
        self.signal(member, Signal::CONT);
    }

    /// Starts a member that was killed, with what it had on its disk.
    pub fn restart(&self, member: usize) {
        self.begin(member);
    }

    /// Starts a single server that was killed with an empty disk.
    pub fn restart_from_scratch(&self, member: usize) {
        fs::remove_dir_all(self.folder.path().join(&self.members[member].name)).expect("its data");
        self.begin(member);
    }

    /// Who leads. Waits until somebody does.
    ///
    /// # Panics
    ///
    /// If nobody does for long.
    #[must_use]
    pub fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for member in 0..self.members.len() {
                let Some(status) = self.ask(member, "/v3/maintenance/status", &json!({})) else { continue };
                let (own, leader) = (&status["header"]["member_id"], &status["leader"]);
                if !leader.is_null() && own == leader {
                    return member;
                }
            }
            assert!(Instant::now() < deadline, "nobody leads:\n{}", self.logs());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// How many leases there are.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.ask_any("/v3/lease/leases", &json!({}))["leases"].as_array().map_or(0, Vec::len)
    }

    /// All keys that begin so, with their values.
    #[must_use]
    pub fn keys(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let (key, range_end) = range(prefix);
        let answer = self.ask_any("/v3/kv/range", &json!({ "key": key, "range_end": range_end }));
        let text = |value: &Value| gateway::from_base64(value.as_str().unwrap_or_default());
        let kvs = answer["kvs"].as_array().cloned().unwrap_or_default();
        kvs.iter().map(|kv| (String::from_utf8_lossy(&text(&kv["key"])).into_owned(), text(&kv["value"]))).collect()
    }

    /// How often a key was put since it was created, and when last; 0 if there is none.
    #[must_use]
    pub fn version(&self, key: &str) -> i64 {
        let answer = self.ask_any("/v3/kv/range", &json!({ "key": gateway::base64(key.as_bytes()) }));
        number(&answer["kvs"][0]["version"])
    }

    /// Puts a key, as somebody else might.
    pub fn put(&self, key: &str, value: &[u8]) {
        let (key, value) = (gateway::base64(key.as_bytes()), gateway::base64(value));
        self.ask_any("/v3/kv/put", &json!({ "key": key, "value": value }));
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> i64 {
        let answer = self.ask_any("/v3/kv/range", &json!({ "key": gateway::base64(b"revision") }));
        number(&answer["header"]["revision"])
    }

    /// Forgets all history but the newest.
    pub fn compact(&self) {
        let revision = self.revision();
        self.ask_any("/v3/kv/compaction", &json!({ "revision": revision.to_string(), "physical": true }));
    }

    /// Ends every lease.
    pub fn revoke_all_leases(&self) {
        let leases = self.ask_any("/v3/lease/leases", &json!({}))["leases"].as_array().cloned().unwrap_or_default();
        for lease in leases {
            let _ = self.ask(0, "/v3/lease/revoke", &json!({ "ID": lease["ID"] }));
        }
    }

    /// How many watches a member serves.
    #[must_use]
    pub fn watches(&self, member: usize) -> u64 {
        let page = gateway::get(&self.endpoint(member), "/metrics").unwrap_or_default();
        let line = page.lines().find(|line| line.starts_with("etcd_debugging_mvcc_watcher_total "));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    }
}

fn number(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A prefix as the gateway wants it. All of them end in a slash.
fn range(prefix: &str) -> (String, String) {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (gateway::base64(prefix.as_bytes()), gateway::base64(&end))
}

fn make_certificates(folder: &Path) -> Certificates {
    let key = || KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("an authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, key()).expect("an authority");
    let issue = |name: &str| {
        let key = key();
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a certificate");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    };
    let certificates = Certificates { ca: authority.pem(), client: issue("client"), server: issue("127.0.0.1") };
    fs::write(folder.join("ca.pem"), &certificates.ca).expect("written");
    fs::write(folder.join("server.pem"), &certificates.server.0).expect("written");
    fs::write(folder.join("server.key"), &certificates.server.1).expect("written");
    certificates
}

impl Drop for Servers {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|member| self.kill(member));
    }
}
