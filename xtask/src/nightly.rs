//! What needs a nightly toolchain: ThreadSanitizer, Miri and the fuzz targets. Each is left out
//! where its tools are missing.

use std::fs;

use crate::run::{self, Outcome, Step, cargo};

/// For how long each fuzz target runs, unless said otherwise.
pub(crate) const FUZZ_SECONDS: &str = "60";

/// Those of `fuzz/Cargo.toml`.
const FUZZ_TARGETS: [&str; 5] = ["page", "keys", "endpoints", "customers", "durations"];

/// Tests that Miri can run, and in minutes. It knows no files that are mapped, no other processes
/// and no `timerfd` (which smol needs).
const TESTS_FOR_MIRI: [&str; 10] = [
    "api::",
    "auto_reset::",
    "closing::",
    "many::",
    "owned::",
    "suites_of_others::",
    "wakers::",
    "scopes::spawned_tasks::",
    "scopes::threads::",
    "scopes::tokio_tasks::",
];

/// Whether the nightly toolchain has this subcommand of cargo's; with none, whether there is one at
/// all.
fn has(subcommand: &[&str]) -> bool {
    cargo(&[&["+nightly"], subcommand, &["--version"]].concat()).succeeds()
}

/// The standard library is not instrumented, since that would need its sources: its own
/// synchronisation is invisible to the sanitizer. The models hardly use it but for threads, which
/// the sanitizer knows by itself.
pub(crate) fn tsan() -> Outcome {
    let step = Step::new("models under ThreadSanitizer");
    if !has(&[]) {
        return step.skip("there is no nightly toolchain (rustup toolchain install nightly)");
    }
    step.run(|| {
        let args = ["+nightly", "test", "--package", "tantara", "--target", run::HOST, "--test", "models", "--lib"];
        let suppressions = run::root().join("xtask/tsan.suppressions").canonicalize();
        let suppressions = suppressions.map_err(|error| format!("xtask/tsan.suppressions: {error}"))?;
        let options = format!("halt_on_error=1 suppressions={}", suppressions.display());
        cargo(&args)
            .flags("-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer", "tsan")
            .env("TANTARA_STRESS_ROUNDS", "300")
            .env("TSAN_OPTIONS", &options)
            .run()
    })
}

/// Undefined behaviour, data races and leaks in what happens within a process. Miri's clock is
/// virtual, and each run of a model is one interleaving; the models are repeated, so that they see
/// several.
pub(crate) fn miri() -> Outcome {
    let step = Step::new("tests and models under Miri");
    if !has(&["miri"]) {
        return step.skip("there is no Miri (rustup component add miri rust-src --toolchain nightly)");
    }
    step.run(|| {
        let test = ["+nightly", "miri", "test", "--package", "tantara"];
        let target = run::root().join("target/miri");
        let target = target.to_string_lossy();
        let units =
            ["--lib", "--test", "models", "--", "--skip", "shared::", "--skip", "sys::", "--skip", "protocol::"];
        cargo(&[&test[..], &units].concat()).env("CARGO_TARGET_DIR", &target).run()?;
        let others = [&test[..], &["--test", "it", "--", "--skip", "shared"], &TESTS_FOR_MIRI].concat();
        cargo(&others).env("CARGO_TARGET_DIR", &target).run()?;
        // The record of waits asks for the time, and on Linux for much that Miri does not know. Some of its tests end
        // with threads that wait for ever. A child process does not start, and one test takes too long.
        let left_out = ["--skip", "waits_that_begin_together", "--skip", "threads_that_wait_for_one_another"];
        let record = [&["--test", "waits", "--"], &left_out[..]].concat();
        cargo(&[&test[..], &record].concat())
            .env("CARGO_TARGET_DIR", &target)
            .env("RUSTFLAGS", "--cfg tantara_portable")
            .env("MIRIFLAGS", "-Zmiri-disable-isolation -Zmiri-ignore-leaks")
            .run()
    })
}

/// Each fuzz target, from the committed seeds and from what earlier runs have found. New inputs are
/// kept under `target`, those that fail under `fuzz/artifacts`.
pub(crate) fn fuzz(seconds: &str) -> Outcome {
    let step = Step::new(&format!("fuzz targets, {seconds} s each"));
    if !has(&["fuzz"]) {
        return step.skip("there is no cargo-fuzz, or no nightly toolchain (cargo install cargo-fuzz)");
    }
    step.run(|| {
        for target in FUZZ_TARGETS {
            let found = format!("target/fuzz/corpus/{target}");
            fs::create_dir_all(run::root().join(&found)).map_err(|error| format!("{found}: {error}"))?;
            let seeds = format!("fuzz/corpus/{target}");
            let time = format!("-max_total_time={seconds}");
            let fuzz = ["+nightly", "fuzz", "run", "--target-dir", "target/fuzz", target, &found, &seeds];
            // An input that takes a minute hangs.
            let limits = [
                "--",
                &time,
                "-timeout=60",
                "-rss_limit_mb=4096",
                "-verbosity=0",
                "-print_funcs=0",
                "-print_final_stats=1",
            ];
            cargo(&[&fuzz[..], &limits].concat()).run()?;
        }
        Ok(())
    })
}
