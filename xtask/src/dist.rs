//! `cargo xtask dist`: makes what a release consists of into `target/dist`, installs and uses each
//! part, and prints their sizes.
//!
//! Same sources and tools make the same files: archives are sorted, their times are the last
//! commit's, and paths of this machine are replaced.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::installed;
use crate::platforms::has_target;
use crate::python::{self, MATURIN, Pythons};
use crate::run::{Outcome, Step, cargo, root};
use crate::venv::{self, environment, run, run_quietly};

/// The profile of `Cargo.toml` that the command is released with.
const PROFILE: &str = "packaged";
const LARGEST_BINARY: u64 = 15_000_000;
/// The C library of the oldest systems that the wheel runs on (glibc 2.17), and what can build for
/// it anywhere.
const OLDEST_LINUX: &str = "manylinux2014";
const ZIG: &str = "ziglang>=0.13";

/// The platform of the archive: without a C library of the system's.
pub(crate) fn target() -> String {
    format!("{}-unknown-linux-musl", std::env::consts::ARCH)
}

/// Makes everything. Something that this machine cannot make is an error at the end.
pub(crate) fn make() -> Outcome {
    let left_out = make_what_can_be_made()?;
    if left_out.is_empty() {
        return Ok(());
    }
    Err(format!("the release is incomplete; left out: {}", left_out.join("; ")))
}

/// Makes what can be made here, and returns what was left out, and why.
pub(crate) fn make_what_can_be_made() -> Result<Vec<String>, String> {
    if !cfg!(target_os = "linux") {
        // The command is released for Linux only.
        return python::release_elsewhere(&dist()).map(|()| Vec::new());
    }
    let mut release = Release::read()?;
    release.archive()?;
    release.packages()?;
    if release.files.is_empty() {
        return Ok(release.left_out);
    }
    sum(&release.files)?;
    Step::new("sizes").run(|| {
        print!("{}", release.sizes()?);
        Ok(())
    })?;
    Ok(release.left_out)
}

/// The checksums of all files in `target/dist`, as `sha256sum --check` reads them.
pub(crate) fn checksums() -> Outcome {
    let files = fs::read_dir(dist()).map_err(|error| format!("target/dist: {error}"))?.flatten();
    let files = files.map(|file| file.path()).filter(|path| name(path) != "SHA256SUMS");
    fs::create_dir_all(work()).map_err(|error| format!("target/packaging: {error}"))?;
    sum(&files.collect())?;
    let version = version_of("Cargo.toml", "tantara-cli")?;
    write(&work().join("notes.md"), &notes(&version)?)
}

/// What CHANGELOG.md says about a version.
fn notes(version: &str) -> Result<String, String> {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).map_err(|error| format!("CHANGELOG.md: {error}"))?;
    let section = text.split("\n## ").find(|section| section.starts_with(&format!("[{version}]")));
    let section = section.and_then(|section| section.split_once('\n'));
    let (_, notes) = section.ok_or_else(|| format!("CHANGELOG.md has no section for [{version}]"))?;
    Ok(format!("{}\n", notes.trim()))
}

fn sum(files: &BTreeSet<PathBuf>) -> Outcome {
    Step::new("checksums").run(|| {
        let names = files.iter().filter_map(|file| file.file_name());
        let sums = output(Command::new("sha256sum").args(names).current_dir(dist()))?;
        write(&dist().join("SHA256SUMS"), &sums)?;
        run(Command::new("sha256sum").args(["--check", "--quiet", "SHA256SUMS"]).current_dir(dist()))
    })
}

fn dist() -> PathBuf {
    root().join("target/dist")
}

/// Where files are made that are no part of the release.
fn work() -> PathBuf {
    root().join("target/packaging")
}

struct Release {
    version: String,
    /// When the last commit was made, in seconds since 1970.
    time: String,
    files: BTreeSet<PathBuf>,
    /// The size of the command within the archive.
    binary: Option<u64>,
    left_out: Vec<String>,
}

