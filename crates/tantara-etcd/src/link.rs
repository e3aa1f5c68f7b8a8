//! The connection to the cluster: one at a time, to any member that answers and knows a leader; and requests that go
//! on over another when it fails.
//!
//! Only requests that may be sent twice are sent here: reads, and writes that apply at most once (see `write.rs`).
//!
//! Nothing depends on `Maintenance/Status` or on the list of members: many versions of etcd keep them from users.
//! Whether a member serves is known from its health check (`connection.rs`); the version and the addresses of the
//! other members are optional.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::Code;
use tonic::transport::Endpoint as Target;

use crate::connection::{Connection, NoAnswer, Wire};
use crate::endpoint::Endpoint;
use crate::error::{Error, Kind, Try, Why, reason, said};
use crate::options::{Options, shown_user};
use crate::pause::{LONGEST_PAUSE, Pause};
use crate::verdict::{Verdict, is_too_old, is_untouched, judge};
use crate::wire::{Authenticate, Header, MemberList, Peek, Rpc, StatusOf};

/// A member that takes longer to answer a connection is passed over for the next.
const CONNECTING: Duration = Duration::from_secs(2);

/// The limit grows with each round in which no endpoint could be connected to, up to this.
const LONGEST_CONNECTING: Duration = Duration::from_secs(30);

/// Connections are asked for a sign of life when they are silent. etcd closes those that ask more often than every
/// five seconds.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// What can do without an answer waits for it no longer than this, or than twice the time of the answer that was
/// needed.
const OPTIONAL: Duration = Duration::from_millis(250);

/// Addresses that a member has told are tried when the endpoints that were given have not answered for so long.
const GIVEN_FIRST: Duration = Duration::from_millis(500);

/// How often the members are asked for the addresses of all of them.
const LEARNING: Duration = Duration::from_secs(30);

/// So many addresses are believed.
const MOST_ADDRESSES: usize = 32;

/// Why a request has failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether it may have been carried out nevertheless.
    pub(crate) may_be_done: bool,
    /// What it says of the lease, the revision.
    pub(crate) status: Option<Code>,
}

/// What the connections of one link have in common.
#[derive(Debug)]
pub(crate) struct Link {
    endpoints: Vec<Endpoint>,
    options: Options,
    /// A key that everybody may read who may use the namespace.
    key: Vec<u8>,
    /// Held while one connects, so that one does.
    current: tokio::sync::Mutex<Option<Connection>>,
    /// How many connections were begun.
    serial: AtomicU64,
    /// The last connection that has failed; so have all before it.
    failed: AtomicU64,
    /// Whether there ever was a connection.
    was_connected: AtomicBool,
    known: Mutex<Known>,
}

/// What was learnt of the cluster.
#[derive(Debug, Default)]
struct Known {
    /// The endpoint that is tried next, of those given and of those learnt.
    next: [usize; 2],
    /// The cluster's number, if a member has told it.
    cluster: Option<u64>,
    /// Where the members say that they are, but for the endpoints that were given.
    learnt: Vec<Endpoint>,
    /// What each endpoint has last failed with.
    reasons: HashMap<String, Why>,
    /// Since when there is no connection, although one is wanted.
    lost: Option<Instant>,
}

impl Link {
    pub(crate) fn new(endpoints: Vec<Endpoint>, options: Options) -> Link {
        // Clients spread over the members.
        let known = Known { next: [fastrand::usize(..endpoints.len()), 0], ..Known::default() };
        Link {
            endpoints,
            key: format!("/{}/e/", options.namespace).into_bytes(),
            options,
            current: tokio::sync::Mutex::new(None),
            serial: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            was_connected: AtomicBool::new(false),
            known: Mutex::new(known),
        }
    }

    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a request that begins now has to be over.
    pub(crate) fn request_deadline(&self) -> Instant {
        after(self.options.timeout)
    }

    /// When the first connection has to be there.
    pub(crate) fn connect_deadline(&self) -> Instant {
        after(self.options.connect_timeout.unwrap_or(self.options.timeout))
    }

    /// Whether there is a connection that is not known to have failed.
    pub(crate) fn seems_up(&self) -> bool {
        // While somebody connects there is none.
        self.current.try_lock().is_ok_and(|current| self.trusted(&current).is_some())
    }

