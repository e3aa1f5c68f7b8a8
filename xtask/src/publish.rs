//! What a release uploads, and a check of all of it. Nothing is ever uploaded from here.
//!
//! `cargo publish --dry-run` makes the packages. The rest is checked on them: they are unpacked
//! into a workspace of their own, where each uses the others as if they came from the registry, and
//! are built there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::links;
use crate::run::{Outcome, Step, cargo, root};

/// The texts that every package contains.
const LICENCES: [&str; 2] = ["LICENSE-APACHE", "LICENSE-MIT"];
/// What every published manifest says.
const STATED: [&str; 8] =
    ["description", "license", "repository", "homepage", "documentation", "readme", "rust_version", "edition"];
/// The registry rejects more.
const MOST_WORDS: usize = 5;
/// A larger package, compressed, carries what nobody needs.
const LARGEST_BYTES: u64 = 320 * 1024;
/// The one warning of a dry run that is expected.
const NOTHING_IS_UPLOADED: &str = "warning: aborting upload due to dry run";

/// A package that is published.
struct Package {
    name: String,
    version: String,
    /// Other packages that are published, and that it cannot be built without.
    needs: BTreeSet<String>,
}

impl Package {
    fn folder(&self) -> String {
        format!("{}-{}", self.name, self.version)
    }
}

pub(crate) fn dry_run() -> Outcome {
    let mut packages = Vec::new();
    Step::new("packages: metadata").run(|| {
        packages = in_order(read(&metadata()?)?)?;
        Ok(())
    })?;
    let mut is_online = true;
    Step::new("packages: names on the registry").run(|| {
        is_online = check_names(&packages)?;
        Ok(())
    })?;
    Step::new("packages: made").run(|| package(&packages, is_online))?;
    let unpacked = root().join("target/unpacked");
    Step::new("packages: contents").run(|| {
        unpack(&packages, &unpacked)?;
        packages.iter().try_for_each(|package| check_contents(package, &unpacked))
    })?;
    Step::new("packages: each built alone").run(|| {
        packages.iter().try_for_each(|package| {
            without_warnings(&mut unpacked_cargo(&unpacked, &["check", "--package", &package.name]), &[])
        })
    })?;
    Step::new("packages: examples of their documentation, and their other targets").run(|| {
        without_warnings(&mut unpacked_cargo(&unpacked, &["test", "--workspace", "--all-features", "--doc"]), &[])?;
        without_warnings(
            &mut unpacked_cargo(&unpacked, &["check", "--workspace", "--all-features", "--all-targets"]),
            &[],
        )
    })?;
    println!("\nThe order of publishing:");
    for (number, package) in (1..).zip(&packages) {
        println!("  {number}. {} {}", package.name, package.version);
    }
    let repository = links::repository(&manifest()?)?;
    if links::is_placeholder(&repository) {
        println!("Before a release: {repository} is a placeholder; see CONTRIBUTING.md.");
    }
    println!("Nothing has been uploaded.");
    Ok(())
}

fn manifest() -> Result<String, String> {
    fs::read_to_string(root().join("Cargo.toml")).map_err(|error| format!("Cargo.toml: {error}"))
}

fn metadata() -> Result<Value, String> {
    let text = cargo(&["metadata", "--no-deps", "--format-version", "1"]).output()?;
    serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))
}

