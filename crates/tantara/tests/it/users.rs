//! The directory is the policy: what users and groups may do with events follows from what they may do in the
//! directory.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write, pipe};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tantara::SharedEvent;

use crate::child_process::{ChildProcess, YES};
use crate::children::Child;
use crate::refused::forbid_safe_renaming;

#[derive(Clone, Copy, PartialEq, Debug)]
struct User {
    number: u32,
    /// Besides the group with the user's own number.
    group: Option<u32>,
}

const TEAM: u32 = 2_000;
const ROOT: User = User { number: 0, group: None };
/// The owner of directories.
const ALICE: User = User { number: 1_001, group: None };
const BOB: User = User { number: 1_002, group: Some(TEAM) };
const CAROL: User = User { number: 1_003, group: None };
const DAVE: User = User { number: 1_004, group: Some(TEAM) };
const USERS: [User; 5] = [ROOT, ALICE, BOB, CAROL, DAVE];

/// The tasks of this file.
pub(crate) fn run(action: &str, directory: &Path, words: &[&str]) -> Option<i32> {
    match (action, words) {
        ("users", ["modes"]) => modes(directory),
        ("users", ["lists"]) => lists(directory),
        ("users", ["namespace"]) => in_a_user_namespace(directory),
        ("users", ["killed remover"]) => killed_remover(directory),
        _ => return None,
    }
    Some(YES)
}

impl User {
    /// Makes this process that user, with a umask that grants nothing to others.
    fn become_this(self) {
        let groups: Vec<u32> = self.group.into_iter().collect();
        // SAFETY: the groups are as many as is said.
        assert_eq!(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) }, 0);
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::setresgid(self.number, self.number, self.number) }, 0);
        // SAFETY: takes numbers.
        assert_eq!(unsafe { libc::setresuid(self.number, self.number, self.number) }, 0);
        // SAFETY: takes a number.
        unsafe { libc::umask(0o077) };
    }

    /// The answer of `body` in a process of this user.
    fn says(self, body: impl FnOnce() -> String) -> String {
        let (mut answer, mut teller) = pipe().unwrap();
        let mut child = Child::fork(|| {
            self.become_this();
            teller.write_all(body().as_bytes()).unwrap();
        });
        drop(teller);
        let mut said = String::new();
        answer.read_to_string(&mut said).unwrap();
        assert_eq!(child.status(), 0, "user {} has failed", self.number);
        said
    }

    fn tries(self, directory: &Path) -> String {
        self.says(|| attempt(directory))
    }

    /// Whether the permissions of a file or directory let this user do that.
    fn may(self, metadata: &fs::Metadata, bits: u32) -> bool {
        let class = match () {
            () if self == ROOT => return true,
            () if metadata.uid() == self.number => 6,
            () if metadata.gid() == self.number || self.group == Some(metadata.gid()) => 3,
            () => 0,
        };
        metadata.mode() >> class & bits == bits
    }
}

const SETS: &str = "sets";
const WAITS: &str = "waits";

/// Opens the event and does all that is allowed.
fn attempt(directory: &Path) -> String {
    match SharedEvent::open_in(directory, "x") {
        Ok(event) if event.is_writable() => {
            event.set().unwrap();
            assert!(event.is_set().unwrap());
            event.clear().unwrap();
            SETS.into()
        }
        Ok(event) => {
            assert!(event.set().unwrap_err().is_permission_denied());
            assert!(!event.wait_timeout(Duration::ZERO).unwrap());
            WAITS.into()
        }
        Err(error) => {
            assert!(error.is_permission_denied() && !error.is_not_an_event(), "{error}");
            error.to_string()
        }
    }
}

/// Looks for the event, and lists all.
fn look(directory: &Path) -> String {
    let find = SharedEvent::find_in(directory, "x").map(|event| event.is_some());
    let list = SharedEvent::list_in(directory).map(|list| list.len());
    let tell = |error: tantara::Error| if error.is_permission_denied() { "denied".into() } else { error.to_string() };
    let found = find.map_or_else(tell, |is_found| is_found.to_string());
    format!("{found}, {}", list.map_or_else(tell, |length| length.to_string()))
}

