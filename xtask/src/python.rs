//! The Python package: built once, tested with every CPython that is found, in environments of its
//! own under `target`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::debian;
use crate::run::{Outcome, Step, ignoring_signals, lints, root};
use crate::venv::{self, environment, pip, python, run};

/// What is needed to build the package and to check its types; and to tell what was found.
const TOOLS: [&str; 2] = [MATURIN, "mypy>=1.18,<3"];
/// As `python/pyproject.toml` requires it.
pub(crate) const MATURIN: &str = "maturin>=1.9,<2";
/// What waits run beside in tests. Each test is skipped where its own is missing.
const COMPANIONS: [&str; 6] = ["trio", "anyio", "gevent", "eventlet", "uvloop", "multiprocess"];
/// With the oldest CPython. anyio's own backend asks for it.
const OLDEST_COMPANIONS: [&str; 1] = ["trio==0.22.2"];
/// The tests of what the package has on every platform.
const ANYWHERE: [&str; 5] = ["test_asyncio", "test_event", "test_many", "test_platforms", "test_trio"];
/// Tells the package's build to leave out what only Linux has.
const PORTABLE: &str = "TANTARA_PYTHON_PORTABLE";
/// The version; it ends with a t where threads run without the interpreter's lock.
const PROBE: &str = "import platform, sys, sysconfig; assert platform.python_implementation() == 'CPython'; \
    assert sys.version_info >= (3, 9); \
    print(platform.python_version() + ('t' if sysconfig.get_config_var('Py_GIL_DISABLED') else ''), sys.base_prefix)";

/// The texts of the licences are installed with the package.
const HAS_LICENCES: &str = "from importlib.metadata import files; \
    assert {'LICENSE-APACHE', 'LICENSE-MIT'} <= {file.name for file in files('tantara')}, 'the wheel has no licences'";

/// The package as it is built while one works on it, with one CPython.
pub(crate) fn test() -> Outcome {
    let pythons = Pythons::find()?;
    lints("python")?;
    let wheel = pythons.build(&[])?;
    Step::new("the package's types").run(|| check_types(&wheel))?;
    let (version, program) = pythons.newest();
    Step::new(&format!("the package in Python {version}")).run(|| test_in(version, program, &wheel))
}

/// The package as it is released, with every CPython; and as pip builds it.
pub(crate) fn test_everywhere() -> Outcome {
    let pythons = Pythons::find()?;
    let wheel = pythons.build(&["--release"])?;
    Step::new("the package's types").run(|| check_types(&wheel))?;
    let versions: Vec<_> = pythons.with_gil.iter().map(|(version, _)| version.as_str()).collect();
    Step::new(&format!("the package in Python {}", versions.join(", "))).run(|| {
        // They wait more than they compute.
        thread::scope(|scope| {
            let test = |(version, program)| test_in(version, program, &wheel);
            let pythons = pythons.with_gil.iter().map(|(version, program)| (version.as_str(), program.as_path()));
            let running: Vec<_> = pythons.map(|python| scope.spawn(move || test(python))).collect();
            running.into_iter().try_for_each(|test| test.join().unwrap_or_else(|_| Err("a thread panicked".into())))
        })
    })?;
    Step::new("the package's tests of signals, started where they are ignored").run(|| {
        let place = home().join(pythons.newest().0);
        run(&mut ignoring_signals(unittest(&place).args(["--buffer", "test_signals"])))
    })?;
    test_portable(&pythons)?;
    for (version, program) in &pythons.free_threaded {
        test_free_threaded(version, program, &home().join(version))?;
    }
    Step::new("the package, as pip installs it from this folder").run(|| {
        let place = home().join("user");
        let _ = fs::remove_dir_all(&place);
        environment(&pythons.with_gil[0].1, &place)?;
        let package = root().join("python");
        pip(&place, &[&package.to_string_lossy()])?;
        let script = "import tantara; event = tantara.Event(); event.set(); assert event.wait()";
        run(python(&place).args(["-c", script]).current_dir(&place))
    })
}

