//! Holds: an event is set for as long as a process lives, and not longer, whatever ends the process.

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::thread;
use std::time::Duration;

use tantara::{SharedEvent, all, any, interruptible};
use tempfile::TempDir;

use crate::LONG;
use crate::child_process::{ChildProcess, NO, YES};
use crate::children::{Child, shared_memory};
use crate::hostile::Random;
use crate::refused::become_nobody;

/// The tasks of this file.
pub(crate) fn run(action: &str, directory: &Path, words: &[&str]) -> Option<i32> {
    let open = |name: &str| SharedEvent::open_in(directory, name).unwrap();
    Some(match (action, words) {
        ("hold", [name]) => {
            let _hold = open(name).hold().unwrap();
            println!("\n> held");
            thread::sleep(LONG);
            NO
        }
        ("hold_and_fork", [name]) => hold_and_fork(&open(name)),
        ("hold_while_forking", [name]) => hold_while_forking(&open(name)),
        ("hold_during_a_slow_fork", [name]) => hold_during_a_slow_fork(&open(name)),
        ("hold_without_proc", [name]) => hold_without_proc(directory, &open(name)),
        ("hold_storm", [name, kills]) => storm(directory, name, kills.parse().unwrap()),
        ("read_holds", [name]) => {
            become_nobody();
            read_holds(&open(name))
        }
        ("read_a_pulse", [name]) => {
            become_nobody();
            let event = open(name);
            println!("\n> held");
            event.wait_unset().unwrap();
            println!("\n> unset");
            if event.wait_timeout(LONG).unwrap() { YES } else { NO }
        }
        _ => return None,
    })
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn open(directory: &TempDir) -> SharedEvent {
    SharedEvent::open_in(directory, "event").unwrap()
}

fn another(event: &SharedEvent) -> SharedEvent {
    SharedEvent::from_fd(event.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

fn start(action: &str, directory: &TempDir, words: &[&str]) -> ChildProcess {
    let task = [action, directory.path().to_str().unwrap()];
    let command = ChildProcess::command(task.iter().chain(words)).stdout(Stdio::piped()).spawn();
    ChildProcess(command.unwrap())
}

/// A process that holds the event.
fn holder(directory: &TempDir) -> ChildProcess {
    let mut holder = start("hold", directory, &["event"]);
    let lines = BufReader::new(holder.0.stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line == "> held"), "it does not hold the event");
    holder
}

fn is_set(event: &SharedEvent) -> bool {
    // In every way.
    let poll = event.wait_timeout(Duration::ZERO).unwrap();
    let (is_set, unset) = (event.is_set().unwrap(), event.wait_unset_timeout(Duration::ZERO).unwrap());
    assert_eq!((poll, unset, event.state().is_set()), (is_set, !is_set, is_set));
    assert_eq!(any([event]).try_wait_timeout(Duration::ZERO).unwrap().is_some(), is_set);
    is_set
}

#[test]
fn an_event_is_set_while_it_is_held() {
    let (directory, anonymous) = (directory(), SharedEvent::anonymous().unwrap());
    for event in [open(&directory), anonymous] {
        let other = another(&event);
        assert!(!is_set(&event));
        let before = event.state();
        let hold = event.hold().unwrap();
        assert!(is_set(&event) && is_set(&other) && is_set(hold.event()));
        assert_eq!(other.state().sets_since(before), 1);
        assert_eq!(other.last_set().unwrap().unwrap().pid, Some(std::process::id()));
        drop(hold);
        assert!(!is_set(&event) && !is_set(&other));
        assert_eq!(other.state().sets_since(before), 1);
    }
}

#[test]
fn a_clear_ends_no_hold_and_a_set_outlives_it() {
    let event = SharedEvent::anonymous().unwrap();
    let hold = event.hold().unwrap();
    event.clear().unwrap();
    event.pulse().unwrap();
    assert!(is_set(&event));
    event.set().unwrap();
    event.clear().unwrap();
    assert!(is_set(&event));
    event.set().unwrap();
    drop(hold);
    assert!(is_set(&event), "it was set meanwhile");
    drop(event.hold().unwrap());
    assert!(is_set(&event), "it was set before");
    let hold = event.hold().unwrap();
    event.clear().unwrap();
    drop(hold);
    assert!(!is_set(&event), "it was cleared meanwhile");
}

#[test]
fn an_event_is_set_as_long_as_one_of_several_holders_lives() {
    let event = SharedEvent::anonymous().unwrap();
    let mut holds: Vec<_> = (0..10).map(|_| another(&event).hold().unwrap()).collect();
    while let Some(hold) = holds.pop() {
        assert!(is_set(&event));
        drop(hold);
    }
    assert!(!is_set(&event));
}

#[test]
fn a_hold_releases_waits_and_its_end_releases_waits_until_unset() {
    let event = SharedEvent::anonymous().unwrap();
    for _ in 0..20 {
        thread::scope(|scope| {
            let waits = [
                scope.spawn(|| another(&event).wait().unwrap()),
                scope.spawn(|| pollster::block_on(another(&event).wait_async()).unwrap()),
                scope.spawn(|| all([&another(&event)]).try_wait().unwrap()),
            ];
            // Two threads that block, and the reactor thread.
            crate::shared::until_waiters(&event, 3);
            let hold = event.hold().unwrap();
            waits.into_iter().for_each(|wait| wait.join().unwrap());
            let waits = [
                scope.spawn(|| another(&event).wait_unset().unwrap()),
                scope.spawn(|| pollster::block_on(another(&event).wait_unset_async()).unwrap()),
            ];
            crate::shared::until_waiters(&event, 2);
            drop(hold);
            waits.into_iter().for_each(|wait| wait.join().unwrap());
        });
    }
}

#[test]
fn an_event_is_unset_at_once_when_its_holder_is_killed() {
    let home = directory();
    let event = open(&home);
    for _ in 0..3 {
        let holder = holder(&home);
        assert!(is_set(&event));
        // Sends SIGKILL, and returns when the process has ended.
        drop(holder);
        assert!(!event.is_set().unwrap());
        assert!(!event.wait_timeout(Duration::from_millis(60)).unwrap(), "a false signal");
        assert!(!is_set(&open(&home)));
    }
    // Nobody else looks at it before it is listed.
    drop(holder(&home));
    assert!(!SharedEvent::list_in(&home).unwrap()[0].as_ref().unwrap().is_set);
    // Nor before it is set.
    drop(holder(&home));
    event.set().unwrap();
    assert!(is_set(&event));
    event.clear().unwrap();
    assert!(!is_set(&event));
}

/// Nobody else asks: the wait itself finds out.
#[test]
fn a_wait_until_unset_notices_that_the_holder_was_killed() {
    let home = directory();
    let event = open(&home);
    for way in 0..3 {
        let holder = holder(&home);
        thread::scope(|scope| {
            let waiting = another(&event);
            let wait = scope.spawn(move || match way {
                0 => waiting.wait_unset_timeout(LONG).unwrap(),
                1 => pollster::block_on(waiting.wait_unset_async()).is_ok(),
                _ => {
                    let state = pollster::block_on(waiting.changed(waiting.state())).unwrap();
                    !state.is_set()
                }
            });
            if way < 2 {
                crate::shared::until_waiters(&event, 1);
            } else {
                thread::sleep(Duration::from_millis(20));
            }
            drop(holder);
            assert!(wait.join().unwrap());
        });
    }
}

#[test]
fn an_event_is_set_while_another_holder_lives_when_one_is_killed() {
    let home = directory();
    let event = open(&home);
    let (first, second) = (holder(&home), holder(&home));
    drop(first);
    assert!(is_set(&event));
    let own = event.hold().unwrap();
    drop(second);
    assert!(is_set(&event));
    drop(own);
    assert!(!is_set(&event));
}

/// The child of a fork holds nothing, and cannot end the hold of its parent; nor can a program that it executes.
fn hold_and_fork(event: &SharedEvent) -> i32 {
    let number = shared_memory();
    let mut hold = Some(event.hold().unwrap());
    let child = Child::fork(|| {
        // The copy has no effect.
        drop(hold.take());
        number.fetch_add(1, Relaxed);
        thread::sleep(LONG);
    });
    while number.load(Relaxed) == 0 {
        thread::yield_now();
    }
    let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
    assert!(event.is_set().unwrap(), "the child has ended the hold");
    drop(hold.take());
    assert!(!event.is_set().unwrap(), "the child still holds it");
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    child.kill();
    YES
}

#[test]
fn the_child_of_a_fork_holds_nothing() {
    let home = directory();
    assert!(start("hold_and_fork", &home, &["event"]).says_yes());
}

/// One thread forks while another begins a hold, which ends with their process: the child, which lives, keeps nothing.
fn hold_while_forking(event: &SharedEvent) -> i32 {
    let forked = shared_memory();
    for round in 0..40 {
        let mut parent = Child::fork(|| {
            thread::scope(|scope| {
                scope.spawn(|| {
                    thread::sleep(Duration::from_micros(u64::from(round % 8 * 20)));
                    std::mem::forget(event.hold().unwrap());
                });
                thread::sleep(Duration::from_micros(60));
                std::mem::forget(Child::fork(|| {
                    // SAFETY: takes numbers. It outlives its parent.
                    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, 0) };
                    forked.fetch_add(1, Relaxed);
                    thread::sleep(Duration::from_secs(2));
                }));
            });
            while forked.load(Relaxed) <= round {
                thread::yield_now();
            }
        });
        while !parent.has_ended() {
            thread::yield_now();
        }
        assert!(!event.is_set().unwrap(), "a child keeps the hold of round {round}");
    }
    YES
}