impl Release {
    fn read() -> Result<Release, String> {
        let git = |args: &[&str]| output(Command::new("git").args(args).current_dir(root()));
        let version = version_of("Cargo.toml", "tantara-cli")?;
        let package = version_of("python/Cargo.toml", "tantara-python")?;
        if version != package {
            return Err(format!(
                "Cargo.toml has version {version}, python/Cargo.toml has {package}: make them the same"
            ));
        }
        let tags = git(&["tag", "--points-at", "HEAD", "v*"])?;
        if !tags.is_empty() && tags.lines().all(|tag| tag != format!("v{version}")) {
            return Err(format!("the tag {} is not of version {version}: change the version first", tags.trim()));
        }
        if !tags.is_empty() {
            notes(&version)?;
        }
        println!("\n   version {version}{}", if tags.is_empty() { ", without a tag" } else { "" });
        if !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
            println!("   changes that are not committed are part of it");
        }
        let time = git(&["log", "-1", "--format=%ct"])?.trim().to_owned();
        let _ = fs::remove_dir_all(dist());
        for folder in [dist(), work()] {
            fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        Ok(Release { version, time, files: BTreeSet::new(), binary: None, left_out: Vec::new() })
    }

    fn leave_out(&mut self, step: Step, what: &str, why: &str) -> Outcome {
        self.left_out.push(format!("{what}: {why}"));
        step.skip(why)
    }

    /// The command without dependencies, in a tar archive with what belongs to it.
    fn archive(&mut self) -> Outcome {
        let target = target();
        let step = Step::new(&format!("the command, for {target}"));
        if !has_target(&target) {
            return self.leave_out(step, "the archive", &format!("rustup target add {target}"));
        }
        if Command::new("musl-gcc").arg("--version").output().is_err() {
            return self.leave_out(step, "the archive", "there is no musl-gcc (Debian: apt install musl-tools)");
        }
        step.run(|| {
            let build = ["build", "--quiet", "--locked", "--package", "tantara-cli", "--profile", PROFILE];
            let flags = portable_paths()?;
            cargo(&[&build[..], &["--target", &target]].concat()).env("RUSTFLAGS", &flags).run()
        })?;
        let binary = root().join("target").join(&target).join(PROFILE).join("tantara");
        let name = format!("tantara-{}-{target}", self.version);
        let archive = dist().join(format!("{name}.tar.gz"));
        Step::new("the archive").run(|| {
            let size = fs::metadata(&binary).map_err(|error| format!("{}: {error}", binary.display()))?.len();
            self.binary = Some(size);
            if size > LARGEST_BINARY {
                return Err(format!("the command has {size} bytes, the limit is {LARGEST_BINARY}"));
            }
            self.matches_binstall(&name, &target)?;
            fill(&work().join(&name), &binary, &target)?;
            self.pack(&name, &archive)
        })?;
        Step::new("the archive in an empty root").run(|| installed::archive(&archive, &name, &work()))?;
        self.files.insert(archive);
        Ok(())
    }

    /// cargo-binstall finds the archive, and the command in it.
    fn matches_binstall(&self, name: &str, target: &str) -> Outcome {
        let metadata = metadata("Cargo.toml", &["--format-version", "1", "--no-deps"])?;
        let packages = metadata["packages"].as_array().into_iter().flatten();
        let package = packages.into_iter().find(|package| package["name"] == "tantara-cli");
        let binstall = &package.ok_or("there is no tantara-cli")?["metadata"]["binstall"];
        let values =
            [("{ version }", &*self.version), ("{ target }", target), ("{ bin }", "tantara"), ("{ binary-ext }", "")];
        let filled =
            |key| values.iter().fold(text(&binstall[key]).to_owned(), |text, (name, value)| text.replace(name, value));
        let (url, program) = (filled("pkg-url"), filled("bin-dir"));
        if url.ends_with(&format!("/v{}/{name}.tar.gz", self.version)) && program == format!("{name}/tantara") {
            return Ok(());
        }
        Err(format!("tantara-cli's metadata lead cargo-binstall to {url} and {program}, and the archive is {name}"))
    }

    /// Packs a folder, so that the same content makes the same archive.
    fn pack(&self, folder: &str, archive: &Path) -> Outcome {
        let tar = ["--create", "--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--format=ustar"];
        let mode = ["--mode=u=rwX,go=rX", "--use-compress-program=gzip -9n"];
        let time = format!("--mtime=@{}", self.time);
        let mut command = Command::new("tar");
        command.args(tar).args(mode).arg(time).arg("--file").arg(archive).arg(folder);
        run(command.current_dir(work()))
    }

