//! Waiters of files and directories that are renamed and removed by other programs; files that are not opened;
//! children of forks.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tantara::SharedEvent;
use tempfile::TempDir;

use crate::LONG;
use crate::child_process::{ChildProcess, REMOVED, YES};
use crate::children::Child;
use crate::refused::forbid_nameless_files;
use crate::shared::until_waiters;

/// The tasks of this file.
pub(crate) fn run(action: &str, directory: &Path, words: &[&str]) -> Option<i32> {
    Some(match (action, words) {
        // By a path that leads elsewhere as soon as it waits.
        ("wait_elsewhere", [name]) => {
            env::set_current_dir(directory.parent().unwrap()).unwrap();
            let event = SharedEvent::open_in(directory.file_name().unwrap(), name).unwrap();
            env::set_current_dir("/proc").unwrap();
            event.wait().unwrap();
            YES
        }
        ("forks", []) => {
            forks(directory);
            YES
        }
        ("drafts", []) => {
            drafts(directory);
            YES
        }
        _ => return None,
    })
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(directory: &Path, name: &str) -> SharedEvent {
    SharedEvent::open_in(directory, name).unwrap()
}

/// A process that waits for the event, and has slept for a moment.
fn sleeper(action: &str, directory: &Path, name: &str) -> ChildProcess {
    let event = open(directory, name);
    let participant = ChildProcess::start([action, directory.to_str().unwrap(), name]);
    until_waiters(&event, 1);
    participant
}

/// The answer of a process that must not wait for ever.
fn answer(participant: &mut ChildProcess) -> i32 {
    let deadline = Instant::now() + LONG;
    while participant.0.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "the process still waits");
        thread::sleep(Duration::from_millis(5));
    }
    participant.answer()
}

#[test]
fn who_waits_for_a_name_that_is_moved_away_is_told() {
    let home = directory();
    let (event, mut participant) = (open(home.path(), "x"), sleeper("wait", home.path(), "x"));
    let task = thread::spawn({
        let own = open(home.path(), "x");
        move || pollster::block_on(own.wait_async())
    });
    until_waiters(&event, 2);
    fs::rename(home.path().join("x"), home.path().join("y")).unwrap();
    let moved = open(home.path(), "y");
    let mut other = sleeper("wait", home.path(), "y");
    assert_eq!(answer(&mut participant), REMOVED);
    assert!(task.join().unwrap().unwrap_err().is_removed());
    // Waiters that opened the new name are not affected.
    assert!(!moved.is_removed());
    moved.set().unwrap();
    assert_eq!(answer(&mut other), YES);
    // Opening the old name makes a new event.
    assert!(!open(home.path(), "x").is_set().unwrap());
}

#[test]
fn who_waits_for_one_of_two_names_is_told_when_it_goes() {
    let home = directory();
    let (path, twin) = (home.path().join("x"), home.path().join("twin"));
    open(home.path(), "x");
    fs::hard_link(&path, &twin).unwrap();
    let twin = open(home.path(), "twin");
    let mut participant = sleeper("wait", home.path(), "x");
    let mut other = sleeper_beside(&twin, home.path(), "twin", 2);
    fs::remove_file(&path).unwrap();
    assert_eq!(answer(&mut participant), REMOVED);
    assert!(!twin.is_removed(), "it lives on by its other name");
    twin.set().unwrap();
    assert_eq!(answer(&mut other), YES);
}

fn sleeper_beside(event: &SharedEvent, directory: &Path, name: &str, waiters: usize) -> ChildProcess {
    let participant = ChildProcess::start(["wait", directory.to_str().unwrap(), name]);
    until_waiters(event, waiters);
    participant
}

/// An event beside the one under test, whose name is moved away. Its waiter checks its file twice before it reports
/// that, and waiters that began before it have checked theirs as well.
struct Probe(ChildProcess);

impl Probe {
    fn new(directory: &Path) -> Probe {
        Probe(sleeper("wait", directory, "probe"))
    }

