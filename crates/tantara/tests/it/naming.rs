//! A process is stopped before every system call of a removal or a creation of an event. Others remove, make, open and
//! wait meanwhile. Then the process goes on, or is killed. No other event is lost.

#![cfg(target_arch = "x86_64")]

use std::fs;
use std::io::{Read, Write, pipe};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::ptr;
use std::thread::{self, JoinHandle};

use tantara::{Error, SharedEvent};

use crate::LONG;
use crate::child_process::{ChildProcess, YES};
use crate::ptrace::{self, Traced};
use crate::refused::{forbid, forbid_nameless_files, forbid_safe_renaming};

/// What happens to the process that was stopped.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    GoesOn,
    IsKilled,
}

fn open(directory: &Path) -> SharedEvent {
    SharedEvent::open_in(directory, "x").unwrap()
}

/// A thread that sleeps on the event, through an opening of its own.
fn sleeper(event: &SharedEvent) -> JoinHandle<Result<bool, Error>> {
    let own = SharedEvent::from_fd(std::os::fd::AsFd::as_fd(event).try_clone_to_owned().unwrap()).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let sleeper = thread::spawn(move || {
        tell.send(fs::read_link("/proc/thread-self").unwrap()).unwrap();
        own.wait_timeout(LONG)
    });
    let thread = told.recv().unwrap().file_name().unwrap().to_str().unwrap().parse().unwrap();
    while !crate::children::is_asleep(std::process::id(), thread) && !sleeper.is_finished() {
        thread::yield_now();
    }
    sleeper
}

/// The event is the one that others find, it is alive, and a `set` releases its sleeper.
fn is_well(event: &SharedEvent, sleeper: JoinHandle<Result<bool, Error>>, directory: &Path, story: &str) {
    assert!(!event.is_removed(), "{story}: an innocent event was removed");
    let found = SharedEvent::find_in(directory, "x").unwrap();
    found.unwrap_or_else(|| panic!("{story}: it cannot be found")).set().unwrap();
    assert!(event.is_set().unwrap(), "{story}: others find another event");
    assert!(open(directory).is_set().unwrap(), "{story}: others open another event");
    assert!(sleeper.join().unwrap().unwrap(), "{story}");
    assert!(event.remove().unwrap());
    let left: Vec<_> = fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(left.is_empty(), "{story}: {left:?} is left");
}

/// A child runs `act`, and is stopped before the system call with this number, if it makes that many. Then `others`
/// runs, and the child meets its fate.
fn stopped<T>(act: impl FnOnce(), call: usize, fate: Fate, others: impl FnOnce() -> T) -> Option<(T, i64)> {
    let mut child = Traced::start(|| {
        act();
        ptrace::mark();
    });
    let mut number = child.until_call()?;
    for _ in 0..call {
        child.end_call();
        number = child.until_call()?;
    }
    let did = others();
    if fate == Fate::GoesOn {
        child.end_call();
        while child.until_call().is_some() {
            child.end_call();
        }
    }
    Some((did, number))
}

/// Runs `at` for each system call, counted from the first mark.
fn at_every_call(what: &str, mut at: impl FnMut(usize, Fate, &str) -> bool) {
    let mut calls = 0;
    while [Fate::GoesOn, Fate::IsKilled]
        .into_iter()
        .all(|fate| at(calls, fate, &format!("{what}, call {calls}, {fate:?}")))
    {
        calls += 1;
    }
    println!("{what}: at {calls} calls");
    assert!(calls > 5, "{calls}");
}

/// While a remover is stopped, its event is removed by another process, and a new one is made.
fn remover_and_a_new_event(directory: &Path) {
    at_every_call("a remover, and a new event", |call, fate, story| {
        let old = open(directory);
        // The child has the event from its parent, so it removes this one.
        let remover = || {
            ptrace::mark();
            let _ = old.remove();
        };
        let outcome = stopped(remover, call, fate, || {
            let _ = old.remove();
            let new = open(directory);
            (sleeper(&new), new)
        });
        let Some(((sleeper, new), number)) = outcome else {
            assert!(old.is_removed());
            return false;
        };
        assert!(old.is_removed());
        is_well(&new, sleeper, directory, &format!("{story} ({number})"));
        true
    });
}

/// Others open the event that is being removed, and wait for it.
fn remover_and_users(directory: &Path) {
    at_every_call("a remover, and those who use the event", |call, fate, story| {
        let old = open(directory);
        // The child has the event from its parent, so it removes this one.
        let remover = || {
            ptrace::mark();
            let _ = old.remove();
        };
        let outcome = stopped(remover, call, fate, || {
            let other = open(directory);
            (sleeper(&other), other)
        });
        let Some(((sleeper, other), _)) = outcome else { return false };
        assert!(fate == Fate::IsKilled || old.is_removed(), "{story}: it was not removed");
        if other.is_removed() {
            assert!(sleeper.join().unwrap().unwrap_err().is_removed(), "{story}");
            let new = open(directory);
            let sleeper = self::sleeper(&new);
            is_well(&new, sleeper, directory, story);
        } else {
            is_well(&other, sleeper, directory, story);
        }
        true
    });
}

