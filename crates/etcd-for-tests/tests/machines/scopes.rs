//! The contract between machines: waits with a connection of their own, and waits that share one.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_for_tests::Servers;
use tantara::{all, any};
use tantara_etcd::{Cluster, ClusterEvent};

use crate::contract::{Scope, contract};
use crate::{namespace, patient, server, until};

/// An event, its connection, and its server.
struct Place {
    server: Arc<Servers>,
    namespace: String,
    event: ClusterEvent,
}

impl Place {
    fn new(server: Arc<Servers>, namespace: String) -> Place {
        let options = patient().namespace(&namespace).record_waits(true);
        let event = Cluster::connect_with(server.endpoints(), options).unwrap().event("event");
        Place { server, namespace, event }
    }

    fn waiting(&self) -> u32 {
        self.event.waiters().unwrap().iter().map(|waiter| waiter.count).sum()
    }
}

impl Clone for Place {
    /// Another machine.
    fn clone(&self) -> Place {
        Place::new(Arc::clone(&self.server), self.namespace.clone())
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.event.fmt(f)
    }
}

/// The methods that all of them share.
macro_rules! methods {
    () => {
        /// Long enough for several waits to be recorded.
        // Four processes connect within this time, on a busy machine too.
        const SHORT: Duration = Duration::from_secs(5);

        fn is_set(&self) -> bool {
            self.0.event.is_set().unwrap()
        }

        fn set(&self) {
            self.0.event.set().unwrap();
        }

        fn clear(&self) {
            self.0.event.clear().unwrap();
        }

        fn waiting(&self) -> usize {
            self.0.waiting() as usize
        }

        fn assert_left(&self) {
            until("no wait is recorded", || self.0.waiting() == 0);
        }
    };
}

/// Threads, all through one connection.
#[derive(Clone, Debug)]
struct Threads(Arc<Place>);

/// Threads, each with its own connection.
#[derive(Clone, Debug)]
struct Machines(Place);

macro_rules! waits_of_threads {
    () => {
        fn wait(&self) {
            self.0.event.wait().unwrap();
        }

        fn wait_timeout(&self, timeout: Duration) -> bool {
            self.0.event.wait_timeout(timeout).unwrap()
        }

        fn wait_deadline(&self, deadline: Instant) -> bool {
            self.0.event.wait_deadline(deadline).unwrap()
        }

        fn any(events: &[Self], timeout: Duration) -> Option<usize> {
            any(events.iter().map(|event| &event.0.event)).try_wait_timeout(timeout).unwrap()
        }

        fn all(events: &[Self], timeout: Duration) -> bool {
            all(events.iter().map(|event| &event.0.event)).try_wait_timeout(timeout).unwrap()
        }
    };
}

impl Scope for Threads {
    fn new() -> Self {
        Threads(Arc::new(Place::new(server(), namespace())))
    }

    methods!();
    waits_of_threads!();
}

impl Scope for Machines {
    fn new() -> Self {
        Machines(Place::new(server(), namespace()))
    }

    methods!();
    waits_of_threads!();
}

/// Spawned tasks under tokio, whose waits own the event, and whose timer cancels the wait by dropping
/// it. Then the event is read, since the timeout may be shorter than a round trip.
#[derive(Clone, Debug)]
struct TokioTasks(Arc<Place>);

fn tokio<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

async fn spawned<F: Future<Output: Send> + Send + 'static>(wait: F, timeout: Duration) -> Option<F::Output> {
    tokio::spawn(tokio::time::timeout(timeout, wait)).await.unwrap().ok()
}

impl Scope for TokioTasks {
    fn new() -> Self {
        TokioTasks(Arc::new(Place::new(server(), namespace())))
    }

    methods!();

    fn wait(&self) {
        tokio(async { tokio::spawn(self.0.event.wait_owned()).await.unwrap() }).unwrap();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        tokio(async {
            let waited = spawned(self.0.event.wait_owned(), timeout).await;
            waited.is_some() || self.0.event.is_set_async().await.unwrap()
        })
    }

    fn wait_deadline(&self, deadline: Instant) -> bool {
        self.wait_timeout(deadline.saturating_duration_since(Instant::now()))
    }

    fn any(events: &[Self], timeout: Duration) -> Option<usize> {
        let any = any(events.iter().map(|event| event.0.event.clone()));
        if timeout.is_zero() {
            return any.try_wait_timeout(timeout).unwrap();
        }
        tokio(spawned(any.try_wait_async(), timeout)).map(Result::unwrap)
    }

    fn all(events: &[Self], timeout: Duration) -> bool {
        let all = all(events.iter().map(|event| event.0.event.clone()));
        if timeout.is_zero() {
            return all.try_wait_timeout(timeout).unwrap();
        }
        tokio(spawned(all.try_wait_async(), timeout)).is_some()
    }
}

/// Tasks under smol's executor.
#[derive(Clone, Debug)]
struct SmolTasks(Arc<Place>);

async fn within<T>(wait: impl Future<Output = T>, timeout: Duration) -> Option<T> {
    smol::future::or(async { Some(wait.await) }, async {
        // Its timer does not accept `Duration::MAX`.
        smol::Timer::after(timeout.min(Duration::from_secs(86_400))).await;
        None
    })
    .await
}

impl Scope for SmolTasks {
    fn new() -> Self {
        SmolTasks(Arc::new(Place::new(server(), namespace())))
    }

    methods!();

    fn wait(&self) {
        smol::block_on(self.0.event.wait_async()).unwrap();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        smol::block_on(async {
            let waited = within(self.0.event.wait_async(), timeout).await;
            waited.is_some() || self.0.event.is_set_async().await.unwrap()
        })
    }

    fn wait_deadline(&self, deadline: Instant) -> bool {
        self.wait_timeout(deadline.saturating_duration_since(Instant::now()))
    }

    fn any(events: &[Self], timeout: Duration) -> Option<usize> {
        let any = any(events.iter().map(|event| &event.0.event));
        if timeout.is_zero() {
            return any.try_wait_timeout(timeout).unwrap();
        }
        smol::block_on(within(any.try_wait_async(), timeout)).map(Result::unwrap)
    }

    fn all(events: &[Self], timeout: Duration) -> bool {
        let all = all(events.iter().map(|event| &event.0.event));
        if timeout.is_zero() {
            return all.try_wait_timeout(timeout).unwrap();
        }
        smol::block_on(within(all.try_wait_async(), timeout)).is_some()
    }
}

contract! {
    threads_of_one_connection: super::Threads;
    machines: super::Machines;
    tokio_tasks: super::TokioTasks;
    smol_tasks: super::SmolTasks;
}
