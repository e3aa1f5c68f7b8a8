//! The one watch stream of a connection: opened when the first event is waited for, asked for signs of life, given up
//! when it gives none.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;

use crate::connection::Connection;
use crate::engine::Parts;
use crate::error::Why;
use crate::keys::Keys;
use crate::wire::{Empty, WATCH, Watch, WatchAnswer, WatchCancel, WatchCreate};

/// A stream that has been silent for so long is asked for a sign of life, and given up after so long again.
const SILENCE: Duration = Duration::from_secs(2);

/// A stream that is being opened.
type Opening = tokio::task::JoinHandle<Option<(Connection, Streaming<WatchAnswer>)>>;

#[derive(Debug)]
pub(crate) enum Heard {
    Answer(WatchAnswer),
    /// The stream has broken off, and all watches with it.
    Interrupted,
    Nothing,
}

#[derive(Debug)]
enum Stream {
    Closed,
    Opening(Opening, mpsc::UnboundedSender<Watch>),
    Open { connection: Connection, requests: mpsc::UnboundedSender<Watch>, answers: Box<Streaming<WatchAnswer>> },
}

#[derive(Debug)]
pub(crate) struct Watching {
    parts: Arc<Parts>,
    stream: Stream,
    /// The number of the next watch. Never used again, so an answer that comes late belongs to nobody.
    next: i64,
    watches: usize,
    /// The watches that were requested over this stream and not answered yet. They are answered in this order.
    requested: VecDeque<i64>,
    /// When something was last heard, and whether a sign of life was asked for since.
    heard: Instant,
    is_asked: bool,
}

impl Watching {
    pub(crate) fn new(parts: Arc<Parts>) -> Watching {
        Watching {
            parts,
            stream: Stream::Closed,
            next: 1,
            watches: 0,
            requested: VecDeque::new(),
            heard: Instant::now(),
            is_asked: false,
        }
    }

    /// Watches the sets of an event, from a revision on.
    pub(crate) fn begin(&mut self, name: &str, from: i64) -> i64 {
        let watch_id = self.next;
        self.next += 1;
        self.watches += 1;
        self.requested.push_back(watch_id);
        let keys: &Keys = &self.parts.keys;
        let (key, range_end) = (keys.level(name), keys.after_pulse(name));
        self.send(Watch {
            // In pieces: foreign keys in the range may be of any size, and one message too large ends the stream.
            create: Some(WatchCreate { key, range_end, start_revision: from, watch_id, fragment: true }),
            ..Watch::default()
        });
        watch_id
    }

    /// A watch has been ended by the server.
    pub(crate) fn forget(&mut self) {
        self.watches = self.watches.saturating_sub(1);
        if self.watches == 0 {
            self.close();
        }
    }

    pub(crate) fn end(&mut self, watch_id: i64) {
        self.forget();
        if self.watches > 0 {
            self.send(Watch { cancel: Some(WatchCancel { watch_id }), ..Watch::default() });
        }
    }

    fn send(&mut self, request: Watch) {
        match &self.stream {
            // If it has broken off, that is about to be heard.
            Stream::Opening(_, requests) | Stream::Open { requests, .. } => drop(requests.send(request)),
            Stream::Closed => {
                let (requests, outbox) = mpsc::unbounded_channel();
                // etcd's side opens with its first answer, which takes a question.
                let _ = requests.send(request);
                let parts = Arc::clone(&self.parts);
                let opening = tokio::spawn(async move { open(&parts, outbox).await });
                self.stream = Stream::Opening(opening, requests);
            }
        }
    }

    /// Ready when there is something to be heard. Nothing is lost if it is dropped before.
    pub(crate) async fn hear(&mut self) -> Heard {
        match &mut self.stream {
            Stream::Closed => std::future::pending().await,
            Stream::Opening(opening, requests) => match opening.await {
                Ok(Some((connection, answers))) => {
                    let (requests, answers) = (requests.clone(), Box::new(answers));
                    self.stream = Stream::Open { connection, requests, answers };
                    self.heard = Instant::now();
                    self.is_asked = false;
                    Heard::Nothing
                }
                _ => self.interrupt(),
            },
            Stream::Open { connection, requests, answers } => {
                let why = tokio::select! {
                    answer = answers.message() => match answer {
                        Ok(Some(answer)) => {
                            self.heard = Instant::now();
                            self.is_asked = false;
                            return self.judge(answer);
                        }
                        Ok(None) => Why::from("has closed the watch".to_owned()),
                        Err(status) => Why::of(&status),
                    },
                    () = sleep_until(self.heard + SILENCE * if self.is_asked { 2 } else { 1 }) => {
                        if !self.is_asked {
                            self.is_asked = true;
                            let _ = requests.send(Watch { progress: Some(Empty {}), ..Watch::default() });
                            return Heard::Nothing;
                        }
                        Why::from("does not answer".to_owned())
                    }
                };
                let connection = connection.clone();
                self.parts.link.distrust(&connection, why);
                self.interrupt()
            }
        }
    }

    /// Recent servers refuse a watch without naming it, because of the token with which the stream was opened, or for
    /// lack of permission. Earlier ones name it, and give lack of permission as the reason for both.
    fn judge(&mut self, mut answer: WatchAnswer) -> Heard {
        if answer.created {
            let first = self.requested.pop_front();
            if answer.watch_id < 0 {
                answer.watch_id = first.unwrap_or(answer.watch_id);
            }
        }
        if let (true, true, Stream::Open { connection, .. }) = (answer.created, answer.canceled, &self.stream) {
            if is_about_token(&answer.cancel_reason) {
                self.parts.link.distrust(connection, Why::from(answer.cancel_reason));
                return self.interrupt();
            }
            // Another request has been told that the token has expired.
            if !self.parts.link.trusts(connection) {
                return self.interrupt();
            }
        }
        Heard::Answer(answer)
    }

    fn interrupt(&mut self) -> Heard {
        self.close();
        Heard::Interrupted
    }

    fn close(&mut self) {
        self.stream = Stream::Closed;
        self.watches = 0;
        self.requested.clear();
    }
}

async fn open(parts: &Parts, outbox: mpsc::UnboundedReceiver<Watch>) -> Option<(Connection, Streaming<WatchAnswer>)> {
    let until = parts.link.request_deadline();
    let connection = parts.link.connection("watch", until).await.ok()?;
    let opening = connection.stream::<Watch, WatchAnswer>(WATCH, UnboundedReceiverStream::new(outbox));
    // It takes as long as the server takes to read: no connection that serves is given up for that.
    let why = match timeout_at(until, connection.while_it_serves(opening)).await {
        Ok(Ok(Ok(answers))) => return Some((connection, answers)),
        Ok(Ok(Err(status))) => Why::of(&status),
        Ok(Err(why)) => why,
        Err(_) => Why::from("does not answer".to_owned()),
    };
    parts.link.distrust(&connection, why);
    None
}

/// Whether a new login helps. Without credentials the next read fails for the same reason.
fn is_about_token(reason: &str) -> bool {
    ["invalid auth token", "auth store is old", "user name is empty"].iter().any(|words| reason.contains(words))
}