#[test]
fn no_child_keeps_a_hold_that_begins_while_it_is_forked() {
    let home = directory();
    assert!(start("hold_while_forking", &home, &["event"]).says_yes());
}

/// In a root that contains events and nothing else.
fn hold_without_proc(directory: &Path, event: &SharedEvent) -> i32 {
    let anonymous = SharedEvent::anonymous().unwrap();
    std::os::unix::fs::chroot(directory).unwrap();
    let inside = SharedEvent::open_in("/", "event").unwrap();
    let hold = inside.hold().unwrap();
    assert!(event.is_set().unwrap() && inside.is_set().unwrap());
    thread::scope(|scope| {
        let wait = scope.spawn(|| event.wait_unset_timeout(LONG).unwrap());
        crate::shared::until_waiters(&inside, 1);
        drop(hold);
        assert!(wait.join().unwrap());
    });
    let errors = [anonymous.hold().unwrap_err(), anonymous.waiters().unwrap_err()];
    assert!(errors.iter().all(|error| error.to_string().contains("without /proc")), "{errors:?}");
    YES
}

#[test]
fn an_event_with_a_name_can_be_held_without_proc() {
    if crate::hostile::is_root("an_event_with_a_name_can_be_held_without_proc") {
        let home = directory();
        assert!(start("hold_without_proc", &home, &["event"]).says_yes());
    }
}

