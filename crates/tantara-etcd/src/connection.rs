//! A connection to one member, and how it is told whether it still serves.
//!
//! **A slow answer is not a broken connection.** A request takes as long as the disks of a majority take. So no
//! request is given up because it takes long. While requests wait in silence, the member is probed with requests
//! that need no disk, no leader and no permission:
//!
//! 1. gRPC's health check, with etcd's demand for a leader. A member that does not answer it is stopped or cut off;
//!    one that knows no leader, or that is a learner, says so. In each case the requests go elsewhere.
//! 2. A serializable read, for the term. A later term than the one in which a request was sent means that the leader
//!    was replaced, and that the request may have been lost with the old one: it is sent again.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prost::Message;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, IntoStreamingRequest, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::endpoint::Endpoint;
use crate::error::{Why, reason};
use crate::wire::{HealthCheck, Peek, Rpc};

/// After so long without any answer the member is probed, and as often from then on.
const SILENCE: Duration = Duration::from_millis(250);

/// A probe has at least so much time, and this many times what the first answer of the connection took.
const SHORTEST_PROBE: Duration = Duration::from_millis(500);
const PROBE_ROUND_TRIPS: u32 = 4;

/// Sends requests over one connection.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Wire {
    pub(crate) fn new(channel: Channel) -> Wire {
        Wire { channel, token: None }
    }

    pub(crate) fn log_in(&mut self, token: &str) {
        self.token = token.parse().ok().map(|mut token: MetadataValue<Ascii>| {
            // Not shown by `Debug`.
            token.set_sensitive(true);
            token
        });
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // A member that is cut off from the leader says so, instead of letting us wait.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    pub(crate) async fn unary<R: Rpc>(&self, message: R) -> Result<R::Answer, Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(reason(&error)))?;
        let codec = ProstCodec::<R, R::Answer>::default();
        let answer = grpc.unary(self.request(message), PathAndQuery::from_static(R::PATH), codec).await?;
        Ok(answer.into_inner())
    }

    /// Asks whether the member serves and knows a leader. What it refuses for other reasons is an answer too.
    pub(crate) async fn check_health(&self) -> Result<(), Status> {
        match self.unary(HealthCheck {}).await {
            Ok(_) => Ok(()),
            // A proxy for etcd need not know the question.
            Err(status) if matches!(status.code(), Code::Unimplemented | Code::NotFound) => Ok(()),
            Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) => Ok(()),
            Err(status) => Err(status),
        }
    }
}

/// What is known of a connection.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Why it does not serve any more.
    broken: Option<Why>,
    /// The last term that was heard of; 0 if none was.
    term: u64,
}

/// Shared by the requests of a connection and its probe.
#[derive(Debug)]
struct Pulse {
    waiting: AtomicUsize,
    begins: Notify,
    /// When the member last answered anything.
    heard: Mutex<Instant>,
    known: watch::Sender<Known>,
}

impl Pulse {
    fn hear(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, why: Why) {
        self.known.send_modify(|known| known.broken = Some(why));
    }
}

/// Counts a request for as long as it waits.
struct Waiting<'p>(&'p Pulse);