/// Two processes are stopped in the middle of a removal, the second while the first is.
fn two_removers(directory: &Path) {
    at_every_call("two removers", |call, fate, story| {
        let old = open(directory);
        // The child has the event from its parent, so it removes this one.
        let remover = || {
            ptrace::mark();
            let _ = old.remove();
        };
        let outcome = stopped(remover, call, fate, || {
            // At the same call as the first one.
            stopped(remover, call, fate, || {
                let _ = old.remove();
                let new = open(directory);
                (sleeper(&new), new)
            })
        });
        let Some((Some(((sleeper, new), _)), _)) = outcome else {
            // One of them made fewer calls. What is left is the old event.
            let _ = old.remove();
            return outcome.is_some();
        };
        is_well(&new, sleeper, directory, story);
        true
    });
}

/// Others use the event while the process that makes it is stopped.
fn maker_and_users(directory: &Path) {
    at_every_call("a maker, and those who use the event", |call, fate, story| {
        let maker = || {
            ptrace::mark();
            open(directory);
        };
        let outcome = stopped(maker, call, fate, || {
            let other = open(directory);
            (sleeper(&other), other)
        });
        let Some(((sleeper, other), number)) = outcome else {
            assert!(open(directory).remove().unwrap());
            return false;
        };
        is_well_with_drafts(&other, sleeper, directory, &format!("{story} ({number})"));
        true
    });
}

/// A process that was killed while it made an event leaves its draft, which others remove when it is old.
fn is_well_with_drafts(event: &SharedEvent, sleeper: JoinHandle<Result<bool, Error>>, directory: &Path, story: &str) {
    let drafts = fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    for draft in drafts.filter(|file| file.file_name().to_string_lossy().starts_with(".draft-")) {
        fs::remove_file(draft.path()).unwrap();
    }
    is_well(event, sleeper, directory, story);
}

/// Links the file `y` to the name `x` too. `false` if the name was taken.
fn another_takes_the_name(directory: &Path) -> bool {
    fs::hard_link(directory.join("y"), directory.join("x")).is_ok()
}

fn is_at_name(directory: &Path) -> bool {
    let number = |name| fs::metadata(directory.join(name)).unwrap().ino();
    number("x") == number("y")
}

fn empty(directory: &Path) {
    for file in fs::read_dir(directory).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
}

/// On a file system that cannot rename without replacing, an event is restored while another event gets the name.
fn restorer_without_safe_renaming(directory: &Path) {
    at_every_call("a process that restores an event by links", |call, fate, story| {
        SharedEvent::open_in(directory, "y").unwrap();
        let event = open(directory);
        fs::rename(directory.join("x"), directory.join(".moved-x")).unwrap();
        let restorer = || {
            forbid_safe_renaming();
            ptrace::mark();
            open(directory);
        };
        let outcome = stopped(restorer, call, fate, || another_takes_the_name(directory));
        if let Some((true, number)) = outcome {
            assert!(is_at_name(directory), "{story} ({number}): another event has lost its name");
        } else {
            assert!(!event.is_removed() && SharedEvent::find_in(directory, "x").unwrap().is_some(), "{story}");
        }
        empty(directory);
        outcome.is_some()
    });
}

/// Another process uses the event that is being made, before it has its name, and a third event gets that name. The
/// maker may be unable to map the file once more, as at `vm.max_map_count`.
fn maker_and_another_event(directory: &Path, can_map: bool) {
    let mut used = 0;
    at_every_call("a maker, and another event", |call, fate, story| {
        SharedEvent::open_in(directory, "y").unwrap();
        let maker = || {
            if !can_map {
                forbid(libc::SYS_mmap, libc::ENOMEM).unwrap();
            }
            ptrace::mark();
            let made = SharedEvent::open_in(directory, "x");
            assert_eq!(made.is_ok(), can_map);
        };
        let outcome = stopped(maker, call, fate, || {
            let user = open(directory);
            another_takes_the_name(directory).then_some(user)
        });
        if let Some((Some(user), number)) = &outcome
            && fate == Fate::GoesOn
        {
            assert!(is_at_name(directory), "{story} ({number})");
            assert!(
                user.is_removed() || !can_map,
                "{story} ({number}): the user of a file without a name was not told"
            );
            assert!(!directory.join(".moved-x").exists(), "{story} ({number}): it would be restored later");
            used += 1;
        }
        empty(directory);
        outcome.is_some()
    });
    assert!(used > 0, "the maker was never overtaken");
}

