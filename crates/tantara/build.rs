//! Sets the two names of platforms that `cfg` attributes use.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // `linux_native`: threads sleep by futex. `shared_events`: there are events between processes.
    println!("cargo::rustc-check-cfg=cfg(linux_native, shared_events)");
    let is_linux = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux");
    // Set by RUSTFLAGS: the portable backend, and the models.
    let is_replaced = ["CARGO_CFG_TANTARA_PORTABLE", "CARGO_CFG_LOOM"].iter().any(|flag| env::var_os(flag).is_some());
    if is_linux && !is_replaced {
        println!("cargo::rustc-cfg=linux_native");
        println!("cargo::rustc-cfg=shared_events");
    }
}
