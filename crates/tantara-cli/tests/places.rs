//! Directories and files: errors of the system (exit code 125, with the owner to ask), and files that other processes
//! rename.
#![cfg(target_os = "linux")]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

const ALICE: u32 = 1_001;
const BOB: u32 = 1_002;

/// Directories, and a copy of the command that all users may run.
struct Fixture(TempDir);

impl Fixture {
    /// `None`, with a printed reason, if this process cannot become other users.
    fn new(test: &str) -> Option<Fixture> {
        let fixture = Fixture(tempfile::tempdir().unwrap());
        if !is_root() {
            println!("{test} is left out: it needs to be root");
            return None;
        }
        fs::set_permissions(&fixture.0, Permissions::from_mode(0o755)).unwrap();
        // By another process: a child that another test forks meanwhile would inherit a descriptor that is open for
        // writing, and a file that is open for writing cannot be executed.
        let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_tantara")).arg(fixture.command()).status();
        assert!(copied.unwrap().success());
        fs::set_permissions(fixture.command(), Permissions::from_mode(0o755)).unwrap();
        Some(fixture)
    }

    fn command(&self) -> PathBuf {
        self.0.path().join("tantara")
    }

    fn directory(&self, owner: u32, mode: u32) -> PathBuf {
        let place = self.0.path().join(format!("{owner}-{mode:o}"));
        fs::create_dir(&place).unwrap();
        chown(&place, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(mode)).unwrap();
        place
    }

