//! The Python package: built once, tested with every CPython that is found, in environments of its own under `target`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run::{Step, cargo, ignoring_signals, root};

/// What is needed to build the package and to check its types; and to tell what was found.
const TOOLS: [&str; 2] = ["maturin>=1.9,<2", "mypy>=1.18,<3"];
/// What waits run beside in tests. Each test is skipped where its own is missing.
const COMPANIONS: [&str; 6] = ["trio", "anyio", "gevent", "eventlet", "uvloop", "multiprocess"];
/// The version; it ends with a t where threads run without the interpreter's lock.
const PROBE: &str = "import platform, sys, sysconfig; assert platform.python_implementation() == 'CPython'; \
    assert sys.version_info >= (3, 9); \
    print(platform.python_version() + ('t' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''), sys.base_prefix)";

pub(crate) fn test() -> Result<(), String> {
    let deny = ["--", "--deny", "warnings"];
    Step::new("format of python").run(|| cargo(&["fmt", "--check"]).dir("python").run())?;
    Step::new("lints of python")
        .run(|| cargo(&[&["clippy", "--quiet", "--all-targets"][..], &deny].concat()).dir("python").run())?;
    let mut pythons = Vec::new();
    Step::new("Pythons, 3.9 and newer").run(|| {
        pythons = found();
        for (version, program) in &pythons {
            println!("   {version}  {}", program.display());
        }
        if pythons.is_empty() {
            Err("there is none; on Debian: apt install python3 python3-venv".into())
        } else {
            Ok(())
        }
    })?;
    let (free_threaded, pythons): (Vec<_>, Vec<_>) =
        pythons.into_iter().partition(|(version, _)| version.ends_with('t'));
    // The newest builds: it knows the most, and the package is the same for all that have the interpreter's lock.
    let builder = pythons.last().ok_or("each Python that was found is free-threaded; one more is needed to build")?;
    let home = root().join("target/python");
    let mut wheel = PathBuf::new();
    let tools = home.join("tools");
    Step::new("the package for Python").run(|| {
        environment(&builder.1, &tools)?;
        pip(&tools, &TOOLS)?;
        wheel = build(&tools, &home.join("wheels"))?;
        Ok(())
    })?;
    Step::new("the package's types").run(|| {
        let wheel = wheel.to_string_lossy();
        pip(&tools, &["--force-reinstall", "--no-deps", &wheel])?;
        run(python(&tools).args(["-m", "mypy.stubtest", "tantara"]).current_dir(&tools))?;
        run(python(&tools).args(["-m", "mypy", "--strict", "-p", "tantara"]).current_dir(&tools))?;
        let users = std::path::absolute(root().join("python/tests/check_types.py")).unwrap_or_default();
        run(python(&tools).args(["-m", "mypy", "--strict"]).arg(users).current_dir(&tools))
    })?;
    for (version, program) in &pythons {
        Step::new(&format!("the package in Python {version}")).run(|| {
            let place = home.join(version);
            environment(program, &place)?;
            pip(&place, &["--force-reinstall", "--no-deps", "--no-index", &wheel.to_string_lossy()])?;
            has_tests_of_cpython(&place, version);
            has_companions(&place);
            let tests = root().join("python/tests");
            run(unittest(&place).args(["discover", "--buffer"]))?;
            run(python(&place).arg("check_types.py").current_dir(&tests))?;
            run(python(&place).args(["../bench/bench.py", "--quick"]).current_dir(&tests).stdout(Stdio::null()))?;
            run(python(&place)
                .args(["../examples/bank.py", "--pace", "0.01"])
                .current_dir(&tests)
                .stdout(Stdio::null()))
        })?;
    }
    Step::new("the package's tests of signals, started where they are ignored").run(|| {
        let place = home.join(&builder.0);
        run(&mut ignoring_signals(unittest(&place).args(["--buffer", "test_signals"])))
    })?;
    for (version, program) in &free_threaded {
        test_free_threaded(version, program, &home.join(version))?;
    }
    Step::new("the package, as pip installs it from this folder").run(|| {
        let place = home.join("user");
        let _ = fs::remove_dir_all(&place);
        environment(&pythons[0].1, &place)?;
        let package = root().join("python");
        pip(&place, &[&package.to_string_lossy()])?;
        let script = "import tantara; event = tantara.Event(); event.set(); assert event.wait()";
        run(python(&place).args(["-c", script]).current_dir(&place))
    })
}

/// A Python without the interpreter's lock has an ABI of its own, so pip builds the package for it.
fn test_free_threaded(version: &str, program: &Path, place: &Path) -> Result<(), String> {
    let step = Step::new(&format!("the package in the free-threaded Python {version}"));
    if version.starts_with("3.13.") {
        return step.skip("PyO3 supports free-threaded Pythons from 3.14 on");
    }
    step.run(|| {
        environment(program, place)?;
        pip(place, &["--force-reinstall", &root().join("python").to_string_lossy()])?;
        has_companions(place);
        run(unittest(place).args(["discover", "--buffer"]))
    })
}