fn remove(directory: &Path) -> String {
    match SharedEvent::open_in(directory, "x").unwrap().remove() {
        Ok(is_removed) => {
            assert!(is_removed);
            "removed".into()
        }
        Err(error) => {
            assert!(error.is_permission_denied(), "{error}");
            error.to_string()
        }
    }
}

fn modes(directory: &Path) {
    for mode in [0o700, 0o755, 0o770, 0o775, 0o2770, 0o2775, 0o1777] {
        let place = directory.join(format!("{mode:o}"));
        fs::create_dir(&place).unwrap();
        chown(&place, Some(ALICE.number), Some(TEAM)).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(mode)).unwrap();
        let home = place.metadata().unwrap();
        for creator in USERS {
            let path = place.join("x");
            if !creator.may(&home, 0o3) {
                let refusal = creator.tries(&place);
                assert!(refusal.contains("ermission denied"), "{mode:o}, {creator:?}: {refusal}");
                assert!(!refusal.contains("belongs to"), "{mode:o}, {creator:?}: {refusal}");
                continue;
            }
            assert_eq!(creator.tries(&place), SETS, "{mode:o}, {creator:?}");
            let file = path.metadata().unwrap();
            let owner = if creator == ROOT { ALICE } else { creator };
            // Alice may not give it to a group without her, unless the directory is SGID.
            let has_group = mode & 0o2000 != 0 || creator != ALICE && creator != CAROL;
            let without = home.mode() & 0o606 | (home.mode() & 0o006) << 3;
            let expected = if has_group { home.mode() & 0o666 } else { without };
            assert_eq!(file.mode() & 0o7777, expected, "{mode:o}, {creator:?}");
            assert_eq!(file.uid(), owner.number);
            assert_eq!(file.gid() == TEAM, has_group);
            for user in USERS {
                let (sets, waits) = (user.may(&home, 0o3), user.may(&home, 0o5));
                let told = user.tries(&place);
                let story = format!("{mode:o} by {}, {user:?}: {told}", creator.number);
                let bits = if sets { 0o6 } else { 0o4 };
                match () {
                    () if !sets && !waits => {
                        assert!(told.contains("ermission denied"), "{story}");
                        assert_eq!(
                            user.says(|| look(&place)),
                            "denied, denied",
                            "{story}: that is not \"there is none\""
                        );
                    }
                    () if user.may(&file, bits) => assert_eq!(told, if sets { SETS } else { WAITS }, "{story}"),
                    () => assert!(told.contains(&format!("belongs to user {}", owner.number)), "{story}"),
                }
            }
            // Users who may unlink names may remove events.
            let third = USERS.into_iter().find(|user| {
                let is_concerned = [creator, ALICE, ROOT].contains(user);
                !is_concerned && user.may(&home, 0o3) && user.may(&file, 0o6)
            });
            if let Some(third) = third {
                let told = third.says(|| remove(&place));
                let is_sticky = mode & 0o1000 != 0;
                assert_eq!(told == "removed", !is_sticky, "{mode:o}, {creator:?}, {third:?}: {told}");
                if !is_sticky {
                    assert_eq!(creator.tries(&place), SETS);
                }
            }
            assert_eq!(creator.says(|| remove(&place)), "removed");
        }
        assert_eq!(fs::read_dir(&place).unwrap().count(), 0, "{mode:o}");
    }
}

/// Changes the access control list. `false`, with a line that says so, where that is not possible.
fn set_list(directory: &Path, entries: &str) -> bool {
    let changed = Command::new("setfacl").args(["-m", entries]).arg(directory).output();
    let is_done = changed.is_ok_and(|output| output.status.success());
    if !is_done {
        println!("left out: there is no setfacl, or the file system knows no lists");
    }
    is_done
}

