//! A connection to one member, and the probe that detects when it no longer serves.
//!
//! **A slow answer is not a broken connection.** A request takes as long as the disks of a
//! majority, so no request is given up because it is slow. While requests wait and nothing is
//! received, the member is probed with requests that need no disk, no leader and no permission:
//!
//! 1. gRPC's health check, with etcd's header that requires a leader. A member that does not answer
//!    it is stopped or cut off; one that knows no leader, or is a learner, answers with an error.
//!    Requests then go to another member.
//! 2. A serializable read, for the term. If the term is later than when a request was sent, the
//!    leader was replaced and the request may have been lost with the old one: it is sent again.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prost::Message;
use prost::bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Status;

use crate::client::endpoint::Endpoint;
use crate::client::proto::Range;
use crate::client::transport::{Answers, Encoded, Transport};
use crate::error::Why;
use crate::lock::lock;

/// A member that has not answered for this long is probed, and again at this interval.
const SILENCE: Duration = Duration::from_millis(250);

/// If this many requests begin within [`SILENCE`], its timer is kept between them. A new one for each
/// would interrupt the runtime's sleep each time, by a write to an eventfd.
const FREQUENT: usize = 8;

/// The timeout of a probe: this long, or this many times the first round trip of the connection.
const SHORTEST_PROBE: Duration = Duration::from_millis(500);
const PROBE_ROUND_TRIPS: u32 = 4;

/// The state of a connection.
#[derive(Clone, Debug, Default)]
struct Health {
    /// Why it no longer serves.
    broken: Option<Why>,
    /// The latest term that is known; 0 if none is.
    term: u64,
}

/// Shared by the requests of a connection and its probe.
#[derive(Debug)]
struct Liveness {
    /// The number of requests that wait for an answer.
    waiting: AtomicUsize,
    /// The number of requests that have begun.
    begun: AtomicUsize,
    /// Notified when a request begins, and when none waits any more.
    begins: Notify,
    ends: Notify,
    /// Notified when a request has ended, or the member has answered.
    settled: Notify,
    /// When the member last answered anything.
    last_answer: Mutex<Instant>,
    health: watch::Sender<Health>,
}

impl Liveness {
    fn new(health: Health) -> Liveness {
        Liveness {
            waiting: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            begins: Notify::new(),
            ends: Notify::new(),
            settled: Notify::new(),
            last_answer: Mutex::new(Instant::now()),
            health: watch::Sender::new(health),
        }
    }

    fn note_answer(&self) {
        *lock(&self.last_answer) = Instant::now();
        self.settled.notify_waiters();
    }

    fn last_answer(&self) -> Instant {
        *lock(&self.last_answer)
    }

    fn end(&self, why: Why) {
        self.health.send_modify(|health| health.broken = Some(why));
    }
}

/// Counts a request for as long as it waits.
struct Waiting<'l>(&'l Liveness);

impl<'l> Waiting<'l> {
    fn new(liveness: &'l Liveness) -> Waiting<'l> {
        liveness.waiting.fetch_add(1, Relaxed);
        liveness.begun.fetch_add(1, Relaxed);
        liveness.begins.notify_one();
        Waiting(liveness)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, Relaxed) == 1 {
            self.0.ends.notify_one();
        }
        self.0.settled.notify_waiters();
    }
}

/// Stops the probe with the last handle to its connection.
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
    /// The member has refused the request, or the connection was closed.
    Status(Status),
    /// The connection no longer serves.
    Broken(Why),
    /// The leader was replaced, and the request may have been lost with the old one.
    LeaderReplaced,
}

/// A connection to one member.
#[derive(Clone, Debug)]
pub(crate) struct MemberConnection {
    transport: Transport,
    pub(crate) endpoint: Endpoint,
    /// Increases with each connection that is begun.
    pub(crate) serial: u64,
    liveness: Arc<Liveness>,
    _probing: Arc<Probing>,
}

