//! Whole commands: `tantara --etcd … set`, from start to exit, compared with a program that connects and puts.

use std::process::Command;

use super::bare::{self, Connection, KEY, servers};
use super::methods;
use crate::names::machines::{BASELINE_COMMAND, PUT};
use crate::names::{Figures, OURS, millis};
use crate::processes::command::{median_of, target};

pub fn spawn(contender: &str, nodes: usize, smoke: bool) -> Result<Option<Figures>, String> {
    let times = if smoke { 3 } else { 50 };
    let servers = servers(nodes);
    let endpoint = methods::setter(&servers);
    let time = match contender {
        BASELINE_COMMAND => {
            let own = std::env::current_exe().map_err(|error| format!("cannot find itself: {error}"))?;
            let time = median_of(times, || {
                let mut command = Command::new(&own);
                command.args(["--client", PUT, &endpoint]);
                command
            })?;
            assert_eq!(servers.puts(KEY), i64::from(times), "each of them has put");
            time
        }
        OURS => {
            let path = target().join("release/tantara");
            let time = median_of(times, || {
                let mut command = Command::new(&path);
                command.args(["--etcd", &endpoint, "set", "x"]);
                command
            })?;
            assert_eq!(servers.puts("/tantara/e/x/p"), i64::from(times), "each of them has set it");
            time
        }
        _ => return Ok(None),
    };
    Ok(Some(vec![("set, ms", millis(time))]))
}

/// The baseline: connects and puts.
pub fn put(endpoint: &str) {
    bare::runtime().block_on(async { Connection::to(endpoint).await.put(KEY, "1").await.expect("a put") });
}
