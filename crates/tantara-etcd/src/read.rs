//! Reads: exact keys at one revision, and everything under a prefix.
//!
//! Whoever may write under the prefix of one event may put any number of keys there, of any size. So reads name exact
//! keys, every answer is bounded, and a read that fails for reasons of its keys fails for these keys alone: its
//! neighbours are read again without them.

use std::ops::Range as Span;
use std::sync::Arc;

use tokio::time::Instant;
use tonic::Code;

use crate::engine::Parts;
use crate::error::Error;
use crate::keys::{self, State};
use crate::link::Failure;
use crate::wire::{KeyValue, Range, RangeAnswer, Txn};

/// etcd allows 128 operations in a transaction, unless it is configured otherwise.
const RANGES_AT_ONCE: usize = 120;

/// How many keys are listed at once: at first, and when the answers turn out to be small.
const FIRST_PAGE: i64 = 128;
const LARGEST_PAGE: i64 = 1_024;

/// How many keys among the holds of an event are looked at until one of them is a hold.
const HOLDS_LOOKED_AT: usize = 16;

/// A read whose revision is compacted between its parts begins anew, so often.
const ATTEMPTS: usize = 5;

/// The answers to some reads, all at one revision.
struct Answers {
    revision: i64,
    answers: Vec<Result<RangeAnswer, Error>>,
}

/// What was seen of some events, all at one revision.
pub(crate) struct Seen {
    pub(crate) revision: i64,
    pub(crate) states: Vec<Result<State, Error>>,
}

/// Reads events. What fails for one of them is its own; an error means that nothing could be read.
pub(crate) async fn look(
    parts: &Parts,
    doing: &'static str,
    names: &[Arc<str>],
    until: Instant,
) -> Result<Seen, Failure> {
    let mut attempts = 1;
    loop {
        match look_once(parts, doing, names, until).await {
            Err(failure) if is_about_history(&failure) && attempts < ATTEMPTS => attempts += 1,
            seen => return seen,
        }
    }
}