    fn until_looked(mut self, directory: &Path) {
        fs::rename(directory.join("probe"), directory.join("moved")).unwrap();
        assert_eq!(answer(&mut self.0), REMOVED);
    }
}

#[test]
fn a_directory_that_is_renamed_or_entered_removes_nothing() {
    let home = directory();
    let (place, renamed) = (home.path().join("place"), home.path().join("renamed"));
    let event = SharedEvent::open_in(&place, "x").unwrap();
    let mut participants =
        ["wait", "wait_elsewhere"].map(|action| ChildProcess::start([action, place.to_str().unwrap(), "x"]));
    until_waiters(&event, 2);
    let probe = Probe::new(&place);
    fs::rename(&place, &renamed).unwrap();
    probe.until_looked(&renamed);
    assert!(!event.is_removed());
    assert_eq!(event.waiters().unwrap().len(), 2, "they wait as before");
    open(&renamed, "x").set().unwrap();
    for participant in &mut participants {
        assert_eq!(answer(participant), YES);
    }
}

#[test]
fn a_directory_that_is_unmounted_removes_nothing() {
    let home = directory();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "names"]).arg(home.path()).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        return println!("a_directory_that_is_unmounted_removes_nothing is left out: nothing can be mounted here");
    }
    let event = open(home.path(), "x");
    let mut participant = sleeper("wait", home.path(), "x");
    let probe = Probe::new(home.path());
    let descriptor = File::open(home.path()).unwrap();
    assert!(Command::new("umount").arg("-l").arg(home.path()).status().unwrap().success());
    probe.until_looked(Path::new(&format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&descriptor))));
    assert!(!event.is_removed());
    event.set().unwrap();
    assert_eq!(answer(&mut participant), YES);
}

/// A process that waits to write to a pipe is not let in, and its data is not lost.
#[test]
fn a_pipe_is_not_opened() {
    let home = directory();
    let pipe = home.path().join("x");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let writer = thread::spawn({
        let pipe = pipe.clone();
        move || fs::write(pipe, "data").unwrap()
    });
    for _ in 0..20 {
        assert!(SharedEvent::open_in(&home, "x").unwrap_err().is_not_an_event());
        assert!(SharedEvent::find_in(&home, "x").unwrap_err().is_not_an_event());
        assert!(SharedEvent::list_in(&home).unwrap().remove(0).unwrap_err().is_not_an_event());
        assert!(!writer.is_finished());
        thread::sleep(Duration::from_millis(1));
    }
    // By its descriptor too, which would be reopened.
    // (With musl the standard library takes this flag for the mode of access, and leaves it out.)
    if cfg!(not(target_env = "musl")) {
        let only_stands_for_it = File::options().read(true).custom_flags(libc::O_PATH).open(&pipe).unwrap();
        assert!(SharedEvent::from_fd(only_stands_for_it.into()).unwrap_err().is_not_an_event());
        assert!(!writer.is_finished());
    }
    let mut data = String::new();
    File::open(&pipe).unwrap().read_to_string(&mut data).unwrap();
    assert_eq!(data, "data");
    writer.join().unwrap();
}

/// Takes the lease of who writes to the file. Whoever opens the file then waits until it ends: for 45 seconds, if its
/// owner does not give it up.
fn leased(path: &Path) -> Option<File> {
    const F_SETSIG: libc::c_int = 10;
    let file = File::options().read(true).write(true).open(path).unwrap();
    let deadline = Instant::now() + LONG;
    // The signal that asks for the end of the lease is one that nobody notices.
    // SAFETY: takes numbers.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), F_SETSIG, libc::SIGURG) }, 0);
    // SAFETY: takes numbers.
    while unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK) } != 0 {
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EAGAIN) {
            println!("SKIPPED: the file system has no leases: {error}");
            return None;
        }
        // A process that another test starts has a copy of each descriptor for a moment.
        assert!(Instant::now() < deadline, "{error}");
        thread::sleep(Duration::from_millis(1));
    }
    Some(file)
}