    /// The exit code and standard error.
    fn run(&self, user: u32, directory: &Path, args: &[&str]) -> (Option<i32>, String) {
        let mut command = Command::new(self.command());
        command.args(args).env("TANTARA_DIR", directory).env_remove("TANTARA_ETCD").stdin(Stdio::null());
        let output = command.uid(user).gid(user).current_dir("/").output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    fn refuses(&self, user: u32, directory: &Path, args: &[&str], why: &str) {
        let (code, said) = self.run(user, directory, args);
        assert_eq!(code, Some(125), "{args:?}: {said}");
        assert!(said.contains(why) && said.lines().count() == 1, "{args:?}: {said}");
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").unwrap().uid() == 0
}

const EVERY_SUBCOMMAND: [&[&str]; 7] = [
    &["set", "x"],
    &["clear", "x"],
    &["pulse", "x"],
    &["wait", "x", "--timeout", "5s"],
    &["is-set", "x"],
    &["rm", "x"],
    &["ls"],
];

#[test]
fn a_directory_that_is_closed_is_no_answer() {
    let Some(fixture) = Fixture::new("a_directory_that_is_closed_is_no_answer") else { return };
    let closed = fixture.directory(ALICE, 0o700);
    for subcommand in EVERY_SUBCOMMAND {
        fixture.refuses(BOB, &closed, subcommand, "ermission denied");
    }
    // An event that root creates there belongs to the owner of the directory.
    assert_eq!(fixture.run(0, &closed, &["set", "x"]).0, Some(0));
    assert_eq!(fixture.run(ALICE, &closed, &["is-set", "x"]).0, Some(0));
    assert_eq!(fixture.run(ALICE, &closed, &["clear", "x"]).0, Some(0));
    assert_eq!(fixture.run(0, &closed, &["is-set", "x"]).0, Some(1));
}

#[test]
fn a_default_directory_that_cannot_be_made_is_a_refusal() {
    let Some(fixture) = Fixture::new("a_default_directory_that_cannot_be_made_is_a_refusal") else { return };
    let (closed, open) = (fixture.directory(ALICE, 0o700), fixture.directory(ALICE, 0o755));
    for place in [closed, open] {
        let mut command = Command::new(fixture.command());
        command.args(["set", "x"]).env("XDG_RUNTIME_DIR", &place).env_remove("TANTARA_DIR").env_remove("TANTARA_ETCD");
        let output = command.uid(BOB).gid(BOB).current_dir("/").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert!(said.contains("XDG_RUNTIME_DIR") && said.contains("ermission denied"), "{said}");
    }
}

/// Every subcommand in a default directory that others may have filled: exit code 2, and why.
fn refuse_default_directory(command: impl Fn() -> Command, runtime: &Path, why: &str) {
    let others: [&[&str]; 6] = [
        &["wait", "x", "--timeout", "0"],
        &["wait", "--unset", "x", "--timeout", "5s"],
        &["watch", "--timeout", "5s"],
        &["ls", "x"],
        &["rm", "--all"],
        &["ps"],
    ];
    for subcommand in EVERY_SUBCOMMAND.into_iter().chain(others) {
        let mut command = command();
        command.args(subcommand).env("XDG_RUNTIME_DIR", runtime).env_remove("TANTARA_DIR").env_remove("TANTARA_ETCD");
        let output = command.stdin(Stdio::null()).current_dir("/").output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{subcommand:?}: {said}");
        assert!(said.contains("cannot hold events") && said.contains(why), "{subcommand:?}: {said}");
        assert!(output.stdout.is_empty() && said.lines().count() == 1, "{subcommand:?}: {said}");
    }
}

/// The command must not take a file that another user has put there for an event of this user.
#[test]
fn a_default_directory_that_others_can_write_to_is_not_looked_into() {
    let runtime = tempfile::tempdir().unwrap();
    let place = runtime.path().join("tantara");
    assert!(in_directory(&place, &["set", "x"]).status().unwrap().success());
    fs::set_permissions(&place, Permissions::from_mode(0o777)).unwrap();
    let command = || Command::new(env!("CARGO_BIN_EXE_tantara"));
    refuse_default_directory(command, runtime.path(), "writable by other users");
    fs::remove_dir_all(&place).unwrap();
    std::os::unix::fs::symlink("/tmp", &place).unwrap();
    refuse_default_directory(command, runtime.path(), "it is not a directory");
    // Whoever names a directory has chosen it.
    fs::remove_file(&place).unwrap();
    assert!(in_directory(&place, &["set", "x"]).status().unwrap().success());
    fs::set_permissions(&place, Permissions::from_mode(0o777)).unwrap();
    let mut named = in_directory(&place, &["is-set", "x"]);
    assert!(named.env("XDG_RUNTIME_DIR", runtime.path()).status().unwrap().success());
}

#[test]
fn a_default_directory_of_another_user_is_not_looked_into() {
    let Some(fixture) = Fixture::new("a_default_directory_of_another_user_is_not_looked_into") else { return };
    let runtime = fixture.directory(BOB, 0o755);
    let place = runtime.join("tantara");
    fs::create_dir(&place).unwrap();
    chown(&place, Some(ALICE), Some(ALICE)).unwrap();
    assert_eq!(fixture.run(ALICE, &place, &["set", "x"]).0, Some(0));
    let as_bob = || {
        let mut command = Command::new(fixture.command());
        command.uid(BOB).gid(BOB);
        command
    };
    refuse_default_directory(as_bob, &runtime, &format!("it belongs to user {ALICE}, not to you"));
}

#[test]
fn a_directory_without_a_place_is_said() {
    let home = tempfile::tempdir().unwrap();
    for subcommand in ["set", "watch"] {
        let script = format!("mkdir here; cd here; rmdir ../here; exec \"$0\" --dir new {subcommand} x");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_tantara")]).current_dir(home.path()).stdin(Stdio::null());
        let output = shell.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(125), "{subcommand}: {said}");
        assert!(!said.contains("directory ;") && said.lines().count() == 1, "{subcommand}: {said}");
    }
}

#[test]
fn conditions_of_other_users_hold_as_far_as_they_can_be_seen() {
    let Some(fixture) = Fixture::new("conditions_of_other_users_hold_as_far_as_they_can_be_seen") else { return };
    // Processes of all users can be waited for.
    let (closed, passable) = (fixture.directory(ALICE, 0o700), fixture.directory(ALICE, 0o711));
    let own = std::process::id().to_string();
    assert_eq!(fixture.run(BOB, &closed, &["wait", "--pid", &own, "--timeout", "50ms"]).0, Some(124));
    let wait = |directory: &Path, file: &str| {
        let file = directory.join(file);
        fixture.run(BOB, &closed, &["wait", "--file", file.to_str().unwrap(), "--timeout", "50ms"])
    };
    let (code, said) = wait(&closed, "x");
    assert!(code == Some(125) && said.contains("ermission denied") && said.lines().count() == 1, "{said}");
    let (code, said) = wait(&passable, "x");
    assert!(code == Some(125) && said.contains("must be readable") && said.lines().count() == 1, "{said}");
    // A directory that may be entered, and one in it that may be read.
    fs::write(passable.join("there"), "").unwrap();
    fs::create_dir(passable.join("open")).unwrap();
    assert_eq!(wait(&passable, "there").0, Some(0));
    assert_eq!(wait(&passable, "open/x").0, Some(124));
}

#[test]
fn a_command_does_not_run_if_its_result_cannot_be_set() {
    let Some(fixture) = Fixture::new("a_command_does_not_run_if_its_result_cannot_be_set") else { return };
    let readable = fixture.directory(ALICE, 0o755);
    assert_eq!(fixture.run(ALICE, &readable, &["clear", "x"]).0, Some(0));
    fixture.refuses(BOB, &readable, &["set", "x", "--", "echo", "it runs"], "ermission");
    fixture.refuses(BOB, &readable, &["set", "y", "--else", "x", "--", "sh", "-c", "echo it runs >&2"], "ermission");
}

#[test]
fn who_may_only_read_may_wait_and_look() {
    let Some(fixture) = Fixture::new("who_may_only_read_may_wait_and_look") else { return };
    let open = fixture.directory(ALICE, 0o755);
    assert_eq!(fixture.run(ALICE, &open, &["set", "x"]).0, Some(0));
    for subcommand in [&["wait", "x"][..], &["is-set", "x"], &["ls"]] {
        let (code, said) = fixture.run(BOB, &open, subcommand);
        assert_eq!((code, &*said), (Some(0), ""), "{subcommand:?}");
    }
    for subcommand in [&["set", "x"][..], &["clear", "x"], &["pulse", "x"], &["rm", "x"]] {
        fixture.refuses(BOB, &open, subcommand, "is read-only");
    }
    fixture.refuses(BOB, &open, &["set", "y"], "ermission denied");
}

#[test]
fn a_file_that_grants_less_than_its_directory_names_its_owner() {
    let Some(fixture) = Fixture::new("a_file_that_grants_less_than_its_directory_names_its_owner") else { return };
    let shared = fixture.directory(0, 0o1777);
    assert_eq!(fixture.run(ALICE, &shared, &["set", "x"]).0, Some(0));
    assert_eq!(fixture.run(BOB, &shared, &["clear", "x"]).0, Some(0));
    fs::set_permissions(shared.join("x"), Permissions::from_mode(0o644)).unwrap();
    for subcommand in [&["set", "x"][..], &["is-set", "x"]] {
        fixture.refuses(BOB, &shared, subcommand, &format!("belongs to user {ALICE}"));
    }
    // Events of other users do not matter.
    let (code, said) = fixture.run(BOB, &shared, &["set", "y"]);
    assert_eq!(code, Some(0), "{said}");
}

/// The command with a directory of its own.
fn in_directory(directory: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tantara"));
    command.args(args).env("TANTARA_DIR", directory).env_remove("TANTARA_ETCD").stdin(Stdio::null());
    command
}

#[test]
fn watch_follows_an_event_to_its_new_name() {
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| assert!(in_directory(home.path(), args).status().unwrap().success());
    run(&["clear", "x"]);
    let mut watching = in_directory(home.path(), &["watch"]).stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    // The watch has begun when it prints this.
    let begun = thread::spawn({
        let directory = home.path().to_owned();
        move || {
            while !directory.join("y").exists() {
                assert!(in_directory(&directory, &["pulse", "begun"]).status().unwrap().success());
                thread::sleep(Duration::from_millis(20));
            }
        }
    });
    let mut lines = lines.map(Result::unwrap);
    assert!(lines.any(|line| line.contains(" begun ")));
    fs::rename(home.path().join("x"), home.path().join("y")).unwrap();
    begun.join().unwrap();
    run(&["set", "y"]);
    assert!(lines.any(|line| line.contains(" y set by ")));
    watching.kill().unwrap();
    watching.wait().unwrap();
}

#[test]
fn watch_makes_a_directory_as_an_event_would() {
    let home = tempfile::tempdir().unwrap();
    let [by_set, by_watch] = ["by-set", "by-watch"].map(|name| home.path().join(name));
    assert!(in_directory(&by_set, &["set", "x"]).status().unwrap().success());
    let mut watching = in_directory(&by_watch, &["watch"]).stdout(Stdio::null()).spawn().unwrap();
    while !by_watch.exists() {
        thread::sleep(Duration::from_millis(1));
    }
    let modes = [&by_set, &by_watch].map(|path| path.metadata().unwrap().permissions().mode());
    watching.kill().unwrap();
    watching.wait().unwrap();
    assert_eq!(modes[0], modes[1]);
}