    /// The Python package, as sources and as a wheel.
    fn packages(&mut self) -> Outcome {
        let pythons = Pythons::find()?;
        let (oldest, newest) = (&pythons.with_gil[0], pythons.newest());
        let tools = work().join("tools");
        let step = Step::new("maturin and zig");
        if environment(newest.1, &tools).is_err() || !venv::has(&tools, MATURIN) {
            return self.leave_out(step, "the Python package", "pip cannot install maturin");
        }
        let mut has_zig = false;
        step.run(|| {
            has_zig = venv::has(&tools, ZIG);
            Ok(())
        })?;
        let mut sdist = PathBuf::new();
        Step::new("the Python package as sources").run(|| {
            sdist = self.maturin(&tools, &["sdist"])?;
            Ok(())
        })?;
        let mut wheel = PathBuf::new();
        Step::new(&format!("the wheel, for {OLDEST_LINUX}")).run(|| {
            let build = ["build", "--quiet", "--release", "--locked", "--strip"];
            let zig = ["--zig", "--compatibility", OLDEST_LINUX];
            wheel = self.maturin(&tools, &[&build[..], if has_zig { &zig } else { &[] }].concat())?;
            Ok(())
        })?;
        if !has_zig {
            self.left_out.push(format!("a wheel for {OLDEST_LINUX}: pip cannot install {ZIG}"));
            println!(
                "   left out: {OLDEST_LINUX}, because pip cannot install {ZIG}; {} needs this C library",
                name(&wheel)
            );
        }
        for (version, program) in BTreeSet::from([(&*oldest.0, &*oldest.1), newest]) {
            Step::new(&format!("the wheel in Python {version}, without Rust"))
                .run(|| installed::wheel(&wheel, &self.version, program, &work().join(version)))?;
        }
        Step::new("the sources, built in another place")
            .run(|| installed::sdist(&sdist, &self.version, newest.1, &work()))?;
        self.files.extend([sdist, wheel]);
        Ok(())
    }

    /// The file that maturin has made into `target/dist`.
    fn maturin(&self, tools: &Path, args: &[&str]) -> Result<PathBuf, String> {
        let before = files_of(&dist());
        let bin = tools.join("bin");
        let mut path = bin.clone().into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap_or_default());
        let mut maturin = Command::new(bin.join("maturin"));
        maturin.args(args).arg("--out").arg(dist()).current_dir(root().join("python"));
        // zig is found as a module of the first Python on the path.
        maturin.env("PATH", path).env("SOURCE_DATE_EPOCH", &self.time).env("RUSTFLAGS", portable_paths()?);
        // The ABI is the same for all, so any interpreter will do.
        if args[0] == "build" {
            maturin.arg("--interpreter").arg(bin.join("python"));
        }
        run_quietly(&mut maturin)?;
        let mut made = files_of(&dist()).into_iter().filter(|file| !before.contains(file));
        made.next().ok_or_else(|| format!("maturin {} has made no file", args[0]))
    }

    /// A table of the files, and of what is limited.
    fn sizes(&self) -> Result<String, String> {
        let mut rows: Vec<(String, u64, String)> = Vec::new();
        for file in &self.files {
            let size = fs::metadata(file).map_err(|error| format!("{}: {error}", file.display()))?.len();
            rows.push((name(file), size, String::new()));
            if let Some(binary) = self.binary.filter(|_| name(file).ends_with("-musl.tar.gz")) {
                rows.push(("  the command in it".into(), binary, format!("of {}", megabytes(LARGEST_BINARY))));
            }
        }
        let width = rows.iter().map(|row| row.0.len()).max().unwrap_or_default();
        Ok(rows.into_iter().fold(String::new(), |mut table, (name, size, limit)| {
            let _ = writeln!(table, "   {name:width$}  {:>8}  {limit}", megabytes(size));
            table
        }))
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1e6)
}

/// The folder that becomes the archive.
fn fill(folder: &Path, binary: &Path, target: &str) -> Outcome {
    let _ = fs::remove_dir_all(folder);
    let completions = folder.join("completions");
    fs::create_dir_all(&completions).map_err(|error| format!("{}: {error}", completions.display()))?;
    let copy = |from: &Path, to: &str| {
        fs::copy(from, folder.join(to)).map_err(|error| format!("{}: {error}", from.display())).map(drop)
    };
    copy(binary, "tantara")?;
    ["README.md", "CHANGELOG.md", "LICENSE-APACHE", "LICENSE-MIT"]
        .iter()
        .try_for_each(|file| copy(&root().join(file), file))?;
    write(&folder.join("LICENSES-OF-DEPENDENCIES"), &licences(target)?)?;
    write(&folder.join("tantara.1"), &output(Command::new(binary).arg("man"))?)?;
    for (shell, file) in [("bash", "tantara.bash"), ("zsh", "_tantara"), ("fish", "tantara.fish")] {
        write(&completions.join(file), &output(Command::new(binary).args(["completions", shell]))?)?;
    }
    Ok(())
}