/// Any user may have leases on files of their own.
#[test]
fn a_lease_on_a_file_blocks_nobody() {
    for mode in [0o777, 0o700] {
        let home = directory();
        fs::set_permissions(&home, PermissionsExt::from_mode(mode)).unwrap();
        let path = home.path().join("x");
        SharedEvent::open_in(&home, "x").unwrap().set().unwrap();
        let Some(lease) = leased(&path) else { return };
        let errors = [
            SharedEvent::open_in(&home, "x").unwrap_err(),
            SharedEvent::find_in(&home, "x").unwrap_err(),
            SharedEvent::list_in(&home).unwrap().remove(0).unwrap_err(),
        ];
        for error in errors {
            let text = error.to_string();
            assert!(text.contains("/x: it cannot be opened, because another process keeps a lease on it"), "{text}");
        }
        // In the slot of another event.
        fs::rename(&path, home.path().join(".moved-y")).unwrap();
        let event = SharedEvent::open_in(&home, "y").unwrap();
        assert!(!event.is_set().unwrap() && event.remove().unwrap());
        fs::rename(home.path().join(".moved-y"), &path).unwrap();
        drop(lease);
        assert!(SharedEvent::open_in(&home, "x").unwrap().is_set().unwrap());
    }
}

/// Whatever is in the slot, events can be made and removed without it, and it is not changed.
#[test]
fn a_slot_that_is_occupied_is_done_without() {
    type Occupy = fn(&Path);
    let occupants: [(&str, Occupy); 5] = [
        ("a pipe", |slot| assert!(Command::new("mkfifo").arg(slot).status().unwrap().success())),
        ("a directory", |slot| fs::create_dir(slot).unwrap()),
        ("a link", |slot| std::os::unix::fs::symlink("nowhere", slot).unwrap()),
        ("a short file", |slot| fs::write(slot, "short").unwrap()),
        ("a page of zeros", |slot| fs::write(slot, [0; 4096]).unwrap()),
    ];
    for (what, occupy) in occupants {
        let home = directory();
        let slot = home.path().join(".moved-x");
        occupy(&slot);
        assert!(SharedEvent::find_in(&home, "x").unwrap().is_none(), "{what}");
        for _ in 0..3 {
            let event = open(home.path(), "x");
            event.set().unwrap();
            assert!(open(home.path(), "x").is_set().unwrap(), "{what}");
            assert!(event.remove().unwrap() && event.is_removed(), "{what}");
            assert!(SharedEvent::find_in(&home, "x").unwrap().is_none(), "{what}");
        }
        assert!(slot.symlink_metadata().is_ok(), "{what} is still there");
        assert_eq!(fs::read_dir(&home).unwrap().count(), 1, "{what}");
    }
}

/// A process that keeps the lock of an event in the slot, because it is stopped or hostile, does not block the name.
#[test]
fn a_lock_that_is_kept_does_not_block_the_name() {
    let home = directory();
    let (path, slot) = (home.path().join("x"), home.path().join(".moved-x"));
    let lock = |path: &Path| {
        let file = File::open(path).unwrap();
        // SAFETY: takes two numbers.
        assert_eq!(unsafe { libc::flock(std::os::fd::AsRawFd::as_raw_fd(&file), libc::LOCK_EX) }, 0);
        file
    };
    // It is gone, and cannot be unlinked from the slot.
    let old = open(home.path(), "x");
    let locked = lock(&path);
    assert!(old.remove().unwrap());
    assert!(slot.exists() && !path.exists());
    for _ in 0..2 {
        let new = open(home.path(), "x");
        new.set().unwrap();
        assert!(open(home.path(), "x").is_set().unwrap());
        assert!(new.remove().unwrap() && !path.exists());
    }
    drop(locked);
    assert!(open(home.path(), "x").remove().unwrap());
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0, "it was taken out as soon as it could be");
    // It is alive, and cannot be renamed to its name. It is used in the slot.
    let event = open(home.path(), "x");
    let locked = lock(&path);
    fs::rename(&path, &slot).unwrap();
    open(home.path(), "x").set().unwrap();
    assert!(SharedEvent::find_in(&home, "x").unwrap().unwrap().is_set().unwrap());
    assert!(event.is_set().unwrap() && slot.exists());
    drop(locked);
    assert!(open(home.path(), "x").is_set().unwrap());
    assert!(path.exists() && !slot.exists());
}

