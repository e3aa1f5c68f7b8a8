//! The runtime of a connection. Every request to etcd runs on it, so that threads, and tasks of any
//! runtime, can use an event.
//!
//! A thread runs it, from the first wait, hold or asynchronous request on, and from the moment at
//! which two threads use the connection at once. Until then, a caller that blocks on a request runs
//! it, which saves the thread and two thread switches for each request.

use std::cell::Cell;
use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread::JoinHandle;
use std::time::Duration;

use tantara::Event;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};

use crate::client::endpoint::Endpoint;
use crate::driver::beginning::Beginnings;
use crate::driver::mailbox::{self, Reply};
use crate::driver::task::{self, Request};
use crate::error::{Error, Kind, Try, Why};
use crate::options::{Credentials, Options};
use crate::store::Store;

/// How long the drop of the last handle waits for the thread. Longer than revoking the leases may
/// take.
const PATIENCE: Duration = Duration::from_secs(2);

thread_local! {
    /// The number of the connection whose tasks this thread runs; 0 for none.
    static RUNS: Cell<u64> = const { Cell::new(0) };
}

/// Marks this thread as the one that runs the tasks of a connection.
struct Runs;

impl Runs {
    fn tasks_of(number: u64) -> Runs {
        RUNS.set(number);
        Runs
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        RUNS.set(0);
    }
}

/// A handle to the runtime of a connection, which ends with its last handle.
#[derive(Clone, Debug)]
pub(crate) struct Runtime(Arc<Running>);

struct Running {
    store: Arc<Store>,
    driver: mpsc::UnboundedSender<Request>,
    beginnings: Beginnings,
    handle: Handle,
    /// Dropped to stop the thread.
    stop: Option<watch::Sender<()>>,
    /// Locked by a caller who runs a request, and when the thread is started.
    runner: Mutex<Runner>,
    /// Whether the thread has to be started. Never turned off.
    needs_thread: AtomicBool,
    /// Notified then, if a caller runs a request.
    is_needed: Notify,
    /// Set when the thread has finished its work.
    finished: Arc<Event>,
    process: u32,
    /// No other connection of this process has it.
    number: u64,
}

/// What runs the tasks of a connection.
enum Runner {
    /// A caller who blocks on a request, and otherwise nothing. Also has what the thread would do.
    Caller(Unstarted, Pin<Box<dyn Future<Output = ()> + Send>>),
    Thread(JoinHandle<()>),
    /// Nothing: the thread could not be started.
    Nothing,
}

/// Tokio's runtime. It may be dropped anywhere, also within another runtime.
struct Unstarted(Option<tokio::runtime::Runtime>);

impl Drop for Unstarted {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Running {
    /// Starts the thread, unless it runs. If a caller is running a request now, that caller starts
    /// the thread and leaves the request to it.
    fn require_thread(&self) {
        // Before the lock is tried: a caller who holds it looks for this after the release.
        self.needs_thread.store(true, SeqCst);
        if let Some(mut runner) = self.try_runner() {
            self.start_thread(&mut runner);
        } else {
            self.is_needed.notify_one();
        }
    }

    fn try_runner(&self) -> Option<MutexGuard<'_, Runner>> {
        match self.runner.try_lock() {
            Ok(runner) => Some(runner),
            // A request has panicked. The runtime is as before.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn start_thread(&self, runner: &mut Runner) {
        if !matches!(runner, Runner::Caller(..)) {
            return;
        }
        let Runner::Caller(runtime, work) = std::mem::replace(runner, Runner::Nothing) else { return };
        let (at_end, number) = (SetAtEnd(Arc::clone(&self.finished)), self.number);
        let run = move || {
            let (_at_end, _runs) = (at_end, Runs::tasks_of(number));
            if let Some(runtime) = &runtime.0 {
                // As a task, for each wake-up of this future itself would be a write to an eventfd.
                let _ = runtime.block_on(async { tokio::spawn(work).await });
            }
            drop(runtime);
        };
        // If this fails, all requests are dropped with the runtime, and so they fail.
        if let Ok(thread) = std::thread::Builder::new().name("tantara-etcd".to_owned()).spawn(run) {
            *runner = Runner::Thread(thread);
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("store", &self.store).field("process", &self.process).finish_non_exhaustive()
    }
}

/// Starts the thread if it has become necessary while a caller ran a request.
struct Handover<'r>(&'r Running);

impl Drop for Handover<'_> {
    fn drop(&mut self) {
        // Leases have to be kept alive.
        if self.0.needs_thread.load(SeqCst) || self.0.store.leases.are_used() {
            self.0.require_thread();
        }
    }
}

