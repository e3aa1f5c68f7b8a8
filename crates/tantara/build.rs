//! Sets the names of platforms that `cfg` attributes use.

use std::env;

/// How threads sleep: on the word itself, as this system offers it. The portable backend and the
/// models do without.
const NATIVE: [&str; 4] = ["linux_native", "windows_native", "apple_native", "freebsd_native"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // `shared_events`: there are events between processes.
    println!("cargo::rustc-check-cfg=cfg(shared_events, {})", NATIVE.join(", "));
    let target = |part: &str| env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    let [linux, windows, apple, freebsd] = NATIVE;
    let native = match &*target("OS") {
        "linux" | "android" => Some(linux),
        "windows" => Some(windows),
        "freebsd" => Some(freebsd),
        _ if target("VENDOR") == "apple" => Some(apple),
        _ => None,
    };
    // Set by RUSTFLAGS: the portable backend, and the models.
    let is_replaced = ["CARGO_CFG_TANTARA_PORTABLE", "CARGO_CFG_LOOM"].iter().any(|flag| env::var_os(flag).is_some());
    if let Some(native) = native.filter(|_| !is_replaced) {
        println!("cargo::rustc-cfg={native}");
        if target("OS") == "linux" {
            println!("cargo::rustc-cfg=shared_events");
        }
    }
}