/// A process that was killed while it removed or made an event has left the event in its slot. Opening the name finds
/// it.
#[test]
fn a_list_shows_an_event_that_is_in_its_slot() {
    let home = directory();
    let list = || {
        let entries = SharedEvent::list_in(&home).unwrap().into_iter().map(|entry| entry.unwrap());
        entries.map(|entry| (entry.name, entry.is_set)).collect::<Vec<_>>()
    };
    let event = open(home.path(), "b");
    event.set().unwrap();
    open(home.path(), "a");
    let both = [("a".to_owned(), false), ("b".to_owned(), true)];
    assert_eq!(list(), both);
    let (path, slot) = (home.path().join("b"), home.path().join(".moved-b"));
    fs::rename(&path, &slot).unwrap();
    assert_eq!(list(), both);
    assert!(slot.exists(), "to list changes nothing");
    assert!(SharedEvent::find_in(&home, "b").unwrap().unwrap().is_set().unwrap());
    assert_eq!(list(), both);
    // The file with the name counts, not the one in the slot.
    fs::rename(&path, &slot).unwrap();
    fs::rename(home.path().join("a"), &path).unwrap();
    assert_eq!(list(), [("b".to_owned(), false)]);
    fs::remove_file(&path).unwrap();
    // Not slots of events, not events, or removed.
    for other in [".moved-", ".moved-.x", ".moved-no event", ".moved-c", "..moved-d"] {
        fs::write(home.path().join(other), "no event").unwrap();
    }
    assert_eq!(list(), [("b".to_owned(), true)]);
    event.remove().unwrap();
    assert_eq!(list(), []);
}

/// A process was killed while it removed an event without the slot, which was occupied: the file with the name is
/// marked as gone. An event in the slot has lost against it, so neither is found.
#[test]
fn an_event_in_the_slot_beside_a_removed_one_is_not_found() {
    let home = directory();
    let (path, slot, kept) = (home.path().join("x"), home.path().join(".moved-x"), home.path().join("kept"));
    let gone = open(home.path(), "x");
    fs::hard_link(&path, &kept).unwrap();
    gone.remove().unwrap();
    fs::rename(&kept, &path).unwrap();
    let loser = open(home.path(), "y");
    fs::rename(home.path().join("y"), &slot).unwrap();
    assert!(SharedEvent::list_in(&home).unwrap().is_empty());
    assert!(SharedEvent::find_in(&home, "x").unwrap().is_none());
    open(home.path(), "x").set().unwrap();
    assert!(loser.is_removed(), "those who use it are told");
    assert!(SharedEvent::find_in(&home, "x").unwrap().unwrap().is_set().unwrap());
    assert!(path.exists() && !slot.exists());
}

#[test]
fn an_empty_path_is_no_directory() {
    for error in [
        SharedEvent::list_in("").unwrap_err(),
        SharedEvent::find_in("", "x").unwrap_err(),
        SharedEvent::open_in("", "x").unwrap_err(),
    ] {
        assert!(error.is_invalid_name() && error.to_string().contains("the path is empty"), "{error}");
    }
}

#[test]
fn a_directory_that_cannot_be_entered_is_not_an_empty_one() {
    let home = directory();
    // Missing permissions are tested in `users.rs`.
    fs::write(home.path().join("file"), "").unwrap();
    std::os::unix::fs::symlink("loop", home.path().join("loop")).unwrap();
    for name in ["file", "file/below", "loop"] {
        let error = SharedEvent::find_in(home.path().join(name), "x").unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        assert!(SharedEvent::list_in(home.path().join(name)).is_err());
    }
    assert!(SharedEvent::find_in(home.path().join("nothing"), "x").unwrap().is_none());
}

