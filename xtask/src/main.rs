//! `cargo xtask`: the one entry for everybody, the continuous integration included.

#![forbid(unsafe_code)]

mod anchors;
mod debian;
mod dist;
mod etcd;
mod features;
mod installed;
mod layers;
mod links;
mod map;
mod nightly;
mod platforms;
mod project;
mod publish;
mod python;
mod run;
mod setup;
mod tests;
mod tidy;
mod venv;

use std::process::{Command, ExitCode};

use run::{Outcome, Step, cargo, lints};

const USAGE: &str = "\
Usage: cargo xtask TASK

Tasks:
  test    everything that a change must pass, in some minutes
  ci      the same, and then the slow rest: other settings, compilers and versions, pythons, nightly, storm and faults
  setup platforms|dist|ci
          installs what that task needs (with rustup, cargo and, on Debian, apt)
  tidy    the conventions, the layers of files and the links of documents alone, in a second
  etcd    makes sure that there are two versions of etcd for the tests
  python  the Python package alone, as built for debugging, with the newest CPython that is found
  pythons the Python package as it is released, with every CPython that is found
  features
          optional features, a build without TLS, the documentation as on docs.rs
  platforms
          the oldest Rust, and what can be run or compiled here for other systems and processors
  loom    the models alone, in every interleaving
  tsan    the models and stress tests under ThreadSanitizer (needs a nightly toolchain)
  miri    the tests of what happens within a process under Miri (needs a nightly toolchain with miri and rust-src)
  fuzz [SECONDS]
          each fuzz target for a minute, or for so many seconds (needs a nightly toolchain and cargo-fuzz)
  nightly tsan, miri and fuzz
  faults  events between machines while 200 faults are injected into a cluster (some minutes)
  storm   200 processes that do everything, and are killed and stopped at any moment, for two minutes
  stress  the models on real threads, a hundred times longer
  publish --dry-run
          what a release uploads: built, checked and listed in order; nothing is uploaded
  project the workflows, the dependencies, and the API since the last release
  dist    what a release consists of, into target/dist: made, installed and used (Linux)
  checksums
          writes target/dist/SHA256SUMS anew, and the notes of the release
  bench   every event side by side, into bench/records/ and COMPARE.md; with options, see cargo xtask bench --help";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["test"] => test(),
        ["ci"] => ci(),
        ["setup", task] => setup::install(task),
        ["tidy"] => tidy(),
        ["etcd"] => etcd::provide().and_then(|()| etcd::provide_newer().map(drop)),
        ["python"] => python::test(),
        ["pythons"] => python::test_everywhere(),
        ["nightly"] => nightly(),
        ["features"] => features::test(),
        ["platforms"] => platforms::test(),
        ["loom"] => loom(),
        ["tsan"] => nightly::tsan(),
        ["miri"] => nightly::miri(),
        ["fuzz"] => nightly::fuzz(nightly::FUZZ_SECONDS),
        ["fuzz", seconds] if seconds.parse::<u32>().is_ok() => nightly::fuzz(seconds),
        ["faults"] => faults(),
        ["storm"] => storm(),
        ["stress"] => stress(),
        ["publish", "--dry-run"] => publish::dry_run(),
        ["publish"] => {
            Err("only the release workflow publishes; cargo xtask publish --dry-run shows what it does".into())
        }
        ["project"] => project::check(),
        ["dist"] => dist::make(),
        ["checksums"] => dist::checksums(),
        ["bench", ref options @ ..] => bench(options),
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Everything that a change must pass. The tests of the workspace wait more than they compute, and
/// leave the processor to the others.
fn test() -> Outcome {
    if cfg!(not(target_os = "linux")) {
        return tests::run_elsewhere();
    }
    etcd::provide()?;
    Step::new("conventions, and the layers of files").run(tidy)?;
    Step::new("format").run(|| {
        cargo(&["fmt", "--all", "--check"]).run()?;
        ["bench", "fuzz", "python"].iter().try_for_each(|dir| cargo(&["fmt", "--check"]).dir(dir).run())
    })?;
    run::beside(&["python", "loom"], workspace)?;
    println!("\nAll is well.");
    Ok(())
}

/// Lints, documentation and tests of the workspace.
fn workspace() -> Outcome {
    lints(".")?;
    Step::new("documentation").run(|| {
        cargo(&["doc", "--quiet", "--workspace", "--no-deps", "--all-features", "--document-private-items"])
            .env("RUSTDOCFLAGS", "--deny warnings")
            .run()
    })?;
    Step::new("tests, examples of the documentation and of README.md, the bank").run(tests::run)
}