/// A process with much memory forks for seconds.
fn hold_during_a_slow_fork(event: &SharedEvent) -> i32 {
    static FORKS: AtomicU32 = AtomicU32::new(0);
    extern "C" fn is_slow() {
        FORKS.fetch_add(1, Relaxed);
        thread::sleep(Duration::from_secs(1));
    }
    // Registered before that of the library, so called after it.
    // SAFETY: the handler may be called before any fork.
    assert_eq!(unsafe { libc::pthread_atfork(Some(is_slow), None, None) }, 0);
    drop(event.hold().unwrap());
    thread::scope(|scope| {
        scope.spawn(|| Child::fork(|| ()).status());
        while FORKS.load(Relaxed) == 0 {
            thread::yield_now();
        }
        let hold = event.hold().unwrap();
        assert!(event.is_set().unwrap());
        drop(hold);
    });
    YES
}

#[test]
fn a_hold_that_begins_during_a_slow_fork_waits_for_its_end() {
    assert!(start("hold_during_a_slow_fork", &directory(), &["event"]).says_yes());
}

/// A process that may only read sees holds, and that their holders were killed.
fn read_holds(event: &SharedEvent) -> i32 {
    assert!(!event.is_writable());
    assert!(event.hold().unwrap_err().is_permission_denied());
    assert!(is_set(event), "it is held");
    println!("\n> held");
    event.wait_unset().unwrap();
    assert!(!is_set(event));
    event.wait().unwrap();
    assert!(is_set(event), "it is held again");
    pollster::block_on(event.wait_unset_async()).unwrap();
    YES
}