    /// Ready when so much time has passed and there is no connection. Two looks in a row have to find none: one may
    /// fall between two connections.
    pub(crate) async fn is_lost_after(&self, patience: Duration) {
        sleep(patience).await;
        let mut was_up = true;
        loop {
            let is_up = self.seems_up();
            if !is_up && !was_up {
                return;
            }
            was_up = is_up;
            sleep(LONGEST_PAUSE).await;
        }
    }

    /// Whether the connection is not known to have failed.
    pub(crate) fn trusts(&self, connection: &Connection) -> bool {
        connection.serial > self.failed.load(Relaxed)
    }

    /// Since when the cluster has not been reached, although somebody wants to, and what each endpoint has said.
    pub(crate) fn outage(&self) -> Option<(Instant, Error)> {
        let lost = self.known().lost?;
        Some((lost, self.unreachable("go on")))
    }

    fn trusted<'c>(&self, current: &'c Option<Connection>) -> Option<&'c Connection> {
        current.as_ref().filter(|connection| self.trusts(connection))
    }

    /// What each endpoint has last failed with: those that were given, and those learnt that were tried.
    pub(crate) fn tries(&self) -> Vec<Try> {
        let known = self.known();
        let said = |endpoint: &Endpoint| known.reasons.get(&endpoint.name).cloned();
        let given = self.endpoints.iter().map(|endpoint| {
            let why = said(endpoint).unwrap_or_else(|| Why::from("has not answered in time".to_owned()));
            Try { endpoint: endpoint.name.clone(), why }
        });
        let learnt = known.learnt.iter().filter_map(|endpoint| {
            let why = said(endpoint)?;
            Some(Try { endpoint: endpoint.name.clone(), why })
        });
        given.chain(learnt).collect()
    }

    fn note(&self, endpoint: &Endpoint, why: Why) {
        let mut known = self.known();
        known.lost.get_or_insert_with(Instant::now);
        known.reasons.insert(endpoint.name.clone(), why);
    }

    pub(crate) fn unreachable(&self, doing: &'static str) -> Error {
        Error::new(Kind::Unreachable { doing, tries: self.tries() })
    }

    /// The connection, made if there is none. Tries all endpoints, again and again, until the deadline.
    pub(crate) async fn connection(&self, doing: &'static str, until: Instant) -> Result<Connection, Error> {
        match timeout_at(until, self.connect()).await {
            Ok(connected) => connected,
            Err(_) => Err(self.unreachable(doing)),
        }
    }

    async fn connect(&self) -> Result<Connection, Error> {
        let mut current = self.current.lock().await;
        if let Some(connection) = self.trusted(&current) {
            return Ok(connection.clone());
        }
        let connection = tokio::select! {
            connected = self.connect_to_given() => connected?,
            connected = self.connect_to_learnt() => connected,
        };
        self.was_connected.store(true, Relaxed);
        {
            let mut known = self.known();
            known.lost = None;
            known.reasons.clear();
        }
        *current = Some(connection.clone());
        Ok(connection)
    }

    async fn connect_to_given(&self) -> Result<Connection, Error> {
        let mut pause = Pause::new();
        let mut patience = CONNECTING;
        loop {
            for _ in 0..self.endpoints.len() {
                if let Some(connection) = self.try_next(&self.endpoints, 0, patience).await? {
                    return Ok(connection);
                }
            }
            // The members may be slow rather than silent.
            patience = (patience * 2).min(LONGEST_CONNECTING);
            sleep(pause.next()).await;
        }
    }

    /// Never fails. What a member has told need not be true, so nothing that an address says is final.
    async fn connect_to_learnt(&self) -> Connection {
        sleep(GIVEN_FIRST).await;
        loop {
            let learnt = self.known().learnt.clone();
            for _ in 0..learnt.len() {
                if let Ok(Some(connection)) = self.try_next(&learnt, 1, CONNECTING).await {
                    return connection;
                }
            }
            sleep(LONGEST_PAUSE).await;
        }
    }

    async fn try_next(
        &self,
        endpoints: &[Endpoint],
        which: usize,
        patience: Duration,
    ) -> Result<Option<Connection>, Error> {
        let index = {
            let mut known = self.known();
            // Moved on first: whoever comes after a try that was given up does not repeat it.
            let index = known.next[which] % endpoints.len();
            known.next[which] = index + 1;
            index
        };
        let endpoint = &endpoints[index];
        let serial = self.serial.fetch_add(1, Relaxed) + 1;
        match timeout(patience, self.connect_to(endpoint, serial, which == 1)).await {
            Ok(Ok(connection)) => return Ok(Some(connection)),
            Ok(Err(Refusal::Final(error))) => return Err(error),
            Ok(Err(Refusal::Passing(why))) => self.note(endpoint, why),
            Err(_) => self.note(endpoint, Why::from("does not answer; is it the port for clients?".to_owned())),
        }
        Ok(None)
    }

    async fn connect_to(&self, endpoint: &Endpoint, serial: u64, is_learnt: bool) -> Result<Connection, Refusal> {
        let passing = |error: tonic::transport::Error| Refusal::Passing(Why::at(endpoint.is_secure, reason(&error)));
        let mut target = Target::from_shared(endpoint.uri())
            .map_err(passing)?
            .connect_timeout(LONGEST_CONNECTING)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(SIGN_OF_LIFE)
            .keep_alive_timeout(SIGN_OF_LIFE / 2)
            .keep_alive_while_idle(true);
        if endpoint.is_secure {
            let config = self.options.tls.clone().unwrap_or_default().config();
            // Certificates that cannot be read stay so.
            target = target.tls_config(config).map_err(|error| {
                let why = format!("TLS cannot be set up: {}; check the certificates", reason(&error));
                Refusal::Final(Error::new(Kind::Credentials { endpoint: endpoint.name.clone(), why }))
            })?;
        }
        let mut wire = Wire::new(target.connect().await.map_err(passing)?);
        let asked = Instant::now();
        wire.check_health().await.map_err(|status| Refusal::Passing(Why::of_first(endpoint.is_secure, &status)))?;
        let round_trip = asked.elapsed();
        let patience = OPTIONAL.max(round_trip * 2);
        if is_learnt && !endpoint.is_secure && self.options.credentials.is_some() {
            // The address may be another cluster's by now, which must not learn the password. (Over TLS the
            // certificate speaks for the server.)
            let told = timeout(patience, wire.unary(MemberList {})).await;
            self.check_cluster(told.ok().and_then(Result::ok).and_then(|members| members.header))?;
        }
        self.log_in(endpoint, &mut wire).await?;
        let peek = Peek { key: self.key.clone(), limit: 1, serializable: true, keys_only: true };
        let (status, members, peek) = tokio::join!(
            timeout(patience, wire.unary(StatusOf {})),
            timeout(patience, wire.unary(MemberList {})),
            timeout(patience, wire.unary(peek)),
        );
        if let Ok(Ok(status)) = status
            && is_too_old(&status.version)
        {
            let (endpoint, version) = (endpoint.name.clone(), status.version);
            return Err(Refusal::Final(Error::new(Kind::TooOld { endpoint, version })));
        }
        let header = peek.ok().and_then(Result::ok).and_then(|answer| answer.header);
        let members = members.ok().and_then(Result::ok);
        let header = header.or_else(|| members.as_ref()?.header.clone());
        if is_learnt {
            self.check_cluster(header.clone())?;
        }
        let header = header.unwrap_or_default();
        if header.cluster_id != 0 {
            self.known().cluster = Some(header.cluster_id);
        }
        let connection =
            Connection::new(wire, endpoint.clone(), serial, round_trip, header.raft_term, self.key.clone());
        if let Some(members) = members {
            self.learn(&connection.endpoint, members.urls());
        }
        Ok(connection)
    }

    /// Whether a member at an address that was learnt shows the number of the cluster that is known.
    fn check_cluster(&self, header: Option<Header>) -> Result<(), Refusal> {
        let shown = header.map(|header| header.cluster_id).filter(|id| *id != 0);
        if shown.is_some() && shown == self.known().cluster {
            return Ok(());
        }
        Err(Refusal::Passing(Why::from("cannot be told to be of the same cluster".to_owned())))
    }

    async fn log_in(&self, endpoint: &Endpoint, wire: &mut Wire) -> Result<(), Refusal> {
        let Some(credentials) = &self.options.credentials else { return Ok(()) };
        let refused = |why: String| {
            // Who supplies credentials may supply better ones later. A wait need not end for that.
            if credentials.may_change() && self.was_connected.load(Relaxed) {
                Refusal::Passing(Why::login(why))
            } else {
                Refusal::Final(Error::new(Kind::Credentials { endpoint: endpoint.name.clone(), why }))
            }
        };
        let (name, password) =
            credentials.get().map_err(|error| refused(format!("no credentials could be had: {error}")))?;
        let user = shown_user(&name);
        match wire.unary(Authenticate { name, password }).await {
            Ok(answer) => wire.log_in(&answer.token),
            // The cluster asks nobody who they are.
            Err(status) if status.message().contains("authentication is not enabled") => {}
            Err(status) => match judge(&status, &endpoint.name, "log in", true) {
                Verdict::Never(_) => return Err(refused(format!("user {user:?} cannot log in: {}", said(&status)))),
                _ => return Err(Refusal::Passing(Why::of(&status))),
            },
        }
        Ok(())
    }

    /// Believes where the members are, as far as that makes sense from here.
    fn learn(&self, told_by: &Endpoint, urls: impl Iterator<Item = String>) {
        if !self.options.learns_members {
            return;
        }
        let is_exposed = |endpoint: &Endpoint| !endpoint.is_secure && !endpoint.is_loopback();
        // A password leaves this machine in clear only if the caller has named such an endpoint.
        let may_expose = self.options.credentials.is_none() || self.endpoints.iter().any(is_exposed);
        let addresses = urls.filter_map(|url| Endpoint::learnt(&url, told_by));
        let addresses = addresses.filter(|address| may_expose || !is_exposed(address));
        let mut learnt: Vec<Endpoint> = Vec::new();
        for address in addresses {
            if !self.endpoints.contains(&address) && !learnt.contains(&address) && learnt.len() < MOST_ADDRESSES {
                learnt.push(address);
            }
        }
        self.known().learnt = learnt;
    }

    /// Asks now and then where the members are, over the connection that there is. Never ends.
    pub(crate) async fn keep_learning(&self) {
        loop {
            sleep(LEARNING.min(self.options.recheck.max(OPTIONAL))).await;
            let connection = match self.current.try_lock() {
                Ok(current) => self.trusted(&current).cloned(),
                Err(_) => None,
            };
            let Some(connection) = connection.filter(|_| self.options.learns_members) else { continue };
            if let Ok(Ok(members)) = timeout(CONNECTING, connection.wire().unary(MemberList {})).await {
                self.learn(&connection.endpoint, members.urls());
            }
        }
    }

    /// The connection has failed, or its token has: it is not given to anybody any more.
    pub(crate) fn distrust(&self, connection: &Connection, why: impl Into<Why>) {
        if self.failed.fetch_max(connection.serial, Relaxed) < connection.serial {
            self.note(&connection.endpoint, why.into());
        }
    }

    /// Sends a request that may be sent again, until it is answered or the deadline is there.
    pub(crate) async fn call<R: Rpc>(
        &self,
        doing: &'static str,
        request: &R,
        until: Instant,
    ) -> Result<R::Answer, Failure> {
        self.call_counted(doing, request, until).await.0
    }

    /// [`call`](Link::call), and whether an attempt before the one that was answered may have been carried out.
    pub(crate) async fn call_counted<R: Rpc>(
        &self,
        doing: &'static str,
        request: &R,
        until: Instant,
    ) -> (Result<R::Answer, Failure>, bool) {
        let mut may_be_done = false;
        let outcome = self.attempt_until(doing, request, until, &mut may_be_done).await;
        (outcome, may_be_done)
    }

    async fn attempt_until<R: Rpc>(
        &self,
        doing: &'static str,
        request: &R,
        until: Instant,
        may_be_done: &mut bool,
    ) -> Result<R::Answer, Failure> {
        let mut pause = Pause::new();
        let mut tokens = 0;
        loop {
            let connection = match self.connection(doing, until).await {
                Ok(connection) => connection,
                Err(error) => {
                    return Err(Failure { error, may_be_done: *may_be_done, status: None });
                }
            };
            let status = match timeout_at(until, connection.unary(request.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(NoAnswer::Status(status))) => status,
                Ok(Err(NoAnswer::Broken(why))) => {
                    *may_be_done = true;
                    self.distrust(&connection, why);
                    continue;
                }
                Ok(Err(NoAnswer::LeaderReplaced)) => {
                    *may_be_done = true;
                    continue;
                }
                Err(_) => {
                    // It serves, as far as is known, and is slow.
                    *may_be_done = true;
                    let mut tries = self.tries();
                    tries.retain(|tried| tried.endpoint == connection.endpoint.name);
                    tries.iter_mut().for_each(|tried| tried.why = Why::from("has not answered in time".to_owned()));
                    let error = Error::new(Kind::Unreachable { doing, tries });
                    return Err(Failure { error, may_be_done: true, status: None });
                }
            };
            let code = Some(status.code());
            let may_ask_again = self.options.credentials.is_some();
            match judge(&status, &connection.endpoint.name, doing, may_ask_again) {
                Verdict::Elsewhere => {
                    *may_be_done |= !is_untouched(&status);
                    self.distrust(&connection, Why::of(&status));
                }
                Verdict::Again => *may_be_done |= !is_untouched(&status),
                // Expired, or forgotten by a server that was started again. Wrong is only one that is new.
                Verdict::NewToken if tokens < 3 => {
                    tokens += 1;
                    self.distrust(&connection, Why::of(&status));
                }
                Verdict::NewToken => {
                    let (endpoint, why) = (connection.endpoint.name.clone(), said(&status));
                    let error = Error::new(Kind::Credentials { endpoint, why });
                    return Err(Failure { error, may_be_done: *may_be_done, status: code });
                }
                Verdict::Never(error) => {
                    return Err(Failure { error, may_be_done: *may_be_done, status: code });
                }
            }
            if Instant::now() >= until {
                let error = self.unreachable(doing);
                return Err(Failure { error, may_be_done: *may_be_done, status: code });
            }
            sleep(pause.next().min(until.saturating_duration_since(Instant::now()))).await;
        }
    }
}

