//! A wait leaves no trace, however it ends, and works where the system refuses threads, mappings or system calls.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use tantara::{AutoResetEvent, Event, SharedEvent, all, any, interruptible};

use crate::child_process::{ChildProcess, REMOVED, YES};
use crate::children::Child;
use crate::refused::{become_nobody, forbid, limit};
use crate::shared::until_waiters;
use crate::{LONG, WakeCounter, poll, waiting};

/// The tasks of this file.
pub(crate) fn run(action: &str, directory: &Path, words: &[&str]) -> Option<i32> {
    Some(match (action, words) {
        ("without_mappings", [count]) => without_mappings(directory, count.parse().unwrap()),
        ("without_handler", [name]) => without_handler(directory, name),
        ("cut_off_after_fork", [name]) => cut_off_after_fork(directory, name),
        ("without_threads", names) => without_threads(directory, names),
        ("without_threads_and_sleeps_on_many", names) => {
            forbid(libc::SYS_futex_waitv, libc::ENOSYS).unwrap();
            without_threads(directory, names)
        }
        ("reactor_threads_under_signals", [rounds]) => reactor_threads_under_signals(rounds.parse().unwrap()),
        ("refused_sleeps", [errno]) => refused_sleeps(errno.parse().unwrap()),
        _ => return None,
    })
}

fn open(directory: &Path, name: &str) -> SharedEvent {
    SharedEvent::open_in(directory, name).unwrap()
}

fn cut_off(directory: &Path, name: &str) {
    OpenOptions::new().write(true).open(directory.join(name)).unwrap().set_len(0).unwrap();
}

// Waits that end by a panic.

thread_local! {
    static SHARED: RefCell<Option<SharedEvent>> = const { RefCell::new(None) };
}

/// Panics once the wait is listed.
fn panics_when_it_shows() -> bool {
    let is_shown = SHARED.with_borrow(|event| event.as_ref().is_none_or(|event| event.waiters().unwrap().len() == 1));
    if is_shown {
        std::panic::panic_any("asked");
    }
    false
}

fn panicked(wait: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(|| interruptible(panics_when_it_shows, wait))).is_err()
}

#[test]
fn a_wait_that_ends_by_a_panic_of_the_callback_is_not_counted_any_more() {
    let (event, auto_reset) = (Event::new(), AutoResetEvent::new());
    assert!(panicked(|| _ = event.wait_timeout(LONG)));
    assert!(panicked(|| _ = auto_reset.wait_timeout(LONG)));
    assert!(panicked(|| _ = any([&event]).wait_timeout(LONG)));
    assert!(panicked(|| _ = all([&event]).wait_timeout(LONG)));
    assert_eq!((waiting(&event), waiting(&auto_reset)), (0, 0));

    let shared = SharedEvent::anonymous().unwrap();
    SHARED.set(Some(shared.clone()));
    assert!(panicked(|| _ = shared.wait_timeout(LONG)));
    assert_eq!((waiting(&shared), shared.waiters().unwrap().len()), (0, 0));
    assert!(panicked(|| _ = any([&shared]).wait_timeout(LONG)));
    assert!(panicked(|| _ = all([&shared]).wait_timeout(LONG)));
    assert_eq!(waiting(&shared), 0);
    // The reactor thread may be about to set the mark, and then removes it.
    until_waiters(&shared, 0);
    shared.set().unwrap();
    assert!(shared.wait_timeout(Duration::ZERO).unwrap());
}

// Debug.

#[test]
fn debug_tells_of_this_process_alone() {
    let home = tempfile::tempdir().unwrap();
    let event = open(home.path(), "x");
    let mut other = ChildProcess::start(["wait", home.path().to_str().unwrap(), "x"]);
    until_waiters(&event, 1);
    assert_eq!(waiting(&event), 0, "the one that waits is another process: {event:?}");
    thread::scope(|scope| {
        scope.spawn(|| event.wait().unwrap());
        scope.spawn(|| pollster::block_on(event.wait_async()).unwrap());
        crate::until_waiting(&event, 2);
        let text = format!("{event:?}");
        assert!(text.contains("set: false") && text.contains("x\"") && text.contains("removed: false"), "{text}");
        event.set().unwrap();
    });
    assert_eq!(waiting(&event), 0);
    assert_eq!(other.answer(), YES);
    cut_off(home.path(), "x");
    assert!(format!("{event:?}").contains("removed: true"), "{event:?}");
}

// Truncated files.

/// Makes mappings until the limit of the process is reached. Neighbours differ, so that they are not merged.
fn take_all_mappings(taken: &mut usize) {
    loop {
        let access = if taken.is_multiple_of(2) { libc::PROT_NONE } else { libc::PROT_READ };
        let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping where the kernel likes.
        let page = unsafe { libc::mmap(ptr::null_mut(), 4096, access, kind, -1, 0) };
        if page == libc::MAP_FAILED {
            return;
        }
        *taken += 1;
    }
}

