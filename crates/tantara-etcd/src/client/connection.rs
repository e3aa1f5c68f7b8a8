//! The connection to the cluster: to one member at a time, which answers and knows a leader.
//! Requests are retried over another member when the connection fails.
//!
//! Nothing depends on `Maintenance/Status` or on the list of members, which many versions of etcd
//! refuse to users. Whether a member serves is known from its health check (`member.rs`); the
//! version and the addresses of the other members are optional.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tonic::transport::Endpoint as Target;

use crate::client::addresses::Addresses;
use crate::client::endpoint::Endpoint;
use crate::client::member::MemberConnection;
use crate::client::outage::Outages;
use crate::client::pause::{LONGEST_PAUSE, Pause, Turn};
use crate::client::proto::{
    Authenticate, Header, MemberList, MemberListAnswer, Range, RangeAnswer, Rpc, StatusAnswer, StatusOf,
};
use crate::client::transport::Transport;
use crate::client::verdict::{Verdict, is_too_old, judge};
use crate::error::{Error, Kind, Try, Why, reason, text_of};
use crate::lock::lock;
use crate::options::{Options, shown_user};
use crate::random;
use crate::tls;

/// How long a member may take to accept a connection before it is given up.
const CONNECTING: Duration = Duration::from_secs(2);

/// That time grows up to this with each round in which no endpoint could be connected to.
const LONGEST_CONNECTING: Duration = Duration::from_secs(30);

/// After this time without data the kernel checks that the member's machine can be reached, and
/// again every few seconds. Whether the member itself serves is found out by requests, which are
/// probed, and by watches, which check its health. (HTTP/2's pings would wake the process up.)
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_AGAIN: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMES: u32 = 3;

/// The timeout of optional requests: this long, or twice the round trip of the health check.
const OPTIONAL: Duration = Duration::from_millis(250);

/// Once an endpoint has not answered for this long, the next ones and the learnt addresses are tried
/// beside it.
const ALONE: Duration = Duration::from_millis(500);

/// Why an endpoint that was tried has failed, as long as nothing else is known.
pub(crate) const LATE: &str = "has not answered in time";

/// How often a member is asked for the addresses of all members.
const LEARNING: Duration = Duration::from_secs(30);

/// What a member reports when it is connected to. All of it is optional.
#[derive(Debug, Default)]
struct Report {
    status: Option<StatusAnswer>,
    members: Option<MemberListAnswer>,
    peek: Option<RangeAnswer>,
    ahead: Option<RangeAnswer>,
}

impl Report {
    /// The header of any answer: all of them show the cluster and the term.
    fn header(&self) -> Option<Header> {
        let Report { status, members, peek, ahead } = self;
        let header = peek.as_ref().and_then(|answer| answer.header.clone());
        let header = header.or_else(|| ahead.as_ref()?.header.clone());
        let header = header.or_else(|| status.as_ref()?.header.clone());
        header.or_else(|| members.as_ref()?.header.clone())
    }
}

/// The connection to a cluster.
#[derive(Debug)]
pub(crate) struct Connection {
    addresses: Arc<Addresses>,
    pub(crate) options: Options,
    /// A key that every user of the namespace may read.
    key: Vec<u8>,
    /// A key that is read together with the first connection, and the answer until it is taken:
    /// when it was requested, and what it is.
    ahead: Vec<u8>,
    read_ahead: Mutex<Option<(Instant, RangeAnswer)>>,
    /// Locked while a task connects, so that only one does.
    current: tokio::sync::Mutex<Option<MemberConnection>>,
    /// The number of connections that were begun.
    serial: AtomicU64,
    /// The last connection that has failed; all earlier ones have failed, too.
    failed: AtomicU64,
    /// Whether a connection was ever made.
    was_connected: AtomicBool,
    known: Mutex<Known>,
    /// When the runtime was built, or a little later.
    epoch: Instant,
    /// Notified when this process is awake and sends something. Other requests that can wait are
    /// then sent as well, which saves a wake-up.
    pub(crate) awake: Notify,
    /// When there is no connection, although one is wanted.
    pub(crate) outages: Outages,
}