// Requests run on another thread, and what a handle does itself leaves no inconsistent state.
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
    pub(crate) fn new(endpoints: Vec<Endpoint>, options: Options) -> Result<Runtime, Error> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let failed = |error: std::io::Error| {
            let doing = "start the runtime of the connection";
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
        let needs_thread = store.options.credentials.as_ref().is_some_and(Credentials::may_change);
        // First the driver drops the lease of its records; then all leases are revoked.
        let work = Box::pin(async move {
            let keep_alive = tokio::spawn(keep_alive);
            tokio::spawn(async move { learning.keep_learning().await });
            drive.await;
            let _ = keep_alive.await;
        });
        Ok(Runtime(Arc::new(Running {
            store,
            driver,
            beginnings: Beginnings::default(),
            handle,
            stop: Some(stop),
            runner: Mutex::new(Runner::Caller(Unstarted(Some(runtime)), work)),
            // A provider of credentials is called by the thread.
            needs_thread: AtomicBool::new(needs_thread),
            is_needed: Notify::new(),
            finished: Arc::default(),
            process: std::process::id(),
            number: NEXT.fetch_add(1, Relaxed),
        })))
    }

    pub(crate) fn store(&self) -> &Arc<Store> {
        &self.0.store
    }

    /// The waits that have not begun.
    pub(crate) fn beginnings(&self) -> &Beginnings {
        &self.0.beginnings
    }

    /// Completes when the waits for an event that were requested before have begun, and at the
    /// deadline. A write that is sent then takes effect during these waits.
    pub(crate) async fn earlier_waits_have_begun(&self, name: &Arc<str>, until: Instant) {
        if self.0.beginnings.is_empty() {
            return;
        }
        let (write, sent) = oneshot::channel();
        if self.send(Request::Write(Arc::clone(name), write)).is_ok() {
            let _ = timeout_at(until, sent).await;
        }
    }

    /// The child of a fork has no runtime thread.
    pub(crate) fn check_process(&self) -> Result<(), Error> {
        mailbox::check_process(self.0.process)
    }

    /// Whether this thread may block until the connection has done something. In the child of a
    /// fork nothing would do it. The runtime thread, which also runs wakers, would wait for itself.
    pub(crate) fn check_may_block(&self) -> Result<(), Error> {
        self.check_process()?;
        if RUNS.get() == self.0.number {
            return Err(Error::ended(
                "a waker has blocked on the connection to etcd whose own thread runs it, which would never end; \
                 use the async methods, or another thread",
            ));
        }
        Ok(())
    }

    /// Prepares a request.
    pub(crate) fn run<T, F>(&self, request: impl FnOnce(Arc<Store>) -> F) -> Result<Asked<T>, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        self.check_process()?;
        Ok(Asked { runtime: self.clone(), work: Box::pin(request(Arc::clone(&self.0.store))) })
    }

    /// Sends a request to the driver.
    pub(crate) fn send(&self, request: Request) -> Result<(), Error> {
        self.check_process()?;
        // If the driver has ended, the request is dropped, which fails the wait in it.
        let _ = self.0.driver.send(request);
        self.0.require_thread();
        Ok(())
    }
}

/// A request that has not begun.
#[must_use]
pub(crate) struct Asked<T> {
    runtime: Runtime,
    work: Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>,
}