/// This many events are truncated while the process is at its limit of mappings, and another thread takes each that
/// becomes free.
fn without_mappings(directory: &Path, count: usize) -> i32 {
    let names: Vec<String> = (0..count).map(|index| format!("e{index}")).collect();
    let events: Vec<SharedEvent> = names.iter().map(|name| open(directory, name)).collect();
    let files: Vec<File> =
        names.iter().map(|name| OpenOptions::new().write(true).open(directory.join(name)).unwrap()).collect();
    let over = AtomicBool::new(false);
    let looks = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut taken = 0;
            while !over.load(SeqCst) {
                take_all_mappings(&mut taken);
                looks.fetch_add(1, SeqCst);
                // Without a pause it would take all reserves while a busy machine keeps the handler from running.
                thread::sleep(Duration::from_micros(200));
            }
        });
        for (file, event) in files.iter().zip(&events) {
            // It has found no free mapping.
            let before = looks.load(SeqCst);
            while looks.load(SeqCst) < before + 2 {
                thread::yield_now();
            }
            file.set_len(0).unwrap();
            assert!(event.is_removed());
        }
        over.store(true, SeqCst);
    });
    assert!(events.iter().all(|event| event.set().unwrap_err().is_removed()));
    YES
}

#[test]
fn a_file_that_is_cut_off_is_no_fault_where_no_more_mappings_are_to_be_had() {
    let most: usize = fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    if most > 2_000_000 {
        println!("left out: a process may have {most} mappings, which takes too long to reach");
        return;
    }
    let home = tempfile::tempdir().unwrap();
    let mut process = ChildProcess::start(["without_mappings", home.path().to_str().unwrap(), "30"]);
    assert_eq!(process.answer(), YES);
}

fn without_handler(directory: &Path, name: &str) -> i32 {
    assert!(SharedEvent::disable_sigbus_handler());
    let event = open(directory, name);
    assert!(SharedEvent::disable_sigbus_handler(), "it was in time");
    cut_off(directory, name);
    event.is_removed().into()
}

#[test]
fn a_program_that_wants_no_handler_has_none() {
    let home = tempfile::tempdir().unwrap();
    let mut process = ChildProcess::start(["without_handler", home.path().to_str().unwrap(), "x"]);
    assert_eq!(process.end().signal(), Some(libc::SIGBUS));
    let event = open(home.path(), "y");
    assert!(!SharedEvent::disable_sigbus_handler(), "too late");
    cut_off(home.path(), "y");
    assert!(event.is_removed());
}

fn cut_off_after_fork(directory: &Path, name: &str) -> i32 {
    let event = open(directory, name);
    let mut child = Child::fork(|| {
        let own = open(directory, "own");
        cut_off(directory, name);
        cut_off(directory, "own");
        assert!(event.is_removed() && own.is_removed());
    });
    assert_eq!(child.status(), 0);
    assert!(event.is_removed());
    YES
}

#[test]
fn a_file_that_is_cut_off_is_no_fault_in_the_child_of_a_fork() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(ChildProcess::start(["cut_off_after_fork", home.path().to_str().unwrap(), "x"]).answer(), YES);
}

// Reactor threads.

/// Waits where no thread can be started: for any of the events, until it is told to go on, and for all of them, until
/// one is removed.
fn without_threads(directory: &Path, names: &[&str]) -> i32 {
    let events: Vec<SharedEvent> = names.iter().map(|name| open(directory, name)).collect();
    limit(libc::RLIMIT_NPROC, 0);
    become_nobody();
    let threads = thread::Builder::new().spawn(|| {});
    assert!(threads.is_err(), "a thread was started");
    let short = Duration::from_millis(20);
    assert_eq!(any(&events).try_wait_timeout(Duration::ZERO).unwrap(), None);
    assert_eq!(any(&events).wait_timeout(short), None);
    assert!(!all(&events).wait_timeout(short));
    let error = pollster::block_on(any(&events).try_wait_async()).unwrap_err();
    assert!(error.to_string().contains("reactor thread") && !error.is_removed(), "{error}");
    assert!(pollster::block_on(events[0].wait_async()).is_err());
    // A set and a clear by another thread are not missed.
    let pulsed = any(&events);
    events[1].pulse().unwrap();
    assert_eq!(pulsed.wait(), 1);
    // A callback of `interruptible` ends this wait too.
    assert_eq!(interruptible(|| true, || any(&events).wait_timeout(LONG)), None);
    assert_eq!(any(&events).wait(), 0);
    match all(&events).try_wait() {
        Err(error) if error.is_removed() => REMOVED,
        outcome => panic!("{outcome:?}"),
    }
}

fn waits_without_threads(action: &str) {
    if !crate::hostile::is_root(action) {
        return;
    }
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(&home, PermissionsExt::from_mode(0o777)).unwrap();
    let events = ["x", "y"].map(|name| {
        let event = open(home.path(), name);
        fs::set_permissions(home.path().join(name), PermissionsExt::from_mode(0o666)).unwrap();
        event
    });
    let mut process = ChildProcess::start([action, home.path().to_str().unwrap(), "x", "y"]);
    until_waiters(&events[1], 1);
    // It may have been seen in one of the short waits.
    while until_waiters(&events[0], 1)[0].since.elapsed().unwrap_or_default() < Duration::from_millis(200) {
        thread::sleep(Duration::from_millis(1));
    }
    events[0].set().unwrap();
    until_waiters(&events[1], 0);
    until_waiters(&events[1], 1);
    fs::remove_file(home.path().join("y")).unwrap();
    assert_eq!(process.answer(), REMOVED);
}