impl MemberConnection {
    /// `round_trip` is the time that the first answer took; `key` is a key that may be read if any
    /// may.
    pub(crate) fn new(
        transport: Transport,
        endpoint: Endpoint,
        serial: u64,
        round_trip: Duration,
        term: u64,
        key: Vec<u8>,
    ) -> MemberConnection {
        let liveness = Arc::new(Liveness::new(Health { broken: None, term }));
        let patience = SHORTEST_PROBE.max(round_trip * PROBE_ROUND_TRIPS);
        let probing = tokio::spawn(probe(transport.clone(), Arc::clone(&liveness), patience, key)).abort_handle();
        MemberConnection { transport, endpoint, serial, liveness, _probing: Arc::new(Probing(probing)) }
    }

    /// Sends a request, and waits for its answer for as long as the connection serves.
    pub(crate) async fn send(&self, request: Encoded) -> Result<Bytes, NoAnswer> {
        let waiting = Waiting::new(&self.liveness);
        let mut health = self.liveness.health.subscribe();
        let term = health.borrow_and_update().term;
        tokio::select! {
            biased;
            answer = self.transport.send(request) => {
                drop(waiting);
                if answer.is_ok() {
                    self.liveness.note_answer();
                }
                answer.map_err(NoAnswer::Status)
            }
            ended = ended(&mut health, term) => Err(ended),
        }
    }

    /// Completes when the connection no longer serves. It is probed only while a request waits.
    async fn broken(&self) -> Why {
        let mut health = self.liveness.health.subscribe();
        loop {
            if let Some(why) = health.borrow_and_update().broken.clone() {
                return why;
            }
            if health.changed().await.is_err() {
                return Why::from("has closed the connection");
            }
        }
    }

    /// Runs a future that waits for an answer of the member, for as long as the connection serves.
    pub(crate) async fn while_it_serves<T>(&self, waits: impl Future<Output = T>) -> Result<T, Why> {
        let _waiting = Waiting::new(&self.liveness);
        tokio::select! {
            biased;
            outcome = waits => {
                self.liveness.note_answer();
                Ok(outcome)
            }
            why = self.broken() => Err(why),
        }
    }

    /// Checks that the member serves: by its answer to a request that waits already, or by its
    /// health check. A request that is answered late is probed.
    pub(crate) async fn check(&self) -> Result<(), Why> {
        let asked = Instant::now();
        loop {
            let settled = self.liveness.settled.notified();
            if self.liveness.last_answer() > asked {
                return Ok(());
            }
            if self.liveness.waiting.load(Relaxed) == 0 {
                return self.transport.check_health().await.map_err(|status| Why::of(&status));
            }
            tokio::select! {
                biased;
                () = settled => {}
                why = self.broken() => return Err(why),
            }
        }
    }

    /// Opens a stream of requests and answers. etcd answers nothing before the first request, so
    /// `requests` must yield one.
    pub(crate) async fn stream<Q, A>(
        &self,
        path: &'static str,
        requests: impl tokio_stream::Stream<Item = Q> + Send + 'static,
    ) -> Result<Answers<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default,
    {
        self.transport.stream(path, requests).await
    }

    /// For optional requests, which do without the probe.
    pub(crate) fn transport(&self) -> &Transport {
        &self.transport
    }
}

