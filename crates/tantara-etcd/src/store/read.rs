//! Reads: events by their exact keys, all at one revision; and all keys with a prefix.
//!
//! Anyone who may write under the prefix of an event may put any number of keys there, of any size.
//! So reads name exact keys, and answers are bounded. A read that fails because of some keys is
//! repeated without them, so that other events are not affected.

use std::ops::Range as Span;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use tonic::Code;

use crate::client::call::Failure;
use crate::client::proto::{KeyValue, Range, RangeAnswer, Txn};
use crate::error::{Error, Kind};
use crate::lock::lock;
use crate::store::Store;
use crate::store::keys::{Part, end_of, lease_of_hold};
use crate::store::state::State;

/// The number of reads in one transaction. etcd allows 128 operations unless it is configured
/// otherwise.
const RANGES_AT_ONCE: usize = 120;

/// The number of keys in the first answer of a list, and in later ones if answers are small.
const FIRST_PAGE: i64 = 128;
const LARGEST_PAGE: i64 = 1_024;

/// How many external keys among the holds of an event are skipped to find a hold.
const HOLDS_SKIPPED: usize = 16;

/// How often a read is tried whose revision is compacted between its parts.
const ATTEMPTS: usize = 5;

/// Upper bounds on what is read under one prefix, external keys included. A hostile server could send keys
/// for ever.
pub(crate) const MOST_KEYS: usize = 1_000_000;
const MOST_BYTES: usize = 256 << 20;
const MOST: &str = "a million keys, or 256 MiB of them,";

/// The error for a prefix with more keys than [`MOST_KEYS`].
pub(crate) fn too_much(doing: &'static str, prefix: &[u8]) -> Error {
    let prefix = String::from_utf8_lossy(prefix).into_owned();
    Error::new(Kind::TooMuch { doing, prefix, most: MOST })
}

/// Answers to several reads at one revision.
struct Answers {
    revision: i64,
    answers: Vec<Result<RangeAnswer, Error>>,
}

/// The states of several events at one revision.
pub(crate) struct Snapshot {
    pub(crate) revision: i64,
    pub(crate) states: Vec<Result<State, Error>>,
}

/// Reads events. Each has an error of its own; the whole fails only if nothing could be read.
pub(crate) async fn events(
    store: &Store,
    doing: &'static str,
    names: &[Arc<str>],
    until: Instant,
) -> Result<Snapshot, Failure> {
    let mut attempts = 1;
    loop {
        match events_at(store, doing, names, 0, until).await {
            Err(failure) if is_about_history(&failure) && attempts < ATTEMPTS => attempts += 1,
            snapshot => return snapshot,
        }
    }
}

/// Reads one event. Also returns the revision.
pub(crate) async fn event(
    store: &Store,
    doing: &'static str,
    name: Arc<str>,
    until: Instant,
) -> Result<(State, i64), Error> {
    let snapshot = events(store, doing, &[name], until).await.map_err(|failure| failure.error)?;
    let state = snapshot.states.into_iter().next().unwrap_or_else(|| Ok(State::default()))?;
    Ok((state, snapshot.revision))
}