const FORKS: u32 = 5_000;

/// The main thread forks while other threads open events. Each child can do everything with an event.
fn forks(directory: &Path) {
    let (is_over, opened) = (AtomicBool::new(false), AtomicU32::new(0));
    open(directory, "go").set().unwrap();
    thread::scope(|scope| {
        for number in 0..3 {
            let (is_over, opened) = (&is_over, &opened);
            scope.spawn(move || {
                while !is_over.load(Relaxed) {
                    let own = open(directory, &format!("own-{number}"));
                    own.set().unwrap();
                    let _ = SharedEvent::open("by-default").unwrap().is_set().unwrap();
                    let _ = SharedEvent::anonymous().unwrap();
                    drop((own.remove().unwrap(), SharedEvent::list_in(directory)));
                    opened.fetch_add(1, Relaxed);
                }
            });
        }
        for fork in 0..FORKS {
            let mut child = Child::fork(|| {
                let own = open(directory, "child");
                own.set().unwrap();
                own.wait().unwrap();
                open(directory, "go").wait().unwrap();
                SharedEvent::open("by-default").unwrap().clear().unwrap();
                if fork % 10 == 0 {
                    own.clear().unwrap();
                    assert!(!own.wait_timeout(Duration::from_millis(1)).unwrap());
                    pollster::block_on(open(directory, "go").wait_async()).unwrap();
                }
            });
            let deadline = Instant::now() + LONG;
            while !child.has_ended() {
                if Instant::now() > deadline {
                    is_over.store(true, Relaxed);
                    panic!("child {fork} hangs, in call {:?}", child.call());
                }
                thread::sleep(Duration::from_micros(50));
            }
        }
        is_over.store(true, Relaxed);
    });
    println!("{FORKS} forks, while {} events were opened", opened.load(Relaxed));
    assert!(opened.load(Relaxed) > 1_000);
}

#[test]
fn the_child_of_a_fork_hangs_in_no_call() {
    let home = directory();
    let mut participant = ChildProcess::command(["forks", home.path().to_str().unwrap()]);
    let mut participant = participant
        .env("XDG_RUNTIME_DIR", home.path())
        .stdout(std::process::Stdio::inherit())
        .spawn()
        .map(ChildProcess);
    assert_eq!(participant.as_mut().unwrap().answer(), YES);
}

/// Where files cannot be made without a name, old drafts of killed processes are removed, and no other files.
fn drafts(directory: &Path) {
    forbid_nameless_files();
    let make = |name: &str, is_old: bool| {
        let file = File::create(directory.join(name)).unwrap();
        if is_old {
            file.set_modified(SystemTime::now() - Duration::from_secs(3_600)).unwrap();
        }
        file
    };
    make(".draft-1-0-a", true);
    make(".draft-1-0-b", false);
    // Files of other programs whose names begin in the same way.
    for name in ["draft-1-0-c", ".draft-letter.md", ".draft-1-0-", ".draft-1-0-a-1"] {
        make(name, true);
    }
    let long = make(".draft-2-0-a", false);
    long.set_len(5_000).unwrap();
    long.set_modified(SystemTime::now() - Duration::from_secs(3_600)).unwrap();
    let at_work = make(".draft-1-0-d", true);
    // SAFETY: takes two numbers.
    assert_eq!(unsafe { libc::flock(std::os::fd::AsRawFd::as_raw_fd(&at_work), libc::LOCK_EX) }, 0);
    open(directory, "x").set().unwrap();
    let mut left: Vec<_> = fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name()).collect();
    left.sort_unstable();
    let others = [".draft-1-0-", ".draft-1-0-a-1", ".draft-1-0-b", ".draft-1-0-d", ".draft-2-0-a", ".draft-letter.md"];
    assert_eq!(left, [&others[..], &["draft-1-0-c", "x"]].concat());
}

#[test]
fn drafts_of_killed_makers_are_removed() {
    let home = directory();
    assert_eq!(ChildProcess::start(["drafts", home.path().to_str().unwrap()]).answer(), YES);
}
