//! Reports on standard error that a cluster cannot be reached, during a wait.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tantara_etcd::Cluster;

use crate::events::text;
use crate::lock::lock;
use crate::output;

/// An outage that has lasted this long is reported, and again whenever it has lasted three times as long.
const REPORT_AFTER: Duration = Duration::from_secs(10);

/// How often the state of the connection is read during an outage.
const PERIOD: Duration = Duration::from_secs(1);

/// Reports outages until it is dropped. It drops its handle of the cluster then.
pub(crate) struct OutageReport(Arc<Mutex<Observed>>);

struct Observed {
    cluster: Option<Cluster>,
    /// Whether a thread reports an outage. Without one there is no thread, so that a process that waits
    /// is not woken up.
    is_reporting: bool,
}

impl OutageReport {
    pub(crate) fn begin(cluster: Cluster) -> OutageReport {
        let observed = Observed { cluster: Some(cluster.clone()), is_reporting: false };
        let observed = Arc::new(Mutex::new(observed));
        let report = OutageReport(Arc::clone(&observed));
        cluster.on_outage(move || report_outage(&observed));
        report
    }
}

impl Drop for OutageReport {
    fn drop(&mut self) {
        // Dropped without the lock: the last handle waits for the thread that may be in `report_outage`.
        let cluster = lock(&self.0).cluster.take();
        drop(cluster);
    }
}

/// Begins to report an outage, unless a thread does so.
fn report_outage(observed: &Arc<Mutex<Observed>>) {
    let mut state = lock(observed);
    if state.is_reporting || state.cluster.is_none() {
        return;
    }
    let observed = Arc::clone(observed);
    // The wait continues even if no thread can be started.
    let started = thread::Builder::new().name("outages".into()).spawn(move || {
        let mut next = REPORT_AFTER;
        loop {
            thread::sleep(PERIOD);
            // Locked meanwhile, so that this thread is never the last to hold the cluster, and that the
            // next outage starts another one if this one ends.
            let mut state = lock(&observed);
            let Some(cluster) = &state.cluster else { return };
            let Some(outage) = cluster.outage() else {
                if next > REPORT_AFTER {
                    output::note(format_args!("in contact with the cluster again"));
                }
                state.is_reporting = false;
                return;
            };
            if outage.lasted >= next {
                let lasted = text::length(Duration::from_secs(outage.lasted.as_secs()));
                output::note(format_args!(
                    "no contact with the cluster for {lasted}, still waiting: {}",
                    outage.reason
                ));
                next = outage.lasted * 3;
            }
        }
    });
    state.is_reporting = started.is_ok();
}