/// Reads events as they were at a revision; 0 is the newest.
pub(crate) async fn events_at(
    store: &Store,
    doing: &'static str,
    names: &[Arc<str>],
    at: i64,
    until: Instant,
) -> Result<Snapshot, Failure> {
    let ranges: Vec<Range> = names.iter().flat_map(|name| store.keys.look(name)).collect();
    let Answers { revision, answers } = at_one_revision(store, doing, &ranges, at, until).await?;
    let mut states = Vec::with_capacity(names.len());
    let mut answers = answers.into_iter();
    for name in names {
        let mut next = || answers.next().unwrap_or_else(|| Ok(RangeAnswer::default()));
        let state = match (next(), next(), next()) {
            (Ok(level), Ok(pulse), Ok(hold)) => {
                let mut state = State::new(&level, &pulse, &hold);
                match hold.kvs.first() {
                    Some(external) if !state.is_held() => {
                        match find_hold(store, doing, name, external.clone(), revision, until).await {
                            Ok(hold) => {
                                hold.iter().for_each(|kv| state.put(Part::Hold, kv));
                                Ok(state)
                            }
                            Err(failure) if is_about_keys(&failure) => Err(failure.error),
                            // An outage or a compaction affects all events alike.
                            Err(failure) => return Err(failure),
                        }
                    }
                    _ => Ok(state),
                }
            }
            (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => Err(error),
        };
        states.push(state);
    }
    Ok(Snapshot { revision, states })
}

/// Finds a hold after an external key. Many external keys hide the holds behind them, but whoever
/// put them there could also have deleted the holds; the bound protects the other events that are
/// read.
async fn find_hold(
    store: &Store,
    doing: &'static str,
    name: &str,
    mut external: KeyValue,
    revision: i64,
    until: Instant,
) -> Result<Option<KeyValue>, Failure> {
    for _ in 0..HOLDS_SKIPPED {
        let range = Range { revision, ..store.keys.holds_after(name, Some(&external)) };
        let answer = store.connection.call(doing, &range, until).await?;
        match answer.kvs.into_iter().next() {
            Some(kv) if lease_of_hold(&kv).is_none() => external = kv,
            found => return Ok(found),
        }
    }
    Ok(None)
}

/// Reads ranges at one revision; 0 is the newest. Many are read in one transaction. If that fails
/// because of some keys, each half is read separately, and a single range without a transaction.
async fn at_one_revision(
    store: &Store,
    doing: &'static str,
    ranges: &[Range],
    at: i64,
    until: Instant,
) -> Result<Answers, Failure> {
    let mut read = Answers { revision: at, answers: Vec::new() };
    read.answers.resize_with(ranges.len(), || Ok(RangeAnswer::default()));
    let spans: Vec<Span<usize>> = chunks(0..ranges.len(), RANGES_AT_ONCE);
    let reading = Reading { store, doing, ranges, until, progress: Mutex::new((read, spans)) };
    // The answer to the first request that succeeds decides the revision of all.
    reading.go_on(|read| read.revision > 0).await?;
    let has_more = !lock(&reading.progress).1.is_empty();
    if has_more {
        // In a box, because most reads need one request.
        let others = async {
            let go_on = || reading.go_on(|_| false);
            tokio::try_join!(go_on(), go_on(), go_on(), go_on(), go_on(), go_on(), go_on(), go_on())
        };
        Box::pin(others).await?;
    }
    Ok(reading.progress.into_inner().unwrap_or_else(PoisonError::into_inner).0)
}

/// A read of many ranges, in several requests.
struct Reading<'r> {
    store: &'r Store,
    doing: &'static str,
    ranges: &'r [Range],
    until: Instant,
    /// The answers, and the spans that have not been read, the last one first.
    progress: Mutex<(Answers, Vec<Span<usize>>)>,
}

impl Reading<'_> {
    /// Reads one span after the other, until none is left or this is enough. Several of these run
    /// concurrently.
    async fn go_on(&self, is_enough: impl Fn(&Answers) -> bool) -> Result<(), Failure> {
        loop {
            let (span, revision) = {
                let mut progress = lock(&self.progress);
                let (read, spans) = &mut *progress;
                match spans.pop() {
                    Some(span) => (span, read.revision),
                    None => return Ok(()),
                }
            };
            let some = self.ranges[span.clone()].iter().map(|range| Range { revision, ..range.clone() });
            let outcome = some_at_once(self.store, self.doing, some.collect(), self.until).await;
            let mut progress = lock(&self.progress);
            let (read, spans) = &mut *progress;
            match outcome {
                Ok((revision, answers)) => {
                    if read.revision == 0 {
                        read.revision = revision;
                    }
                    for (index, answer) in span.zip(answers) {
                        read.answers[index] = Ok(answer);
                    }
                }
                Err(failure) => match failure.status {
                    _ if !is_about_keys(&failure) => return Err(failure),
                    _ if span.len() == 1 => read.answers[span.start] = Err(failure.error),
                    // A full database refuses transactions of any size (etcd 3.5.0 to 3.5.6).
                    Some(Code::ResourceExhausted) => spans.extend(chunks(span, 1)),
                    _ => {
                        let half = span.len().div_ceil(2);
                        spans.extend(chunks(span, half));
                    }
                },
            }
            if is_enough(read) {
                return Ok(());
            }
        }
    }
}

/// Splits a span, the last piece first.
fn chunks(span: Span<usize>, size: usize) -> Vec<Span<usize>> {
    let starts = span.clone().step_by(size);
    starts.map(|start| start..span.end.min(start + size)).rev().collect()
}

async fn some_at_once(
    store: &Store,
    doing: &'static str,
    mut ranges: Vec<Range>,
    until: Instant,
) -> Result<(i64, Vec<RangeAnswer>), Failure> {
    if ranges.len() == 1 {
        let mut answer = store.connection.call(doing, &ranges.remove(0), until).await?;
        return Ok((answer.header.take().unwrap_or_default().revision, vec![answer]));
    }
    let success = ranges.into_iter().map(Into::into).collect();
    let answer = store.connection.call(doing, &Txn { success, ..Txn::default() }, until).await?;
    let answers = answer.responses.into_iter().map(|answer| answer.range.unwrap_or_default()).collect();
    Ok((answer.header.unwrap_or_default().revision, answers))
}

