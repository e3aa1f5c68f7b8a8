//! Requests that are retried until they are answered or their deadline passes.
//!
//! Only idempotent requests are sent here: reads, and writes that apply at most once (see
//! `store/write.rs`).

use prost::bytes::Bytes;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

use crate::client::connection::{Connection, LATE};
use crate::client::member::NoAnswer;
use crate::client::pause::Pause;
use crate::client::proto::Rpc;
use crate::client::transport::{Encoded, decode};
use crate::client::verdict::{Verdict, is_untouched, judge};
use crate::error::{Error, Kind, Why, text_of};

/// Why a request has failed.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) error: Error,
    /// Whether the request may have been carried out.
    pub(crate) may_be_done: bool,
    /// The code of the answer, if there was one.
    pub(crate) status: Option<Code>,
}

impl Connection {
    /// Sends an idempotent request until it is answered or the deadline passes.
    pub(crate) async fn call<R: Rpc>(
        &self,
        doing: &'static str,
        request: &R,
        until: Instant,
    ) -> Result<R::Answer, Failure> {
        self.call_counted(doing, request, until).await.0
    }

    /// [`call`](Connection::call); also returns whether an attempt before the answered one may have
    /// been carried out.
    pub(crate) async fn call_counted<R: Rpc>(
        &self,
        doing: &'static str,
        request: &R,
        until: Instant,
    ) -> (Result<R::Answer, Failure>, bool) {
        let (mut may_be_done, mut answer) = (false, None);
        let mut accept = |bytes| decode(bytes).map(|decoded| answer = Some(decoded));
        let attempts = self.attempt_until(doing, Encoded::new(request), until, &mut may_be_done, &mut accept);
        let outcome = attempts.await;
        (outcome.map(|()| answer.expect("an accepted answer was decoded")), may_be_done)
    }

    /// An answer that `accept` cannot decode is an error of the member.
    async fn attempt_until(
        &self,
        doing: &'static str,
        request: Encoded,
        until: Instant,
        may_be_done: &mut bool,
        accept: &mut (dyn FnMut(Bytes) -> Result<(), Status> + Send),
    ) -> Result<(), Failure> {
        let mut pause = Pause::new();
        let mut tokens = 0;
        loop {
            let connection = match self.member(doing, until).await {
                Ok(connection) => connection,
                Err(error) => {
                    return Err(Failure { error, may_be_done: *may_be_done, status: None });
                }
            };
            let status = match timeout_at(until, connection.send(request.clone())).await {
                Ok(Ok(answer)) => match accept(answer) {
                    Ok(()) => return Ok(()),
                    Err(status) => status,
                },
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
                    // As far as is known, the member serves and is slow.
                    *may_be_done = true;
                    let mut tries = self.tries();
                    tries.retain(|tried| tried.endpoint == connection.endpoint.name);
                    tries.iter_mut().for_each(|tried| tried.why = Why::from(LATE));
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
                // The token has expired, or the server was restarted. Only a new one that is
                // refused is wrong.
                Verdict::NewToken if tokens < 3 => {
                    tokens += 1;
                    self.distrust(&connection, Why::of(&status));
                }
                Verdict::NewToken => {
                    let (endpoint, why) = (connection.endpoint.name.clone(), text_of(&status));
                    let error = Error::answered(Kind::Credentials { endpoint, why }, &status);
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