/// What is known about the cluster.
#[derive(Debug, Default)]
struct Known {
    /// The endpoint to try next, among those given and among those learnt.
    next: [usize; 2],
    /// The cluster's ID, if a member has reported it.
    cluster: Option<u64>,
    /// The last failure of each endpoint.
    reasons: HashMap<String, Why>,
}

impl Connection {
    pub(crate) fn new(endpoints: Vec<Endpoint>, options: Options, ahead: Vec<u8>) -> Connection {
        // A random start spreads clients over the members.
        let known = Known { next: [random::below(endpoints.len()), 0], ..Known::default() };
        Connection {
            addresses: Arc::new(Addresses::new(endpoints, &options)),
            key: format!("/{}/e/", options.namespace).into_bytes(),
            options,
            ahead,
            read_ahead: Mutex::new(None),
            current: tokio::sync::Mutex::new(None),
            serial: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            was_connected: AtomicBool::new(false),
            known: Mutex::new(known),
            epoch: Instant::now(),
            awake: Notify::new(),
            outages: Outages::default(),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }

    /// The last moment before `time` at which a timer wakes the process up once.
    pub(crate) fn one_wake_up_at(&self, time: Instant, turn: Turn) -> Instant {
        turn.last_beginning(self.epoch, time)
    }

    /// When to begin something that can wait for about this long: at a moment at which a waiting
    /// process is awake anyway, if the pauses between these are much shorter.
    pub(crate) fn in_about(&self, time: Duration) -> Instant {
        let due = after(time);
        if time < 2 * Turn::LONG.length() { due } else { self.one_wake_up_at(due, Turn::LONG) }
    }

    /// The deadline of a request that begins now.
    pub(crate) fn request_deadline(&self) -> Instant {
        after(self.options.timeout)
    }

    /// The deadline of the first connection.
    pub(crate) fn connect_deadline(&self) -> Instant {
        after(self.options.connect_timeout.unwrap_or(self.options.timeout))
    }

    /// Whether there is a connection that is not known to have failed.
    fn seems_up(&self) -> bool {
        // It is locked while a task connects.
        self.current.try_lock().is_ok_and(|current| self.trusted(&current).is_some())
    }

    /// Completes once `patience` has passed and there is no connection. Two checks in a row must
    /// find none, because one may fall between two connections.
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
    pub(crate) fn trusts(&self, connection: &MemberConnection) -> bool {
        connection.serial > self.failed.load(Relaxed)
    }

    /// Since when a connection is wanted and there is none, and the failure of each endpoint.
    pub(crate) fn outage(&self) -> Option<(Instant, Error)> {
        let lost = self.outages.since()?;
        Some((lost, self.unreachable("go on")))
    }

    fn trusted<'c>(&self, current: &'c Option<MemberConnection>) -> Option<&'c MemberConnection> {
        current.as_ref().filter(|connection| self.trusts(connection))
    }

    /// The last failure of each endpoint: all given ones, and the learnt ones that were tried.
    pub(crate) fn tries(&self) -> Vec<Try> {
        let (known, learnt) = (self.known(), self.addresses.learnt());
        let reason = |endpoint: &Endpoint| known.reasons.get(&endpoint.name).cloned();
        let given = self.addresses.given.iter().map(|endpoint| {
            let why = reason(endpoint).unwrap_or_else(|| Why::from("was not tried in that time"));
            Try { endpoint: endpoint.name.clone(), why }
        });
        let learnt = learnt.iter().filter_map(|endpoint| {
            let why = reason(endpoint)?;
            Some(Try { endpoint: endpoint.name.clone(), why })
        });
        given.chain(learnt).collect()
    }

    fn note(&self, endpoint: &Endpoint, why: Why) {
        self.known().reasons.insert(endpoint.name.clone(), why);
        self.outages.begin();
    }

    pub(crate) fn unreachable(&self, doing: &'static str) -> Error {
        Error::new(Kind::Unreachable { doing, tries: self.tries() })
    }

    /// The connection to a member. If there is none, tries all endpoints in turn until the
    /// deadline.
    pub(crate) async fn member(&self, doing: &'static str, until: Instant) -> Result<MemberConnection, Error> {
        if let Ok(current) = self.current.try_lock()
            && let Some(connection) = self.trusted(&current)
        {
            return Ok(connection.clone());
        }
        // In a box, because it is large, and part of the future of every request.
        match timeout_at(until, Box::pin(self.connect())).await {
            Ok(connected) => connected,
            Err(_) => Err(self.unreachable(doing)),
        }
    }

    async fn connect(&self) -> Result<MemberConnection, Error> {
        let mut current = self.current.lock().await;
        if let Some(connection) = self.trusted(&current) {
            return Ok(connection.clone());
        }
        let connection = tokio::select! {
            connected = self.connect_to_given() => connected?,
            connected = self.connect_beside() => connected?,
            connected = self.connect_to_learnt() => connected,
        };
        self.was_connected.store(true, Relaxed);
        self.outages.end();
        self.known().reasons = HashMap::from([(connection.endpoint.name.clone(), Why::from(LATE))]);
        *current = Some(connection.clone());
        Ok(connection)
    }

    async fn connect_to_given(&self) -> Result<MemberConnection, Error> {
        let mut pause = Pause::new();
        let mut patience = CONNECTING;
        loop {
            for _ in 0..self.addresses.given.len() {
                if let Some(connection) = self.try_next(&self.addresses.given, 0, patience).await? {
                    return Ok(connection);
                }
            }
            // The members may be slow rather than unreachable.
            patience = (patience * 2).min(LONGEST_CONNECTING);
            sleep(pause.next()).await;
        }
    }

    /// Tries each of the given endpoints once, beside one that does not answer.
    async fn connect_beside(&self) -> Result<MemberConnection, Error> {
        sleep(ALONE).await;
        for _ in 1..self.addresses.given.len() {
            if let Some(connection) = self.try_next(&self.addresses.given, 0, CONNECTING).await? {
                return Ok(connection);
            }
        }
        std::future::pending().await
    }

    /// Never fails: a learnt address may be wrong, so no answer from it is final.
    async fn connect_to_learnt(&self) -> MemberConnection {
        sleep(ALONE).await;
        loop {
            let learnt = self.addresses.learnt();
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
    ) -> Result<Option<MemberConnection>, Error> {
        let index = {
            let mut known = self.known();
            // Advanced first, so that an attempt that is cancelled is not repeated.
            let index = known.next[which] % endpoints.len();
            known.next[which] = index + 1;
            index
        };
        let endpoint = &endpoints[index];
        self.known().reasons.entry(endpoint.name.clone()).or_insert_with(|| Why::from(LATE));
        let serial = self.serial.fetch_add(1, Relaxed) + 1;
        match timeout(patience, Box::pin(self.connect_to(endpoint, serial, which == 1))).await {
            Ok(Ok(connection)) => return Ok(Some(connection)),
            Ok(Err(Refusal::Final(error))) => return Err(error),
            Ok(Err(Refusal::Passing(why))) => self.note(endpoint, why),
            Err(_) => self.note(endpoint, Why::from("does not answer; is it the port for clients?")),
        }
        Ok(None)
    }

    async fn connect_to(&self, endpoint: &Endpoint, serial: u64, is_learnt: bool) -> Result<MemberConnection, Refusal> {
        let passing = |error| Refusal::Passing(Why::of_connection(endpoint.is_secure, error));
        let mut target = Target::from_shared(endpoint.uri())
            .map_err(passing)?
            .connect_timeout(LONGEST_CONNECTING)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(KEEP_ALIVE))
            .tcp_keepalive_interval(Some(KEEP_ALIVE_AGAIN))
            .tcp_keepalive_retries(Some(KEEP_ALIVE_TIMES));
        if endpoint.is_secure {
            // Unreadable certificates are final.
            target = tls::secure(target, self.options.tls.as_ref()).map_err(|error| {
                let why = format!("TLS cannot be set up: {}; check the certificates", reason(&error));
                Refusal::Final(Error::new(Kind::Credentials { endpoint: endpoint.name.clone(), why }))
            })?;
        }
        let mut transport = Transport::new(target.connect().await.map_err(passing)?);
        let began = Instant::now();
        let (round_trip, report) = self.greet(endpoint, &mut transport, is_learnt).await?;
        if let Some(StatusAnswer { version, .. }) = &report.status
            && is_too_old(version)
        {
            let version = version.clone();
            let endpoint = endpoint.name.clone();
            return Err(Refusal::Final(Error::new(Kind::TooOld { endpoint, version })));
        }
        let header = report.header();
        if let Some(ahead) = report.ahead {
            *lock(&self.read_ahead) = Some((began, ahead));
        }
        if is_learnt {
            self.check_cluster(header.clone())?;
        }
        let header = header.unwrap_or_default();
        if header.cluster_id != 0 {
            self.known().cluster = Some(header.cluster_id);
        }
        if let Some(members) = report.members {
            self.addresses.learn(endpoint, members.urls());
        } else {
            // Nothing waits for this. It is sent together with the first request.
            let (addresses, transport, endpoint) = (Arc::clone(&self.addresses), transport.clone(), endpoint.clone());
            tokio::spawn(async move { addresses.ask(&transport, &endpoint).await });
        }
        Ok(MemberConnection::new(transport, endpoint.clone(), serial, round_trip, header.raft_term, self.key.clone()))
    }

    /// Checks that a member serves, logs in, and asks for its report. Returns the time that the
    /// health check took.
    async fn greet(
        &self,
        endpoint: &Endpoint,
        transport: &mut Transport,
        is_learnt: bool,
    ) -> Result<(Duration, Report), Refusal> {
        let refused = |status| Refusal::Passing(Why::of_first(endpoint.is_secure, &status));
        let mut report = Report::default();
        let asked = Instant::now();
        if self.options.credentials.is_none() {
            let round_trip = {
                // All requests are sent at once, so they take one round trip.
                let health = transport.check_health();
                let reporting = self.ask(transport, &mut report, is_learnt);
                tokio::pin!(health, reporting);
                let (health, is_complete) = tokio::select! {
                    health = &mut health => (health, false),
                    () = &mut reporting => (health.await, true),
                };
                health.map_err(refused)?;
                let round_trip = asked.elapsed();
                if !is_complete {
                    let _ = timeout(OPTIONAL.max(round_trip * 2), reporting).await;
                }
                round_trip
            };
            return Ok((round_trip, report));
        }
        transport.check_health().await.map_err(refused)?;
        let round_trip = asked.elapsed();
        let patience = OPTIONAL.max(round_trip * 2);
        if is_learnt && !endpoint.is_secure {
            // The address may belong to another cluster by now, which must not learn the password.
            // (Over TLS the certificate identifies the server.)
            let members = timeout(patience, transport.unary(&MemberList {})).await;
            self.check_cluster(members.ok().and_then(Result::ok).and_then(|members| members.header))?;
        }
        self.log_in(endpoint, transport).await?;
        let _ = timeout(patience, self.ask(transport, &mut report, is_learnt)).await;
        Ok((round_trip, report))
    }

    /// Asks a member for its report. If this is cancelled, the report has what was answered.
    async fn ask(&self, transport: &Transport, report: &mut Report, is_learnt: bool) {
        async fn fill<R: Rpc>(transport: &Transport, request: R, answer: &mut Option<R::Answer>) {
            *answer = transport.unary(&request).await.ok();
        }
        let is_first = !self.was_connected.load(Relaxed);
        let Report { status, members, peek, ahead } = &mut *report;
        let reading_ahead = async {
            if is_first {
                fill(transport, Range { serializable: true, ..Range::of(self.ahead.clone()) }, ahead).await;
            }
        };
        let peeking = async {
            if is_learnt || !is_first {
                fill(transport, Range::peek(self.key.clone()), peek).await;
            }
        };
        // It shows the cluster even to a user who may read nothing.
        let listing = async {
            if is_learnt {
                fill(transport, MemberList {}, members).await;
            }
        };
        tokio::join!(fill(transport, StatusOf {}, status), listing, peeking, reading_ahead);
        if report.header().is_none() {
            // This user may read neither the status nor what was read ahead.
            fill(transport, Range::peek(self.key.clone()), &mut report.peek).await;
        }
    }

    /// Takes the answer to the read that was made together with the first connection, and when it
    /// was requested.
    pub(crate) fn take_read_ahead(&self) -> Option<(Instant, RangeAnswer)> {
        lock(&self.read_ahead).take()
    }

    /// Checks that a member at a learnt address reports the known cluster ID.
    fn check_cluster(&self, header: Option<Header>) -> Result<(), Refusal> {
        let shown = header.map(|header| header.cluster_id).filter(|id| *id != 0);
        if shown.is_some() && shown == self.known().cluster {
            return Ok(());
        }
        Err(Refusal::Passing(Why::from("is not known to belong to the same cluster")))
    }

    async fn log_in(&self, endpoint: &Endpoint, transport: &mut Transport) -> Result<(), Refusal> {
        let Some(credentials) = &self.options.credentials else { return Ok(()) };
        let refused = |why: String| {
            // The provider may return better credentials later, so waits go on.
            if credentials.may_change() && self.was_connected.load(Relaxed) {
                Refusal::Passing(Why::of_login(why))
            } else {
                Refusal::Final(Error::new(Kind::Credentials { endpoint: endpoint.name.clone(), why }))
            }
        };
        let (name, password) =
            credentials.get().map_err(|error| refused(format!("no credentials: the provider has failed: {error}")))?;
        let user = shown_user(&name);
        match transport.unary(&Authenticate { name, password }).await {
            Ok(answer) => transport.log_in(&answer.token),
            // The cluster has no users.
            Err(status) if status.message().contains("authentication is not enabled") => {}
            Err(status) => match judge(&status, &endpoint.name, "log in", true) {
                Verdict::Never(_) => return Err(refused(format!("user {user:?} cannot log in: {}", text_of(&status)))),
                _ => return Err(Refusal::Passing(Why::of(&status))),
            },
        }
        Ok(())
    }

    /// Asks for the members' addresses periodically, while there is a connection. Never returns.
    pub(crate) async fn keep_learning(&self) {
        loop {
            sleep_until(self.in_about(LEARNING.min(self.options.recheck.max(OPTIONAL)))).await;
            let connection = match self.current.try_lock() {
                Ok(current) => self.trusted(&current).cloned(),
                Err(_) => None,
            };
            if let Some(connection) = connection {
                self.addresses.ask(connection.transport(), &connection.endpoint).await;
            }
        }
    }

    /// Marks a connection as failed, because it does not serve or its token is refused. It is not
    /// used again.
    pub(crate) fn distrust(&self, connection: &MemberConnection, why: Why) {
        if self.failed.fetch_max(connection.serial, Relaxed) < connection.serial {
            self.note(&connection.endpoint, why);
        }
    }
}

