//! A watch stream: opened with the first watch, and given up when its member does not answer while
//! the stream is silent.
//!
//! A silent stream says nothing about its member, and a request for its progress may not be
//! answered: recent versions of etcd (3.4.38, 3.5.22 and 3.6.2) do not answer it while a watch
//! begins with a later revision than the newest one, and since 3.4.25 and 3.5.8 not while a watch
//! catches up. So the health of the member is checked, over the same connection. If there is a
//! lease, its renewal is sent at the same moment, and the answer replaces the check.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status};

use crate::client::member::MemberConnection;
use crate::client::pause::Turn;
use crate::client::proto::{WATCH, Watch, WatchAnswer, WatchCancel, WatchCreate};
use crate::client::transport::Answers;
use crate::error::Why;
use crate::store::Store;

/// After this time without a message, or a little earlier, the member is checked.
const SILENCE: Duration = Turn::LONG.length();

/// If the check is not answered within this time, the stream is given up.
const ANSWERING: Duration = Duration::from_secs(2);

/// What [`WatchStream::next`] returns.
#[derive(Debug)]
pub(crate) enum Message {
    Answer(WatchAnswer),
    /// The stream has ended, and all watches with it.
    Interrupted,
    /// The stream has ended, because a message is larger than this client accepts.
    TooLarge,
}

type Open = (MemberConnection, Answers<WatchAnswer>);

#[derive(Debug)]
enum State {
    Closed,
    Opening(JoinHandle<Option<Open>>, mpsc::UnboundedSender<Watch>),
    Open { connection: MemberConnection, requests: mpsc::UnboundedSender<Watch>, answers: Box<Answers<WatchAnswer>> },
}

#[derive(Debug)]
pub(crate) struct WatchStream {
    store: Arc<Store>,
    state: State,
    /// The ID of the next watch. IDs are not reused, so a late answer is not mistaken for another
    /// watch's.
    next_id: i64,
    watches: usize,
    /// The watches that were requested over this stream and not answered yet. They are answered in
    /// this order.
    requested: VecDeque<i64>,
    /// When the last message came, or the last check succeeded.
    last_message: Instant,
    /// A check of the member since then, and when it began.
    check: Option<(Instant, JoinHandle<Result<(), Why>>)>,
}

impl WatchStream {
    pub(crate) fn new(store: Arc<Store>) -> WatchStream {
        WatchStream {
            store,
            state: State::Closed,
            next_id: 1,
            watches: 0,
            requested: VecDeque::new(),
            last_message: Instant::now(),
            check: None,
        }
    }

    /// Requests a watch of a range, from a revision on. Returns its ID.
    pub(crate) fn begin(&mut self, key: Vec<u8>, range_end: Vec<u8>, start_revision: i64) -> i64 {
        let watch_id = self.next_id;
        self.next_id += 1;
        self.watches += 1;
        self.requested.push_back(watch_id);
        // External keys in the range may be of any size, and a message that is too large would end
        // the stream.
        let fragment = true;
        let create = WatchCreate { key, range_end, start_revision, watch_id, fragment };
        self.send(Watch { create: Some(create), ..Watch::default() });
        watch_id
    }

    /// Ends a watch.
    pub(crate) fn end(&mut self, watch_id: i64) {
        self.forget();
        if self.watches > 0 {
            self.send(Watch { cancel: Some(WatchCancel { watch_id }), ..Watch::default() });
        }
    }

    /// Notes that the server has ended a watch.
    pub(crate) fn forget(&mut self) {
        self.watches = self.watches.saturating_sub(1);
        if self.watches == 0 {
            self.close();
        }
    }

    fn send(&mut self, request: Watch) {
        match &self.state {
            // If this fails, `next` returns the reason.
            State::Opening(_, requests) | State::Open { requests, .. } => drop(requests.send(request)),
            State::Closed => {
                let (requests, outbox) = mpsc::unbounded_channel();
                // etcd answers nothing before the first request.
                let _ = requests.send(request);
                let store = Arc::clone(&self.store);
                let opening = tokio::spawn(async move { open(&store, outbox).await });
                self.state = State::Opening(opening, requests);
            }
        }
    }