fn lists(directory: &Path) {
    // Carol may do everything, other users nothing, and the group less than the mode shows.
    let place = directory.join("list");
    fs::create_dir(&place).unwrap();
    chown(&place, Some(ALICE.number), Some(TEAM)).unwrap();
    fs::set_permissions(&place, Permissions::from_mode(0o750)).unwrap();
    if !set_list(&place, &format!("u:{}:rwx", CAROL.number)) {
        return;
    }
    assert_eq!(place.metadata().unwrap().mode() & 0o777, 0o770, "the group's bits are a mask");
    for creator in [ROOT, ALICE, CAROL] {
        assert_eq!(creator.tries(&place), SETS, "{creator:?}");
        assert_eq!(CAROL.tries(&place), SETS, "by {creator:?}");
        assert_eq!(ROOT.tries(&place), SETS, "by {creator:?}");
        if creator == ROOT {
            assert_eq!(ALICE.tries(&place), SETS);
            assert_eq!(BOB.tries(&place), WAITS, "the group may read");
        }
        let file = place.join("x").metadata().unwrap();
        assert_eq!(file.mode() & 0o007, 0, "others may nothing");
        assert_eq!(creator.says(|| remove(&place)), "removed");
    }
    // A list that new files inherit.
    let place = directory.join("inherited");
    fs::create_dir(&place).unwrap();
    chown(&place, Some(ALICE.number), Some(TEAM)).unwrap();
    fs::set_permissions(&place, Permissions::from_mode(0o2770)).unwrap();
    assert!(set_list(&place, &format!("u:{0}:rwx,d:u:{0}:rwx", CAROL.number)));
    for creator in [ROOT, BOB, CAROL] {
        assert_eq!(creator.tries(&place), SETS, "{creator:?}");
        for user in [CAROL, DAVE] {
            assert_eq!(user.tries(&place), SETS, "by {creator:?}, {user:?}");
        }
        assert_eq!(creator.says(|| remove(&place)), "removed");
    }
    // A list for new files only: Carol may do in the directory what others may, and no more with its events.
    let place = directory.join("default");
    fs::create_dir(&place).unwrap();
    chown(&place, Some(ALICE.number), Some(TEAM)).unwrap();
    fs::set_permissions(&place, Permissions::from_mode(0o2775)).unwrap();
    assert!(set_list(&place, &format!("d:u:{}:rwx", CAROL.number)));
    for creator in [ROOT, ALICE] {
        assert_eq!(creator.tries(&place), SETS, "{creator:?}");
        assert_eq!(CAROL.tries(&place), WAITS, "by {creator:?}");
        assert_eq!(creator.says(|| remove(&place)), "removed");
    }
}

/// Bob is root in a namespace in which no other user has a number.
fn in_a_user_namespace(directory: &Path) {
    let place = |mode: u32| {
        let place = directory.join(format!("{mode:o}"));
        fs::create_dir(&place).unwrap();
        chown(&place, Some(ALICE.number), Some(TEAM)).unwrap();
        fs::set_permissions(&place, Permissions::from_mode(mode)).unwrap();
        place
    };
    let inside = |body: &dyn Fn() -> String| {
        BOB.says(|| {
            // After a change of user, a process may not write to its own files in /proc, unless it makes itself
            // dumpable.
            // SAFETY: takes numbers.
            unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
            // SAFETY: takes a number.
            if unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0 {
                return "forbidden".into();
            }
            fs::write("/proc/self/setgroups", "deny").unwrap();
            fs::write("/proc/self/uid_map", format!("0 {} 1", BOB.number)).unwrap();
            fs::write("/proc/self/gid_map", format!("0 {} 1", BOB.number)).unwrap();
            body()
        })
    };
    if inside(&String::new) == "forbidden" {
        return println!("left out: user namespaces are forbidden here");
    }
    for mode in [0o2775, 0o1777, 0o775] {
        let place = place(mode);
        assert_eq!(inside(&|| attempt(&place)), SETS, "{mode:o}");
        let file = place.join("x").metadata().unwrap();
        assert_eq!(file.uid(), BOB.number);
        let has_group = mode == 0o2775;
        assert_eq!((file.gid() == TEAM, DAVE.tries(&place) == SETS), (has_group, has_group || mode == 0o1777));
        assert_eq!(inside(&|| remove(&place)), "removed");
        // Events of others.
        assert_eq!(DAVE.tries(&place), SETS);
        assert_eq!(inside(&|| attempt(&place)), SETS, "{mode:o}");
        if mode == 0o1777 {
            assert!(inside(&|| remove(&place)).contains("ermitted"), "it is not root, whatever it is called there");
            assert_eq!(DAVE.tries(&place), SETS, "and nothing has happened");
        }
    }
    let place = place(0o700);
    assert!(inside(&|| attempt(&place)).contains("ermission denied"));
}

