//! The client of etcd: a connection to the cluster, its members, and leases.

pub(crate) mod addresses;
pub(crate) mod call;
pub(crate) mod connection;
pub(crate) mod endpoint;
pub(crate) mod lease;
pub(crate) mod member;
pub(crate) mod outage;
pub(crate) mod pause;
pub(crate) mod proto;
pub(crate) mod transport;
pub(crate) mod verdict;
