//! The runtime thread of a connection. Every request to etcd runs on it, so that threads, and tasks
//! of any runtime, can use an event.

use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tantara::Event;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::client::endpoint::Endpoint;
use crate::driver::mailbox::{self, Reply};
use crate::driver::task::{self, Request};
use crate::error::{Error, Kind, Try, Why};
use crate::options::{Credentials, Options};
use crate::store::Store;

/// How long the drop of the last handle waits for the thread. Longer than revoking the leases may
/// take.
const PATIENCE: Duration = Duration::from_secs(2);

/// A handle to the runtime thread, which ends with its last handle.
#[derive(Clone, Debug)]
pub(crate) struct Runtime(Arc<Running>);

#[derive(Debug)]
struct Running {
    store: Arc<Store>,
    driver: mpsc::UnboundedSender<Request>,
    handle: Handle,
    /// Dropped to stop the thread.
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Set when the thread has finished its work.
    finished: Arc<Event>,
    process: u32,
}

// Requests run on another thread. What a handle does by itself leaves no state half changed.
impl UnwindSafe for Runtime {}
impl RefUnwindSafe for Runtime {}

/// Sets the event when it is dropped, so also when the thread panics.
struct SetAtEnd(Arc<Event>);

impl Drop for SetAtEnd {
    fn drop(&mut self) {
        self.0.set();
    }
}

impl Runtime {
    pub(crate) fn start(endpoints: Vec<Endpoint>, options: Options) -> Result<Runtime, Error> {
        let failed = |error: std::io::Error| {
            let doing = "start the thread of the connection";
            let tries = vec![Try { endpoint: "this machine".to_owned(), why: Why::from(&*error.to_string()) }];
            Error::new(Kind::Unreachable { doing, tries })
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = watch::channel(());
        let until_stopped = |mut stopped: watch::Receiver<()>| async move { while stopped.changed().await.is_ok() {} };
        let (store, keep_alive) = Store::new(endpoints, options, until_stopped(stopped.clone()));
        let store = Arc::new(store);
        let (driver, inbox) = mpsc::unbounded_channel();
        let drive = task::run(Arc::clone(&store), inbox, until_stopped(stopped));
        let learning = Arc::clone(&store.connection);
        let finished = Arc::new(Event::new());
        let at_end = SetAtEnd(Arc::clone(&finished));
        let run = move || {
            let _at_end = at_end;
            // First the driver drops the lease of its records; then all leases are revoked.
            runtime.block_on(async {
                let keep_alive = tokio::spawn(keep_alive);
                tokio::spawn(async move { learning.keep_learning().await });
                // As a task, for each wake-up of this future itself would be a write to an eventfd.
                let _ = tokio::spawn(drive).await;
                let _ = keep_alive.await;
            });
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("tantara-etcd".to_owned()).spawn(run).map_err(failed)?;
        let process = std::process::id();
        let (stop, thread) = (Some(stop), Some(thread));
        Ok(Runtime(Arc::new(Running { store, driver, handle, stop, thread, finished, process })))
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.0.store
    }

    /// The child of a fork has no runtime thread.
    pub(crate) fn check_process(&self) -> Result<(), Error> {
        if self.0.process == std::process::id() {
            Ok(())
        } else {
            Err(Error::ended("this connection to etcd belongs to the process that made it; connect again in this one"))
        }
    }

    /// Runs a request on the runtime thread.
    pub(crate) fn run<T, F>(&self, request: impl FnOnce(Arc<Store>) -> F) -> Result<Reply<T>, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        self.check_process()?;
        let (promise, reply) = mailbox::promise();
        let work = request(Arc::clone(&self.0.store));
        // One type of task for all requests: the code of a task is generated once for each type.
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move { promise.complete(work.await) });
        self.0.handle.spawn(task);
        Ok(reply)
    }

    /// Sends a request to the driver.
    pub(crate) fn send(&self, request: Request) -> Result<(), Error> {
        self.check_process()?;
        // If the driver has ended, the request is dropped, which fails the wait in it.
        let _ = self.0.driver.send(request);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // This is the child of a fork. The thread may have held any lock in here at that
            // moment, so nothing is dropped.
            std::mem::forget((self.thread.take(), self.stop.take()));
            std::mem::forget((Arc::clone(&self.store), self.driver.clone(), self.handle.clone()));
            return;
        }
        drop(self.stop.take());
        let options = &self.store.options;
        let calls_provider = options.credentials.as_ref().is_some_and(Credentials::may_change);
        // Without leases, and without a provider that could run for longer than its caller expects,
        // nothing has to be finished: the thread ends by itself.
        if !calls_provider && !self.store.leases.are_used() {
            return;
        }
        // The process may exit after this, so wait until the leases are revoked, which takes about
        // a second at most. A provider of credentials that blocks, perhaps for ever, blocks the
        // thread. Then the thread is left to end by itself.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
            && self.finished.wait_timeout(PATIENCE)
        {
            let _ = thread.join();
        }
    }
}