fn after(time: Duration) -> Instant {
    let far = Instant::now() + Duration::from_secs(86_400);
    Instant::now().checked_add(time).unwrap_or(far)
}

/// Why a connection could not be made.
enum Refusal {
    /// Another endpoint may succeed, or the same one later.
    Passing(Why),
    Final(Error),
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;

    #[test]
    fn a_moment_between_two_connections_is_no_loss() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let endpoints = crate::client::endpoint::parse("127.0.0.1:1", false).unwrap();
            let connection = Connection::new(endpoints, Options::new(), Vec::new());
            let connect_to = |serial| {
                let transport = Transport::new(Target::from_static("http://127.0.0.1:1").connect_lazy());
                let member = MemberConnection::new(
                    transport,
                    connection.addresses.given[0].clone(),
                    serial,
                    CONNECTING,
                    0,
                    Vec::new(),
                );
                *connection.current.try_lock().unwrap() = Some(member);
            };
            let lost = connection.is_lost_after(Duration::ZERO);
            tokio::pin!(lost);
            // The second poll makes the first check, which finds no connection.
            for _ in 0..2 {
                sleep(Duration::from_millis(10)).await;
                let is_pending = std::future::poll_fn(|context| Poll::Ready(lost.as_mut().poll(context).is_pending()));
                assert!(is_pending.await);
            }
            connect_to(1);
            assert!(timeout(3 * LONGEST_PAUSE, &mut lost).await.is_err());
            connection.failed.store(1, Relaxed);
            lost.await;
        });
    }
}
