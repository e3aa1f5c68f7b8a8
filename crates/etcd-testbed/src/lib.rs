//! Real etcd servers and a spiteful network, for tests: started on free ports of this machine, with their data in a
//! temporary folder, and stopped by their process numbers.

#![forbid(unsafe_code)]

mod gateway;
mod proxy;
mod servers;

pub use proxy::{Mood, Proxy};
pub use servers::{Certificates, Plan, Servers, program};
