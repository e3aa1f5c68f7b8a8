//! A deployment on a fleet: all machines switch to the new version at the same time, or none does.
//!
//! Start it on each machine, and once as the coordinator, for example for version 7:
//!
//! ```text
//! fleet_deployment 10.0.0.1:2379,10.0.0.2:2379 7 machine web-1
//! fleet_deployment 10.0.0.1:2379,10.0.0.2:2379 7 machine web-2
//! fleet_deployment 10.0.0.1:2379,10.0.0.2:2379 7 coordinator web-1 web-2
//! ```
//!
//! The order does not matter. Any machine may die, and members of the cluster may fail, at any moment.

use std::error::Error;
use std::time::Duration;

use tantara::{Waitable, all, any};
use tantara_etcd::{Cluster, ClusterEvent, Options};

/// For machines to become ready, and then to switch.
const TIMEOUT: Duration = Duration::from_secs(60);

type Outcome = Result<(), Box<dyn Error>>;

fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [endpoints, version, "machine", name] => deploy(&connect(endpoints, version)?, name),
        [endpoints, version, "coordinator", ref machines @ ..] if !machines.is_empty() => {
            coordinate(&connect(endpoints, version)?, machines)
        }
        _ => Err("usage: fleet_deployment ENDPOINTS VERSION (machine NAME | coordinator NAME...)".into()),
    }
}

/// Each deployment has a namespace of its own, so that no event is left from an earlier one.
fn connect(endpoints: &str, version: &str) -> Result<Cluster, tantara_etcd::Error> {
    let namespace = format!("deployment-{version}");
    // `tantara --etcd ENDPOINTS --namespace deployment-7 ls` then shows who waits for what.
    Cluster::connect_with(endpoints, Options::new().namespace(namespace).record_waits(true))
}

fn deploy(cluster: &Cluster, name: &str) -> Outcome {
    let (go, abort) = (cluster.event("go"), cluster.event("abort"));
    println!("{name}: fetching the new version");

    // A hold, and not `set`: a machine that dies now is not ready any more.
    let ready = cluster.event(format!("ready-{name}")).hold()?;
    let events = [&go as &dyn Waitable, &abort, ready.lost()];
    match any(events).try_wait_timeout(TIMEOUT)? {
        Some(0) => {}
        Some(1) => return Err("the coordinator has aborted the deployment".into()),
        Some(_) => return Err("this machine was cut off from the cluster for too long".into()),
        // The cluster has confirmed that none was set. If it cannot be reached, the `?` above returns an error.
        None => return Err("there is no coordinator".into()),
    }
    println!("{name}: switching to the new version");
    cluster.event(format!("done-{name}")).set()?;
    Ok(())
}

fn coordinate(cluster: &Cluster, machines: &[&str]) -> Outcome {
    let named = |what: &str| -> Vec<ClusterEvent> {
        machines.iter().map(|machine| cluster.event(format!("{what}-{machine}"))).collect()
    };
    let (ready, done) = (named("ready"), named("done"));
    let (go, abort) = (cluster.event("go"), cluster.event("abort"));

    if !all(&ready).try_wait_timeout(TIMEOUT)? {
        abort.set()?;
        return Err(format!("not ready in time: {}", unset(machines, &ready)?).into());
    }
    go.set()?;
    if !all(&done).try_wait_timeout(TIMEOUT)? {
        return Err(format!("not done in time: {}", unset(machines, &done)?).into());
    }
    println!("all {} machines run the new version", machines.len());
    for event in ready.iter().chain(&done).chain([&go, &abort]) {
        event.remove()?;
    }
    Ok(())
}

/// The machines whose events are unset.
fn unset(machines: &[&str], events: &[ClusterEvent]) -> Result<String, tantara_etcd::Error> {
    let mut names = Vec::new();
    for (machine, event) in machines.iter().zip(events) {
        if !event.is_set()? {
            names.push(*machine);
        }
    }
    Ok(names.join(", "))
}
