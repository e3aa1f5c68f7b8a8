//! Waits for events between machines. One of the twelve programs that hang, for which see `hangs.rs` of `tantara`.

use std::process::Stdio;

use etcd_for_tests::Servers;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{Running, command, ps, recording, run, until};

#[test]
fn a_machine_that_has_died_is_named_as_the_last_that_has_held_the_event() {
    let (dir, servers) = (TempDir::new().unwrap(), Servers::one());
    let endpoint = servers.endpoints().remove(0);
    let on_cluster = |args: &[&'static str]| [&["--etcd", &endpoint], args].concat();
    let is_set = || run(dir.path(), &on_cluster(&["is-set", "db-up"])).status.success();
    let mut holder = command(dir.path(), &on_cluster(&["hold", "db-up", "--", "cat"]));
    let mut holder = Running(holder.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap());
    until(is_set);
    // Nothing of it runs any more, and nothing has said good-bye.
    holder.0.kill().unwrap();
    holder.0.wait().unwrap();
    until(|| !is_set());

    let waiter = recording(dir.path(), &on_cluster(&["wait", "db-up"]));
    let listed: Vec<Value> =
        serde_json::from_slice(&run(dir.path(), &on_cluster(&["ls", "--json", "db-up"])).stdout).unwrap();
    let event = || ps(dir.path())[0]["groups"][0]["events"][0].clone();
    until(|| event()["last_hold"]["pid"] == holder.0.id());
    assert_eq!((&event()["name"], &event()["kind"]), (&json!("db-up"), &json!("ClusterEvent")));
    let host = listed[0]["last_set"]["host"].as_str().unwrap();
    assert_eq!(event()["last_hold"]["host"], host);
    assert!(event()["last_hold"]["since"].as_str().unwrap().ends_with('Z'));
    let table = String::from_utf8(run(dir.path(), &["ps", &waiter.0.id().to_string()]).stdout).unwrap();
    let expected =
        format!("last held by process {} on {host}, which let it go or vanished; its hold began ", holder.0.id());
    assert!(table.contains(&expected), "{table}");
}
