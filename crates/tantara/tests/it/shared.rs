//! Events between processes: permissions, passing them on, removal, and what is reported of waiters and setters.

use std::fs::{self, File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tantara::{Error, SharedEvent, Waiter, all, any};
use tempfile::TempDir;

use crate::LONG;
use crate::child_process::{ChildProcess, NO, REMOVED, YES};
use crate::refused::become_nobody;

/// The tasks of this file.
pub(crate) fn run(action: &str, directory: &Path, words: &[&str]) -> Option<i32> {
    Some(match (action, words) {
        ("wait_for_inherited", [number]) => match SharedEvent::inherited(number.parse().unwrap()) {
            Ok(event) => {
                event.wait().unwrap();
                YES
            }
            Err(error) => {
                assert!(error.to_string().contains(number), "{error}");
                NO
            }
        },
        ("read", [name]) => {
            become_nobody();
            read_only(&SharedEvent::open_in(directory, name).unwrap())
        }
        ("pulse", [name, times]) => {
            let event = SharedEvent::open_in(directory, name).unwrap();
            for _ in 0..times.parse().unwrap() {
                event.pulse().unwrap();
            }
            YES
        }
        _ => return None,
    })
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(directory: &TempDir, name: &str) -> SharedEvent {
    SharedEvent::open_in(directory, name).unwrap()
}

fn start(action: &str, directory: &TempDir, words: &[&str]) -> ChildProcess {
    ChildProcess::start([action, directory.path().to_str().unwrap()].iter().chain(words))
}

/// Returns the waiters once there are `count`.
pub(crate) fn until_waiters(event: &SharedEvent, count: usize) -> Vec<Waiter> {
    let deadline = Instant::now() + LONG;
    loop {
        let waiters = event.waiters().unwrap();
        if waiters.len() == count {
            return waiters;
        }
        assert!(Instant::now() < deadline, "{count} should wait, and these do: {waiters:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The message of a panic.
fn complaint(action: impl FnOnce()) -> String {
    *catch_unwind(AssertUnwindSafe(action)).unwrap_err().downcast::<String>().unwrap()
}

// Permissions.

/// An event that may only be read can be waited for in every way, and cannot be changed.
fn read_only(event: &SharedEvent) -> i32 {
    assert!(!event.is_writable() && !event.is_set().unwrap());
    for error in [event.set(), event.clear(), event.pulse(), event.remove().map(drop)].map(Result::unwrap_err) {
        assert!(error.is_permission_denied() && error.to_string().contains("is read-only"), "{error}");
    }
    assert!(!event.wait_timeout(Duration::from_millis(1)).unwrap() && !event.is_removed());
    let outcomes = thread::scope(|scope| {
        let waits: [Box<dyn FnOnce() -> Result<(), Error> + Send>; 4] = [
            Box::new(|| event.wait()),
            Box::new(|| pollster::block_on(event.wait_async())),
            Box::new(|| any([event]).try_wait().map(drop)),
            Box::new(|| all([event]).try_wait()),
        ];
        waits.map(|wait| scope.spawn(wait)).map(|wait| wait.join().unwrap())
    });
    if outcomes.iter().all(Result::is_ok) {
        return YES;
    }
    for error in outcomes.map(Result::unwrap_err) {
        assert!(error.is_removed(), "{error}");
    }
    assert!(event.is_removed() && event.state().is_removed() && event.wait().is_err());
    REMOVED
}

/// A process that only reads, and an event that it may read. `None`, with a line that says so, if the test may not
/// become other users. The file's mode is changed before a process that may write has opened the event, or, if
/// `is_late`, after.
fn reader(directory: &TempDir, name: &str, is_late: bool) -> Option<(SharedEvent, ChildProcess)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("left out: it needs to be root");
        return None;
    }
    fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    let (event, path) = (open(directory, name), directory.path().join(name));
    if is_late {
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    }
    drop(event);
    let event = open(directory, name);
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    let participant = start("read", directory, &[name]);
    // Three threads that block, and the reactor thread.
    until_waiters(&event, 4);
    Some((event, participant))
}

#[test]
fn who_may_only_read_waits_and_does_not_set() {
    let home = directory();
    for (name, is_late) in [("at-once", false), ("late", true)] {
        let Some((event, mut participant)) = reader(&home, name, is_late) else { return };
        event.set().unwrap();
        event.clear().unwrap();
        assert_eq!(participant.answer(), YES, "{name}");
    }
}

#[test]
fn who_may_only_read_is_told_of_a_removal() {
    let home = directory();
    let Some((event, mut participant)) = reader(&home, "x", false) else { return };
    event.remove().unwrap();
    assert_eq!(participant.answer(), REMOVED);
}

#[test]
fn who_may_only_read_finds_out_that_the_file_is_taken_away() {
    let home = directory();
    let Some((_, mut participant)) = reader(&home, "x", false) else { return };
    fs::remove_file(home.path().join("x")).unwrap();
    assert_eq!(participant.answer(), REMOVED);
}

// Passing events on.

#[test]
fn an_event_is_handed_down_to_a_program() {
    let home = directory();
    for event in [SharedEvent::anonymous().unwrap(), open(&home, "x")] {
        let mut participant = ChildProcess::command(["wait_for_inherited", "."]);
        let number = event.inherit(&mut participant).unwrap();
        let start = |command: &mut Command| {
            let task = format!("wait_for_inherited\n.\n{number}");
            ChildProcess(command.env("TANTARA_TEST_TASK", task).spawn().unwrap())
        };
        let mut participants = [start(&mut participant), start(&mut participant)];
        let waiters = until_waiters(&event, 2);
        for participant in &participants {
            assert!(waiters.iter().any(|waiter| waiter.pid == Some(participant.0.id())));
        }
        // Other processes do not have it.
        assert!(!start(&mut ChildProcess::command(["wait_for_inherited"])).says_yes());
        event.set().unwrap();
        for participant in &mut participants {
            assert!(participant.says_yes());
        }
    }
}

/// Both have the same open file, but the mark of a killed process does not outlive it in the other.
#[test]
fn who_has_inherited_and_is_killed_waits_no_longer() {
    let event = SharedEvent::anonymous().unwrap();
    let mut command = ChildProcess::command([""]);
    let number = event.inherit(&mut command).unwrap();
    let participant =
        command.env("TANTARA_TEST_TASK", format!("wait_for_inherited\n.\n{number}")).spawn().map(ChildProcess);
    until_waiters(&event, 1);
    drop(participant);
    assert_eq!(event.waiters().unwrap(), []);
}

#[test]
fn a_descriptor_stands_for_the_event() {
    let home = directory();
    for event in [SharedEvent::anonymous().unwrap(), open(&home, "x")] {
        let twin = SharedEvent::from_fd(event.as_fd().try_clone_to_owned().unwrap()).unwrap();
        assert!(twin.is_writable() && twin.path().is_none());
        let participant = thread::spawn({
            let twin = twin.clone();
            move || twin.wait_timeout(LONG).unwrap()
        });
        assert_eq!(until_waiters(&event, 1), until_waiters(&twin, 1));
        event.set().unwrap();
        assert!(participant.join().unwrap() && twin.is_set().unwrap());
        twin.clear().unwrap();
        assert!(!event.is_set().unwrap());
        let error = twin.remove().unwrap_err();
        assert!(error.to_string().contains("without a name"), "{error}");
    }
    assert!(SharedEvent::anonymous().unwrap().path().is_none());
}

#[test]
fn a_descriptor_of_something_else_is_refused() {
    let home = directory();
    fs::write(home.path().join("text"), "no event").unwrap();
    let others =
        ["/dev/null", "/proc/self/status", home.path().to_str().unwrap()].map(|path| File::open(path).unwrap());
    for other in others.into_iter().chain([File::open(home.path().join("text")).unwrap()]) {
        let error = SharedEvent::from_fd(other.into()).unwrap_err();
        assert!(error.is_not_an_event(), "{error}");
    }
    let (reader, _writer) = std::io::pipe().unwrap();
    assert!(SharedEvent::inherited(reader.as_raw_fd()).unwrap_err().is_not_an_event());
    let error = SharedEvent::inherited(1_000_000).unwrap_err();
    assert!(error.to_string().contains("descriptor 1000000"), "{error}");
}

/// The kernel keeps itself from reading such memory (`man 2 memfd_secret`). So no thread could sleep on the word.
#[test]
fn a_descriptor_of_secret_memory_is_refused() {
    const MEMFD_SECRET: libc::c_long = 447;
    let home = directory();
    drop(open(&home, "x"));
    let page = fs::read(home.path().join("x")).unwrap();
    // SAFETY: takes a number.
    let number = unsafe { libc::syscall(MEMFD_SECRET, 0) };
    if number < 0 {
        println!("SKIPPED: {}", std::io::Error::last_os_error());
        return;
    }
    // SAFETY: the descriptor is new.
    let secret = File::from(unsafe { OwnedFd::from_raw_fd(number as RawFd) });
    secret.set_len(page.len() as u64).unwrap();
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
    // SAFETY: a new mapping where the kernel likes, of a file that is open.
    let there = unsafe { libc::mmap(std::ptr::null_mut(), page.len(), access, kind, secret.as_raw_fd(), 0) };
    assert_ne!(there, libc::MAP_FAILED);
    // SAFETY: it is mapped, and as long as the page.
    unsafe { std::ptr::copy_nonoverlapping(page.as_ptr(), there.cast(), page.len()) };
    let error = SharedEvent::from_fd(secret.into()).unwrap_err();
    assert!(error.is_not_an_event() && error.to_string().contains("no thread can sleep"), "{error}");
}

// Removal.

#[test]
fn everyone_who_waits_is_told_of_a_removal() {
    let home = directory();
    let (event, other) = (open(&home, "x"), open(&home, "y"));
    let local = tantara::Event::new();
    let mut participant = start("wait", &home, &["x"]);
    thread::scope(|scope| {
        let waits: [Box<dyn FnOnce() -> Result<(), Error> + Send>; 7] = [
            Box::new(|| event.wait()),
            Box::new(|| event.wait_timeout(LONG).map(drop)),
            Box::new(|| pollster::block_on(event.wait_async())),
            Box::new(|| any([&other, &event]).try_wait().map(drop)),
            Box::new(|| any([&local as &dyn tantara::Waitable, &event]).try_wait_timeout(LONG).map(drop)),
            // The first is not set yet; the second never will be.
            Box::new(|| all([&other, &event]).try_wait()),
            Box::new(|| all([&local as &dyn tantara::Waitable, &other, &event]).try_wait_timeout(LONG).map(drop)),
        ];
        let panicking = scope.spawn(|| complaint(|| assert!(any([&other, &event]).wait() > 1)));
        let participants = waits.map(|wait| scope.spawn(wait));
        // The other process, seven threads that block, and the reactor thread.
        until_waiters(&event, 9);
        event.remove().unwrap();
        for participant in participants {
            let error = participant.join().unwrap().unwrap_err();
            assert!(error.is_removed() && error.to_string().ends_with("x was removed"), "{error}");
        }
        assert!(panicking.join().unwrap().ends_with("x was removed"));
    });
    assert_eq!(participant.answer(), REMOVED);
    assert!(other.waiters().unwrap().is_empty());
}

#[test]
fn what_was_removed_can_do_nothing_and_the_name_is_free() {
    let home = directory();
    let (event, twin) = (open(&home, "x"), open(&home, "x"));
    event.set().unwrap();
    assert!(event.remove().unwrap() && !event.remove().unwrap());
    assert!(!home.path().join("x").exists());
    assert!(event.is_removed() && twin.is_removed() && twin.state().is_removed());
    let moment = Duration::ZERO;
    let errors = [
        twin.is_set().unwrap_err(),
        twin.last_set().unwrap_err(),
        twin.set().unwrap_err(),
        twin.pulse().unwrap_err(),
        twin.clear().unwrap_err(),
        twin.wait().unwrap_err(),
        twin.wait_timeout(moment).unwrap_err(),
        pollster::block_on(twin.wait_async()).unwrap_err(),
        any([&twin]).try_wait_timeout(moment).unwrap_err(),
        all([&twin]).try_wait_timeout(moment).unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_removed() && !error.is_not_an_event(), "{error}");
        assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::NotFound);
    }
    let again = open(&home, "x");
    assert!(!again.is_set().unwrap() && !again.is_removed());
    assert!(!event.remove().unwrap());
    assert!(home.path().join("x").exists() && !again.is_removed(), "it is not the new one that was removed");
    again.set().unwrap();
}

#[test]
fn who_was_released_before_the_removal_is_released() {
    let home = directory();
    let event = open(&home, "x");
    let wait = event.wait_async();
    let (one, each) = (any([&event]), all([&event]));
    event.set().unwrap();
    event.clear().unwrap();
    event.remove().unwrap();
    assert!(pollster::block_on(wait).is_ok());
    assert_eq!(one.try_wait().unwrap(), 0);
    assert!(each.try_wait().is_ok());
}

/// The process that removed it was killed in between.
#[test]
fn an_event_that_is_marked_as_gone_is_unlinked_by_the_next_opening() {
    let home = directory();
    let (event, path) = (open(&home, "x"), home.path().join("x"));
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    event.remove().unwrap();
    let mut gone = vec![0; 4096];
    file.read_exact_at(&mut gone, 0).unwrap();
    fs::write(&path, &gone).unwrap();
    let dead = fs::metadata(&path).unwrap().ino();
    assert!(SharedEvent::list_in(&home).unwrap().is_empty(), "it is no event any more");
    assert!(SharedEvent::find_in(&home, "x").unwrap().is_none());
    fs::write(&path, &gone).unwrap();
    let again = open(&home, "x");
    assert!(!again.is_removed() && again.set().is_ok());
    assert!(fs::metadata(&path).unwrap().ino() != dead || fs::read(&path).unwrap() != gone);
}

/// A thread that is interrupted all the time is listed and notices a removal like any other.
#[test]
fn signals_do_not_keep_a_waiter_from_its_duties() {
    let home = directory();
    let event = open(&home, "x");
    let mut participants = [start("interrupted", &home, &["x"]), start("interrupted", &home, &["x"])];
    until_waiters(&event, 2);
    fs::remove_file(home.path().join("x")).unwrap();
    for participant in &mut participants {
        assert_eq!(participant.answer(), REMOVED);
    }
}

// What is reported of waiters and setters.

#[test]
fn waiters_are_told_of_as_they_are() {
    let home = directory();
    let event = open(&home, "x");
    assert_eq!(event.waiters().unwrap(), []);
    let began = SystemTime::now() - Duration::from_millis(1);
    let mut participant = start("wait_timeout", &home, &[&LONG.as_nanos().to_string(), "x"]);
    let waiter = until_waiters(&event, 1).remove(0);
    assert_eq!(waiter.pid, Some(participant.0.id()));
    assert!(fs::exists(format!("/proc/{}/task/{}", waiter.pid.unwrap(), waiter.tid.unwrap())).unwrap());
    assert!((began..=SystemTime::now()).contains(&waiter.since), "{waiter:?}");
    let arguments = waiter.command.split_once(' ').unwrap().1;
    assert_eq!(arguments, "child_process::child_process --exact --nocapture --test-threads 1");
    // A task is listed by the reactor thread of its process. Those who have waited longest come first.
    let task = start("wait_async", &home, &[&LONG.as_nanos().to_string(), "x"]);
    let waiters = until_waiters(&event, 2);
    assert_eq!(
        waiters.iter().map(|waiter| waiter.pid).collect::<Vec<_>>(),
        [Some(participant.0.id()), Some(task.0.id())]
    );
    assert_eq!(SharedEvent::list_in(&home).unwrap().remove(0).unwrap().waiters, waiters);
    // Killed.
    drop(task);
    assert_eq!(event.waiters().unwrap(), [waiter]);
    // Released.
    event.set().unwrap();
    assert_eq!(event.waiters().unwrap(), []);
    assert!(participant.says_yes());
    event.clear().unwrap();
    assert_eq!(event.waiters().unwrap(), []);
    // Out of time.
    let mut participant = start("wait_timeout", &home, &[&Duration::from_millis(100).as_nanos().to_string(), "x"]);
    assert!(!participant.says_yes());
    assert_eq!(event.waiters().unwrap(), []);
}

#[test]
fn the_last_set_is_told_of() {
    let home = directory();
    let event = open(&home, "x");
    assert_eq!(event.last_set().unwrap(), None);
    event.clear().unwrap();
    assert_eq!(event.last_set().unwrap(), None);
    // The clock ticks every few milliseconds.
    let began = SystemTime::now() - Duration::from_millis(50);
    let mut participant = start("set", &home, &["x"]);
    let process = participant.0.id();
    assert!(participant.says_yes());
    let last = event.last_set().unwrap().unwrap();
    assert_eq!(last.pid, Some(process));
    assert!((began..=SystemTime::now()).contains(&last.at), "{last:?}");
    event.set().unwrap();
    assert_eq!(event.last_set().unwrap().as_ref(), Some(&last), "it was set already");
    event.clear().unwrap();
    assert_eq!(event.last_set().unwrap().as_ref(), Some(&last));
    assert_eq!(SharedEvent::list_in(&home).unwrap().remove(0).unwrap().last_set, Some(last));
    event.set().unwrap();
    assert_eq!(event.last_set().unwrap().unwrap().pid, Some(std::process::id()));
}

#[test]
fn a_state_is_the_same_although_a_waiter_falls_asleep() {
    let event = SharedEvent::anonymous().unwrap();
    let before = event.state();
    let with_waiter = thread::scope(|scope| {
        scope.spawn(|| event.wait().unwrap());
        while event.waiters().unwrap().is_empty() {
            thread::sleep(Duration::from_millis(5));
        }
        let state = event.state();
        event.set().unwrap();
        state
    });
    assert_eq!(with_waiter, before);
    assert_ne!(event.state(), before);
}

#[test]
fn every_set_is_counted() {
    const SETS: u32 = 3_000;
    let home = directory();
    let event = open(&home, "x");
    let first = event.state();
    assert!(!first.is_set() && !first.is_removed() && first == event.state());
    let (tell, told) = channel();
    let watcher = thread::spawn({
        let event = event.clone();
        move || {
            let (mut state, mut sets) = (first, 0);
            while let Ok(next) = pollster::block_on(event.changed(state)) {
                assert!(next != state, "nothing has changed");
                sets += next.sets_since(state);
                state = next;
                if state.is_removed() {
                    break;
                }
                if sets == SETS {
                    tell.send(()).unwrap();
                }
            }
            sets
        }
    });
    assert!(start("pulse", &home, &["x", &SETS.to_string()]).says_yes());
    told.recv_timeout(LONG).expect("some were not counted");
    let last = event.state();
    assert_eq!(last.sets_since(first), SETS);
    event.remove().unwrap();
    assert_eq!(watcher.join().unwrap(), SETS);
    assert!(pollster::block_on(event.changed(last)).unwrap().is_removed());
}

#[test]
fn one_may_look_without_making_anything() {
    let home = directory();
    assert!(SharedEvent::find_in(&home, "x").unwrap().is_none());
    assert!(SharedEvent::find_in(home.path().join("nowhere"), "x").unwrap().is_none());
    assert!(SharedEvent::list_in(home.path().join("nowhere")).unwrap().is_empty());
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
    for name in ["b", "c", "a"] {
        open(&home, name);
    }
    fs::write(home.path().join("d"), "no event").unwrap();
    fs::write(home.path().join(".hidden"), "").unwrap();
    SharedEvent::find_in(&home, "c").unwrap().unwrap().set().unwrap();
    let found = SharedEvent::list_in(&home).unwrap();
    let events: Vec<_> = found.iter().flatten().map(|event| (&*event.name, event.is_set)).collect();
    assert_eq!(events, [("a", false), ("b", false), ("c", true)]);
    assert!(found.len() == 4 && found[3].as_ref().unwrap_err().is_not_an_event());
    let error = SharedEvent::list_in(home.path().join("a")).unwrap_err();
    assert!(error.to_string().contains("not a directory"), "{error}");
}
