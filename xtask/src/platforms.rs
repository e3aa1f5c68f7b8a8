//! The oldest compiler, and other platforms: those that can run here are tested, the others are
//! compiled and linted. Each step is left out where its tools are missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::etcd;
use crate::run::{Call, Outcome, Step, cargo, root};

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
/// Where the command is compiled and linted beside Linux.
const WITH_COMMAND: [&str; 3] = [WINDOWS, "aarch64-apple-darwin", "x86_64-unknown-freebsd"];
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
    WITH_COMMAND.iter().try_for_each(|target| lint_command(target))?;
    test_i686()?;
    test_musl()?;
    test_aarch64()?;
    test_windows()?;
    test_command_on_windows()
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

/// The command, with the events between machines that it needs.
fn lint_command(target: &str) -> Outcome {
    let step = Step::new(&format!("lints of the command for {target}"));
    if !has_target(target) {
        return step.skip(&format!("rustup target add {target}"));
    }
    if target == WINDOWS && !is_there(MINGW) {
        return step.skip("there is no compiler for C (Debian: apt install gcc-mingw-w64-x86-64)");
    }
    let packages = ["tantara-etcd", "tantara-bank", "tantara-cli"].map(|package| ["--package", package]);
    let clippy = [&["clippy", "--quiet", "--target", target][..], packages.as_flattened()].concat();
    let mut call = cargo(&[&clippy[..], &["--", "--deny", "warnings"]].concat());
    if target != WINDOWS {
        // Dependencies have code in C, for which there is no compiler. As nothing is linked, none is
        // needed: `true` compiles everything, and the Rust of TLS and of signals is checked.
        let suffix = target.replace('-', "_");
        call = call.env(&format!("CC_{suffix}"), "true").env(&format!("AR_{suffix}"), "true").env("SDKROOT", "/");
    }
    step.run(|| call.run())
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
    by_wine(&format!("tests on {WINDOWS}, by Wine"), |wine| {
        wine.runs(&["test", "--package", "tantara", "--target", WINDOWS, "--lib", "--test", "it", "--test", "models"])
            .env("TANTARA_STRESS_ROUNDS", "100")
            .crowded()
            .run()
    })
}

/// The command on Windows: alone, and beside that of Linux on one cluster.
fn test_command_on_windows() -> Outcome {
    by_wine(&format!("tests of the command on {WINDOWS}, by Wine"), |wine| {
        let command = ["--package", "tantara-cli", "--target", WINDOWS];
        let alone = ["--bin", "tantara", "--test", "bank", "--test", "elsewhere"];
        wine.runs(&[&["test"], &command[..], &alone].concat()).crowded().run()?;
        etcd::provide()?;
        cargo(&[&["build", "--quiet"], &command[..]].concat()).run()?;
        let program = root().join("target").join(WINDOWS).join("debug/tantara.exe");
        let program = program.canonicalize().map_err(|error| format!("{}: {error}", program.display()))?;
        wine.runs(&["test", "--package", "tantara-cli", "--test", "two_systems"])
            .env("OTHER_TANTARA", &program.to_string_lossy())
            .env("OTHER_TANTARA_RUNNER", &wine.program.to_string_lossy())
            .crowded()
            .run()
    })
}

/// A step that needs Wine.
fn by_wine(what: &str, test: impl FnOnce(&Wine) -> Outcome) -> Outcome {
    let step = Step::new(what);
    if !has_target(WINDOWS) {
        return step.skip(&format!("rustup target add {WINDOWS}"));
    }
    if !is_there(MINGW) {
        return step.skip("there is no linker (Debian: apt install gcc-mingw-w64-x86-64)");
    }
    // Debian's script of this name wants the version of 32 bits too.
    let programs = ["/usr/lib/wine/wine64", "/usr/bin/wine"].map(PathBuf::from);
    let Some(program) = programs.into_iter().find(|program| program.exists()) else {
        return step.skip("there is no Wine (Debian: apt install wine64)");
    };
    step.run(|| {
        let home = root().join("target/wine");
        let wine = Wine { program, home: std::path::absolute(&home).unwrap_or(home) };
        provide_process_prng(&wine.home)?;
        test(&wine)
    })
}

/// What runs programs for Windows, and where it keeps what it needs.
struct Wine {
    program: PathBuf,
    home: PathBuf,
}

impl Wine {
    /// A call of cargo that runs such programs.
    fn runs(&self, args: &[&str]) -> Call {
        cargo(args)
            .env("CARGO_TARGET_X86_64_PC_WINDOWS_GNU_RUNNER", &self.program.to_string_lossy())
            .env("WINEPREFIX", &self.home.join("prefix").to_string_lossy())
            .env("WINEPATH", &self.home.to_string_lossy())
            .env("WINEDEBUG", "-all")
    }
}

const MINGW: &str = "x86_64-w64-mingw32-gcc";

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
