//! The oldest compiler, and other platforms: those that can run here are tested, the others are
//! compiled and linted. Each step is left out where its tools are missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{Outcome, Step, cargo, root};

/// `rust-version` of the library, and of the workspace, and what is checked with it.
pub(crate) const OLDEST: [(&str, &[&str]); 2] =
    [("1.85", &["--package", "tantara", "--features", "serde"]), ("1.88", &["--workspace"])];
/// What runs nowhere here, and what each of them has that no other has: a processor without atomics
/// of 64 bits; the system's own way to sleep; no threads.
const COMPILED: [&str; 5] = [
    "powerpc-unknown-linux-gnu",
    "aarch64-apple-darwin",
    "x86_64-unknown-freebsd",
    "aarch64-linux-android",
    "wasm32-unknown-unknown",
];
/// For which the Python package is released, beside Linux.
const WITH_PYTHON: [&str; 2] = ["aarch64-apple-darwin", WINDOWS];
const I686: &str = "i686-unknown-linux-gnu";
const MUSL: &str = "x86_64-unknown-linux-musl";
const AARCH64: &str = "aarch64-unknown-linux-musl";
const WINDOWS: &str = "x86_64-pc-windows-gnu";

/// What `setup` installs: targets, and packages of Debian's.
pub(crate) const TARGETS: [&[&str]; 2] = [&COMPILED, &[I686, MUSL, AARCH64, WINDOWS]];
pub(crate) const PACKAGES: [&str; 4] = ["gcc-multilib", "qemu-user", "wine64", "gcc-mingw-w64-x86-64"];

pub(crate) fn test() -> Outcome {
    OLDEST.iter().try_for_each(|(version, packages)| oldest(version, packages))?;
    COMPILED.iter().try_for_each(|target| lint(target))?;
    WITH_PYTHON.iter().try_for_each(|target| lint_python(target))?;
    test_i686()?;
    test_musl()?;
    test_aarch64()?;
    test_windows()
}

fn oldest(version: &str, packages: &[&str]) -> Outcome {
    let step = Step::new(&format!("Rust {version}: {}", packages.join(" ")));
    let toolchain = format!("+{version}");
    if !cargo(&[&toolchain, "--version"]).succeeds() {
        return step.skip(&format!("it is not installed (rustup toolchain install {version})"));
    }
    step.run(|| cargo(&[&[&toolchain, "check", "--quiet"], packages].concat()).flags("", "oldest").run())
}

fn lint(target: &str) -> Outcome {
    let step = Step::new(&format!("lints for {target}"));
    if !has_target(target) {
        return step.skip(&format!("rustup target add {target}"));
    }
    let clippy = ["clippy", "--quiet", "--package", "tantara", "--target", target];
    step.run(|| cargo(&[&clippy[..], &["--", "--deny", "warnings"]].concat()).run())
}

/// The Python package. Nothing is linked, so no compiler of C for the platform is needed either.
fn lint_python(target: &str) -> Outcome {
    let step = Step::new(&format!("lints of the Python package for {target}"));
    if !has_target(target) {
        return step.skip(&format!("rustup target add {target}"));
    }
    let clippy = ["clippy", "--quiet", "--target", target, "--", "--deny", "warnings"];
    step.run(|| cargo(&clippy).dir("python").env("CC", "true").env("AR", "true").run())
}

fn test_i686() -> Outcome {
    let step = Step::new(&format!("tests on {I686}"));
    if !has_target(I686) {
        return step.skip(&format!("rustup target add {I686}"));
    }
    let libraries = Command::new("cc").args(["-m32", "-print-file-name=crt1.o"]).output();
    if !libraries.is_ok_and(|answer| answer.stdout.contains(&b'/')) {
        return step.skip("there are no C libraries of 32 bits (Debian: apt install gcc-multilib)");
    }
    step.run(|| cargo(&["test", "--package", "tantara", "--target", I686]).crowded().run())
}

/// The same with another C library.
fn test_musl() -> Outcome {
    let step = Step::new(&format!("tests on {MUSL}"));
    if !has_target(MUSL) {
        return step.skip(&format!("rustup target add {MUSL}"));
    }
    step.run(|| cargo(&["test", "--package", "tantara", "--target", MUSL]).crowded().run())
}