    /// Waits for the next message; while there is no watch, for ever.
    ///
    /// Cancel safe: dropping the future loses no message.
    pub(crate) async fn next(&mut self) -> Message {
        loop {
            match &mut self.state {
                State::Closed => std::future::pending().await,
                State::Opening(opening, requests) => {
                    let Ok(Some((connection, answers))) = opening.await else { return self.interrupt() };
                    let (requests, answers) = (requests.clone(), Box::new(answers));
                    self.state = State::Open { connection, requests, answers };
                    self.note_message();
                }
                State::Open { connection, answers, .. } => {
                    let until = match self.check {
                        None => self.store.connection.one_wake_up_at(self.last_message + SILENCE, Turn::LONG),
                        Some((asked, _)) => self.store.connection.one_wake_up_at(asked + ANSWERING, Turn::SHORT),
                    };
                    let checked = async {
                        match &mut self.check {
                            Some((_, check)) => check.await,
                            None => std::future::pending().await,
                        }
                    };
                    let why = tokio::select! {
                        answer = answers.message() => match answer {
                            Ok(Some(answer)) => return self.receive(answer),
                            Ok(None) => Why::from("has closed the watch"),
                            Err(status) if status.code() == Code::OutOfRange => {
                                self.close();
                                return Message::TooLarge;
                            }
                            Err(status) => Why::of(&status),
                        },
                        checked = checked => match checked {
                            Ok(Err(why)) => why,
                            _ => {
                                self.note_message();
                                continue;
                            }
                        },
                        () = sleep_until(until) => {
                            if self.check.is_none() {
                                // A task that is woken by this runs before the check.
                                self.store.connection.awake.notify_waiters();
                                let checked = connection.clone();
                                let check = tokio::spawn(async move { checked.check().await });
                                self.check = Some((Instant::now(), check));
                                continue;
                            }
                            Why::from("does not answer")
                        }
                    };
                    self.store.connection.distrust(connection, why);
                    return self.interrupt();
                }
            }
        }
    }

    /// Attributes refusals to their watches, and ends the stream if its token is the reason.
    ///
    /// Recent servers refuse a watch without its ID, because of the token with which the stream was
    /// opened or for lack of permission. Earlier ones give the ID, and lack of permission as the
    /// reason for both.
    fn receive(&mut self, mut answer: WatchAnswer) -> Message {
        self.note_message();
        if answer.created {
            if answer.watch_id < 0 {
                answer.watch_id = self.requested.pop_front().unwrap_or(answer.watch_id);
            } else {
                self.requested.retain(|id| *id != answer.watch_id);
            }
        }
        if let (true, true, State::Open { connection, .. }) = (answer.created, answer.canceled, &self.state) {
            if is_about_token(&answer.cancel_reason) {
                let why = Why::of(&Status::unauthenticated(answer.cancel_reason));
                self.store.connection.distrust(connection, why);
                return self.interrupt();
            }
            // The token was refused to another request.
            if !self.store.connection.trusts(connection) {
                return self.interrupt();
            }
        }
        Message::Answer(answer)
    }

    fn note_message(&mut self) {
        self.last_message = Instant::now();
        self.end_check();
    }

    fn end_check(&mut self) {
        if let Some((_, check)) = self.check.take() {
            check.abort();
        }
    }

    fn interrupt(&mut self) -> Message {
        self.close();
        Message::Interrupted
    }

    /// Whether the connection of the stream is known to have failed.
    pub(crate) fn is_outdated(&self) -> bool {
        matches!(&self.state, State::Open { connection, .. } if !self.store.connection.trusts(connection))
    }

    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
        self.end_check();
        self.watches = 0;
        self.requested.clear();
    }
}

async fn open(store: &Store, outbox: mpsc::UnboundedReceiver<Watch>) -> Option<Open> {
    let until = store.connection.request_deadline();
    let connection = store.connection.member("watch", until).await.ok()?;
    let opening = connection.stream::<Watch, WatchAnswer>(WATCH, UnboundedReceiverStream::new(outbox));
    // A slow answer is waited for as long as the connection serves.
    let why = match timeout_at(until, connection.while_it_serves(opening)).await {
        Ok(Ok(Ok(answers))) => return Some((connection, answers)),
        Ok(Ok(Err(status))) => Why::of(&status),
        Ok(Err(why)) => why,
        Err(_) => Why::from("does not answer"),
    };
    store.connection.distrust(&connection, why);
    None
}

/// Whether a new login may help. Without credentials the next read fails for the same reason.
fn is_about_token(reason: &str) -> bool {
    ["invalid auth token", "auth store is old", "user name is empty"].iter().any(|words| reason.contains(words))
}