/// On other systems than Linux: the package, with the newest CPython.
pub(crate) fn test_elsewhere() -> Outcome {
    let pythons = Pythons::find()?;
    lints("python")?;
    test_anywhere(&pythons, &pythons.build(&[])?)
}

/// The same as it is released, into a folder.
pub(crate) fn release_elsewhere(folder: &Path) -> Outcome {
    let pythons = Pythons::find()?;
    let wheel = pythons.build(&["--release", "--locked", "--strip"])?;
    test_anywhere(&pythons, &wheel)?;
    let failed = |error| format!("{}: {error}", folder.display());
    fs::create_dir_all(folder).map_err(failed)?;
    fs::copy(&wheel, folder.join(wheel.file_name().unwrap_or_default())).map_err(failed).map(drop)
}

/// The package as it is on Windows, where nothing of it needs Linux.
fn test_portable(pythons: &Pythons) -> Outcome {
    let mut wheel = PathBuf::new();
    Step::new("the package without what only Linux has").run(|| {
        wheel = build(&tools(), &home().join("wheels-portable"), &[], &[(PORTABLE, "1")])?;
        check_types(&wheel)
    })?;
    test_anywhere(pythons, &wheel)
}

fn test_anywhere(pythons: &Pythons, wheel: &Path) -> Outcome {
    let (version, program) = pythons.newest();
    Step::new(&format!("what every platform has, in Python {version}")).run(|| {
        let place = home().join("anywhere");
        environment(program, &place)?;
        pip(&place, &["--force-reinstall", "--no-deps", "--no-index", &wheel.to_string_lossy()])?;
        run(python(&place).args(["-c", HAS_LICENCES]))?;
        has_companions(&place);
        run(unittest(&place).arg("--buffer").args(ANYWHERE))?;
        let bank = ["../examples/bank.py", "--pace", "0.01"];
        run(python(&place).args(bank).current_dir(root().join("python/tests")).stdout(Stdio::null()))
    })
}

fn home() -> PathBuf {
    root().join("target/python")
}

fn tools() -> PathBuf {
    home().join("tools")
}

/// The newest CPython, for tools.
pub(crate) fn newest() -> Option<PathBuf> {
    found().into_iter().rev().find(|(version, _)| !version.ends_with('t')).map(|(_, program)| program)
}

/// The CPythons of this machine, the oldest first, each with its version.
pub(crate) struct Pythons {
    pub(crate) with_gil: Vec<(String, PathBuf)>,
    free_threaded: Vec<(String, PathBuf)>,
}

impl Pythons {
    pub(crate) fn find() -> Result<Pythons, String> {
        let mut pythons = Vec::new();
        Step::new("Pythons, 3.9 and newer").run(|| {
            pythons = found();
            for (version, program) in &pythons {
                println!("   {version}  {}", program.display());
            }
            Ok(())
        })?;
        let (free_threaded, with_gil): (Vec<_>, Vec<_>) =
            pythons.into_iter().partition(|(version, _)| version.ends_with('t'));
        if with_gil.is_empty() {
            return Err(
                "there is no CPython of 3.9 or newer, with its lock; on Debian: apt install python3-venv".into()
            );
        }
        Ok(Pythons { with_gil, free_threaded })
    }

    /// It builds the package, which is the same for all that have the interpreter's lock.
    pub(crate) fn newest(&self) -> (&str, &Path) {
        let (version, program) = self.with_gil.last().expect("find() has found one");
        (version, program)
    }

    fn build(&self, flags: &[&str]) -> Result<PathBuf, String> {
        let mut wheel = PathBuf::new();
        Step::new("the package for Python").run(|| {
            environment(self.newest().1, &tools())?;
            pip(&tools(), &TOOLS)?;
            wheel = build(&tools(), &home().join("wheels"), flags, &[])?;
            Ok(())
        })?;
        Ok(wheel)
    }
}

fn check_types(wheel: &Path) -> Outcome {
    let tools = tools();
    pip(&tools, &["--force-reinstall", "--no-deps", &wheel.to_string_lossy()])?;
    run(python(&tools).args(["-m", "mypy.stubtest", "tantara"]).current_dir(&tools))?;
    run(python(&tools).args(["-m", "mypy", "--strict", "-p", "tantara"]).current_dir(&tools))?;
    let users = std::path::absolute(root().join("python/tests/check_types.py")).unwrap_or_default();
    run(python(&tools).args(["-m", "mypy", "--strict"]).arg(users).current_dir(&tools))
}