/// Whether the requested revision is gone: compacted, or part of a history that was replaced.
pub(crate) fn is_about_history(failure: &Failure) -> bool {
    failure.status == Some(Code::OutOfRange) && failure.error.to_string().contains("required revision")
}

/// Whether the answer is larger than this client accepts.
fn is_too_large(failure: &Failure) -> bool {
    failure.status == Some(Code::OutOfRange) && !is_about_history(failure)
}

/// Whether the same request with fewer keys may succeed.
pub(crate) fn is_about_keys(failure: &Failure) -> bool {
    match failure.status {
        Some(Code::PermissionDenied | Code::ResourceExhausted) => true,
        // The server is configured to allow fewer operations.
        Some(Code::InvalidArgument) => failure.error.to_string().contains("too many operations"),
        _ => is_too_large(failure),
    }
}

/// Lists all known keys with a prefix, at one revision; 0 is the newest. Also returns the revision.
pub(crate) async fn list(
    store: &Store,
    doing: &'static str,
    prefix: Vec<u8>,
    at: i64,
) -> Result<(Vec<KeyValue>, i64), Failure> {
    let mut attempts = 1;
    loop {
        match list_once(store, doing, &prefix, at).await {
            Err(failure) if is_about_history(&failure) && at == 0 && attempts < ATTEMPTS => attempts += 1,
            listed => return listed,
        }
    }
}

async fn list_once(
    store: &Store,
    doing: &'static str,
    prefix: &[u8],
    at: i64,
) -> Result<(Vec<KeyValue>, i64), Failure> {
    let (key, range_end) = (prefix.to_vec(), end_of(prefix));
    let mut page = Range { key, range_end, revision: at, limit: FIRST_PAGE, ..Range::default() };
    let mut all: Vec<KeyValue> = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    loop {
        let until = store.connection.request_deadline();
        let answer = match store.connection.call(doing, &page, until).await {
            Ok(answer) => answer,
            // There are external values. From here on, keys are read first, and then the values of
            // known keys.
            Err(failure) if is_too_large(&failure) && !page.keys_only => {
                page.keys_only = true;
                continue;
            }
            // There are external keys that are large themselves.
            Err(failure) if is_too_large(&failure) && page.limit > 1 => {
                page.limit = (page.limit / 8).max(1);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        if page.revision == 0 {
            page.revision = answer.header.unwrap_or_default().revision;
        }
        count += answer.kvs.len();
        let before = all.len();
        // A hostile server may announce more keys and send none, or the same ones again.
        let mut is_last = true;
        if let Some(last) = answer.kvs.last() {
            is_last = !answer.more || last.key < page.key || last.key >= page.range_end;
            // The first key after it.
            page.key = [&last.key[..], b"\0"].concat();
        }
        let known = answer.kvs.into_iter().filter(|kv| store.keys.is_known(kv));
        if page.keys_only {
            let known: Vec<KeyValue> = known.collect();
            let exact = |kv: &KeyValue| Range { key: kv.key.clone(), ..Range::default() };
            let ranges: Vec<Range> = known.iter().map(exact).collect();
            let values = at_one_revision(store, doing, &ranges, page.revision, until).await?.answers;
            // A value that cannot be read alone is external; the key is kept without it.
            let value = |answer: Result<RangeAnswer, Error>| answer.ok()?.kvs.into_iter().next();
            all.extend(known.into_iter().zip(values).map(|(key, answer)| value(answer).unwrap_or(key)));
        } else {
            all.extend(known);
        }
        if is_last {
            return Ok((all, page.revision));
        }
        bytes += all[before..].iter().map(|kv| kv.key.len() + kv.value.len()).sum::<usize>();
        if count > MOST_KEYS || bytes > MOST_BYTES {
            return Err(Failure { error: too_much(doing, prefix), may_be_done: false, status: None });
        }
        page.limit = (page.limit * 2).min(LARGEST_PAGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_a_span_once() {
        for (length, size) in [(0, 3), (1, 3), (3, 3), (7, 3), (7, 1)] {
            let mut all = chunks(5..5 + length, size);
            all.reverse();
            assert!(all.iter().all(|span| span.len() <= size && !span.is_empty()));
            assert_eq!(all.into_iter().flatten().collect::<Vec<_>>(), (5..5 + length).collect::<Vec<_>>());
        }
    }
}
