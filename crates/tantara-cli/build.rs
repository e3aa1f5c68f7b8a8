//! Sets the names that `cfg` attributes use.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // There are events between processes.
    println!("cargo::rustc-check-cfg=cfg(shared_events)");
    if env::var("CARGO_CFG_TARGET_OS").is_ok_and(|system| system == "linux") {
        println!("cargo::rustc-cfg=shared_events");
    }
    // Tests that need other files of the repository are left out of the package's.
    println!("cargo::rustc-check-cfg=cfg(in_repository)");
    if Path::new("../etcd-for-tests/Cargo.toml").exists() {
        println!("cargo::rustc-cfg=in_repository");
    }
}
