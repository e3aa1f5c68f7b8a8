//! Events between machines: the workloads, the contenders of each, and how one cell runs.
//!
//! The machines are processes on this machine. The servers are real: one etcd, or a cluster of three, started for each
//! cell. A network would add the same time for every contender, so ratios are at their worst here.

mod bare;
mod command;
mod crowd;
mod failover;
mod idle;
mod many;
mod methods;

use std::panic;
use std::process::Command;

use crate::names::machines::{
    BASELINE, BASELINE_COMMAND, BASELINE_CROWD, PUT, TRANSACTIONS, WAIT, WAIT_BARE, WAIT_IDLE, WATCH_EACH,
};
use crate::names::{Figures, OURS, number};
use crate::processes::children;
use methods::{Bare, Ours};

/// Every workload with its contenders.
pub fn all() -> Vec<(&'static str, &'static [&'static str])> {
    let mut cells: Vec<(_, &[_])> = Vec::new();
    for workload in ["machines-verbs-1-node", "machines-verbs-3-nodes"] {
        cells.push((workload, &[BASELINE, TRANSACTIONS, OURS]));
    }
    cells.push(("machines-crowd-10000", &[BASELINE_CROWD, OURS, WATCH_EACH]));
    cells.push(("machines-many-10000", &[WATCH_EACH, OURS]));
    cells.push(("machines-idle-1000", &[BASELINE, OURS]));
    for workload in ["machines-command-1-node", "machines-command-3-nodes"] {
        cells.push((workload, &[BASELINE_COMMAND, OURS]));
    }
    cells.push(("machines-failover-500", &[BASELINE, OURS]));
    cells
}

pub fn is_one(workload: &str) -> bool {
    workload.starts_with("machines-")
}

/// The version of etcd, for the record. Without etcd the error says how to get it.
pub fn version() -> Result<String, String> {
    // Without the line number of the panic, because the message is advice for the user.
    let report = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let program = panic::catch_unwind(etcd_for_tests::program);
    panic::set_hook(report);
    let program = program.map_err(|advice| match advice.downcast::<String>() {
        Ok(advice) => *advice,
        Err(advice) => advice.downcast_ref().copied().unwrap_or("etcd is missing").to_owned(),
    })?;
    let output = Command::new(program).arg("--version").output().map_err(|error| format!("etcd: {error}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.lines().next().map_or_else(String::new, |line| line.replacen("etcd Version: ", ", etcd ", 1)))
}

/// Runs one cell in this process and its children.
pub fn run(workload: &[&str], contender: &str, smoke: bool) -> Result<Figures, String> {
    children::raise_limits();
    let count = |text: &str, few: usize| if smoke { Ok(few) } else { number(text) };
    let figures = match *workload {
        ["verbs", nodes, _] => {
            let nodes = number(nodes)?;
            match contender {
                BASELINE => Some(methods::methods::<Bare<false>>(nodes, smoke)),
                TRANSACTIONS => Some(methods::methods::<Bare<true>>(nodes, smoke)),
                OURS => Some(methods::methods::<Ours>(nodes, smoke)),
                _ => None,
            }
        }
        ["crowd", waiters] => crowd::release(contender, count(waiters, 200)?, smoke),
        ["many", events] => many::release(contender, count(events, 200)?, smoke),
        ["idle", processes] => idle::wait(contender, count(processes, 6)?, smoke)?,
        ["command", nodes, _] => command::spawn(contender, number(nodes)?, smoke)?,
        ["failover", processes] => failover::survive(contender, count(processes, 6)?)?,
        _ => None,
    };
    figures.ok_or_else(|| format!("{contender} does not contend in machines-{}", workload.join("-")))
}

pub fn client(role: &str, endpoints: &str) -> Result<(), String> {
    match role {
        PUT => command::put(endpoints),
        WAIT => failover::wait(endpoints),
        WAIT_BARE => failover::wait_bare(endpoints),
        WAIT_IDLE => idle::wait_bare(endpoints),
        _ => return Err(format!("there is no role {role}")),
    }
    Ok(())
}