async fn look_once(parts: &Parts, doing: &'static str, names: &[Arc<str>], until: Instant) -> Result<Seen, Failure> {
    let ranges: Vec<Range> = names.iter().flat_map(|name| parts.keys.look(name)).collect();
    let Answers { revision, answers } = at_one_revision(parts, doing, &ranges, 0, until).await?;
    let mut states = Vec::with_capacity(names.len());
    let mut answers = answers.into_iter();
    for name in names {
        let mut next = || answers.next().unwrap_or_else(|| Ok(RangeAnswer::default()));
        let state = match (next(), next(), next()) {
            (Ok(level), Ok(pulse), Ok(hold)) => {
                let state = State::new(&level, &pulse, &hold);
                match hold.kvs.first() {
                    Some(foreign) if !state.is_held => {
                        match find_hold(parts, doing, name, foreign.clone(), revision, until).await {
                            Ok(is_held) => Ok(State { is_held, ..state }),
                            Err(failure) if is_about_keys(&failure) => Err(failure.error),
                            // An outage, or a compaction, is not this event's own failure.
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
    Ok(Seen { revision, states })
}

/// Whether there is a hold after a foreign key. Whoever puts many foreign keys before the holds hides them, and could
/// as well delete them; the bound keeps others from waiting for that.
async fn find_hold(
    parts: &Parts,
    doing: &'static str,
    name: &str,
    mut foreign: KeyValue,
    revision: i64,
    until: Instant,
) -> Result<bool, Failure> {
    for _ in 0..HOLDS_LOOKED_AT {
        let range = Range { revision, ..parts.keys.holds_after(name, Some(&foreign)) };
        let answer = parts.link.call(doing, &range, until).await?;
        match answer.kvs.into_iter().next() {
            None => return Ok(false),
            Some(kv) if keys::is_hold(&kv) => return Ok(true),
            Some(kv) => foreign = kv,
        }
    }
    Ok(false)
}

/// Reads the ranges, all at one revision; 0 is the newest. Many are read in one transaction. If that fails because of
/// what is read, each half is read for itself, and one that is left alone is read without a transaction.
async fn at_one_revision(
    parts: &Parts,
    doing: &'static str,
    ranges: &[Range],
    at: i64,
    until: Instant,
) -> Result<Answers, Failure> {
    let mut attempts = 0;
    'anew: loop {
        attempts += 1;
        let mut read = Answers { revision: at, answers: Vec::new() };
        read.answers.resize_with(ranges.len(), || Ok(RangeAnswer::default()));
        let mut spans: Vec<Span<usize>> = chunks(0..ranges.len(), RANGES_AT_ONCE);
        while let Some(span) = spans.pop() {
            let some = ranges[span.clone()].iter().map(|range| Range { revision: read.revision, ..range.clone() });
            let failure = match some_at_once(parts, doing, some.collect(), until).await {
                Ok((revision, answers)) => {
                    if read.revision == 0 {
                        read.revision = revision;
                    }
                    for (index, answer) in span.zip(answers) {
                        read.answers[index] = Ok(answer);
                    }
                    continue;
                }
                Err(failure) => failure,
            };
            if is_about_history(&failure) && at == 0 && attempts < ATTEMPTS {
                continue 'anew;
            }
            match failure.status {
                _ if !is_about_keys(&failure) => return Err(failure),
                _ if span.len() == 1 => read.answers[span.start] = Err(failure.error),
                // A full database refuses transactions of any size (etcd 3.5.0 to 3.5.6).
                Some(Code::ResourceExhausted) => spans.extend(chunks(span, 1)),
                _ => {
                    let half = span.len().div_ceil(2);
                    spans.extend(chunks(span, half));
                }
            }
        }
        return Ok(read);
    }
}

/// A span in pieces, the last one first.
fn chunks(span: Span<usize>, size: usize) -> Vec<Span<usize>> {
    let starts = span.clone().step_by(size);
    starts.map(|start| start..span.end.min(start + size)).rev().collect()
}

async fn some_at_once(
    parts: &Parts,
    doing: &'static str,
    mut ranges: Vec<Range>,
    until: Instant,
) -> Result<(i64, Vec<RangeAnswer>), Failure> {
    if ranges.len() == 1 {
        let mut answer = parts.link.call(doing, &ranges.remove(0), until).await?;
        return Ok((answer.header.take().unwrap_or_default().revision, vec![answer]));
    }
    let success = ranges.into_iter().map(Into::into).collect();
    let answer = parts.link.call(doing, &Txn { success, ..Txn::default() }, until).await?;
    let answers = answer.responses.into_iter().map(|answer| answer.range.unwrap_or_default()).collect();
    Ok((answer.header.unwrap_or_default().revision, answers))
}

/// Whether the revision that was asked for is gone: compacted, or part of a history that was replaced.
pub(crate) fn is_about_history(failure: &Failure) -> bool {
    failure.status == Some(Code::OutOfRange) && failure.error.to_string().contains("required revision")
}

/// Whether the answer is larger than what is accepted.
fn is_too_large(failure: &Failure) -> bool {
    failure.status == Some(Code::OutOfRange) && !is_about_history(failure)
}

/// Whether the same request with fewer keys may succeed.
fn is_about_keys(failure: &Failure) -> bool {
    match failure.status {
        Some(Code::PermissionDenied | Code::ResourceExhausted) => true,
        // A server that allows fewer operations.
        Some(Code::InvalidArgument) => failure.error.to_string().contains("too many operations"),
        _ => is_too_large(failure),
    }
}

/// All keys of ours under a prefix, page by page, at one revision, which comes with them; 0 is the newest.
pub(crate) async fn list(
    parts: &Parts,
    doing: &'static str,
    prefix: Vec<u8>,
    at: i64,
) -> Result<(Vec<KeyValue>, i64), Failure> {
    let mut attempts = 1;
    loop {
        match list_once(parts, doing, &prefix, at).await {
            Err(failure) if is_about_history(&failure) && at == 0 && attempts < ATTEMPTS => attempts += 1,
            listed => return listed,
        }
    }
}

async fn list_once(
    parts: &Parts,
    doing: &'static str,
    prefix: &[u8],
    at: i64,
) -> Result<(Vec<KeyValue>, i64), Failure> {
    let (key, range_end) = (prefix.to_vec(), keys::end_of(prefix));
    let mut page = Range { key, range_end, revision: at, limit: FIRST_PAGE, ..Range::default() };
    let mut all = Vec::new();
    loop {
        let until = parts.link.request_deadline();
        let answer = match parts.link.call(doing, &page, until).await {
            Ok(answer) => answer,
            // There are foreign values. From here on the keys are read first, and then the values of ours.
            Err(failure) if is_too_large(&failure) && !page.keys_only => {
                page.keys_only = true;
                continue;
            }
            // Foreign keys that are large themselves: fewer at once.
            Err(failure) if is_too_large(&failure) && page.limit > 1 => {
                page.limit = (page.limit / 8).max(1);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        if page.revision == 0 {
            page.revision = answer.header.unwrap_or_default().revision;
        }
        if let Some(last) = answer.kvs.last() {
            // The first key after it.
            page.key = [&last.key[..], b"\0"].concat();
        }
        // More is announced with keys alone: without a key there is nothing to go on from.
        let is_last = !answer.more || answer.kvs.is_empty();
        let ours = answer.kvs.into_iter().filter(|kv| parts.keys.is_ours(kv));
        if page.keys_only {
            let ours: Vec<KeyValue> = ours.collect();
            let exact = |kv: &KeyValue| Range { key: kv.key.clone(), ..Range::default() };
            let ranges: Vec<Range> = ours.iter().map(exact).collect();
            let values = at_one_revision(parts, doing, &ranges, page.revision, until).await?.answers;
            // What cannot be read alone is no value of ours; the key stands without it.
            let value = |answer: Result<RangeAnswer, Error>| answer.ok()?.kvs.into_iter().next();
            all.extend(ours.into_iter().zip(values).map(|(key, answer)| value(answer).unwrap_or(key)));
        } else {
            all.extend(ours);
        }
        if is_last {
            return Ok((all, page.revision));
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
