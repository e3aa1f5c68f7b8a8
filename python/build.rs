//! Sets the names that `cfg` attributes use.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=TANTARA_PYTHON_PORTABLE");
    println!("cargo::rustc-check-cfg=cfg(shared_events, loop_descriptors)");
    let has = |variable: &str| env::var_os(variable).is_some();
    // The package as it is on Windows, so that its tests can be run elsewhere too.
    if has("TANTARA_PYTHON_PORTABLE") {
        return;
    }
    // There are events between processes.
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-cfg=shared_events");
    }
    // The loops of asyncio watch descriptors.
    if has("CARGO_CFG_UNIX") {
        println!("cargo::rustc-cfg=loop_descriptors");
    }
}