impl<'p> Waiting<'p> {
    fn new(pulse: &'p Pulse) -> Waiting<'p> {
        pulse.waiting.fetch_add(1, Relaxed);
        pulse.begins.notify_one();
        Waiting(pulse)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

/// Ends the probe with the last handle on its connection.
#[derive(Debug)]
struct Probing(AbortHandle);

impl Drop for Probing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a request has no answer.
#[derive(Debug)]
pub(crate) enum NoAnswer {
    /// The member has refused it, or the connection has ended under it.
    Status(Status),
    /// The connection does not serve any more.
    Broken(Why),
    /// The leader was replaced, and the request was perhaps lost with the old one.
    LeaderReplaced,
}

/// A connection to one member.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    wire: Wire,
    pub(crate) endpoint: Endpoint,
    /// Which connection of the link it is.
    pub(crate) serial: u64,
    pulse: Arc<Pulse>,
    _probing: Arc<Probing>,
}

impl Connection {
    /// Begins to use a connection. `round_trip` is what its first answer took, `key` one that may be read, if any
    /// may.
    pub(crate) fn new(
        wire: Wire,
        endpoint: Endpoint,
        serial: u64,
        round_trip: Duration,
        term: u64,
        key: Vec<u8>,
    ) -> Connection {
        let known = watch::Sender::new(Known { broken: None, term });
        let heard = Mutex::new(Instant::now());
        let pulse = Arc::new(Pulse { waiting: AtomicUsize::new(0), begins: Notify::new(), heard, known });
        let patience = SHORTEST_PROBE.max(round_trip * PROBE_ROUND_TRIPS);
        let probing = tokio::spawn(probe(wire.clone(), Arc::clone(&pulse), patience, key)).abort_handle();
        Connection { wire, endpoint, serial, pulse, _probing: Arc::new(Probing(probing)) }
    }

    /// Sends a request, and waits for its answer for as long as the connection serves.
    pub(crate) async fn unary<R: Rpc>(&self, message: R) -> Result<R::Answer, NoAnswer> {
        let waiting = Waiting::new(&self.pulse);
        let mut known = self.pulse.known.subscribe();
        let term = known.borrow_and_update().term;
        tokio::select! {
            biased;
            answer = self.wire.unary(message) => {
                drop(waiting);
                if answer.is_ok() {
                    self.pulse.hear();
                }
                answer.map_err(NoAnswer::Status)
            }
            ended = ended(&mut known, term) => Err(ended),
        }
    }

    /// Ready when the connection does not serve any more. It is probed only while something waits for an answer.
    pub(crate) async fn broken(&self) -> Why {
        let mut known = self.pulse.known.subscribe();
        loop {
            if let Some(why) = known.borrow_and_update().broken.clone() {
                return why;
            }
            if known.changed().await.is_err() {
                return Why::from("has closed the connection".to_owned());
            }
        }
    }

    /// Runs something that waits for an answer of the member, for as long as the connection serves.
    pub(crate) async fn while_it_serves<T>(&self, waits: impl Future<Output = T>) -> Result<T, Why> {
        let _waiting = Waiting::new(&self.pulse);
        tokio::select! {
            biased;
            outcome = waits => {
                self.pulse.hear();
                Ok(outcome)
            }
            why = self.broken() => Err(why),
        }
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
        let mut grpc = Grpc::new(self.wire.channel.clone());
        grpc.ready().await.map_err(|error| Status::unavailable(reason(&error)))?;
        let request = self.wire.request(requests).into_streaming_request();
        let answers = grpc.streaming(request, PathAndQuery::from_static(path), ProstCodec::<Q, A>::default()).await?;
        Ok(answers.into_inner())
    }

    /// For requests that need no answer.
    pub(crate) fn wire(&self) -> &Wire {
        &self.wire
    }
}

/// Ready when a request that was sent in a term should not be waited for any longer.
async fn ended(known: &mut watch::Receiver<Known>, term: u64) -> NoAnswer {
    loop {
        {
            let known = known.borrow_and_update();
            if let Some(why) = &known.broken {
                return NoAnswer::Broken(why.clone());
            }
            if term > 0 && known.term > term {
                return NoAnswer::LeaderReplaced;
            }
        }
        if known.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Probes the member while requests wait in silence, until it does not serve any more.
async fn probe(wire: Wire, pulse: Arc<Pulse>, patience: Duration, key: Vec<u8>) {
    loop {
        if pulse.waiting.load(Relaxed) == 0 {
            pulse.begins.notified().await;
        }
        sleep(SILENCE).await;
        if pulse.waiting.load(Relaxed) == 0 || pulse.heard().elapsed() < SILENCE {
            continue;
        }
        let asked = Instant::now();
        match timeout(patience, wire.check_health()).await {
            Ok(Ok(())) => pulse.hear(),
            Ok(Err(status)) => return pulse.end(Why::of(&status)),
            // Something else was answered in the meantime.
            Err(_) if pulse.heard() > asked => {}
            Err(_) => return pulse.end(Why::from("does not answer".to_owned())),
        }
        let peek = Peek { key: key.clone(), limit: 1, serializable: true, keys_only: true };
        if let Ok(Ok(answer)) = timeout(SILENCE, wire.unary(peek)).await {
            let term = answer.header.unwrap_or_default().raft_term;
            pulse.known.send_if_modified(|known| {
                let is_later = term > known.term;
                known.term = term.max(known.term);
                is_later
            });
        }
    }
}