/// The tests, the benchmark and the example, in an environment of their own.
fn test_in(version: &str, program: &Path, wheel: &Path) -> Outcome {
    let place = home().join(version);
    environment(program, &place)?;
    pip(&place, &["--force-reinstall", "--no-deps", "--no-index", &wheel.to_string_lossy()])?;
    run(python(&place).args(["-c", HAS_LICENCES]))?;
    has_tests_of_cpython(&place, version);
    has_companions(&place);
    if version.starts_with("3.9.") && pip(&place, &OLDEST_COMPANIONS).is_err() {
        println!("   left out: the tests beside {}, which cannot be installed here", OLDEST_COMPANIONS[0]);
    }
    let tests = root().join("python/tests");
    run(unittest(&place).args(["discover", "--buffer"]))?;
    run(python(&place).arg("check_types.py").current_dir(&tests))?;
    for script in [&["../bench/bench.py", "--quick"][..], &["../examples/bank.py", "--pace", "0.01"]] {
        run(python(&place).args(script).current_dir(&tests).stdout(Stdio::null()))?;
    }
    Ok(())
}

/// A Python without the interpreter's lock has an ABI of its own, so pip builds the package for it.
fn test_free_threaded(version: &str, program: &Path, place: &Path) -> Outcome {
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

/// Runs tests. If they hang, it ends after a quarter of an hour and says where each thread is.
const UNITTEST: &str = "import faulthandler, unittest; faulthandler.dump_traceback_later(900, exit=True); \
    unittest.main(module=None)";

/// The package's tests, in an environment.
fn unittest(place: &Path) -> Command {
    let mut command = python(place);
    command.args(["-W", "ignore", "-c", UNITTEST]).current_dir(root().join("python/tests"));
    command
}

/// Every CPython that is new enough, the oldest first: on the path, or kept by pyenv.
fn found() -> Vec<(String, PathBuf)> {
    let named = (9..30).map(|minor| PathBuf::from(format!("python3.{minor}")));
    let home = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let pyenv = home("PYENV_ROOT").or_else(|| home("HOME").map(|home| home.join(".pyenv")));
    let kept = pyenv.and_then(|root| fs::read_dir(root.join("versions")).ok()).into_iter().flatten().flatten();
    let programs = ["python3", "python"].map(PathBuf::from).into_iter().chain(named);
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

fn build(tools: &Path, wheels: &Path, flags: &[&str], settings: &[(&str, &str)]) -> Result<PathBuf, String> {
    let _ = fs::remove_dir_all(wheels);
    let mut maturin = Command::new(venv::program(tools, "maturin"));
    maturin.envs(settings.iter().copied());
    maturin.args(["build", "--quiet"]).args(flags).arg("--out").arg(std::path::absolute(wheels).unwrap_or_default());
    maturin.arg("--interpreter").arg(venv::program(tools, "python"));
    run(maturin.current_dir(root().join("python")).stdout(Stdio::null()).stderr(Stdio::null()))?;
    let wheel = fs::read_dir(wheels).ok().and_then(|mut wheels| wheels.next()?.ok());
    let wheel = wheel.ok_or("maturin has built no wheel")?;
    wheel.path().canonicalize().map_err(|error| format!("{}: {error}", wheel.path().display()))
}

/// Says so where something cannot be installed that waits are tested beside.
fn has_companions(place: &Path) {
    let install = |what: &[&str]| {
        let settings = ["--upgrade-strategy", "only-if-needed", "--only-binary", ":all:"];
        pip(place, &[&settings[..], what].concat())
    };
    if install(&COMPANIONS).is_ok() {
        return;
    }
    for companion in COMPANIONS {
        if install(&[companion]).is_err() {
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
    if !probe() && (debian::install(&package).is_err() || !probe()) {
        println!(
            "   left out: CPython's own tests, which this Python has come without (Debian: apt install {package})"
        );
    }
}