/// The package's tests, in an environment.
fn unittest(place: &Path) -> Command {
    let mut command = Command::new(std::path::absolute(place.join("bin/python")).unwrap_or_default());
    command.args(["-W", "ignore", "-m", "unittest"]).current_dir(root().join("python/tests"));
    command
}

/// Every CPython that is new enough, the oldest first: on the path, or kept by pyenv.
fn found() -> Vec<(String, PathBuf)> {
    let named = (9..30).map(|minor| PathBuf::from(format!("python3.{minor}")));
    let home = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let pyenv = home("PYENV_ROOT").or_else(|| home("HOME").map(|home| home.join(".pyenv")));
    let kept = pyenv.and_then(|root| fs::read_dir(root.join("versions")).ok()).into_iter().flatten().flatten();
    let programs = [PathBuf::from("python3")].into_iter().chain(named);
    let programs = programs.chain(kept.map(|version| version.path().join("bin/python3")));
    let mut pythons = BTreeMap::new();
    for program in programs {
        let probe = Command::new(&program).args(["-c", PROBE]).stderr(Stdio::null()).output();
        let Ok(answer) = probe.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()) else { continue };
        if let Some((version, _)) = answer.trim().split_once(' ') {
            let order: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
            pythons.entry((order, version.to_owned())).or_insert(program);
        }
    }
    pythons.into_iter().map(|((_, version), program)| (version, program)).collect()
}

/// A virtual environment, unless there is one already.
fn environment(program: &Path, place: &Path) -> Result<(), String> {
    if run(python(place).args(["-m", "pip", "--version"]).stdout(Stdio::null()).stderr(Stdio::null())).is_ok() {
        return Ok(());
    }
    let mut venv = Command::new(program);
    venv.args(["-m", "venv", "--clear"]).arg(place);
    if run(venv.stdout(Stdio::null())).is_ok() {
        return Ok(());
    }
    // Debian keeps it apart.
    provide("python3-venv")?;
    run(&mut venv)
}

fn python(place: &Path) -> Command {
    Command::new(place.join("bin/python"))
}

fn pip(place: &Path, what: &[&str]) -> Result<(), String> {
    let pip = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];
    run(python(place).args(pip).args(what))
}

fn build(tools: &Path, wheels: &Path) -> Result<PathBuf, String> {
    let _ = fs::remove_dir_all(wheels);
    let mut maturin = Command::new(tools.join("bin/maturin"));
    maturin.args(["build", "--quiet", "--release", "--out"]).arg(std::path::absolute(wheels).unwrap_or_default());
    maturin.arg("--interpreter").arg(std::path::absolute(tools.join("bin/python")).unwrap_or_default());
    run(maturin.current_dir(root().join("python")).stdout(Stdio::null()).stderr(Stdio::null()))?;
    let wheel = fs::read_dir(wheels).ok().and_then(|mut wheels| wheels.next()?.ok());
    let wheel = wheel.ok_or("maturin has built no wheel")?;
    wheel.path().canonicalize().map_err(|error| format!("{}: {error}", wheel.path().display()))
}

/// Says so where something cannot be installed that waits are tested beside.
fn has_companions(place: &Path) {
    for companion in COMPANIONS {
        let upgrade = ["--upgrade-strategy", "only-if-needed", "--only-binary", ":all:"];
        if pip(place, &[&upgrade[..], &[companion]].concat()).is_err() {
            println!("   left out: the tests beside {companion}, which cannot be installed here");
        }
    }
}

/// Says so where CPython's own tests of its events cannot be run.
fn has_tests_of_cpython(place: &Path, version: &str) {
    let probe = || {
        let script = "import test.lock_tests, test._test_multiprocessing";
        run(python(place).args(["-c", script]).stderr(Stdio::null())).is_ok()
    };
    let minor: Vec<&str> = version.split('.').take(2).collect();
    let package = format!("libpython{}-testsuite", minor.join("."));
    if !probe() && (provide(&package).is_err() || !probe()) {
        println!(
            "   left out: CPython's own tests, which this Python has come without (Debian: apt install {package})"
        );
    }
}

/// Installs a package of Debian's, where that is possible.
fn provide(package: &str) -> Result<(), String> {
    let failed = || format!("{package} is missing, and cannot be installed; on Debian: apt install {package}");
    let mut apt = Command::new("apt-get");
    apt.args(["install", "--yes", "--quiet", "--no-install-recommends", package]);
    apt.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    run(&mut apt).map_err(|_| failed())
}

fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{command:?} cannot be started: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{command:?} failed ({status})")) }
}