/// Completes when a request that was sent in this term should no longer be waited for.
async fn ended(health: &mut watch::Receiver<Health>, term: u64) -> NoAnswer {
    loop {
        {
            let health = health.borrow_and_update();
            if let Some(why) = &health.broken {
                return NoAnswer::Broken(why.clone());
            }
            if term > 0 && health.term > term {
                return NoAnswer::LeaderReplaced;
            }
        }
        if health.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Probes the member while requests wait and nothing is received, until it no longer serves.
async fn probe(transport: Transport, liveness: Arc<Liveness>, patience: Duration, key: Vec<u8>) {
    let begun_since = |before: usize| liveness.begun.load(Relaxed).wrapping_sub(before);
    // The number of requests at a moment, which is renewed.
    let mut counted = (begun_since(0), Instant::now());
    let mut are_frequent = false;
    loop {
        if are_frequent {
            let before = begun_since(0);
            sleep_until(liveness.last_answer() + SILENCE).await;
            are_frequent = begun_since(before) >= FREQUENT;
        } else {
            // Of two requests at the same moment, the notification of one may be left.
            while liveness.waiting.load(Relaxed) == 0 {
                liveness.begins.notified().await;
            }
            if counted.1.elapsed() >= SILENCE {
                counted = (begun_since(0), Instant::now());
            }
            tokio::select! {
                () = sleep(SILENCE) => {}
                // No timer is left that would wake up a process that has its answers.
                () = liveness.ends.notified() => {
                    are_frequent = begun_since(counted.0) >= FREQUENT;
                    continue;
                }
            }
        }
        if liveness.waiting.load(Relaxed) == 0 || liveness.last_answer().elapsed() < SILENCE {
            continue;
        }
        let asked = Instant::now();
        match timeout(patience, transport.check_health()).await {
            Ok(Ok(())) => liveness.note_answer(),
            Ok(Err(status)) => return liveness.end(Why::of(&status)),
            // Another request was answered meanwhile.
            Err(_) if liveness.last_answer() > asked => {}
            Err(_) => return liveness.end(Why::from("does not answer")),
        }
        if let Ok(Ok(answer)) = timeout(SILENCE, transport.unary(&Range::peek(key.clone()))).await {
            let term = answer.header.unwrap_or_default().raft_term;
            liveness.health.send_if_modified(|health| {
                let is_later = term > health.term;
                health.term = term.max(health.term);
                is_later
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicBool;
    use std::task::{Context, Wake, Waker};

    use super::*;
    use crate::client::endpoint::parse;

    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }

    #[test]
    fn no_timer_is_left_when_two_requests_have_their_answers() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let nowhere = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
            let liveness = Arc::new(Liveness::new(Health::default()));
            let mut probe = pin!(probe(Transport::new(nowhere), Arc::clone(&liveness), SILENCE, Vec::new()));
            let woken = Arc::new(Woken(AtomicBool::new(false)));
            let waker = Waker::from(Arc::clone(&woken));
            let mut poll = || assert!(probe.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            poll();
            let both = [Waiting::new(&liveness), Waiting::new(&liveness)];
            poll();
            drop(both);
            poll();
            woken.0.store(false, Relaxed);
            sleep(2 * SILENCE).await;
            assert!(!woken.0.load(Relaxed), "nothing waits");
            for _ in 0..2 * FREQUENT {
                let waiting = Waiting::new(&liveness);
                poll();
                liveness.note_answer();
                drop(waiting);
                poll();
            }
            // The timer of frequent requests ends, too.
            woken.0.store(true, Relaxed);
            while woken.0.swap(false, Relaxed) {
                poll();
                sleep(2 * SILENCE).await;
            }
            let _waiting = Waiting::new(&liveness);
            poll();
            woken.0.store(false, Relaxed);
            sleep(2 * SILENCE).await;
            assert!(woken.0.load(Relaxed), "a request waits for too long");
        });
    }

    #[test]
    fn the_answer_to_a_request_shows_that_a_member_serves_and_its_end_alone_does_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let nowhere = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
            let endpoint = parse("127.0.0.1:1", false).unwrap().remove(0);
            let member = MemberConnection::new(Transport::new(nowhere), endpoint, 1, SILENCE, 0, Vec::new());
            assert!(member.check().await.is_err(), "no request waits, and the health check fails");
            for is_answered in [true, false] {
                let waiting = Waiting::new(&member.liveness);
                let mut check = Box::pin(member.check());
                assert!(check.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                if is_answered {
                    member.liveness.note_answer();
                } else {
                    drop(waiting);
                }
                assert_eq!(check.await.is_ok(), is_answered);
            }
        });
    }
}