/// On a file system without safe renaming and without locks, another process restores the event that is being made. It
/// has linked it to its name, and has not unlinked the slot yet.
fn maker_and_restorer(directory: &Path) {
    let mut restored = 0;
    at_every_call("a maker, and one that restores its event by links", |call, fate, story| {
        let maker = || {
            forbid_safe_renaming();
            ptrace::mark();
            open(directory);
        };
        let (name, slot) = (directory.join("x"), directory.join(".moved-x"));
        let outcome = stopped(maker, call, fate, || fs::hard_link(&slot, &name).is_ok().then(|| open(directory)));
        if let Some((Some(event), number)) = &outcome {
            assert!(!event.is_removed(), "{story} ({number}): a live event was removed");
            let found = SharedEvent::find_in(directory, "x").unwrap();
            assert!(found.is_some() && name.exists(), "{story} ({number}): it has lost its name");
            assert!(fate == Fate::IsKilled || !slot.exists(), "{story} ({number}): it has two names");
            restored += 1;
        }
        empty(directory);
        outcome.is_some()
    });
    assert!(restored > 0, "the event was never restored");
}

/// A process that opens its first event is stopped while another of its threads disables the handler of SIGBUS.
fn opener_and_a_thread_that_disables_the_handler(directory: &Path) {
    let is_default = || {
        // SAFETY: all-zero is a valid sigaction.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: asks for what is installed; the pointer is valid.
        assert_eq!(unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &mut action) }, 0);
        action.sa_sigaction == libc::SIG_DFL
    };
    let mut outcomes = [0, 0];
    at_every_call("an opener, and a thread that disables the handler", |call, fate, story| {
        let ((mut begin, mut tell), (mut answer, mut teller)) = (pipe().unwrap(), pipe().unwrap());
        let opener = || {
            // SAFETY: the action is the system's own, whatever this test's process had.
            unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
            let mut teller_of_thread = teller.try_clone().unwrap();
            // The parent does not stop this thread.
            thread::spawn(move || {
                begin.read_exact(&mut [0]).unwrap();
                teller_of_thread.write_all(&[SharedEvent::disable_sigbus_handler().into()]).unwrap();
            });
            ptrace::mark();
            open(directory);
            teller.write_all(&[is_default().into()]).unwrap();
        };
        let mut next_answer = || {
            let mut byte = [0];
            answer.read_exact(&mut byte).unwrap();
            byte[0] == 1
        };
        let outcome = stopped(opener, call, fate, || {
            tell.write_all(&[1]).unwrap();
            next_answer()
        });
        let Some((first, _)) = outcome else { return false };
        if fate == Fate::GoesOn {
            // At the last calls the opener answers before the thread.
            assert_eq!(first, next_answer(), "{story}: what the thread was told is not so");
            outcomes[usize::from(first)] += 1;
        }
        true
    });
    assert!(outcomes.iter().all(|count| *count > 0), "{outcomes:?}");
}

pub(crate) fn stop(directory: &Path, words: &[&str]) {
    if !ptrace::is_allowed() {
        return println!("SKIPPED: this process may not trace its children");
    }
    match *words {
        ["remover and a new event"] => remover_and_a_new_event(directory),
        ["remover and users"] => remover_and_users(directory),
        ["two removers"] => two_removers(directory),
        ["maker and users"] => maker_and_users(directory),
        ["maker and another event"] => maker_and_another_event(directory, true),
        ["maker and another event, without mappings"] => maker_and_another_event(directory, false),
        ["maker and restorer"] => maker_and_restorer(directory),
        ["restorer without safe renaming"] => restorer_without_safe_renaming(directory),
        ["opener and the handler"] => opener_and_a_thread_that_disables_the_handler(directory),
        ["maker and users, with drafts"] => {
            forbid_nameless_files();
            maker_and_users(directory);
        }
        _ => panic!("unknown task {words:?}"),
    }
}

fn ends_well(task: &str) {
    let directory = tempfile::tempdir().unwrap();
    let mut participant = ChildProcess::command(["stop", directory.path().to_str().unwrap(), task]);
    let mut participant = participant.stdout(Stdio::inherit()).spawn().map(ChildProcess).unwrap();
    assert_eq!(participant.answer(), YES);
}

#[test]
fn a_remover_that_was_stopped_takes_no_new_event_away() {
    ends_well("remover and a new event");
}

#[test]
fn a_remover_that_was_stopped_leaves_no_waiter_asleep() {
    ends_well("remover and users");
}

#[test]
fn two_removers_that_were_stopped_take_no_new_event_away() {
    ends_well("two removers");
}

#[test]
fn a_file_system_that_may_replace_files_replaces_none() {
    ends_well("restorer without safe renaming");
}

#[test]
fn who_uses_an_event_that_another_overtakes_is_told_at_once() {
    ends_well("maker and another event");
}

#[test]
fn an_event_that_another_overtakes_is_never_restored() {
    // The allocator of musl needs mappings itself.
    if cfg!(not(target_env = "musl")) {
        ends_well("maker and another event, without mappings");
    }
}

#[test]
fn a_maker_whose_event_was_restored_by_links_does_not_remove_it() {
    ends_well("maker and restorer");
}

#[test]
fn a_handler_that_is_being_installed_is_not_said_to_be_disabled() {
    ends_well("opener and the handler");
}

#[test]
fn a_maker_that_was_stopped_makes_no_second_event() {
    ends_well("maker and users");
    ends_well("maker and users, with drafts");
}
