#![doc = include_str!("../README.md")]
//!
//! # Where things are
//!
//! [`Cluster`] connects, [`ClusterEvent`] has the verbs, [`ClusterWait`] is a wait that has begun, [`Hold`] sets an
//! event for as long as it lives, [`Options`] say how to connect, and [`Changes`] tells what happens.
#![forbid(unsafe_code)]

mod changes;
mod cluster;
mod connection;
mod endpoint;
mod engine;
mod error;
mod event;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod hold;
mod keys;
mod lease;
mod link;
mod lookout;
mod options;
mod pause;
mod read;
mod records;
mod reply;
mod ticket;
mod topic;
mod verdict;
mod wait;
mod watching;
mod wire;
mod write;

pub use changes::{Change, Changes};
pub use cluster::{Cluster, ClusterEntry, ClusterParty, ClusterWaiter, Outage};
pub use endpoint::Endpoints;
pub use error::Error;
pub use event::ClusterEvent;
pub use hold::Hold;
pub use options::{Options, Tls};
pub use wait::ClusterWait;
pub use write::Pending;
