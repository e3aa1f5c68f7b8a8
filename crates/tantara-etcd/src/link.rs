//! The connection to the cluster: one at a time, to any member that answers and knows a leader; and requests that go on
//! over another when it fails.
//!
//! Every request that is repeated here may be: reads, and writes that apply at most once (see `write.rs`).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint as Target};
use tonic::{Code, IntoStreamingRequest, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::endpoint::Endpoint;
use crate::error::{Error, Kind};
use crate::options::Options;
use crate::wire::{Authenticate, Rpc, StatusOf};

/// A member that takes longer to answer a connection is passed over for the next.
const CONNECTING: Duration = Duration::from_secs(2);

/// The first attempt of a request takes no longer, and after each that got no answer the next may take twice as long.
/// Only this notices a leader that is stopped in the middle of its work, and a request that a member has passed on to a
/// leader that is dead.
const FIRST_ATTEMPT: Duration = Duration::from_millis(500);

/// Between rounds through all endpoints, and between attempts.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// Connections are asked for a sign of life when they are silent. etcd closes those that ask more often than every five
/// seconds.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// The oldest etcd that can be asked how far a watch has come, and that takes a watch's number from the client.
const OLDEST: (u32, u32) = (3, 4);

/// What a member says that is cut off from the leader, and what it means.
const NO_LEADER: &str = "etcdserver: no leader";
const WITHOUT_LEADER: &str = "knows of no leader: has the cluster lost its quorum?";

/// A wait that doubles, and differs from everybody else's.
#[derive(Debug)]
pub(crate) struct Pause(Duration);

impl Pause {
    pub(crate) fn new() -> Pause {
        Pause(SHORTEST_PAUSE)
    }

    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0.mul_f64(0.5 + fastrand::f64());
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
        pause
    }
}

/// A connection to one member.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
    pub(crate) endpoint: String,
    /// Which connection of the link it is.
    serial: u64,
}

impl Connection {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // A member that is cut off from the leader says so, instead of letting us wait.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    async fn unary<R: Rpc>(&self, message: R) -> Result<R::Answer, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(reason(&error)))?;
        let codec = ProstCodec::<R, R::Answer>::default();
        let answer = grpc.unary(self.request(message), PathAndQuery::from_static(R::PATH), codec).await?;
        Ok(answer.into_inner())
    }

    /// Opens a stream of requests and answers. etcd's side opens with its first answer, so a request must be there.
    pub(crate) async fn stream<Q, A>(
        &self,
        path: &'static str,
        requests: impl tokio_stream::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<A>, Status>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(reason(&error)))?;
        let request = self.request(requests).into_streaming_request();
        let answers = grpc.streaming(request, PathAndQuery::from_static(path), ProstCodec::<Q, A>::default()).await?;
        Ok(answers.into_inner())
    }
}

/// What to make of a request that has failed.
#[derive(Debug)]
enum Verdict {
    /// Over another connection it may succeed.
    Elsewhere,
    /// With a new token it may succeed.
    NewToken,
    /// It never will.
    Never(Error),
}

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
    /// Held while one connects, so that one does.
    current: tokio::sync::Mutex<Current>,
    /// The last connection that has failed; so have all before it.
    failed: AtomicU64,
    /// What each endpoint has last failed with.
    reasons: Mutex<Vec<String>>,
}

#[derive(Debug)]
struct Current {
    connection: Option<Connection>,
    serial: u64,
    /// The endpoint that is tried next.
    next: usize,
}

