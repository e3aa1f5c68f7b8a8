//! Sets the name of platforms that `cfg` attributes use.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // There are events between processes and machines.
    println!("cargo::rustc-check-cfg=cfg(shared_events)");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-cfg=shared_events");
    }
}
