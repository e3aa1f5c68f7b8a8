//! The contract at every scope of this crate: threads, tasks under three executors, and processes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tantara::{Event, all, any};

use crate::contract::{Scope, contract};

/// All but the waiting, which is the same for all scopes that use an `Event`.
macro_rules! verbs_of_event {
    () => {
        fn new() -> Self {
            Self(Arc::new(Event::new()))
        }

        fn is_set(&self) -> bool {
            self.0.is_set()
        }

        fn set(&self) {
            self.0.set();
        }

        fn clear(&self) {
            self.0.clear();
        }
    };
}

#[derive(Clone, Debug)]
struct Threads(Arc<Event>);

impl Scope for Threads {
    verbs_of_event!();

    fn wait(&self) {
        self.0.wait();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        self.0.wait_timeout(timeout)
    }

    fn wait_deadline(&self, deadline: Instant) -> bool {
        self.0.wait_deadline(deadline)
    }

    fn any(events: &[Self], timeout: Duration) -> Option<usize> {
        any(events.iter().map(|event| &*event.0)).wait_timeout(timeout)
    }

    fn all(events: &[Self], timeout: Duration) -> bool {
        all(events.iter().map(|event| &*event.0)).wait_timeout(timeout)
    }
}

/// A task under tokio, whose timer cancels the wait by dropping it.
#[derive(Clone, Debug)]
struct TokioTasks(Arc<Event>);

fn tokio<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

impl Scope for TokioTasks {
    verbs_of_event!();

    fn wait(&self) {
        tokio(self.0.wait_async());
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        tokio(async { tokio::time::timeout(timeout, self.0.wait_async()).await.is_ok() })
    }

    fn wait_deadline(&self, deadline: Instant) -> bool {
        tokio(async { tokio::time::timeout_at(deadline.into(), self.0.wait_async()).await.is_ok() })
    }

    fn any(events: &[Self], timeout: Duration) -> Option<usize> {
        let any = any(events.iter().map(|event| &*event.0));
        tokio(async { tokio::time::timeout(timeout, any).await.ok() })
    }

    fn all(events: &[Self], timeout: Duration) -> bool {
        let all = all(events.iter().map(|event| &*event.0));
        tokio(async { tokio::time::timeout(timeout, all).await.is_ok() })
    }
}

/// A spawned task under tokio, whose wait owns the event.
#[derive(Clone, Debug)]
struct SpawnedTasks(Arc<Event>);

/// Spawns the wait, and drops it when the time has passed.
pub(crate) fn spawned<F: Future<Output: Send> + Send + 'static>(wait: F, timeout: Duration) -> Option<F::Output> {
    tokio(async { tokio::spawn(tokio::time::timeout(timeout, wait)).await.unwrap().ok() })
}

impl Scope for SpawnedTasks {
    verbs_of_event!();

    fn wait(&self) {
        spawned(Arc::clone(&self.0).wait_owned(), Duration::MAX).unwrap();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        spawned(Arc::clone(&self.0).wait_owned(), timeout).is_some()
    }

    fn wait_deadline(&self, deadline: Instant) -> bool {
        self.wait_timeout(deadline.saturating_duration_since(Instant::now()))
    }

    fn any(events: &[Self], timeout: Duration) -> Option<usize> {
        spawned(any(events.iter().map(|event| Arc::clone(&event.0))), timeout)
    }

    fn all(events: &[Self], timeout: Duration) -> bool {
        spawned(all(events.iter().map(|event| Arc::clone(&event.0))), timeout).is_some()
    }
}

/// A task under smol's executor and timer.
#[derive(Clone, Debug)]
struct SmolTasks(Arc<Event>);

async fn within<T>(wait: impl Future<Output = T>, timer: smol::Timer) -> Option<T> {
    smol::future::or(async { Some(wait.await) }, async {
        timer.await;
        None
    })
    .await
}

impl Scope for SmolTasks {
    verbs_of_event!();

    fn wait(&self) {
        smol::block_on(self.0.wait_async());
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        smol::block_on(within(self.0.wait_async(), smol::Timer::after(timeout))).is_some()
    }

    fn wait_deadline(&self, deadline: Instant) -> bool {
        smol::block_on(within(self.0.wait_async(), smol::Timer::at(deadline))).is_some()
    }

    fn any(events: &[Self], timeout: Duration) -> Option<usize> {
        let any = any(events.iter().map(|event| &*event.0));
        smol::block_on(within(any, smol::Timer::after(timeout)))
    }

    fn all(events: &[Self], timeout: Duration) -> bool {
        let all = all(events.iter().map(|event| &*event.0));
        smol::block_on(within(all, smol::Timer::after(timeout))).is_some()
    }
}

contract! {
    threads: super::Threads;
    tokio_tasks: super::TokioTasks;
    spawned_tasks: super::SpawnedTasks;
    smol_tasks: super::SmolTasks;
    #[cfg(shared_events)]
    threads_of_a_shared_event: crate::processes::SharedThreads;
    #[cfg(shared_events)]
    tasks_of_a_shared_event: crate::processes::SharedTasks;
    #[cfg(shared_events)]
    processes: crate::processes::Processes;
    #[cfg(shared_events)]
    tasks_of_processes: crate::processes::TasksOfProcesses;
}
