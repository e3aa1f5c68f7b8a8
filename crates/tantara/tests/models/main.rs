//! Models of every race that the events must survive, with up to three participants.
//!
//! Under loom (`RUSTFLAGS="--cfg loom" cargo test -p tantara --release --test models`) each is checked in every
//! interleaving that the memory model allows; without it, the same models run on real threads as stress tests, and
//! under ThreadSanitizer. A model either runs to its end, with its assertions, or loom reports the deadlock.

mod auto_reset;
mod crowd;
mod event;
mod fixture;
mod many;