#[test]
fn a_process_that_may_only_read_notices_that_a_holder_was_killed() {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("left out: it needs to be root");
        return;
    }
    let home = directory();
    fs::set_permissions(&home, PermissionsExt::from_mode(0o755)).unwrap();
    drop(open(&home));
    let first = holder(&home);
    let mut reader = start("read_holds", &home, &["event"]);
    let mut lines = BufReader::new(reader.0.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().map(Result::unwrap).any(|line| line == "> held"));
    drop(first);
    let event = open(&home);
    // The reader waits again.
    crate::shared::until_waiters(&event, 1);
    let second = holder(&home);
    thread::sleep(Duration::from_millis(100));
    drop(second);
    assert!(reader.says_yes());
}

/// Nobody has looked for the killed holder when the event is set, cleared or pulsed.
#[test]
fn what_follows_a_killed_holder_happens_to_an_unset_event() {
    let home = directory();
    let event = open(&home);
    let (before, own) = (event.state(), Some(std::process::id()));
    drop(holder(&home));
    event.set().unwrap();
    assert_eq!(event.last_set().unwrap().unwrap().pid, own, "the setter, not the holder");
    assert_eq!(event.state().sets_since(before), 2);
    event.clear().unwrap();
    drop(holder(&home));
    event.pulse().unwrap();
    assert_eq!(event.last_set().unwrap().unwrap().pid, own);
    assert_eq!(event.state().sets_since(before), 4);
}

/// A waiter that may only read cannot end the hold of a killed process, and misses no pulse all the same.
#[test]
fn a_pulse_after_a_killed_holder_releases_a_process_that_may_only_read() {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        println!("left out: it needs to be root");
        return;
    }
    let home = directory();
    fs::set_permissions(&home, PermissionsExt::from_mode(0o755)).unwrap();
    let event = open(&home);
    let holder = holder(&home);
    let mut reader = start("read_a_pulse", &home, &["event"]);
    let mut lines = BufReader::new(reader.0.stdout.take().unwrap()).lines();
    assert!(lines.by_ref().map(Result::unwrap).any(|line| line == "> held"));
    drop(holder);
    assert!(lines.by_ref().map(Result::unwrap).any(|line| line == "> unset"));
    crate::shared::until_waiters(&event, 1);
    event.pulse().unwrap();
    assert!(reader.says_yes());
}

/// The lock of a process that was stopped while it ended a hold. It lasts until the file is closed.
fn stopped_while_it_ends_a_hold(directory: &TempDir) -> File {
    const ENDING: i64 = (1 << 41) - 1;
    let file = File::options().read(true).write(true).open(directory.path().join("event")).unwrap();
    // SAFETY: all zeros are a valid lock.
    let mut lock: libc::flock64 = unsafe { std::mem::zeroed() };
    (lock.l_type, lock.l_start, lock.l_len) = (libc::F_WRLCK as _, ENDING, 1);
    let number = if cfg!(target_pointer_width = "32") { 221 } else { libc::SYS_fcntl };
    // SAFETY: the lock is valid for reading.
    let locked = unsafe { libc::syscall(number, file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    assert_eq!(locked, 0, "{}", std::io::Error::last_os_error());
    file
}

/// Nobody can end the hold of the killed process, which another one has begun to do.
#[test]
fn no_signal_is_lost_while_a_process_is_stopped_in_the_end_of_a_hold() {
    let set_and_clear = |event: &SharedEvent| event.set().and_then(|()| event.clear()).unwrap();
    let signals: [&dyn Fn(&SharedEvent); 3] =
        [&set_and_clear, &|event| event.pulse().unwrap(), &|event| drop(event.hold().unwrap())];
    for signal in signals {
        let home = directory();
        let event = open(&home);
        drop(holder(&home));
        let stopped = stopped_while_it_ends_a_hold(&home);
        for round in 0..2 {
            assert!(!is_set(&event));
            let before = event.state();
            thread::scope(|scope| {
                let waits = [
                    scope.spawn(|| another(&event).wait_timeout(LONG).unwrap()),
                    scope.spawn(|| another(&event).wait_next_timeout(LONG).unwrap()),
                    scope.spawn(|| any([&another(&event)]).try_wait_timeout(LONG).unwrap().is_some()),
                    scope.spawn(|| {
                        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                        let awaiting = another(&event);
                        runtime.block_on(async { tokio::time::timeout(LONG, awaiting.wait_async()).await.is_ok() })
                    }),
                ];
                crate::shared::until_waiters(&event, 4);
                signal(&event);
                waits.into_iter().for_each(|wait| assert!(wait.join().unwrap(), "round {round}"));
            });
            assert!(!is_set(&event));
            assert_eq!(event.state().sets_since(before), 1);
            assert_eq!(event.last_set().unwrap().unwrap().pid, Some(std::process::id()), "the holder had another");
        }
        drop(stopped);
        let before = event.state();
        assert!(!is_set(&event), "it is ended for all");
        assert_eq!(event.state(), before);
    }
}

#[test]
fn a_wait_that_was_given_up_is_not_listed_although_a_hold_cannot_be_ended() {
    let home = directory();
    let event = open(&home);
    drop(holder(&home));
    let _stopped = stopped_while_it_ends_a_hold(&home);
    static GIVEN_UP: AtomicBool = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            crate::shared::until_waiters(&another(&event), 1);
            GIVEN_UP.store(true, Relaxed);
        });
        assert!(!interruptible(|| GIVEN_UP.load(Relaxed), || event.wait_timeout(Duration::MAX)).unwrap());
        // By this thread, which still lives.
        assert_eq!(event.waiters().unwrap(), []);
    });
}

