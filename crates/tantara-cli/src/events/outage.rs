//! Says on standard error that a cluster cannot be reached, while something waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tantara_etcd::Cluster;

use crate::events::text;
use crate::output;

/// An outage that has lasted this long is told, and again whenever it has lasted for three times as long.
const WORTH_TELLING: Duration = Duration::from_secs(10);

const PERIOD: Duration = Duration::from_secs(1);

/// Tells until it is dropped, or the process ends. The cluster is let go of with it.
pub(crate) struct OutageReport(Arc<Mutex<Option<Cluster>>>);

impl OutageReport {
    pub(crate) fn begin(cluster: Cluster) -> OutageReport {
        let cluster = Arc::new(Mutex::new(Some(cluster)));
        let looked_at = Arc::clone(&cluster);
        // Whether or not it can be told, whoever waits goes on.
        let _ = thread::Builder::new().name("outages".into()).spawn(move || {
            let mut next = WORTH_TELLING;
            loop {
                thread::sleep(PERIOD);
                // Held meanwhile, so that this thread is never the last to hold the cluster.
                let cluster = looked_at.lock().unwrap_or_else(PoisonError::into_inner);
                let Some(cluster) = cluster.as_ref() else { return };
                match cluster.outage() {
                    Some(outage) if outage.lasted >= next => {
                        let lasted = text::length(Duration::from_secs(outage.lasted.as_secs()));
                        output::note(format_args!(
                            "no contact with the cluster for {lasted}, still waiting: {}",
                            outage.reason
                        ));
                        next = outage.lasted * 3;
                    }
                    None if next > WORTH_TELLING => {
                        output::note(format_args!("in contact with the cluster again"));
                        next = WORTH_TELLING;
                    }
                    _ => {}
                }
            }
        });
        OutageReport(cluster)
    }
}

impl Drop for OutageReport {
    fn drop(&mut self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
