//! Events between machines, on real servers.

#![cfg(unix)]

mod access;
mod batches;
#[path = "../../../tantara/tests/it/contract.rs"]
mod contract;
mod dead;
mod external;
mod faults;
mod history;
mod hostile;
mod methods;
mod notes;
mod order;
mod other_waits;
mod promises;
mod recorded;
mod removed;
mod scopes;
mod set_on_drop;
mod versions;
mod wakers;

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use etcd_for_tests::Servers;
use tantara_etcd::{Cluster, Options};

/// A generous limit, after which a test fails instead of hanging.
const LONG: Duration = Duration::from_secs(60);

/// A server that tests share, for as long as one of them runs.
fn server() -> Arc<Servers> {
    static SERVER: Mutex<Weak<Servers>> = Mutex::new(Weak::new());
    thread_local! {
        /// Keeps the server for as long as the thread of this test.
        static KEPT: RefCell<Option<Arc<Servers>>> = const { RefCell::new(None) };
    }
    let mut known = SERVER.lock().unwrap_or_else(PoisonError::into_inner);
    let server = known.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Servers::one());
        *known = Arc::downgrade(&server);
        server
    });
    KEPT.replace(Some(Arc::clone(&server)));
    server
}

/// A namespace that no other test uses.
fn namespace() -> String {
    format!("test-{:016x}", fastrand::u64(..))
}

/// Options for requests that are slow on a busy machine.
fn patient() -> Options {
    Options::new().timeout(LONG)
}

/// A connection to the server, in a namespace of its own.
fn alone(server: &Servers) -> Cluster {
    Cluster::connect_with(server.endpoints(), patient().namespace(namespace())).unwrap()
}

/// Waits until a condition holds.
fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The contract counts the waits of a process by `Debug`, and those between machines by records.
fn waiting(_: &impl Debug) -> usize {
    unreachable!("every scope of this crate counts by its records")
}
