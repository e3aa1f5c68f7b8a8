//! Events between machines, through an etcd cluster, with the methods of [`tantara`]'s events.
//!
//! # Which type do I need?
//!
//! | to | use |
//! |---|---|
//! | connect | [`Cluster::connect`]; with users, TLS and timeouts: [`Options`] |
//! | set, clear, wait | [`Cluster::event`], a [`ClusterEvent`] |
//! | begin a wait, and block or await later | [`ClusterEvent::wait_async`], a [`ClusterWait`] |
//! | set an event at the end of some work, also by a panic | [`ClusterEvent::set_on_drop`] |
//! | keep an event set while a process lives | [`ClusterEvent::hold`], a [`Hold`] |
//! | wait for several events, also of other kinds | [`tantara::any`], [`tantara::all`] |
//! | see who waits, and every change | [`Cluster::list`], [`ClusterEvent::waiters`], [`Changes`] |
//!
//! Every method that sends a request has an async form (`set_async`), for any runtime.
//!
//! # Examples
//!
//! ```no_run
//! use std::time::Duration;
//! use tantara::{Event, Waitable, any};
//! use tantara_etcd::Cluster;
//!
//! # fn deploy(stop: &Event) -> Result<(), tantara::Error> {
//! let cluster = Cluster::connect("10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379")?;
//! let deployed = cluster.event("deploy-done");
//!
//! // On one machine:
//! deployed.set()?;
//!
//! // On the others. `true`: it is set. `false`: the cluster confirms that it was not set in time.
//! // An error: the cluster cannot be asked.
//! if deployed.wait_timeout(Duration::from_secs(600))? {
//!     println!("deployed");
//! }
//!
//! // Set for as long as this process lives. All kinds of events mix.
//! let serving = cluster.event("web-up").hold()?;
//! any([stop as &dyn Waitable, &deployed, serving.lost()]).try_wait()?;
//! # Ok(())
//! # }
//! ```
//!
//! # Errors
//!
//! Timeouts and errors are never confused: a wait that times out returns `Ok(false)`, and a cluster
//! that cannot be reached is an [`Error`]. A wait that has begun survives reconnects, compaction
//! and the failure of leaders.
//!
//! # Features
//!
//! * `tls` (on by default): `https://` endpoints, and [`Options`]`::tls`. Without it, such an
//!   endpoint is an error.
//! * `serde` (off by default): `Serialize` and `Deserialize` for the records that describe events,
//!   their waiters and changes.
#![cfg_attr(docsrs, feature(doc_cfg))]
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
mod note;
mod options;
mod random;
mod set_on_drop;
mod store;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "without_tls.rs"]
mod tls;
mod until;
mod wait;
mod wake;

pub use changes::{Change, Changes};
pub use client::endpoint::Endpoints;
pub use cluster::{Cluster, Outage};
pub use error::{Error, Pending};
pub use event::ClusterEvent;
pub use hold::Hold;
pub use list::{ClusterEntry, ClusterWaiter, Origin};
pub use options::Options;
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use wait::ClusterWait;

/// For the Python package, whose handles outlive the connection. Not part of the public API.
#[doc(hidden)]
pub mod __private {
    pub use crate::store::seen::Seen;
}

/// The examples of README.md.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
