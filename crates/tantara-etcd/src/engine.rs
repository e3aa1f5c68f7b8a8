//! The one thread of a connection, on which everything that speaks with etcd runs: whoever uses an event may be a
//! thread, or a task of any runtime.

use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use crate::endpoint::Endpoint;
use crate::error::{Error, Kind, Try, Why};
use crate::keys::Keys;
use crate::lease::Leases;
use crate::link::Link;
use crate::lookout::{self, Ask};
use crate::options::Options;
use crate::reply::{self, Reply};
use crate::write::Writer;

/// A handle on it. It ends with its last handle.
#[derive(Clone, Debug)]
pub(crate) struct Engine(Arc<Running>);

/// What requests are made with. Nothing in here keeps the engine running.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) link: Arc<Link>,
    pub(crate) keys: Keys,
    pub(crate) leases: Leases,
    pub(crate) writer: Writer,
    pub(crate) options: Options,
}

#[derive(Debug)]
struct Running {
    parts: Arc<Parts>,
    lookout: mpsc::UnboundedSender<Ask>,
    handle: Handle,
    /// Dropped to stop it.
    stop: Option<watch::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    process: u32,
}

impl Engine {
    pub(crate) fn start(endpoints: Vec<Endpoint>, options: Options) -> Result<Engine, Error> {
        let cannot = |error: std::io::Error| {
            let doing = "start the thread of the connection";
            let tries = vec![Try { endpoint: "this machine".to_owned(), why: Why::from(error.to_string()) }];
            Error::new(Kind::Unreachable { doing, tries })
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        let handle = runtime.handle().clone();
        let link = Arc::new(Link::new(endpoints, options.clone()));
        let keys = Keys::new(&options.namespace);
        let (stop, stopped) = watch::channel(());
        let until_stopped = |mut stopped: watch::Receiver<()>| async move { while stopped.changed().await.is_ok() {} };
        let (leases, keeping) = Leases::new(Arc::clone(&link), until_stopped(stopped.clone()));
        let writer = Writer::new(Arc::clone(&link), keys.clone());
        let learning = Arc::clone(&link);
        let parts = Arc::new(Parts { link, keys, leases, writer, options });
        let (lookout, inbox) = mpsc::unbounded_channel();
        let looking = lookout::run(Arc::clone(&parts), inbox, until_stopped(stopped));
        let life = move || {
            // The lookout first takes its records back; then the leases are given back.
            runtime.block_on(async {
                let keeping = tokio::spawn(keeping);
                tokio::spawn(async move { learning.keep_learning().await });
                looking.await;
                let _ = keeping.await;
            });
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("tantara-etcd".to_owned()).spawn(life).map_err(cannot)?;
        let process = std::process::id();
        let (stop, thread) = (Some(stop), Some(thread));
        Ok(Engine(Arc::new(Running { parts, lookout, handle, stop, thread, process })))
    }

    pub(crate) fn parts(&self) -> &Arc<Parts> {
        &self.0.parts
    }

    /// In the child of a fork there is no thread to answer.
    fn check(&self) -> Result<(), Error> {
        if self.0.process == std::process::id() {
            Ok(())
        } else {
            let why = "this connection to etcd belongs to the process that made it; connect again in this one";
            Err(Error::new(Kind::Ended { why }))
        }
    }

    /// Runs a request on the engine's thread.
    pub(crate) fn run<T, F>(&self, request: impl FnOnce(Arc<Parts>) -> F) -> Result<Reply<T>, Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Error>> + Send + 'static,
    {
        self.check()?;
        let (promise, reply) = reply::pair();
        let work = request(Arc::clone(&self.0.parts));
        self.0.handle.spawn(async move { promise.keep(work.await) });
        Ok(reply)
    }

    pub(crate) fn ask(&self, ask: Ask) -> Result<(), Error> {
        self.check()?;
        // If nobody is there any more, the ask is dropped, and the ticket in it says so.
        let _ = self.0.lookout.send(ask);
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // The thread was never in this process, and may have held any lock in here when the fork came: nothing of
            // it is let go of.
            std::mem::forget((self.thread.take(), self.stop.take()));
            std::mem::forget((Arc::clone(&self.parts), self.lookout.clone(), self.handle.clone()));
            return;
        }
        drop(self.stop.take());
        // Leases are given back before a program may end. It is waited for no longer than they take, about a second.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