#[test]
fn an_event_that_was_removed_cannot_be_held_and_its_removal_ends_holds() {
    let home = directory();
    let event = open(&home);
    let hold = event.hold().unwrap();
    event.remove().unwrap();
    assert!(event.is_set().unwrap_err().is_removed() && event.hold().unwrap_err().is_removed());
    let next = open(&home);
    assert!(!is_set(&next));
    drop(hold);
    assert!(!is_set(&next) && event.is_removed());
}

#[test]
fn a_hold_takes_one_descriptor_and_gives_it_back() {
    let event = SharedEvent::anonymous().unwrap();
    let mut numbers = std::collections::BTreeSet::new();
    for _ in 0..100 {
        let holds = [event.hold().unwrap(), event.hold().unwrap()];
        numbers.insert(holds.iter().map(|hold| format!("{hold:?}")).collect::<String>());
        assert!(is_set(&event));
    }
    assert!(!is_set(&event));
}

/// Processes hold the event for moments, and are killed at random. Nobody leaves it set.
fn storm(directory: &Path, name: &str, kills: u32) -> i32 {
    let event = SharedEvent::open_in(directory, name).unwrap();
    let mut random = Random(7);
    let mut seen_set = 0;
    for _ in 0..kills {
        let children: Vec<_> = (0..3)
            .map(|_| {
                let seed = random.next();
                Child::fork(|| {
                    let event = SharedEvent::open_in(directory, name).unwrap();
                    let mut random = Random(seed);
                    loop {
                        let hold = event.hold().unwrap();
                        assert!(event.is_set().unwrap(), "it is held");
                        thread::sleep(Duration::from_micros(random.next() % 300));
                        assert!(event.is_set().unwrap(), "it was held all the time");
                        drop(hold);
                    }
                })
            })
            .collect();
        thread::sleep(Duration::from_micros(1_000 + random.next() % 3_000));
        seen_set += u32::from(event.is_set().unwrap());
        children.into_iter().for_each(Child::kill);
        assert!(!event.is_set().unwrap(), "a killed process has left it set");
        assert!(event.wait_unset_timeout(Duration::ZERO).unwrap() && !event.wait_timeout(Duration::ZERO).unwrap());
    }
    assert!(seen_set > 0);
    YES
}

#[test]
fn a_storm_of_kills_leaves_nothing_set() {
    let kills = env::var("TANTARA_STRESS_ROUNDS").unwrap_or_else(|_| "50".into());
    assert!(start("hold_storm", &directory(), &["event", &kills]).says_yes());
}