fn after(time: Duration) -> Instant {
    let far = Instant::now() + Duration::from_secs(86_400);
    Instant::now().checked_add(time).unwrap_or(far)
}

/// Why a connection did not come about.
enum Refusal {
    /// Another endpoint, or the same one later, may do better.
    Passing(Why),
    Final(Error),
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[test]
    fn a_password_leaves_this_machine_in_clear_only_if_such_an_endpoint_was_given() {
        let learnt = |given: &str, options: Options| {
            let endpoints = crate::endpoint::parse(given, false).unwrap();
            let told_by = endpoints[0].clone();
            let link = Link::new(endpoints, options);
            link.learn(&told_by, ["http://127.0.0.1:2", "http://10.0.0.7:2379"].map(str::to_owned).into_iter());
            let names: Vec<String> = link.known().learnt.iter().map(|endpoint| endpoint.name.clone()).collect();
            names.join(",")
        };
        let ann = || Options::new().user("ann", "sesame");
        assert_eq!(learnt("127.0.0.1:1", Options::new()), "127.0.0.1:2,10.0.0.7:2379");
        assert_eq!(learnt("127.0.0.1:1", ann()), "127.0.0.1:2");
        assert_eq!(learnt("10.0.0.5:2379", ann()), "10.0.0.7:2379", "and no loopback of another machine");
    }

    #[test]
    fn a_moment_between_two_connections_is_no_loss() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let link = Link::new(crate::endpoint::parse("127.0.0.1:1", false).unwrap(), Options::new());
            let connect = |serial| {
                let wire = Wire::new(Target::from_static("http://127.0.0.1:1").connect_lazy());
                let connection = Connection::new(wire, link.endpoints[0].clone(), serial, CONNECTING, 0, Vec::new());
                *link.current.try_lock().unwrap() = Some(connection);
            };
            let lost = link.is_lost_after(Duration::ZERO);
            tokio::pin!(lost);
            // It looks for the first time when it is polled for the second time, and finds nothing.
            for _ in 0..2 {
                sleep(Duration::from_millis(10)).await;
                let is_pending = std::future::poll_fn(|context| Poll::Ready(lost.as_mut().poll(context).is_pending()));
                assert!(is_pending.await);
            }
            connect(1);
            assert!(timeout(3 * LONGEST_PAUSE, &mut lost).await.is_err());
            link.failed.store(1, Relaxed);
            lost.await;
        });
    }
}
