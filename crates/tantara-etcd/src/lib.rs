#![doc = include_str!("../README.md")]
//!
//! # Where things are
//!
//! [`Cluster`] connects, [`ClusterEvent`] has the methods of an event, [`ClusterWait`] is a wait
//! that has begun, [`Hold`] sets an event for as long as it lives, [`Options`] configure the
//! connection, and [`Changes`] follows a namespace.
#![forbid(unsafe_code)]

mod changes;
mod client;
mod cluster;
mod driver;
mod error;
mod event;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod hold;
mod list;
mod lock;
mod options;
mod store;
mod wait;

pub use changes::{Change, Changes};
pub use client::endpoint::Endpoints;
pub use cluster::{Cluster, Outage};
pub use error::{Error, Pending};
pub use event::ClusterEvent;
pub use hold::Hold;
pub use list::{ClusterEntry, ClusterWaiter, Origin};
pub use options::{Options, Tls};
pub use wait::ClusterWait;