impl Link {
    pub(crate) fn new(endpoints: Vec<Endpoint>, options: Options) -> Link {
        let reasons = Mutex::new(vec![String::new(); endpoints.len()]);
        // Clients spread over the members.
        let next = fastrand::usize(..endpoints.len());
        let current = tokio::sync::Mutex::new(Current { connection: None, serial: 0, next });
        Link { endpoints, options, current, failed: AtomicU64::new(0), reasons }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// When a request that begins now has to be over.
    pub(crate) fn request_deadline(&self) -> Instant {
        let far = Instant::now() + Duration::from_secs(86_400);
        Instant::now().checked_add(self.options.timeout).unwrap_or(far)
    }

    /// Whether there is a connection that is not known to have failed.
    pub(crate) fn seems_up(&self) -> bool {
        // While somebody connects there is none.
        self.current.try_lock().is_ok_and(|current| self.trusted(&current).is_some())
    }

    fn trusted<'c>(&self, current: &'c Current) -> Option<&'c Connection> {
        current.connection.as_ref().filter(|connection| connection.serial > self.failed.load(Relaxed))
    }

    /// What each endpoint has last failed with.
    pub(crate) fn tries(&self) -> Vec<(String, String)> {
        let reasons = self.reasons.lock().unwrap_or_else(PoisonError::into_inner);
        let said = self.endpoints.iter().zip(&*reasons);
        said.map(|(endpoint, why)| {
            let why = if why.is_empty() { "has not answered in time" } else { why };
            (endpoint.name.clone(), why.to_owned())
        })
        .collect()
    }

    fn note(&self, endpoint: &str, why: String) {
        let index = self.endpoints.iter().position(|known| known.name == endpoint);
        if let Some(reason) = self.reasons.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index.unwrap_or(0)) {
            *reason = why;
        }
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
        let mut pause = Pause::new();
        loop {
            for _ in 0..self.endpoints.len() {
                // Moved on first: whoever comes after a try that was given up does not repeat it.
                let index = current.next;
                current.next = (index + 1) % self.endpoints.len();
                let endpoint = &self.endpoints[index];
                current.serial += 1;
                let attempt = timeout_at(Instant::now() + CONNECTING, self.connect_to(endpoint, current.serial));
                match attempt.await {
                    Ok(Ok(connection)) => {
                        current.connection = Some(connection.clone());
                        return Ok(connection);
                    }
                    Ok(Err(Refusal::Final(error))) => return Err(error),
                    Ok(Err(Refusal::Passing(why))) => self.note(&endpoint.name, why),
                    Err(_) => self.note(&endpoint.name, "does not answer; is it the port for clients?".to_owned()),
                }
            }
            sleep(pause.next()).await;
        }
    }

    async fn connect_to(&self, endpoint: &Endpoint, serial: u64) -> Result<Connection, Refusal> {
        let passing = |error: tonic::transport::Error| Refusal::Passing(reason(&error));
        let mut target = Target::from_shared(endpoint.uri())
            .map_err(passing)?
            .connect_timeout(CONNECTING)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(SIGN_OF_LIFE)
            .keep_alive_timeout(SIGN_OF_LIFE / 2)
            .keep_alive_while_idle(true);
        if endpoint.is_secure {
            let config = self.options.tls.clone().unwrap_or_default().config();
            // Certificates that cannot be read stay so.
            target = target.tls_config(config).map_err(|error| {
                let why = format!("TLS cannot be set up: {}; look at the certificates", reason(&error));
                Refusal::Final(Error::new(Kind::Credentials { endpoint: endpoint.name.clone(), why }))
            })?;
        }
        let channel = target.connect().await.map_err(passing)?;
        let mut connection = Connection { channel, token: None, endpoint: endpoint.name.clone(), serial };
        // Whether anybody is there, and who. No leader is needed to answer.
        let status = connection.unary(StatusOf {}).await.map_err(|status| Refusal::Passing(said(&status)))?;
        if is_too_old(&status.version) {
            let (endpoint, version) = (endpoint.name.clone(), status.version);
            return Err(Refusal::Final(Error::new(Kind::TooOld { endpoint, version })));
        }
        if status.leader == 0 {
            return Err(Refusal::Passing(WITHOUT_LEADER.to_owned()));
        }
        if let Some((name, password)) = &self.options.user {
            let login = Authenticate { name: name.clone(), password: password.clone() };
            connection.token = match connection.unary(login).await {
                Ok(answer) => answer.token.parse().ok(),
                // The cluster asks nobody who they are.
                Err(status) if status.code() == Code::FailedPrecondition => None,
                Err(status) => match self.judge(&status, &connection, "log in") {
                    Verdict::Never(_) => {
                        let why = format!("user {name:?} cannot log in: {}", said(&status));
                        let endpoint = endpoint.name.clone();
                        return Err(Refusal::Final(Error::new(Kind::Credentials { endpoint, why })));
                    }
                    _ => return Err(Refusal::Passing(said(&status))),
                },
            };
        }
        Ok(connection)
    }

    /// The connection has failed, or its token has: it is not given to anybody any more.
    pub(crate) fn distrust(&self, connection: &Connection, why: String) {
        self.note(&connection.endpoint, why);
        self.failed.fetch_max(connection.serial, Relaxed);
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
        let mut patience = FIRST_ATTEMPT;
        let mut pause = Pause::new();
        let mut tokens = 0;
        loop {
            let connection = match self.connection(doing, until).await {
                Ok(connection) => connection,
                Err(error) => {
                    return Err(Failure { error, may_be_done: *may_be_done, status: None });
                }
            };
            let attempt = Instant::now() + patience;
            let status = match timeout_at(attempt.min(until), connection.unary(request.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_) => {
                    patience *= 2;
                    Status::deadline_exceeded("does not answer")
                }
            };
            let code = Some(status.code());
            match self.judge(&status, &connection, doing) {
                Verdict::Elsewhere => *may_be_done |= !is_untouched(&status),
                // Expired, or forgotten by a server that was started again. Wrong is only one that is new.
                Verdict::NewToken if tokens < 3 => tokens += 1,
                Verdict::NewToken => {
                    let (endpoint, why) = (connection.endpoint.clone(), said(&status));
                    let error = Error::new(Kind::Credentials { endpoint, why });
                    return Err(Failure { error, may_be_done: *may_be_done, status: code });
                }
                Verdict::Never(error) => {
                    return Err(Failure { error, may_be_done: *may_be_done, status: code });
                }
            }
            self.distrust(&connection, said(&status));
            if Instant::now() >= until {
                let error = self.unreachable(doing);
                return Err(Failure { error, may_be_done: *may_be_done, status: code });
            }
            sleep(pause.next().min(until.saturating_duration_since(Instant::now()))).await;
        }
    }

    fn judge(&self, status: &Status, connection: &Connection, doing: &'static str) -> Verdict {
        let endpoint = connection.endpoint.clone();
        let message = status.message();
        match status.code() {
            Code::Unauthenticated => Verdict::NewToken,
            Code::InvalidArgument if message.contains("auth store is old") => Verdict::NewToken,
            Code::InvalidArgument if message.contains("user name is empty") => match &self.options.user {
                Some(_) => Verdict::NewToken,
                None => {
                    let why = "the cluster asks for a user and a password; give them".to_owned();
                    Verdict::Never(Error::new(Kind::Credentials { endpoint, why }))
                }
            },
            Code::PermissionDenied => Verdict::Never(Error::new(Kind::Denied { doing, endpoint })),
            Code::ResourceExhausted if message.contains("database space exceeded") => {
                let why = "its database is full; compact and defragment it, or raise its quota, and disarm the alarm";
                Verdict::Never(Error::new(Kind::Refused { doing, endpoint, why: why.to_owned() }))
            }
            Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::DataLoss => Verdict::Never(Error::new(Kind::Refused { doing, endpoint, why: said(status) })),
            _ => Verdict::Elsewhere,
        }
    }
}

