//! The contract between processes: each waiter is a process of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tantara::{SharedEvent, all, any};
use tempfile::TempDir;

use crate::child_process::{ChildProcess, INDEX, NO};
use crate::contract::Scope;
use crate::scopes::spawned;

/// All but the waiting.
macro_rules! verbs_of_shared_event {
    () => {
        fn is_set(&self) -> bool {
            self.0.is_set().unwrap()
        }

        fn set(&self) {
            self.0.set().unwrap();
        }

        fn clear(&self) {
            self.0.clear().unwrap();
        }
    };
}

/// Threads of one process that wait for an event between processes, all through one handle.
#[derive(Clone, Debug)]
pub(crate) struct SharedThreads(SharedEvent);

impl Scope for SharedThreads {
    fn new() -> Self {
        SharedThreads(SharedEvent::anonymous().unwrap())
    }

    verbs_of_shared_event!();

    fn wait(&self) {
        self.0.wait().unwrap();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        self.0.wait_timeout(timeout).unwrap()
    }

    fn wait_deadline(&self, deadline: Instant) -> bool {
        self.0.wait_deadline(deadline).unwrap()
    }

    fn any(events: &[Self], timeout: Duration) -> Option<usize> {
        any(events.iter().map(|event| &event.0)).wait_timeout(timeout)
    }

    fn all(events: &[Self], timeout: Duration) -> bool {
        all(events.iter().map(|event| &event.0)).wait_timeout(timeout)
    }
}

/// Spawned tasks of one process, whose waits own a handle each.
#[derive(Clone, Debug)]
pub(crate) struct SharedTasks(SharedEvent);

impl Scope for SharedTasks {
    fn new() -> Self {
        SharedTasks(SharedEvent::anonymous().unwrap())
    }

    verbs_of_shared_event!();

    fn wait(&self) {
        spawned(self.0.wait_owned(), Duration::MAX).unwrap().unwrap();
    }

    fn wait_timeout(&self, timeout: Duration) -> bool {
        spawned(self.0.wait_owned(), timeout).map(Result::unwrap).is_some()
    }

    fn wait_deadline(&self, deadline: Instant) -> bool {
        self.wait_timeout(deadline.saturating_duration_since(Instant::now()))
    }

    fn any(events: &[Self], timeout: Duration) -> Option<usize> {
        spawned(any(events.iter().map(|event| event.0.clone())), timeout)
    }

    fn all(events: &[Self], timeout: Duration) -> bool {
        spawned(all(events.iter().map(|event| event.0.clone())), timeout).is_some()
    }
}

/// One event, a file in a directory that all events of a test share.
#[derive(Clone, Debug)]
struct Named {
    event: SharedEvent,
    name: String,
}

impl Named {
    fn new() -> Named {
        static NAMES: AtomicU32 = AtomicU32::new(0);
        let name = format!("event-{}", NAMES.fetch_add(1, Relaxed));
        Named { event: SharedEvent::open_in(directory(), &name).unwrap(), name }
    }

    /// Another process waits for it, blocking or awaiting.
    fn wait_in_another(&self, action: &str, timeout: Duration) -> bool {
        ChildProcess::start([action, &directory(), &timeout.as_nanos().to_string(), &self.name]).says_yes()
    }
}

fn directory() -> String {
    static DIRECTORY: std::sync::LazyLock<TempDir> = std::sync::LazyLock::new(|| tempfile::tempdir().unwrap());
    DIRECTORY.path().to_str().unwrap().to_owned()
}

fn of_many(action: &str, timeout: Duration, names: impl Iterator<Item = String>) -> ChildProcess {
    let task = [action.to_owned(), directory(), timeout.as_nanos().to_string()];
    ChildProcess::start(task.into_iter().chain(names))
}

/// What two scopes share: this process sets, and another waits.
macro_rules! reach_of_processes {
    ($scope:ident, $wait:literal, $any:literal, $all:literal) => {
        impl Scope for $scope {
            // They have to be started, and show up only when they have slept for a twentieth of a second.
            const SHORT: Duration = Duration::from_secs(3);

            fn new() -> Self {
                $scope(Arc::new(Named::new()))
            }

            fn waiting(&self) -> usize {
                self.0.event.waiters().unwrap().len()
            }

            fn is_set(&self) -> bool {
                self.0.event.is_set().unwrap()
            }

            fn set(&self) {
                self.0.event.set().unwrap();
            }

            fn clear(&self) {
                self.0.event.clear().unwrap();
            }

            fn wait(&self) {
                assert!(self.0.wait_in_another($wait, Duration::MAX));
            }

            fn wait_timeout(&self, timeout: Duration) -> bool {
                self.0.wait_in_another($wait, timeout)
            }

            fn wait_deadline(&self, deadline: Instant) -> bool {
                self.0.wait_in_another($wait, deadline.saturating_duration_since(Instant::now()))
            }

            fn any(events: &[Self], timeout: Duration) -> Option<usize> {
                match of_many($any, timeout, events.iter().map(|event| event.0.name.clone())).answer() {
                    NO => None,
                    index => Some((index - INDEX) as usize),
                }
            }

            fn all(events: &[Self], timeout: Duration) -> bool {
                of_many($all, timeout, events.iter().map(|event| event.0.name.clone())).says_yes()
            }
        }
    };
}

/// Processes that block.
#[derive(Clone, Debug)]
pub(crate) struct Processes(Arc<Named>);
reach_of_processes!(Processes, "wait_timeout", "any", "all");

/// Processes that await, under tokio.
#[derive(Clone, Debug)]
pub(crate) struct TasksOfProcesses(Arc<Named>);
reach_of_processes!(TasksOfProcesses, "wait_async", "any_async", "all_async");
