//! A cluster: how it is started, what can be asked of it, and what can be done to its keys.

use std::ops::Index;
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::build::{Build, User};
use crate::certificates::Certificates;
use crate::gateway::{Failure, Gateway, decode, encode, number, range};
use crate::member::{Member, Port};

/// After this time something is wrong, however slow the machine.
const LONG: Duration = Duration::from_secs(60);
const NAP: Duration = Duration::from_millis(20);

impl Build {
    /// Starts them, and waits until all of them are healthy.
    ///
    /// # Panics
    ///
    /// If that is not so in time; with what etcd has logged.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> Servers {
        let mut tries = 0;
        loop {
            let servers = self.try_start();
            match servers.await_health() {
                Ok(()) => {
                    self.set_users_up(&servers);
                    return servers;
                }
                // Somebody else was faster.
                Err(error) if error.contains("address already in use") && tries < 10 => tries += 1,
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn try_start(&self) -> Servers {
        let folder = TempDir::with_prefix("etcd-").expect("there is a place for temporary files");
        let certificates = self.tls.map(|_| Certificates::new().expect("certificates can be made"));
        if let Some(certificates) = &certificates {
            certificates.write(folder.path()).expect("certificates can be written");
        }
        let peers: Vec<Arc<Port>> = (0..self.members).map(|_| Port::free()).collect();
        let named = |(index, peer): (usize, &Arc<Port>)| format!("m{index}=http://{peer}");
        let cluster = peers.iter().enumerate().map(named).collect::<Vec<_>>().join(",");
        let member = |(index, peer): (usize, &Arc<Port>)| self.member(folder.path(), index, peer, &cluster, "new");
        let members: Vec<Member> = peers.iter().enumerate().map(member).collect();
        members.iter().for_each(Member::start);
        Servers { build: self.clone(), members, certificates, folder }
    }

    fn set_users_up(&self, servers: &Servers) {
        let Some(root) = &self.root else { return };
        let call = |path: &str, body: Value| match servers.call(path, &body) {
            Ok(_) => {}
            // An answer was lost, and the second try comes too late.
            Err(error) if error.contains("already") => {}
            Err(error) => panic!("{error}"),
        };
        call("auth/user/add", json!({"name": "root", "password": root}));
        call("auth/user/grant", json!({"user": "root", "role": "root"}));
        for User { name, password, prefix, may } in &self.users {
            let mut keys = range(prefix);
            keys["permType"] = json!(may);
            call("auth/role/add", json!({"name": name}));
            call("auth/role/grant", json!({"name": name, "perm": keys}));
            call("auth/user/add", json!({"name": name, "password": password}));
            call("auth/user/grant", json!({"user": name, "role": name}));
        }
        servers.members.iter().for_each(|member| member.gateway.become_root(root));
        call("auth/enable", json!({}));
        servers.wait_healthy();
    }
}

/// etcd servers that are one cluster. They are killed when this is dropped.
///
/// A member is had by its index: `servers[0].kill()`. What is asked of the servers is asked of any
/// that runs, and panics if none can answer for a minute.
#[derive(Debug)]
pub struct Servers {
    build: Build,
    members: Vec<Member>,
    certificates: Option<Certificates>,
    /// Goes last.
    folder: TempDir,
}

impl Servers {
    /// A single server.
    #[must_use]
    #[track_caller]
    pub fn one() -> Servers {
        Servers::build().start()
    }

    /// A cluster that outlasts the loss of one.
    #[must_use]
    #[track_caller]
    pub fn three() -> Servers {
        Servers::build().members(3).start()
    }

    /// Servers as you like them.
    pub fn build() -> Build {
        Build::new()
    }

    /// All of them, the dead ones included.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Where clients find them.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    /// A folder that lasts as long as the servers. With TLS, `ca.pem`, `client.pem` and
    /// `client-key.pem` lie there.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Who has signed the servers' certificates.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.certificates().ca
    }

    /// A certificate for a client.
    #[must_use]
    pub fn client_cert_pem(&self) -> &str {
        &self.certificates().client.certificate
    }

    /// … and its key.
    #[must_use]
    pub fn client_key_pem(&self) -> &str {
        &self.certificates().client.key
    }

    fn certificates(&self) -> &Certificates {
        self.certificates.as_ref().expect("the servers are built with TLS")
    }

    /// Waits until every member that runs, neither killed nor paused, is part of a majority and
    /// answers.
    #[track_caller]
    pub fn wait_healthy(&self) {
        if let Err(error) = self.await_health() {
            panic!("{error}");
        }
    }

    /// Adds a member to the cluster, and waits until it answers. Its index.
    ///
    /// # Panics
    ///
    /// If it is refused, or does not answer in time.
    #[track_caller]
    pub fn grow(&mut self) -> usize {
        self.add(false)
    }

    /// [`grow`](Servers::grow), by a learner: a member that does not vote, and answers next to
    /// nothing.
    ///
    /// # Panics
    ///
    /// As [`grow`](Servers::grow) does.
    #[track_caller]
    pub fn grow_learner(&mut self) -> usize {
        self.add(true)
    }

    #[track_caller]
    fn add(&mut self, is_learner: bool) -> usize {
        let (index, peer) = (self.members.len(), Port::free());
        let addition = json!({"peerURLs": [format!("http://{peer}")], "isLearner": is_learner});
        self.change_members("cluster/member/add", &addition, "already exists");
        let running = self.members.iter().enumerate().filter(|(_, member)| member.is_part());
        let named = running.map(|(index, member)| (index, member.peer())).chain([(index, peer.to_string())]);
        let cluster = named.map(|(index, peer)| format!("m{index}=http://{peer}")).collect::<Vec<_>>().join(",");
        let mut member = self.build.member(self.folder.path(), index, &peer, &cluster, "existing");
        member.is_learner = is_learner;
        if let Some(root) = &self.build.root {
            member.gateway.become_root(root);
        }
        member.start();
        self.members.push(member);
        self.wait_healthy();
        index
    }

    /// Removes a member from the cluster, and ends it.
    ///
    /// # Panics
    ///
    /// If it does not run, or the removal is refused.
    #[track_caller]
    pub fn remove(&self, index: usize) {
        let began = Instant::now();
        let id = loop {
            match self.members[index].status() {
                Ok(status) => break status.member.cast_unsigned(),
                Err(error) if began.elapsed() > LONG => panic!("{}", error.into_text()),
                Err(_) => thread::sleep(NAP),
            }
        };
        self.change_members("cluster/member/remove", &json!({"ID": id.to_string()}), "not found");
        // A majority has stored the removal, but the others may not know yet that it is decided.
        // Without this member, one that does not know would wait for its vote for ever.
        for other in self.voters().filter(|other| !ptr::eq(*other, &self.members[index])) {
            while other.gateway.lists_member(id).unwrap_or(true) {
                assert!(began.elapsed() < LONG, "the removal of a member is not known to all: {}", other.log());
                thread::sleep(NAP);
            }
        }
        self.members[index].leave();
    }

    /// Adds or removes a member. A request that is repeated gets the error that says it is done
    /// already.
    #[track_caller]
    fn change_members(&self, path: &str, change: &Value, done: &str) {
        let began = Instant::now();
        loop {
            match self.call(path, change) {
                Err(error) if error.contains(done) => return,
                // etcd does not count at once on members that have just joined.
                Err(error) if error.contains("unhealthy") && began.elapsed() < LONG => thread::sleep(NAP),
                Err(error) => panic!("{error}"),
                Ok(_) => return,
            }
        }
    }

    /// The members that run and vote. (A learner refuses most requests.)
    fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.is_running() && !member.is_learner)
    }

    fn await_health(&self) -> Result<(), String> {
        let began = Instant::now();
        for member in self.members.iter() {
            while member.is_running() {
                let health =
                    if member.is_learner { member.status().map(drop) } else { member.gateway.revision().map(drop) };
                let Err(error) = health else { break };
                if member.has_died() || began.elapsed() > LONG {
                    return Err(format!("etcd is not healthy: {}\n{}", error.into_text(), member.log()));
                }
                thread::sleep(NAP);
            }
        }
        Ok(())
    }

    /// The index of the leader: waits until all members that run agree on one of them.
    pub fn leader(&self) -> usize {
        let began = Instant::now();
        loop {
            let running = self.members.iter().enumerate().filter(|(_, member)| member.is_running());
            let statuses: Result<Vec<_>, _> =
                running.map(|(i, member)| Ok::<_, Failure>((i, member.status()?))).collect();
            if let Ok(statuses) = statuses
                && let Some((_, first)) = statuses.first()
                && statuses.iter().all(|(_, status)| (status.leader, status.term) == (first.leader, first.term))
                && let Some((index, _)) = statuses.iter().find(|(_, status)| status.member == first.leader)
            {
                return *index;
            }
            assert!(began.elapsed() < LONG, "the servers do not agree on a leader");
            thread::sleep(NAP);
        }
    }

    /// The indices of the other members that run.
    #[must_use]
    pub fn followers(&self) -> Vec<usize> {
        let leader = self.leader();
        (0..self.members.len()).filter(|index| *index != leader && self.members[*index].is_running()).collect()
    }

    /// Any request that [etcd's JSON
    /// gateway](https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/) knows, such as `kv/put`; as
    /// root, where there are users. It is repeated until it is answered.
    ///
    /// # Errors
    ///
    /// If it is refused, or not answered for a minute.
    pub fn call(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.ask(|member| member.ask(path, body))
    }

    fn ask<T>(&self, question: impl Fn(&Gateway) -> Result<T, Failure>) -> Result<T, String> {
        let began = Instant::now();
        loop {
            let mut reason = "no server runs".to_owned();
            for member in self.voters() {
                match question(&member.gateway) {
                    Ok(answer) => return Ok(answer),
                    Err(Failure::Refused(refused)) => return Err(refused),
                    Err(Failure::Passing(passing)) => reason = passing,
                }
            }
            if began.elapsed() > LONG {
                return Err(reason);
            }
            thread::sleep(NAP);
        }
    }

    /// The revision that all keys are at.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.ask(Gateway::revision).unwrap()
    }

    /// The keys that begin with this, and their values.
    #[must_use]
    pub fn keys(&self, prefix: &str) -> Vec<(String, Vec<u8>)> {
        let answer = self.call("kv/range", &range(prefix)).unwrap();
        let pairs = answer["kvs"].as_array().into_iter().flatten();
        pairs.map(|pair| (String::from_utf8_lossy(&decode(&pair["key"])).into(), decode(&pair["value"]))).collect()
    }

    /// How often a key was put since it was made; never, if it is not there.
    #[must_use]
    pub fn puts(&self, key: &str) -> i64 {
        let answer = self.call("kv/range", &json!({"key": encode(key)})).unwrap();
        number(&answer["kvs"][0]["version"])
    }

    /// Writes a key, whatever it is.
    pub fn put_raw(&self, key: &str, value: impl AsRef<[u8]>) {
        self.call("kv/put", &json!({"key": encode(key), "value": encode(value)})).unwrap();
    }

    /// Writes this value into many keys, 128 at a time.
    pub fn put_raw_each(&self, keys: &[String], value: impl AsRef<[u8]>) {
        for keys in keys.chunks(128) {
            let put = |key: &String| json!({"requestPut": {"key": encode(key), "value": encode(&value)}});
            let puts: Vec<Value> = keys.iter().map(put).collect();
            self.call("kv/txn", &json!({"success": puts})).unwrap();
        }
    }

    /// Lets a user read and write keys that begin with this, too.
    pub fn permit(&self, user: &str, prefix: &str) {
        let mut keys = range(prefix);
        keys["permType"] = json!("READWRITE");
        self.call("auth/role/grant", &json!({"name": user, "perm": keys})).unwrap();
    }

    /// Removes the keys that begin with this.
    pub fn delete_prefix(&self, prefix: &str) {
        self.call("kv/deleterange", &range(prefix)).unwrap();
    }

    /// Forgets all revisions but the current one.
    pub fn compact_now(&self) {
        let compaction = json!({"revision": self.revision(), "physical": true});
        match self.call("kv/compaction", &compaction) {
            Err(error) if !error.contains("has been compacted") => panic!("{error}"),
            _ => {}
        }
    }

    /// How many leases there are.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.lease_ids().len()
    }

    /// Ends all leases, as if nobody had kept them; their keys go with them.
    pub fn revoke_all_leases(&self) {
        for id in self.lease_ids() {
            match self.call("lease/revoke", &json!({"ID": id})) {
                Err(error) if !error.contains("not found") => panic!("{error}"),
                _ => {}
            }
        }
    }

    fn lease_ids(&self) -> Vec<Value> {
        let leases = self.ask(|member| {
            // A member tells of the leases it knows; after this it knows all.
            member.revision()?;
            member.ask("lease/leases", &json!({}))
        });
        leases.unwrap()["leases"].as_array().into_iter().flatten().map(|lease| lease["ID"].clone()).collect()
    }

    /// How many watches the members that run serve, all together.
    #[must_use]
    pub fn watchers(&self) -> u64 {
        self.sum("etcd_debugging_mvcc_watcher_total") as u64
    }

    /// How many seconds of processor time the members that run have used so far.
    #[must_use]
    pub fn processor_seconds(&self) -> f64 {
        self.sum("process_cpu_seconds_total")
    }

    fn sum(&self, gauge: &str) -> f64 {
        let running = self.members.iter().filter(|member| member.is_running());
        running.map(|member| member.gateway.gauge(gauge).expect("a server tells of itself")).sum()
    }
}

impl Index<usize> for Servers {
    type Output = Member;

    fn index(&self, index: usize) -> &Member {
        &self.members[index]
    }
}