/// In a sticky directory a remover was killed at its worst moments. Others can still use the name, or get an error
/// that tells what to do.
fn killed_remover(directory: &Path) {
    chown(directory, Some(0), Some(0)).unwrap();
    fs::set_permissions(directory, Permissions::from_mode(0o1777)).unwrap();
    let (path, slot) = (directory.join("x"), directory.join(".moved-x"));
    assert_eq!(ALICE.tries(directory), SETS);
    let page = fs::read(&path).unwrap();
    assert_eq!(ALICE.says(|| remove(directory)), "removed");
    let mut gone = page.clone();
    const GONE: u8 = 8;
    gone[128] |= GONE;
    let leave = |path: &Path, page: &[u8]| {
        File::create(path).unwrap().write_all(page).unwrap();
        chown(path, Some(ALICE.number), Some(ALICE.number)).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
    };
    // In the slot, and marked as gone: only Alice can unlink it, and the name is free.
    leave(&slot, &gone);
    assert_eq!(BOB.tries(directory), SETS);
    assert_eq!(CAROL.tries(directory), SETS);
    assert_eq!(BOB.says(|| remove(directory)), "removed");
    assert!(!path.exists() && slot.exists());
    assert_eq!(ALICE.tries(directory), SETS);
    assert!(path.exists() && !slot.exists(), "she has tidied up");
    assert_eq!(ALICE.says(|| remove(directory)), "removed");
    // In the slot, and not marked: it is alive.
    leave(&slot, &page);
    assert_eq!(BOB.tries(directory), SETS, "where it is");
    let by_links = || {
        forbid_safe_renaming();
        attempt(directory)
    };
    assert_eq!(BOB.says(by_links), SETS, "where it is");
    assert!(!path.exists(), "it has two names");
    assert_eq!(ALICE.tries(directory), SETS);
    assert!(path.exists() && !slot.exists(), "she may put it back");
    fs::remove_file(&path).unwrap();
    // Marked, and under its name.
    leave(&path, &gone);
    let told = BOB.tries(directory);
    assert!(told.contains(&format!("user {}", ALICE.number)) && told.contains("delete the file"), "{told}");
    assert_eq!(ALICE.tries(directory), SETS);
    assert_eq!(BOB.tries(directory), SETS);
}

/// A directory that all may enter, and a child process that can become any user.
fn as_many_users(test: &str, task: &str) {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return println!("{test} is left out: it needs to be root");
    }
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(&home, Permissions::from_mode(0o755)).unwrap();
    let mut participant = ChildProcess::command(["users", home.path().to_str().unwrap(), task]);
    let mut participant = participant.stdout(std::process::Stdio::inherit()).spawn().map(ChildProcess).unwrap();
    assert_eq!(participant.answer(), YES);
}

#[test]
fn users_may_do_with_events_what_they_may_do_in_the_directory() {
    as_many_users("users_may_do_with_events_what_they_may_do_in_the_directory", "modes");
}

#[test]
fn an_access_control_list_counts_for_events() {
    as_many_users("an_access_control_list_counts_for_events", "lists");
}

#[test]
fn a_user_namespace_changes_names_and_not_rights() {
    as_many_users("a_user_namespace_changes_names_and_not_rights", "namespace");
}

#[test]
fn a_killed_remover_does_not_block_the_name() {
    as_many_users("a_killed_remover_does_not_block_the_name", "killed remover");
}