#[test]
fn who_blocks_on_many_waits_also_where_no_thread_can_be_started() {
    waits_without_threads("without_threads");
}

#[test]
fn who_blocks_on_many_waits_also_without_threads_and_sleeps_on_many_words() {
    waits_without_threads("without_threads_and_sleeps_on_many");
}

static HANDLED_BY: AtomicU32 = AtomicU32::new(0);
static ELSEWHERE: AtomicBool = AtomicBool::new(false);

pub(crate) fn thread_number() -> u32 {
    // SAFETY: takes nothing.
    (unsafe { libc::syscall(libc::SYS_gettid) }) as u32
}

/// Starts reactor threads in children of forks, while one thread gets signals all the time. No handler runs on a
/// reactor thread.
fn reactor_threads_under_signals(rounds: u32) -> i32 {
    extern "C" fn handler(_: libc::c_int) {
        if thread_number() != HANDLED_BY.load(SeqCst) {
            ELSEWHERE.store(true, SeqCst);
        }
    }
    // SAFETY: the handler is of the kind that `signal` takes.
    unsafe { libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t) };
    for _ in 0..rounds {
        let mut child = Child::fork(|| {
            let mask = |how| {
                // SAFETY: all zeros are a valid set.
                let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
                // SAFETY: the set is valid, and the signal exists.
                unsafe { libc::sigaddset(&mut set, libc::SIGUSR1) };
                // SAFETY: the set is valid.
                unsafe { libc::pthread_sigmask(how, &set, ptr::null_mut()) };
            };
            mask(libc::SIG_BLOCK);
            let over = &AtomicBool::new(false);
            let process = std::process::id() as libc::pid_t;
            thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(SeqCst) {
                        // SAFETY: takes numbers.
                        unsafe { libc::kill(process, libc::SIGUSR1) };
                    }
                });
                scope.spawn(|| {
                    HANDLED_BY.store(thread_number(), SeqCst);
                    mask(libc::SIG_UNBLOCK);
                    let event = SharedEvent::anonymous().unwrap();
                    let mut wait = Box::pin(event.wait_async());
                    assert!(poll(&mut wait, &WakeCounter::new().1).is_pending());
                    // A sleep would begin anew with each signal.
                    let began = Instant::now();
                    while began.elapsed() < Duration::from_millis(2) {
                        thread::yield_now();
                    }
                    over.store(true, SeqCst);
                    mask(libc::SIG_BLOCK);
                });
            });
            assert!(!ELSEWHERE.load(SeqCst), "a handler has run on a reactor thread");
        });
        assert_eq!(child.status(), 0);
    }
    YES
}

#[test]
fn no_handler_of_a_signal_runs_on_a_reactor_thread() {
    assert_eq!(ChildProcess::start(["reactor_threads_under_signals", "/", "300"]).answer(), YES);
}

/// How many threads of this process that have this name sleep.
fn asleep(name: &str) -> usize {
    let stats =
        fs::read_dir("/proc/self/task").unwrap().map(|task| fs::read_to_string(task.unwrap().path().join("stat")));
    let is_asleep =
        |stat: &String| stat.split_once(&format!("({name}) ")).is_some_and(|(_, rest)| rest.starts_with('S'));
    stats.flatten().filter(is_asleep).count()
}

/// The kernel returns this error for every sleep on many words.
fn refused_sleeps(errno: i32) -> i32 {
    forbid(libc::SYS_futex_waitv, errno).unwrap();
    let events = [(); 2].map(|()| SharedEvent::anonymous().unwrap());
    thread::scope(|scope| {
        let awaiting = scope.spawn(|| pollster::block_on(events[0].wait_async()));
        let blocking = thread::Builder::new().name("blocking".into());
        let blocking = blocking.spawn_scoped(scope, || any(&events).wait_timeout(LONG)).unwrap();
        until_waiters(&events[1], 1);
        let began = Instant::now();
        for thread in ["tantara", "blocking"] {
            let mut sleeps = 0;
            while sleeps < 10 {
                assert!(began.elapsed() < LONG / 4, "the thread {thread} spins");
                thread::sleep(Duration::from_millis(1));
                sleeps += asleep(thread);
            }
        }
        events[0].set().unwrap();
        assert_eq!(blocking.join().unwrap(), Some(0));
        awaiting.join().unwrap().unwrap();
    });
    YES
}

#[test]
fn no_thread_spins_if_the_kernel_refuses_sleeps_on_many_words() {
    for errno in [libc::ENOMEM, libc::EINVAL, libc::ENOSYS, libc::EPERM] {
        assert_eq!(ChildProcess::start(["refused_sleeps", "/", &errno.to_string()]).answer(), YES, "{errno}");
    }
}