/// What takes long, or needs tools that not everybody has, which are then left out.
fn ci() -> Outcome {
    test()?;
    run::beside(&["pythons", "nightly"], rest)?;
    // Alone, for these are about what happens when many processes share the machine.
    storm()?;
    Step::new("events between machines while faults are injected").run(faults)?;
    println!("\nAll is well, the slow rest included.");
    Ok(())
}

/// The same tests with other servers, other compilers and other settings.
fn rest() -> Outcome {
    lints("bench")?;
    features::test()?;
    publish::dry_run()?;
    project::check()?;
    dist::make_what_can_be_made()?;
    platforms::test()?;
    Step::new("tests of signals to the command, started where they are ignored").run(|| {
        let filters = ["interrupt", "signal"];
        cargo(&[&["test", "--quiet", "--package", "tantara-cli", "--tests", "--"][..], &filters].concat())
            .ignoring_signals()
            .run()
    })?;
    test_newer_etcd()?;
    Step::new("stress tests, optimised")
        .run(|| cargo(&["test", "--release", "--package", "tantara", "--tests"]).crowded().run())?;
    Step::new("tests of the portable backend").run(|| {
        let flags = "--cfg tantara_portable";
        cargo(&["test", "--package", "tantara", "--tests", "--examples"]).flags(flags, "portable").crowded().run()
    })?;
    Step::new("the bank, as README.md starts it")
        .run(|| run::check_bank(Command::new("cargo").args(["run", "--quiet", "--release", "--"])))?;
    Step::new("the benchmark, a moment of each")
        .run(|| cargo(&["run", "--quiet", "--release", "--", "--smoke"]).dir("bench").quiet().run())
}

/// What needs a nightly toolchain.
fn nightly() -> Outcome {
    nightly::tsan()?;
    nightly::miri()?;
    nightly::fuzz(nightly::FUZZ_SECONDS)
}

fn tidy() -> Outcome {
    tidy::check()?;
    layers::check()?;
    links::check()?;
    map::check()?;
    anchors::check()
}

/// The tests of events between machines once more, on another version of etcd. Left out is what
/// depends on the client alone: the contract for the other ways to wait, and the history checker,
/// which would double the time.
fn test_newer_etcd() -> Outcome {
    let program = match etcd::provide_newer()? {
        Ok(program) => program,
        Err(why) => return Step::new("tests between machines on a newer etcd").skip(why),
    };
    Step::new(&format!("tests between machines on etcd {}", etcd::NEWER)).run(|| {
        let test = ["test", "--package", "etcd-for-tests", "--test", "machines", "--"];
        let subset = ["scopes::machines", "methods::", "faults::", "external::", "access::", "versions::"];
        cargo(&[&test[..], &subset].concat()).env("ETCD", &program.to_string_lossy()).crowded().run()
    })
}

fn faults() -> Outcome {
    etcd::provide()?;
    let filter = ["--", "tormented", "--nocapture"];
    let test = ["test", "--release", "--package", "etcd-for-tests", "--test", "machines"];
    cargo(&[&test[..], &filter].concat()).env("TANTARA_FAULTS", "200").run()
}

fn loom() -> Outcome {
    Step::new("models in every interleaving (loom)").run(|| {
        let args = ["test", "--package", "tantara", "--profile", "loom", "--lib", "--test", "models"];
        cargo(&args).flags("--cfg loom", "loom").run()
    })
}

fn stress() -> Outcome {
    Step::new("models on real threads, for long").run(|| {
        cargo(&["test", "--package", "tantara", "--release", "--test", "models"])
            .env("TANTARA_STRESS_ROUNDS", "200000")
            .run()
    })
}

fn storm() -> Outcome {
    Step::new("a storm of kills and stops").run(|| {
        cargo(&["test", "--package", "tantara", "--release", "--test", "it", "storm_of_stops", "--", "--nocapture"])
            .env("TANTARA_STORM_PROCESSES", "200")
            .env("TANTARA_STORM_SECONDS", "120")
            .run()
    })
}

fn bench(options: &[&str]) -> Outcome {
    etcd::provide()?;
    let mut args = vec!["run", "--quiet", "--release", "--"];
    let is_whole = !options.iter().any(|option| ["--only", "--smoke", "--out", "--compare", "--from"].contains(option));
    if is_whole {
        args.extend(["--out", "records", "--compare", "../COMPARE.md"]);
    }
    cargo(&[&args, options].concat()).dir("bench").run()
}
