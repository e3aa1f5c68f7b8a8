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

/// How often the state of the connection is read: during an outage, and otherwise. So an outage is found in time to
/// report it, and a thousand waiting processes rarely wake up.
const PERIOD: Duration = Duration::from_secs(1);
const RARELY: Duration = REPORT_AFTER;

/// Reports outages until it is dropped. It drops its handle of the cluster then.
pub(crate) struct OutageReport(Arc<Mutex<Option<Cluster>>>);

impl OutageReport {
    pub(crate) fn begin(cluster: Cluster) -> OutageReport {
        let cluster = Arc::new(Mutex::new(Some(cluster)));
        let observed = Arc::clone(&cluster);
        // The wait continues even if no thread can be started.
        let _ = thread::Builder::new().name("outages".into()).spawn(move || {
            let mut next = REPORT_AFTER;
            let mut period = RARELY;
            loop {
                thread::sleep(period);
                // Locked meanwhile, so that this thread is never the last to hold the cluster.
                let cluster = lock(&observed);
                let Some(cluster) = cluster.as_ref() else { return };
                let outage = cluster.outage();
                period = if outage.is_some() { PERIOD } else { RARELY };
                match outage {
                    Some(outage) if outage.lasted >= next => {
                        let lasted = text::length(Duration::from_secs(outage.lasted.as_secs()));
                        output::note(format_args!(
                            "no contact with the cluster for {lasted}, still waiting: {}",
                            outage.reason
                        ));
                        next = outage.lasted * 3;
                    }
                    None if next > REPORT_AFTER => {
                        output::note(format_args!("in contact with the cluster again"));
                        next = REPORT_AFTER;
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
        lock(&self.0).take();
    }
}