/// Whether the member says that it has not even begun.
fn is_untouched(status: &Status) -> bool {
    let message = status.message();
    message == NO_LEADER || message == "etcdserver: too many requests"
}

/// Why a connection did not come about.
enum Refusal {
    /// Another endpoint, or the same one later, may do better.
    Passing(String),
    Final(Error),
}

fn is_too_old(version: &str) -> bool {
    let mut numbers = version.split('.').map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) < OLDEST,
        // What does not say its version is not known to be too old.
        _ => false,
    }
}

/// The words of a status, without etcd's own name before them.
fn said(status: &Status) -> String {
    let message = status.message();
    if message == NO_LEADER {
        return WITHOUT_LEADER.to_owned();
    }
    let message = message.strip_prefix("etcdserver: ").unwrap_or(message);
    let source = std::error::Error::source(status).map(reason);
    let words = match source {
        Some(source) => source,
        None if message.is_empty() => status.code().description().to_owned(),
        None => message.to_owned(),
    };
    // One line of it, however hostile the server.
    words.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// The innermost reason, which is the one that people understand.
fn reason(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    // The system's number says nothing to anybody.
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for old in ["2.3.8", "3.3.27", "3.0.0"] {
            assert!(is_too_old(old), "{old}");
        }
        for new in ["3.4.0", "3.4.23", "3.5.33", "3.10.0", "4.0.0", "", "unknown", "3"] {
            assert!(!is_too_old(new), "{new}");
        }
    }

    #[test]
    fn pauses_grow_to_a_limit() {
        let mut pause = Pause::new();
        assert!(pause.next() < Duration::from_millis(16));
        for _ in 0..20 {
            assert!(pause.next() < LONGEST_PAUSE * 2);
        }
        assert!(pause.next() >= LONGEST_PAUSE / 2);
    }
}
