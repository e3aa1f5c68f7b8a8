//! A process is stopped in front of every call to the kernel that it makes while it removes or makes an event. Others
//! remove, make, open and wait meanwhile; then it goes on, or is killed. Nobody loses an event that was not meant.

#![cfg(target_arch = "x86_64")]

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::{self, JoinHandle};

use tantara::{Error, SharedEvent};

use crate::LONG;
use crate::party::{Party, YES};
use crate::ptrace::{self, Traced};
use crate::refused::forbid_nameless_files;

/// What becomes of the one that was stopped.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Fate {
    GoesOn,
    IsKilled,
}

fn open(directory: &Path) -> SharedEvent {
    SharedEvent::open_in(directory, "x").unwrap()
}

/// Somebody who waits for the event, through an opening of its own, and sleeps.
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

/// The event is the one that others find, it is alive, and who sleeps on it is released by its set.
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

/// A child does `act`, and is stopped in front of the call with that number, if it makes so many; then `others` do
/// something, and the child meets its fate.
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

/// Does that at each call; `act` is told where to begin: behind its first mark.
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

/// The event that a remover means is removed by another, and a new one is made, while it is stopped.
fn remover_and_a_new_event(directory: &Path) {
    at_every_call("a remover, and a new event", |call, fate, story| {
        let old = open(directory);
        // It has the event from its parent, so it is this one that it means.
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
        // It has the event from its parent, so it is this one that it means.
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

/// Two are stopped, both in the middle of a removal, the second when the first has been.
fn two_removers(directory: &Path) {
    at_every_call("two removers", |call, fate, story| {
        let old = open(directory);
        // It has the event from its parent, so it is this one that it means.
        let remover = || {
            ptrace::mark();
            let _ = old.remove();
        };
        let outcome = stopped(remover, call, fate, || {
            // As far on as the first one.
            stopped(remover, call, fate, || {
                let _ = old.remove();
                let new = open(directory);
                (sleeper(&new), new)
            })
        });
        let Some((Some(((sleeper, new), _)), _)) = outcome else {
            // One of them has had less to do. What is left is old.
            let _ = old.remove();
            return outcome.is_some();
        };
        is_well(&new, sleeper, directory, story);
        true
    });
}

/// Others use the event while its maker is stopped.
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

/// A maker that was killed leaves its draft, which others remove when it is old.
fn is_well_with_drafts(event: &SharedEvent, sleeper: JoinHandle<Result<bool, Error>>, directory: &Path, story: &str) {
    let drafts = fs::read_dir(directory).unwrap().map(|file| file.unwrap());
    for draft in drafts.filter(|file| file.file_name().to_string_lossy().starts_with(".draft-")) {
        fs::remove_file(draft.path()).unwrap();
    }
    is_well(event, sleeper, directory, story);
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
        ["maker and users, with drafts"] => {
            forbid_nameless_files();
            maker_and_users(directory);
        }
        _ => panic!("nobody is stopped by {words:?}"),
    }
}

fn ends_well(task: &str) {
    let directory = tempfile::tempdir().unwrap();
    let mut party = Party::command(["stop", directory.path().to_str().unwrap(), task]);
    let mut party = party.stdout(Stdio::inherit()).spawn().map(Party).unwrap();
    assert_eq!(party.answer(), YES);
}

#[test]
fn a_remover_that_was_stopped_takes_no_new_event_away() {
    ends_well("remover and a new event");
}

#[test]
fn a_remover_that_was_stopped_leaves_nobody_asleep() {
    ends_well("remover and users");
}

#[test]
fn two_removers_that_were_stopped_take_no_new_event_away() {
    ends_well("two removers");
}

#[test]
fn a_maker_that_was_stopped_makes_no_second_event() {
    ends_well("maker and users");
    ends_well("maker and users, with drafts");
}
