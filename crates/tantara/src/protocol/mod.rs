//! What processes that share an event agree on: the page, its state word, and how the word is
//! changed. No files here.

#![forbid(unsafe_code)]
#![cfg_attr(
    loom,
    allow(dead_code, unreachable_pub, reason = "the models run the word, the signals and the records alone")
)]

#[cfg(not(loom))]
pub(crate) mod layout;
#[cfg(all(test, loom))]
mod models;
pub(crate) mod pair;
pub(crate) mod record;
pub(crate) mod signal;
pub(crate) mod target;
pub(crate) mod word;