/// The packages that are published, after a check of their manifests.
fn read(metadata: &Value) -> Result<Vec<Package>, String> {
    let all: Vec<&Value> = array(&metadata["packages"]).collect();
    // `publish = false` is an empty list of registries.
    let (published, kept): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|package| package["publish"].as_array().is_none_or(|registries| !registries.is_empty()));
    let names =
        |packages: &[&Value]| -> BTreeSet<String> { packages.iter().map(|package| text(package, "name")).collect() };
    let (published_names, kept_names) = (names(&published), names(&kept));
    let (mut packages, mut faults) = (Vec::new(), Vec::new());
    for package in published {
        let name = text(package, "name");
        faults.extend(missing(package).into_iter().map(|what| format!("{name}: {what}")));
        let mut needs = BTreeSet::new();
        for dependency in array(&package["dependencies"]) {
            let other = text(dependency, "name");
            // Without a version, a requirement is this one.
            let has_version = dependency["req"] != "*";
            let is_left_out = dependency["kind"] == "dev" && !has_version;
            if kept_names.contains(&other) && !is_left_out {
                let rule = "may only be a dev-dependency, without a version: it is not published";
                faults.push(format!("{name}: {other} {rule}"));
            }
            if published_names.contains(&other) {
                if !has_version {
                    faults.push(format!("{name}: the dependency on {other} has no version"));
                }
                needs.insert(other);
            }
        }
        packages.push(Package { version: text(package, "version"), name, needs });
    }
    if faults.is_empty() { Ok(packages) } else { Err(format!("\n  {}", faults.join("\n  "))) }
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// What a manifest does not say, or not as the registry wants it.
fn missing(package: &Value) -> Vec<String> {
    let mut faults: Vec<String> = STATED
        .iter()
        .filter(|key| package[**key].as_str().is_none_or(str::is_empty))
        .map(|key| format!("its manifest has no `{}`", key.replace('_', "-")))
        .collect();
    for key in ["keywords", "categories"] {
        let words = array(&package[key]).count();
        if words == 0 || words > MOST_WORDS {
            faults.push(format!("its manifest has {words} {key}, not 1 to {MOST_WORDS}"));
        }
    }
    if package["metadata"]["docs"]["rs"]["all-features"] != true {
        faults.push("[package.metadata.docs.rs] does not say `all-features = true`".into());
    }
    let has_command = array(&package["targets"]).any(|target| array(&target["kind"]).any(|kind| kind == "bin"));
    if has_command && package["metadata"]["binstall"]["pkg-url"].as_str().is_none() {
        faults.push("[package.metadata.binstall] has no `pkg-url`".into());
    }
    faults
}

/// Each after those that it needs.
fn in_order(mut packages: Vec<Package>) -> Result<Vec<Package>, String> {
    let mut ordered: Vec<Package> = Vec::new();
    while !packages.is_empty() {
        let is_ready =
            |package: &Package| package.needs.iter().all(|need| ordered.iter().any(|other| other.name == *need));
        let Some(next) = packages.iter().position(is_ready) else {
            let names: Vec<_> = packages.iter().map(|package| package.name.as_str()).collect();
            return Err(format!("these packages need each other: {}", names.join(", ")));
        };
        ordered.push(packages.remove(next));
    }
    Ok(ordered)
}

