//! Creates events that are waited for and do not exist.

use std::sync::Arc;

use crate::client::proto::{Compare, Op, OpAnswer, Put, Range, Txn};
use crate::error::Error;
use crate::store::Store;
use crate::store::read::is_about_keys;

/// Upper bound on the events that are created in one transaction. etcd allows 128 operations unless
/// it is configured otherwise.
pub(crate) const AT_ONCE: usize = 120;

/// Creates those of the events that do not exist, unset. Returns a revision for each at which it
/// exists.
///
/// One transaction creates all of them. If some exist, its answer shows which ones, and the others
/// are created by another one. If it is refused, each half is created separately, until an event
/// fails for its own keys alone.
pub(crate) async fn events(store: &Store, doing: &'static str, names: &[Arc<str>]) -> Vec<Result<i64, Error>> {
    let until = store.connection.request_deadline();
    let mut revisions: Vec<Result<i64, Error>> = names.iter().map(|_| Ok(0)).collect();
    let mut batches: Vec<Vec<usize>> = vec![(0..names.len()).collect()];
    while let Some(mut batch) = batches.pop() {
        if batch.is_empty() {
            continue;
        }
        let levels: Vec<Vec<u8>> = batch.iter().map(|&index| store.keys.level(&names[index])).collect();
        let create = Txn {
            compare: levels.iter().map(|level| Compare::last_changed_at(level.clone(), 0)).collect(),
            success: levels.iter().map(|level| put_unset(level.clone())).collect(),
            failure: levels.into_iter().map(|level| Range { keys_only: true, ..Range::of(level) }.into()).collect(),
        };
        match store.connection.call(doing, &create, until).await {
            Ok(answer) => {
                let revision = answer.header.unwrap_or_default().revision;
                let mut answers = answer.responses.into_iter();
                let exists = |answer: Option<OpAnswer>| {
                    answer.and_then(|answer| answer.range).is_some_and(|range| !range.kvs.is_empty())
                };
                let mut missing = Vec::new();
                for index in batch {
                    if answer.succeeded || exists(answers.next()) {
                        revisions[index] = Ok(revision);
                    } else {
                        missing.push(index);
                    }
                }
                batches.push(missing);
            }
            Err(failure) if batch.len() > 1 && is_about_keys(&failure) => {
                let half = batch.split_off(batch.len() / 2);
                batches.extend([half, batch]);
            }
            Err(failure) => batch.into_iter().for_each(|index| revisions[index] = Err(failure.error.clone())),
        }
    }
    revisions
}

fn put_unset(level: Vec<u8>) -> Op {
    Put { key: level, value: b"0".to_vec(), lease: 0 }.into()
}
