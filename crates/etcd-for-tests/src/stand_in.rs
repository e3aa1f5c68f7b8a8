//! A stand-in for versions of etcd that cannot be run here: it forwards gRPC requests to a real
//! member, and refuses what these versions refuse, with their codes and messages.
//!
//! The codes and the messages are those of etcd's `api/v3rpc/rpctypes/error.go`. Which requests are
//! refused, and how, is from `interceptor.go`, `maintenance.go` and `watch.go` in
//! `server/etcdserver/api/v3rpc`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, oneshot};

use crate::hostile::{Flood, further_keys};
use crate::lock;
use crate::messages::{Field, Messages, bytes, content, field, framed, number, send, varint};

/// How a [`StandIn`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Like the member behind it.
    Pass,
    /// Like 3.5.28 to 3.5.31 and 3.6.0 to 3.6.11: users may not read the status of a member and the
    /// list of the members.
    AdminsOnly,
    /// Like 3.5.32, 3.6.12 and 3.7: the status and the list require a token.
    WantsToken,
    /// Like a learner of 3.6 or later.
    Learner,
    /// Like a learner of 3.4 or 3.5.
    OldLearner,
    /// Like a member of 3.6 or later that does not know the version of its cluster yet.
    NotCapable,
    /// Like a member whose disk is slow: reads and writes take this much longer, other requests do
    /// not.
    Slow(Duration),
    /// A member that takes this much longer to revoke a lease.
    SlowRevokes(Duration),
    /// Like a member that refuses requests of this method.
    Refuses(&'static str),
    /// Like 3.5.28 or later when the tokens of all open watch streams have expired: new watches on
    /// them are refused, with the ID -1.
    ExpiredStreams,
    /// Like 3.5.28 or later to a user who may read the keys that contain this text, and may not
    /// watch them.
    Unwatchable(&'static str),
    /// A member whose watches begin and send no changes.
    SilentWatches,
    /// Like 3.4.38, 3.5.22 and 3.6.2 or later on a quiet cluster: requests for the progress of a watch
    /// that begins with the next revision are not answered.
    NoProgress,
    /// A hostile server: it answers every read without keys, and announces more.
    EmptyPages,
    /// A hostile server: it answers every read with the same key, and announces more.
    SamePages,
    /// A hostile server: it answers every read of a range with further keys of events, whose values have
    /// this size, and announces more.
    EndlessKeys(usize),
    /// A hostile server: a watch shows ever new events that are set.
    EndlessEvents,
    /// A hostile server: a watch shows ever new changes of the event, each of which may have unset it. What
    /// they have changed is not answered.
    EndlessClears,
    /// A member that takes this much longer to read what was at an earlier revision.
    SlowPast(Duration),
}

/// A server on a loopback port that answers in a [`Manner`]. It uses HTTP/2 without TLS, and so
/// must the member behind it.
#[derive(Debug)]
pub struct StandIn {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    member: String,
    /// The manner, and since when.
    manner: Mutex<(Manner, Instant)>,
    requests: Mutex<Vec<String>>,
    refused_watches: Mutex<usize>,
    /// The number of keys and of messages that it has made up.
    made_up: Mutex<u64>,
    /// The client URLs that the list of the members has instead of the real ones.
    addresses: Mutex<Option<Vec<String>>>,
}

impl StandIn {
    /// A stand-in for the member at `HOST:PORT`, which answers like it.
    ///
    /// # Panics
    ///
    /// If it cannot bind a port or start a thread.
    #[must_use]
    pub fn of(endpoint: &str) -> StandIn {
        let shared = Arc::new(Shared {
            member: endpoint.to_owned(),
            manner: Mutex::new((Manner::Pass, Instant::now())),
            requests: Mutex::default(),
            refused_watches: Mutex::default(),
            made_up: Mutex::default(),
            addresses: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("there is a free port");
        let address = listener.local_addr().expect("a listener has an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::spawn(accept(listener, serving));
                let _ = stopped.await;
            });
            runtime.shutdown_background();
        });
        StandIn { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Its endpoint, `127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Answers in this manner from now on.
    pub fn answer(&self, manner: Manner) {
        *lock(&self.shared.manner) = (manner, Instant::now());
    }

    /// Lists members at these URLs, instead of the real ones.
    pub fn claim_members_at(&self, urls: &[&str]) {
        *lock(&self.shared.addresses) = Some(urls.iter().map(ToString::to_string).collect());
    }

    /// The paths of all requests so far, such as `/etcdserverpb.KV/Range`.
    #[must_use]
    pub fn requests(&self) -> Vec<String> {
        lock(&self.shared.requests).clone()
    }

    /// The number of keys and of messages that it has made up so far.
    #[must_use]
    pub fn made_up(&self) -> u64 {
        *lock(&self.shared.made_up)
    }

    /// The number of watches that it has refused so far.
    #[must_use]
    pub fn refused_watches(&self) -> usize {
        *lock(&self.shared.refused_watches)
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let _ = client.set_nodelay(true);
        tokio::spawn(serve(client, Arc::clone(&shared)));
    }
}

/// Serves a connection by a separate one to the member, so that it ends if the member dies.
async fn serve(client: TcpStream, shared: Arc<Shared>) -> Option<()> {
    let member = TcpStream::connect(&shared.member).await.ok()?;
    let _ = member.set_nodelay(true);
    let (requests, connection) = h2::client::handshake(member).await.ok()?;
    let (over, mut is_over) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let _ = connection.await;
        drop(over);
    });
    let mut client = h2::server::handshake(client).await.ok()?;
    loop {
        tokio::select! {
            stream = client.accept() => {
                let (request, answer) = stream?.ok()?;
                tokio::spawn(handle(request, answer, requests.clone(), Arc::clone(&shared)));
            }
            _ = &mut is_over => return None,
        }
    }
}

async fn handle(
    request: Request<RecvStream>,
    mut answer: SendResponse<Bytes>,
    member: SendRequest<Bytes>,
    shared: Arc<Shared>,
) -> Option<()> {
    let path = request.uri().path().to_owned();
    lock(&shared.requests).push(path.clone());
    let (head, mut body) = request.into_parts();
    let (manner, _) = *lock(&shared.manner);
    // The first message decides. A unary request has no other.
    let first = if manner == Manner::Pass { None } else { body.data().await.and_then(Result::ok) };
    if let Some(first) = &first {
        let _ = body.flow_control().release_capacity(first.len());
    }
    let has_token = head.headers.contains_key("token");
    if let Manner::Slow(delay) = manner
        && path.contains("/etcdserverpb.KV/")
    {
        tokio::time::sleep(delay).await;
    }
    match manner {
        Manner::EndlessClears if path == TXN && is_about_the_past(first.as_deref()) => std::future::pending().await,
        Manner::SlowPast(delay) if path == TXN && is_about_the_past(first.as_deref()) => {
            tokio::time::sleep(delay).await;
        }
        _ => {}
    }
    if let Manner::SlowRevokes(delay) = manner
        && path == REVOKE
    {
        tokio::time::sleep(delay).await;
    }
    if let Some((code, message)) = refusal(manner, &path, has_token, first.as_deref().unwrap_or_default()) {
        answer.send_response(status(code, message), true).ok()?;
        return Some(());
    }
    let addresses = lock(&shared.addresses).clone();
    if let Some(addresses) = addresses.filter(|_| path == MEMBER_LIST) {
        return respond(&mut answer, &members_at(&addresses)).await;
    }
    if manner == Manner::EmptyPages && path == "/etcdserverpb.KV/Range" {
        // more = 3
        return respond(&mut answer, &varint(3, 1)).await;
    }
    let page = match manner {
        Manner::EndlessKeys(size) if path == "/etcdserverpb.KV/Range" => {
            further_keys(first.as_deref(), size, &mut lock(&shared.made_up))
        }
        _ => None,
    };
    if let Some(page) = page {
        return respond(&mut answer, &page).await;
    }
    if manner == Manner::SamePages && path == "/etcdserverpb.KV/Range" {
        // kvs = 2, and in it key = 1
        return respond(&mut answer, &[bytes(2, &bytes(1, b"/same")), varint(3, 1)].concat()).await;
    }
    let mut member = member.ready().await.ok()?;
    if path == WATCH {
        return watch(Request::from_parts(head, body), first, answer, &mut member, shared).await;
    }
    let is_whole = body.is_end_stream() && first.is_none();
    let (answered, mut to_member) = member.send_request(Request::from_parts(head, ()), is_whole).ok()?;
    tokio::spawn(async move {
        if let Some(first) = first {
            let is_last = body.is_end_stream();
            send(&mut to_member, first, is_last).await?;
            if is_last {
                return Some(());
            }
        }
        pass(body, to_member).await
    });
    let (head, body) = answered.await.ok()?.into_parts();
    let ends = body.is_end_stream();
    let to_client = answer.send_response(Response::from_parts(head, ()), ends).ok()?;
    if ends { Some(()) } else { pass(body, to_client).await }
}

/// Forwards a watch stream message by message, and refuses watches according to the manner.
async fn watch(
    request: Request<RecvStream>,
    first: Option<Bytes>,
    mut answer: SendResponse<Bytes>,
    member: &mut SendRequest<Bytes>,
    shared: Arc<Shared>,
) -> Option<()> {
    let opened = Instant::now();
    let (head, mut body) = request.into_parts();
    let (answered, mut to_member) = member.send_request(Request::from_parts(head, ()), false).ok()?;
    // The member answers nothing before the first request, which may be refused here.
    let head = Response::builder().header("content-type", "application/grpc").body(()).ok()?;
    let to_client = Arc::new(AsyncMutex::new(answer.send_response(head, false).ok()?));
    let (answers, answering) = (Arc::clone(&to_client), Arc::clone(&shared));
    tokio::spawn(async move {
        let (head, mut body) = answered.await.ok()?.into_parts();
        let mut messages = Messages::default();
        while let Some(Ok(data)) = body.data().await {
            let _ = body.flow_control().release_capacity(data.len());
            for message in messages.take(&data) {
                let (manner, _) = *lock(&answering.manner);
                if manner == Manner::SilentWatches && has_events(&message)
                    || manner == Manner::NoProgress && is_progress(&message)
                {
                    continue;
                }
                send(&mut *answers.lock().await, message, false).await?;
            }
        }
        let trailers = if head.headers.contains_key("grpc-status") { Some(head.headers) } else { None };
        let trailers = trailers.or(body.trailers().await.ok()?)?;
        answers.lock().await.send_trailers(trailers).ok()
    });
    let mut messages = Messages::default();
    let mut next = first;
    loop {
        let data = match next.take() {
            Some(first) => first,
            None => {
                let Some(data) = body.data().await else { return to_member.send_data(Bytes::new(), true).ok() };
                let Ok(data) = data else {
                    // The client has dropped the stream, so its watches end.
                    to_member.send_reset(h2::Reason::CANCEL);
                    return None;
                };
                let _ = body.flow_control().release_capacity(data.len());
                data
            }
        };
        for message in messages.take(&data) {
            let manner = *lock(&shared.manner);
            match why_refused(manner, opened, &message) {
                Some(why) => {
                    *lock(&shared.refused_watches) += 1;
                    send(&mut *to_client.lock().await, framed(&refused_watch(why)), false).await?;
                }
                None => {
                    if let (Some(flood), Manner::EndlessEvents | Manner::EndlessClears) =
                        (Flood::of(&message), manner.0)
                    {
                        let (has_names, counter) = (manner.0 == Manner::EndlessEvents, Arc::clone(&shared));
                        let count = move || *lock(&counter.made_up) += 1;
                        tokio::spawn(flood.run(has_names, Arc::clone(&to_client), count));
                    }
                    send(&mut to_member, message, false).await?;
                }
            }
        }
    }
}

/// The reason to refuse a request of a watch stream; `None` to forward it.
fn why_refused((manner, since): (Manner, Instant), opened: Instant, message: &[u8]) -> Option<&'static str> {
    // create_request = 1, and in it key = 1
    let Some(Field::Bytes(create)) = field(message.get(5..)?, 1) else { return None };
    let Some(Field::Bytes(key)) = field(create, 1) else { return None };
    match manner {
        Manner::ExpiredStreams => (opened < since).then_some("etcdserver: invalid auth token"),
        Manner::Unwatchable(part) => {
            key.windows(part.len()).any(|window| window == part.as_bytes()).then_some("etcdserver: permission denied")
        }
        _ => None,
    }
}

/// Whether a `WatchResponse`, after gRPC's prefix, has its field 11.
fn has_events(message: &[u8]) -> bool {
    field(message.get(5..).unwrap_or_default(), 11).is_some()
}

/// Whether a `WatchResponse`, after gRPC's prefix, neither begins nor ends a watch (fields 3 and 4),
/// and has no events.
fn is_progress(message: &[u8]) -> bool {
    let message = message.get(5..).unwrap_or_default();
    [3, 4, 11].iter().all(|number| field(message, *number).is_none())
}

/// A `WatchResponse` that refuses a watch: watch_id = 2, created = 3, canceled = 4, cancel_reason =
/// 6.
fn refused_watch(why: &str) -> Vec<u8> {
    [varint(2, u64::MAX), varint(3, 1), varint(4, 1), bytes(6, why.as_bytes())].concat()
}

async fn pass(mut from: RecvStream, mut to: SendStream<Bytes>) -> Option<()> {
    while let Some(data) = from.data().await {
        let Ok(data) = data else {
            to.send_reset(h2::Reason::CANCEL);
            return None;
        };
        let _ = from.flow_control().release_capacity(data.len());
        send(&mut to, data, false).await?;
    }
    match from.trailers().await {
        Ok(Some(trailers)) => to.send_trailers(trailers).ok(),
        Ok(None) => to.send_data(Bytes::new(), true).ok(),
        Err(_) => {
            to.send_reset(h2::Reason::CANCEL);
            None
        }
    }
}

const TXN: &str = "/etcdserverpb.KV/Txn";
const STATUS: &str = "/etcdserverpb.Maintenance/Status";
const WATCH: &str = "/etcdserverpb.Watch/Watch";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const MEMBER_LIST: &str = "/etcdserverpb.Cluster/MemberList";

const INVALID_ARGUMENT: u8 = 3;
const PERMISSION_DENIED: u8 = 7;
const FAILED_PRECONDITION: u8 = 9;
const UNAVAILABLE: u8 = 14;

fn refusal(manner: Manner, path: &str, has_token: bool, message: &[u8]) -> Option<(u8, &'static str)> {
    const NO_USER: (u8, &str) = (INVALID_ARGUMENT, "etcdserver: user name is empty");
    const LEARNER: &str = "etcdserver: rpc not supported for learner";
    let is_guarded = path == STATUS || path == MEMBER_LIST;
    let learner_answers = path == STATUS || (path == "/etcdserverpb.KV/Range" && is_serializable(message));
    match manner {
        Manner::AdminsOnly | Manner::WantsToken if is_guarded && !has_token => Some(NO_USER),
        Manner::AdminsOnly if is_guarded => Some((PERMISSION_DENIED, "etcdserver: permission denied")),
        Manner::Learner if !learner_answers => Some((FAILED_PRECONDITION, LEARNER)),
        Manner::OldLearner if !learner_answers => Some((UNAVAILABLE, LEARNER)),
        Manner::Refuses(method) if path.ends_with(method) => Some((PERMISSION_DENIED, "etcdserver: permission denied")),
        Manner::NotCapable => Some((FAILED_PRECONDITION, "etcdserver: not capable")),
        _ => None,
    }
}

/// Whether the first read of a `TxnRequest`, after gRPC's prefix, names a revision: success = 2, request_range = 1,
/// revision = 4.
fn is_about_the_past(message: Option<&[u8]>) -> bool {
    let range = |message| content(content(message, 2)?, 1);
    message.and_then(|message| message.get(5..)).and_then(range).is_some_and(|range| number(range, 4).is_some())
}

/// Whether a `RangeRequest`, after gRPC's prefix, has its field 7 set.
fn is_serializable(message: &[u8]) -> bool {
    number(message.get(5..).unwrap_or_default(), 7).is_some()
}

/// An error, which gRPC sends without a body.
fn status(code: u8, message: &str) -> Response<()> {
    let head = Response::builder().header("content-type", "application/grpc");
    let head = head.header("grpc-status", code.to_string()).header("grpc-message", message);
    head.body(()).expect("the headers are well formed")
}

/// A `MemberListResponse`: a member at each URL, in a cluster with the ID 0.
fn members_at(urls: &[String]) -> Vec<u8> {
    // members = 2, clientURLs = 4
    urls.iter().flat_map(|url| bytes(2, &bytes(4, url.as_bytes()))).collect()
}

/// Answers a request with a message.
async fn respond(answer: &mut SendResponse<Bytes>, message: &[u8]) -> Option<()> {
    let head = Response::builder().header("content-type", "application/grpc").body(()).ok()?;
    let mut body = answer.send_response(head, false).ok()?;
    send(&mut body, framed(message), false).await?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    body.send_trailers(trailers).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serializable_read_is_recognized() {
        assert!(is_serializable(&framed(b"\x0a\x03key\x38\x01")));
        assert!(!is_serializable(&framed(b"\x0a\x03key\x38\x00")));
        assert!(!is_serializable(&framed(b"\x0a\x0338\x01")));
        assert!(!is_serializable(b""));
    }

    #[test]
    fn a_watch_is_refused_by_its_stream_or_by_its_key() {
        let create = framed(&bytes(1, &bytes(1, b"/n/e/A/l")));
        let (before, after) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        let refuses = |manner, opened| why_refused((manner, after), opened, &create).is_some();
        assert!(refuses(Manner::ExpiredStreams, before) && !refuses(Manner::ExpiredStreams, after));
        assert!(refuses(Manner::Unwatchable("/A/"), after) && !refuses(Manner::Unwatchable("/B/"), after));
        assert!(!refuses(Manner::Pass, before));
        let Some(Field::Number(id)) = field(&refused_watch("no"), 2) else { panic!("it has an id") };
        assert_eq!(id.cast_signed(), -1);
    }

    #[test]
    fn what_learners_and_guarded_members_refuse() {
        let code = |manner, path, token| refusal(manner, path, token, b"").map(|(code, _)| code);
        assert_eq!(code(Manner::AdminsOnly, STATUS, false), Some(3));
        assert_eq!(code(Manner::AdminsOnly, STATUS, true), Some(7));
        assert_eq!(code(Manner::WantsToken, STATUS, true), None);
        assert_eq!(code(Manner::Learner, STATUS, false), None);
        assert_eq!(code(Manner::Learner, "/etcdserverpb.KV/Txn", true), Some(9));
        assert_eq!(code(Manner::OldLearner, "/etcdserverpb.Watch/Watch", true), Some(14));
        assert_eq!(code(Manner::Pass, STATUS, false), None);
    }
}