/// Whether the registry answers. A name that belongs to somebody else is an error.
fn check_names(packages: &[Package]) -> Result<bool, String> {
    let repository = links::repository(&manifest()?)?;
    for package in packages {
        // Outside of the workspace, or cargo shows the package that is here.
        let output = Command::new("cargo")
            .args(["info", "--color", "never", "--registry", "crates-io", &package.name])
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::null())
            .output();
        let output = output.map_err(|error| format!("cargo cannot be started: {error}"))?;
        let (shown, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        match Name::read(output.status.success(), &shown, &errors, &repository) {
            Name::Free => println!("   {}: free", package.name),
            Name::Ours => println!("   {}: ours", package.name),
            Name::SomebodyElses => return Err(format!("the name {} belongs to somebody else:\n{shown}", package.name)),
            Name::Unknown => {
                println!(
                    "   left out: the registry does not answer ({})",
                    errors.lines().next_back().unwrap_or_default().trim()
                );
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Whose a name is on the registry.
#[derive(PartialEq, Eq, Debug)]
enum Name {
    Free,
    Ours,
    SomebodyElses,
    Unknown,
}

impl Name {
    /// From what `cargo info` prints.
    fn read(has_succeeded: bool, shown: &str, errors: &str, repository: &str) -> Name {
        if has_succeeded {
            let is_ours =
                shown.lines().any(|line| line.strip_prefix("repository: ").is_some_and(|url| url == repository));
            if is_ours { Name::Ours } else { Name::SomebodyElses }
        } else if errors.contains("could not find `") {
            Name::Free
        } else {
            Name::Unknown
        }
    }
}

/// Makes the packages. Cargo would also build them, but after a change without a new version from
/// the old sources, of which it keeps a copy. So they are built where they are unpacked.
fn package(packages: &[Package], is_online: bool) -> Outcome {
    // The packages of another time.
    let _ = fs::remove_dir_all(root().join("target/package"));
    let what: &[&str] = if is_online { &["publish", "--dry-run"] } else { &["package", "--offline"] };
    // Changes that are not yet committed may be checked too.
    let flags = ["--no-verify", "--locked", "--allow-dirty", "--color", "never"];
    let names = packages.iter().flat_map(|package| ["--package", &package.name]);
    let args: Vec<&str> = what.iter().copied().chain(flags).chain(names).collect();
    println!("   cargo {}", what.join(" "));
    let mut command = Command::new("cargo");
    without_warnings(command.args(args).current_dir(root()), &[NOTHING_IS_UPLOADED])
}

/// Runs a command of cargo. Warnings are errors.
fn without_warnings(command: &mut Command, expected: &[&str]) -> Outcome {
    for variable in ["RUSTUP_TOOLCHAIN", "CARGO", "RUSTC", "RUSTDOC"] {
        command.env_remove(variable);
    }
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("cargo cannot be started: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("cargo has failed:\n{}{printed}", String::from_utf8_lossy(&output.stdout)));
    }
    let is_fault = |line: &&str| line.starts_with("warning") && !expected.contains(line);
    if printed.lines().any(|line| is_fault(&line)) {
        return Err(format!("cargo warns:\n{printed}"));
    }
    Ok(())
}

/// What would be uploaded. `cargo package` leaves it in one place, and `cargo publish` in another.
fn archive(package: &Package) -> PathBuf {
    let name = format!("{}.crate", package.folder());
    let folder = root().join("target/package");
    let uploaded = folder.join("tmp-crate").join(&name);
    if uploaded.exists() { uploaded } else { folder.join(name) }
}

/// Unpacks the packages side by side into a workspace, in which each uses the others.
fn unpack(packages: &[Package], place: &Path) -> Outcome {
    let failed = |error: std::io::Error| format!("{}: {error}", place.display());
    let _ = fs::remove_dir_all(place);
    fs::create_dir_all(place).map_err(failed)?;
    let mut manifest = "[workspace]\nresolver = \"3\"\nmembers = [\"*-*.*.*\"]\n\n[patch.crates-io]\n".to_owned();
    for package in packages {
        let file = archive(package);
        // With the time of now (`-m`): all files of a package have the same old one, so cargo would
        // see no change.
        let status = Command::new("tar").arg("-xmzf").arg(&file).arg("-C").arg(place).status();
        let status = status.map_err(|error| format!("tar cannot be started: {error}"))?;
        if !status.success() {
            return Err(format!("tar cannot unpack {} ({status})", file.display()));
        }
        manifest += &format!("{} = {{ path = \"{}\" }}\n", package.name, package.folder());
    }
    // What the dependencies have in common with the workspace's is not built again.
    manifest += "\n[profile.dev]\ndebug = \"line-tables-only\"\n\n[profile.dev.package.\"*\"]\ndebug = false\n";
    fs::write(place.join("Cargo.toml"), manifest).map_err(failed)?;
    fs::copy(root().join("Cargo.lock"), place.join("Cargo.lock")).map_err(failed)?;
    Ok(())
}

fn check_contents(package: &Package, place: &Path) -> Outcome {
    let folder = place.join(package.folder());
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    for name in LICENCES {
        let (ours, packed) = (fs::read(root().join(name)).map_err(failed)?, fs::read(folder.join(name)));
        if packed.is_err() || packed.is_ok_and(|packed| packed != ours) {
            return Err(format!("{}: {name} is missing, or is not the repository's", package.name));
        }
    }
    let mut files = Vec::new();
    list(&folder, &mut files).map_err(failed)?;
    if let Some(link) = files.iter().find(|path| path.is_symlink()) {
        return Err(format!("{}: {} is a symbolic link", package.name, link.display()));
    }
    let bytes = archive(package).metadata().map_err(failed)?.len();
    println!("   {}: {} files, {} KiB", package.name, files.len(), bytes.div_ceil(1024));
    let largest = LARGEST_BYTES;
    if bytes > largest {
        return Err(format!("{}: {bytes} bytes, not at most {largest}; see `include` in its manifest", package.name));
    }
    Ok(())
}

/// All files below a folder.
fn list(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            list(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

fn unpacked_cargo(place: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).args(["--color", "never"]).current_dir(place).env("CARGO_TARGET_DIR", root().join("target"));
    command
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest(name: &str, dependencies: Value) -> Value {
        json!({
            "name": name, "version": "0.1.0", "description": "d", "license": "l", "repository": "r", "homepage": "h",
            "documentation": "d", "readme": "README.md", "rust_version": "1.88", "edition": "2024", "publish": null,
            "keywords": ["k"], "categories": ["c"], "metadata": {"docs": {"rs": {"all-features": true}}},
            "targets": [{"kind": ["lib"]}], "dependencies": dependencies,
        })
    }

    fn faults(packages: &[Value]) -> String {
        read(&json!({ "packages": packages })).err().unwrap_or_default()
    }

    #[test]
    fn packages_are_published_after_those_that_they_need() {
        let packages = [
            manifest("command", json!([{"name": "library", "kind": null, "req": "^0.1"}, {"name": "z", "req": "1"}])),
            manifest("library", json!([])),
        ];
        let ordered = in_order(read(&json!({ "packages": packages })).unwrap()).unwrap();
        assert_eq!(ordered.iter().map(|package| package.name.as_str()).collect::<Vec<_>>(), ["library", "command"]);
        let circle = ["a", "b"].map(|name| Package {
            name: name.into(),
            version: "1".into(),
            needs: BTreeSet::from([if name == "a" { "b" } else { "a" }.to_owned()]),
        });
        assert!(in_order(circle.into()).is_err());
    }

    #[test]
    fn what_is_not_published_is_needed_by_tests_alone() {
        let kept = |dependency: Value| {
            let mut kept = manifest("kept", json!([]));
            kept["publish"] = json!([]);
            faults(&[manifest("a", json!([dependency])), kept])
        };
        assert_eq!(kept(json!({"name": "kept", "kind": "dev", "req": "*"})), "");
        assert!(kept(json!({"name": "kept", "kind": "dev", "req": "^0.1"})).contains("a: kept may only be"));
        assert!(kept(json!({"name": "kept", "kind": null, "req": "*"})).contains("a: kept may only be"));
        let without_version = json!([{"name": "b", "kind": null, "req": "*"}]);
        assert!(faults(&[manifest("a", without_version), manifest("b", json!([]))]).contains("on b has no version"));
    }

    #[test]
    fn manifests_say_what_the_registry_shows() {
        assert_eq!(faults(&[manifest("a", json!([]))]), "");
        for (key, value, complaint) in [
            ("repository", json!(null), "no `repository`"),
            ("rust_version", json!(null), "no `rust-version`"),
            ("keywords", json!(["1", "2", "3", "4", "5", "6"]), "6 keywords"),
            ("categories", json!([]), "0 categories"),
            ("metadata", json!(null), "all-features"),
            ("targets", json!([{"kind": ["bin"]}]), "pkg-url"),
        ] {
            let mut package = manifest("a", json!([]));
            package[key] = value;
            assert!(faults(&[package]).contains(complaint), "{key}");
        }
    }

    #[test]
    fn a_name_is_free_ours_or_somebody_elses() {
        let missing = "    Updating index\nerror: could not find `x` in registry `y`\n";
        assert_eq!(Name::read(false, "", missing, "https://a"), Name::Free);
        let shown = "x\nversion: 1.0.0\nrepository: https://a\n";
        assert_eq!(Name::read(true, shown, "", "https://a"), Name::Ours);
        assert_eq!(Name::read(true, shown, "", "https://b"), Name::SomebodyElses);
        assert_eq!(Name::read(false, "", "error: failed to query replaced source", "https://a"), Name::Unknown);
    }
}