/// Everything that is linked into the command, and the texts of its licences, each once.
fn licences(target: &str) -> Result<String, String> {
    let metadata = metadata("Cargo.toml", &["--format-version", "1", "--locked", "--filter-platform", target])?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata names no packages")?;
    let by_id: BTreeMap<&str, &Value> = packages.iter().map(|package| (text(&package["id"]), package)).collect();
    let nodes = metadata["resolve"]["nodes"].as_array().ok_or("cargo metadata resolves nothing")?;
    let nodes: BTreeMap<&str, &Value> = nodes.iter().map(|node| (text(&node["id"]), node)).collect();
    let first = packages.iter().find(|package| package["name"] == "tantara-cli").ok_or("there is no tantara-cli")?;
    let (mut linked, mut next) = (BTreeSet::new(), vec![text(&first["id"])]);
    while let Some(id) = next.pop() {
        if !is_macro(by_id[id]) && linked.insert(id) {
            let dependencies = nodes[id]["deps"].as_array().into_iter().flatten();
            next.extend(
                dependencies.filter(|dependency| is_linked(dependency)).map(|dependency| text(&dependency["pkg"])),
            );
        }
    }
    let mut list = String::from(
        "The command `tantara` contains Rust's standard library (MIT OR Apache-2.0),\n\
         musl (MIT, Copyright © 2005-2020 Rich Felker, et al.), and these packages:\n\n",
    );
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // Those of this repository have no source.
    for package in linked.iter().map(|id| by_id[id]).filter(|package| !package["source"].is_null()) {
        let [name, version, licence] = ["name", "version", "license"].map(|key| text(&package[key]));
        let _ = writeln!(list, "{name} {version}: {licence}");
        let folder = Path::new(text(&package["manifest_path"])).parent().unwrap_or(Path::new(""));
        for file in files_of(folder).into_iter().filter(|file| is_licence(file)) {
            let content = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            let content = String::from_utf8_lossy(&content).replace('\r', "").trim_matches('\n').to_owned();
            texts.entry(content).or_default().push(format!("{name} {version}, {}", self::name(&file)));
        }
    }
    for (content, files) in texts {
        let _ = writeln!(list, "\n{}\n{}\n\n{content}", "=".repeat(80), files.join("\n"));
    }
    Ok(list)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Whether a dependency becomes part of the program, and is not only used for building or tests.
fn is_linked(dependency: &Value) -> bool {
    dependency["dep_kinds"].as_array().into_iter().flatten().any(|kind| kind["kind"].is_null())
}

/// Whether a package only runs in the compiler.
fn is_macro(package: &Value) -> bool {
    package["targets"].as_array().into_iter().flatten().any(|target| target["kind"][0] == "proc-macro")
}

fn is_licence(file: &Path) -> bool {
    let name = name(file).to_uppercase();
    file.is_file()
        && ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE", "UNLICENSE"]
            .iter()
            .any(|word| name.starts_with(word))
}

/// Flags by which no path of this machine gets into what is compiled.
fn portable_paths() -> Result<String, String> {
    let root = root().canonicalize().map_err(|error| format!("the repository: {error}"))?;
    let home = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cargo = home("CARGO_HOME").or_else(|| Some(home("HOME")?.join(".cargo"))).unwrap_or_default();
    let replaced = [(root, "/tantara"), (cargo, "/cargo")];
    Ok(replaced.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display())).join(" "))
}

fn version_of(manifest: &str, package: &str) -> Result<String, String> {
    let metadata = metadata(manifest, &["--format-version", "1", "--no-deps"])?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let version =
        packages.into_iter().find(|found| found["name"] == package).and_then(|found| found["version"].as_str());
    version.map(str::to_owned).ok_or_else(|| format!("{manifest} has no package {package}"))
}

fn metadata(manifest: &str, args: &[&str]) -> Result<Value, String> {
    let text = cargo(&[&["metadata", "--quiet", "--manifest-path", manifest], args].concat()).output()?;
    serde_json::from_str(&text).map_err(|error| format!("cargo metadata prints no JSON: {error}"))
}

fn files_of(folder: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|file| file.path()).collect()
}

fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn write(file: &Path, text: &str) -> Outcome {
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

/// What a command prints to standard output.
fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("{command:?} cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!("{command:?} failed ({})", output.status))
}
