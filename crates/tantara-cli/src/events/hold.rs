//! `tantara hold`: events are set while a command runs.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tantara_etcd::ClusterEvent;

use crate::events::args::Hold;
use crate::events::place::{Event, Place};
use crate::failure::Failure;
use crate::local::LocalHold;
use crate::output;
use crate::system::{self, Startable};

/// How often to look whether a cluster has ended a hold.
const LOOK: Duration = Duration::from_millis(500);

impl Hold {
    /// Checks the command before anything is done.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        if self.command.is_empty() {
            return Err(Failure::usage(
                "hold needs a command to run: tantara hold NAME -- CMD; see tantara hold --help",
            ));
        }
        Ok(())
    }
}

pub(crate) fn run(place: Place, hold: Hold) -> Result<(), Failure> {
    let Some(command) = hold.command.split_first() else { return hold.check() };
    let mut command = Startable::new(command)?;
    // Usually the events are set before the first instruction of the command. If only an attempt tells whether it can
    // be executed, they are set after that, because they must not be set if it cannot.
    let (holds, mut running) = if command.is_certain() {
        let holds = Holds::begin(place, &hold.names)?;
        if let Some(signal) = command.first_signal() {
            // The command is not running yet, so the signal ends this process.
            drop(holds);
            system::end_by(signal);
        }
        (holds, command.start()?)
    } else {
        let running = command.start()?;
        match Holds::begin(place, &hold.names) {
            Ok(holds) => (holds, running),
            Err(failure) => {
                running.kill();
                return Err(failure);
            }
        }
    };
    let status = running.supervise();
    drop(holds);
    system::end_as(status)
}

/// The holds of all events, until this is dropped.
struct Holds {
    _local: Vec<LocalHold>,
    /// Before the place, so that the cluster's holds end before the connection to it.
    _cluster: Option<Keeper>,
    _place: Arc<Place>,
}

impl Holds {
    /// Holds all of the events, or none.
    fn begin(place: Place, names: &[String]) -> Result<Holds, Failure> {
        let (mut local, mut of_cluster) = (Vec::new(), Vec::new());
        for event in place.open_all(names)? {
            match event {
                Event::Local(event) => local.push(event.hold()?),
                Event::Cluster(event) => {
                    let hold = event.hold().map_err(Failure::of_cluster)?;
                    of_cluster.push((event, Some(hold)));
                }
            }
        }
        let cluster = (!of_cluster.is_empty()).then(|| Keeper::new(of_cluster));
        Ok(Holds { _local: local, _cluster: cluster, _place: Arc::new(place) })
    }
}

/// A thread that keeps the holds of a cluster: it holds an event again whose hold the cluster has ended.
struct Keeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn new(mut holds: Vec<(ClusterEvent, Option<tantara_etcd::Hold>)>) -> Keeper {
        let (stop, stopped) = channel::<()>();
        let keep = move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                holds.retain_mut(|(event, hold)| is_kept(event, hold));
            }
        };
        let thread = thread::Builder::new().name("holds".into()).spawn(keep).ok();
        Keeper { stop: Some(stop), thread }
    }
}

/// Looks after a hold. `false` if the event was removed, which ends all holds of it.
fn is_kept(event: &ClusterEvent, hold: &mut Option<tantara_etcd::Hold>) -> bool {
    if hold.as_ref().is_some_and(|hold| !hold.is_lost()) {
        return true;
    }
    let (name, is_removed) = (event.name(), event.is_set().is_err_and(|error| error.is_removed()));
    if is_removed {
        output::note(format_args!("warning: {name} was removed, and is not held any more"));
        return false;
    }
    if hold.take().is_some() {
        output::note(format_args!("warning: the cluster was not reached, and {name} may be clear"));
    }
    *hold = event.hold().ok();
    if hold.is_some() {
        output::note(format_args!("{name} is held again"));
    }
    true
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