/// What happens within a process, on another processor. The emulator runs no children of this
/// processor, and shows the system calls of another, so tests of processes are left out.
fn test_aarch64() -> Outcome {
    const OF_PROCESSES: [&str; 14] = [
        "processes",
        "shared",
        "hold",
        "hostile",
        "killed",
        "names",
        "naming",
        "ptrace",
        "realtime",
        "refused",
        "stepper",
        "storm",
        "users",
        "waiting",
    ];
    let step = Step::new(&format!("tests within a process on {AARCH64}"));
    if !has_target(AARCH64) {
        return step.skip(&format!("rustup target add {AARCH64}"));
    }
    if !is_there("qemu-aarch64") {
        return step.skip("there is no emulator (Debian: apt install qemu-user)");
    }
    let test = ["test", "--package", "tantara", "--target", AARCH64, "--lib", "--test", "it", "--test", "models", "--"];
    let skipped: Vec<_> = OF_PROCESSES.iter().flat_map(|module| ["--skip", module]).collect();
    step.run(|| {
        cargo(&[&test[..], &skipped].concat())
            // Rust's own linker and C library, so that no compiler for the processor is needed.
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld")
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUSTFLAGS", "-Clink-self-contained=yes")
            .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_RUNNER", "qemu-aarch64")
            .env("TANTARA_STRESS_ROUNDS", "100")
            .crowded()
            .run()
    })
}

/// The contract and the stress tests on Windows' own functions, as Wine has them.
fn test_windows() -> Outcome {
    let step = Step::new(&format!("tests on {WINDOWS}, by Wine"));
    if !has_target(WINDOWS) {
        return step.skip(&format!("rustup target add {WINDOWS}"));
    }
    if !is_there(MINGW) {
        return step.skip("there is no linker (Debian: apt install gcc-mingw-w64-x86-64)");
    }
    let Some(wine) = wine() else { return step.skip("there is no Wine (Debian: apt install wine64)") };
    step.run(|| {
        let home = root().join("target/wine");
        let home = std::path::absolute(&home).unwrap_or(home);
        provide_process_prng(&home)?;
        cargo(&["test", "--package", "tantara", "--target", WINDOWS, "--lib", "--test", "it", "--test", "models"])
            .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", &wine.to_string_lossy())
            .env("WINEPREFIX", &home.join("prefix").to_string_lossy())
            .env("WINEPATH", &home.to_string_lossy())
            .env("WINEDEBUG", "-all")
            .env("TANTARA_STRESS_ROUNDS", "100")
            .crowded()
            .run()
    })
}

const MINGW: &str = "x86_64-w64-mingw32-gcc";

/// Wine itself: Debian's script of this name wants the version of 32 bits too.
fn wine() -> Option<PathBuf> {
    ["/usr/lib/wine/wine64", "/usr/bin/wine"].map(PathBuf::from).into_iter().find(|program| program.exists())
}

/// A library of Windows 10 that Rust's standard library needs, and Wine has from version 9 on. It
/// exports one function, which Windows 7 has under another name.
fn provide_process_prng(home: &Path) -> Outcome {
    const SOURCE: &str = "#include <windows.h>\n\
        BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);\n\
        __declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size)\n\
        { return SystemFunction036(data, (ULONG)size); }\n";
    let library = home.join("bcryptprimitives.dll");
    if library.exists() {
        return Ok(());
    }
    let source = home.join("process_prng.c");
    let failed = |error| format!("{}: {error}", source.display());
    fs::create_dir_all(home).and_then(|()| fs::write(&source, SOURCE)).map_err(failed)?;
    let status = Command::new(MINGW).arg("-shared").arg("-o").args([&library, &source]).arg("-ladvapi32").status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{MINGW} failed ({status})")),
        Err(error) => Err(format!("{MINGW} cannot be run: {error}")),
    }
}

fn is_there(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

pub(crate) fn has_target(target: &str) -> bool {
    let list = Command::new("rustup").args(["target", "list", "--installed"]).output();
    list.is_ok_and(|list| String::from_utf8_lossy(&list.stdout).lines().any(|line| line == target))
}
