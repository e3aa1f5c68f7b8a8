//! `cargo xtask setup`: installs what the steps of a task need, with rustup, cargo and Debian's
//! apt. The continuous integration calls it first, and so may everybody who wants no step to be
//! left out.

use std::process::Command;

use crate::debian;
use crate::dist;
use crate::platforms::{OLDEST, PACKAGES, TARGETS};
use crate::run::{Outcome, Step, cargo};

/// Programs that tests use, and leave out where they are missing.
const OF_TESTS: [&str; 9] =
    ["bash-completion", "fish", "make", "man-db", "nginx-light", "redis-server", "redis-tools", "tmux", "zsh"];

/// Cargo's subcommands that `ci` calls.
const SUBCOMMANDS: [&str; 3] = ["cargo-deny", "cargo-fuzz", "cargo-semver-checks"];

pub(crate) fn install(task: &str) -> Outcome {
    match task {
        "platforms" => for_platforms(),
        "dist" => for_dist(),
        "ci" => {
            for_platforms()?;
            for_dist()?;
            OF_TESTS
                .iter()
                .try_for_each(|name| Step::new(&format!("Debian's {name}")).run(|| debian::install(name)))?;
            rustup(&["toolchain", "install", "nightly", "--component", "miri", "--component", "rust-src"])?;
            SUBCOMMANDS.iter().try_for_each(|name| install_subcommand(name))
        }
        _ => Err(format!("{task} needs nothing that this task knows of: cargo xtask setup platforms|dist|ci")),
    }
}

fn for_platforms() -> Outcome {
    OLDEST.iter().try_for_each(|(version, _)| rustup(&["toolchain", "install", version]))?;
    rustup(&[&["target", "add"], TARGETS[0], TARGETS[1]].concat())?;
    PACKAGES.iter().try_for_each(|name| Step::new(&format!("Debian's {name}")).run(|| debian::install(name)))
}

fn for_dist() -> Outcome {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    rustup(&["target", "add", &dist::target()])?;
    Step::new("Debian's musl-tools").run(|| debian::install("musl-tools"))
}

fn rustup(args: &[&str]) -> Outcome {
    let profile: &[&str] = if args[0] == "toolchain" { &["--profile", "minimal"] } else { &[] };
    Step::new(&format!("rustup {}", args.join(" "))).run(|| {
        let status = Command::new("rustup").args(args).args(profile).status();
        let status = status.map_err(|error| format!("rustup cannot be started: {error}"))?;
        if status.success() { Ok(()) } else { Err(status.to_string()) }
    })
}

fn install_subcommand(name: &str) -> Outcome {
    let step = Step::new(&format!("cargo install {name}"));
    let short = name.strip_prefix("cargo-").unwrap_or(name);
    if cargo(&[short, "--version"]).succeeds() {
        return step.run(|| Ok(()));
    }
    step.run(|| cargo(&["install", "--locked", "--quiet", name]).run())
}