impl<T: Send + 'static> Asked<T> {
    /// Blocks until there is a result.
    pub(crate) fn wait(mut self) -> Result<T, Error> {
        self.runtime.check_may_block()?;
        let running = Arc::clone(&self.runtime.0);
        // Within another runtime of tokio no other one can be run, nor in a thread that has destroyed its
        // thread-locals.
        let is_outside = || Handle::try_current().is_err_and(|error| error.is_missing_context());
        if !running.needs_thread.load(SeqCst) && is_outside() {
            let _handover = Handover(&running);
            if let Some(runner) = running.try_runner()
                && let Runner::Caller(Unstarted(Some(runtime)), _) = &*runner
            {
                let mut result = None;
                // One type of future for all requests, as below.
                let driving: Pin<Box<dyn Future<Output = ()> + '_>> = Box::pin(async {
                    tokio::select! {
                        biased;
                        outcome = &mut self.work => result = Some(outcome),
                        () = running.is_needed.notified() => {}
                    }
                });
                let _runs = Runs::tasks_of(running.number);
                runtime.block_on(driving);
                if let Some(result) = result {
                    return result;
                }
            }
        }
        self.begin().wait()
    }

    /// Waits until there is a result.
    pub(crate) async fn into_future(self) -> Result<T, Error> {
        self.begin().into_future().await
    }

    /// Runs it on the thread.
    pub(crate) fn begin(self) -> Reply<T> {
        let (promise, reply) = mailbox::promise();
        let work = self.work;
        // One type of task for all requests: the code of a task is generated once for each type.
        let task: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move { promise.complete(work.await) });
        self.runtime.0.handle.spawn(task);
        self.runtime.0.require_thread();
        reply
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // This is the child of a fork. The thread may have held any lock in here at that
            // moment, so nothing is dropped.
            let runner = self.runner.get_mut().unwrap_or_else(PoisonError::into_inner);
            std::mem::forget((std::mem::replace(runner, Runner::Nothing), self.stop.take()));
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
        let runner = self.runner.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Runner::Thread(thread) = std::mem::replace(runner, Runner::Nothing)
            && thread.thread().id() != std::thread::current().id()
            && self.finished.wait_timeout(PATIENCE)
        {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
impl Runtime {
    /// As the child of a fork has it.
    pub(crate) fn inherited() -> Runtime {
        let endpoints = crate::client::endpoint::parse("127.0.0.1:1", false).unwrap();
        let mut runtime = Runtime::new(endpoints, Options::new()).unwrap();
        let running = Arc::get_mut(&mut runtime.0).unwrap();
        running.process = running.process.wrapping_add(1);
        runtime
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::endpoint::parse;

    fn runtime() -> Runtime {
        Runtime::new(parse("127.0.0.1:1", false).unwrap(), Options::new()).unwrap()
    }

    fn has_thread(runtime: &Runtime) -> bool {
        matches!(*runtime.0.runner.lock().unwrap(), Runner::Thread(_))
    }

    #[test]
    fn whoever_blocks_on_a_request_runs_it_until_a_thread_is_needed() {
        let runtime = runtime();
        let caller = std::thread::current().id();
        for _ in 0..3 {
            let runs = runtime.run(|_| async { Ok(std::thread::current().id()) }).unwrap();
            assert_eq!(runs.wait().unwrap(), caller);
        }
        assert!(!has_thread(&runtime));
        let runs = runtime.run(|_| async { Ok(std::thread::current().id()) }).unwrap().begin();
        assert!(has_thread(&runtime));
        assert_ne!(runs.wait().unwrap(), caller);
        let runs = runtime.run(|_| async { Ok(std::thread::current().id()) }).unwrap();
        assert_ne!(runs.wait().unwrap(), caller);
    }

    #[test]
    fn a_request_that_blocks_its_caller_does_not_block_those_of_others() {
        let runtime = runtime();
        let (begun, end) = (Arc::new(Event::new()), Arc::new(Event::new()));
        let long = {
            let (runtime, begun, end) = (runtime.clone(), Arc::clone(&begun), Arc::clone(&end));
            std::thread::spawn(move || {
                let waits = runtime.run(|_| async move {
                    begun.set();
                    end.wait_async().await;
                    Ok(1)
                });
                waits.unwrap().wait()
            })
        };
        begun.wait();
        let (done, other) = (Arc::new(Event::new()), runtime.run(|_| async { Ok(2) }).unwrap());
        let other = {
            let done = Arc::clone(&done);
            std::thread::spawn(move || (other.wait(), done.set()).0)
        };
        assert!(done.wait_timeout(Duration::from_secs(60)) && !long.is_finished());
        assert_eq!(other.join().unwrap().unwrap(), 2);
        // The long request is left to the thread.
        let limit = std::time::Instant::now() + Duration::from_secs(60);
        let is_left = || runtime.0.try_runner().is_some_and(|runner| matches!(*runner, Runner::Thread(_)));
        while !is_left() {
            assert!(std::time::Instant::now() < limit, "the caller still runs it");
            std::thread::yield_now();
        }
        end.set();
        assert_eq!(long.join().unwrap().unwrap(), 1);
    }

    #[test]
    fn a_request_within_another_runtime_is_run_by_the_thread() {
        let outer = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        outer.block_on(async {
            let used = runtime();
            assert_eq!(used.run(|_| async { Ok(1) }).unwrap().wait().unwrap(), 1);
            // Dropped here, too, without and with a thread.
            drop((runtime(), used));
        });
    }
}
