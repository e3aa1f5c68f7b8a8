//! Who waits, and since when: each sleeper leaves a mark on the event's file, which the kernel takes off if it dies.
//!
//! A mark is a read lock of the open file description on a range of bytes that need not exist. Nothing is stored there;
//! the range itself is the message:
//!
//! ```text
//!   start = thread (22 bits) | 0 | when it began to wait (40 bits: milliseconds since 2025)
//!   length = 1 + (PID namespace (9 bits) | the generation that it waits for (26 bits))
//! ```
//!
//! The number of a thread means something in its own PID namespace alone. The namespace is an index of the table in the
//! page; elsewhere, and if the table has no place for it, all that can be told is that somebody waits, and since when.
//!
//! Ranges of different threads are never adjacent, so the kernel does not merge them. Read locks exclude nobody, and
//! nobody asks for any other; only [`waiters`] asks which lock *would* be in the way of a write lock.
//!
//! To leave a mark costs a system call, and so does to take it off. The first is not done before a sleep has lasted for
//! a while ([`crate::shared::handle`]). The second is not done at all by those who are released: their marks
//! name a generation that has passed, which makes them void. They are taken off when next someone leaves a mark
//! through the same handle, or with the handle.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::shared::layout::{HOLDS, Page, Ticket, Word};
use crate::sys::files::{self, Range};
use crate::sys::shared;

/// 2025-01-01, in seconds since 1970.
const EPOCH: Duration = Duration::from_secs(1_735_689_600);
const TIME_BITS: u32 = 40;
/// A bit more than the time has, to keep neighbours apart.
const THREAD_AT: u32 = TIME_BITS + 1;
const MOST_THREADS: u64 = 1 << 22;
/// No thread has the number zero.
const _: () = assert!(HOLDS.end <= 1 << THREAD_AT);
/// Where the namespace stands in a length: behind the generation.
const NAMESPACE_AT: u32 = 26;
/// No more questions are asked than this, two for each mark: a hostile party can leave any number.
const MOST_QUESTIONS: usize = 10_000;

/// One who waits for an event between processes.
///
/// The numbers of processes and threads are those of the PID namespace of whoever asks. Who waits in another namespace
/// (in another container, say) has none of them.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Waiter {
    /// The process, if it is known here. It is not if the process is in another PID namespace, and may not be if the
    /// system hides the processes of others (`hidepid`).
    pub pid: Option<u32>,
    /// The thread in it that waits, by the number that the kernel knows it by, if it is of this PID namespace.
    pub tid: Option<u32>,
    /// Since when it waits, by the time of day.
    pub since: SystemTime,
    /// The program and its arguments, with spaces between them; empty if that is not known here.
    pub command: String,
}

/// The marks that were left through one handle and are void.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    void: Mutex<Vec<Mark>>,
}

/// A mark. Hand it to [`Registry::leave`].
#[derive(Debug)]
pub(crate) struct Mark {
    range: Range,
    /// The child of a fork has the parent's marks in its memory, and must leave them alone.
    forks: u32,
}

impl Registry {
    /// Marks this thread, of the namespace with that index, as waiting, for so long already. If the file system knows
    /// no locks, or there are too many, nobody will see it, and it waits all the same.
    pub(crate) fn enter(&self, file: &File, namespace: u32, ticket: Ticket, waited: Duration) -> Option<Mark> {
        let mut void = self.void();
        for mark in void.drain(..) {
            mark.take_off(file);
        }
        // So that a release need not ask for memory.
        void.reserve(1);
        drop(void);
        let since = SystemTime::now().checked_sub(waited)?;
        let since = since.duration_since(SystemTime::UNIX_EPOCH + EPOCH).unwrap_or_default().as_millis() as u64;
        let since = since.min((1 << TIME_BITS) - 1);
        let thread = u64::from(shared::thread()) % MOST_THREADS;
        let what = u64::from(namespace) << NAMESPACE_AT | u64::from(ticket.generation());
        let range = Range { start: thread << THREAD_AT | since, length: 1 + what };
        files::mark(file, range).is_ok().then_some(Mark { range, forks: shared::forks() })
    }

    /// The wait is over. A mark that is not void by itself is taken off.
    pub(crate) fn leave(&self, file: &File, mark: Mark, is_released: bool) {
        if is_released {
            self.void().push(mark);
        } else {
            mark.take_off(file);
        }
    }

    fn void(&self) -> std::sync::MutexGuard<'_, Vec<Mark>> {
        self.void.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mark {
    fn take_off(&self, file: &File) {
        if self.forks == shared::forks() {
            files::unmark(file, self.range);
        }
    }
}

/// Everyone who waits for the event of this page, those who have waited longest first. `file` is a description through
/// which nobody waits; marks that were left through it would not be seen.
pub(crate) fn waiters(file: &File, page: &Page) -> io::Result<Vec<Waiter>> {
    let word = page.word();
    let mut marks: Vec<_> = marks(file)?.into_iter().filter_map(|range| read(range, word)).collect();
    // A thread that has several handles of the same event is one waiter.
    marks.sort_by_key(|mark| (mark.namespace, mark.thread, mark.since));
    marks.dedup_by_key(|mark| (mark.namespace, mark.thread));
    marks.sort_by_key(|mark| mark.since);
    Ok(marks.into_iter().filter_map(|mark| identify(&mark, page)).collect())
}

/// All marks. Each question finds one, and splits what is left to be asked about in two.
fn marks(file: &File) -> io::Result<BTreeSet<Range>> {
    let mut found = BTreeSet::new();
    let mut open = vec![(0, i64::MAX as u64)];
    for _ in 0..MOST_QUESTIONS {
        let Some((first, end)) = open.pop() else { break };
        let Some((range, is_mark)) = files::find_mark(file, Range { start: first, length: end - first })? else {
            continue;
        };
        if is_mark {
            found.insert(range);
        }
        let after = range.start.saturating_add(range.length);
        open.extend([(first, range.start), (after, end)].into_iter().filter(|(first, end)| first < end));
    }
    Ok(found)
}

/// What a mark says.
struct Told {
    namespace: u32,
    thread: u32,
    since: SystemTime,
}

/// Nothing, if the mark is void.
fn read(range: Range, word: Word) -> Option<Told> {
    let what = range.length - 1;
    let generation = what & ((1 << NAMESPACE_AT) - 1);
    if word.is_set() || generation != u64::from(word.ticket().generation()) {
        return None;
    }
    let namespace = u32::try_from(what >> NAMESPACE_AT).ok()?;
    let thread = u32::try_from(range.start >> THREAD_AT).ok()?;
    let since = Duration::from_millis(range.start & ((1 << TIME_BITS) - 1));
    Some(Told { namespace, thread, since: SystemTime::UNIX_EPOCH + EPOCH + since })
}

/// Who left the mark, as far as that can be told from here. Nothing, if that thread has ended: a mark can outlive its
/// thread if another process has inherited the descriptor.
fn identify(mark: &Told, page: &Page) -> Option<Waiter> {
    let mut waiter = Waiter { pid: None, tid: None, since: mark.since, command: String::new() };
    if !page.is_namespace(mark.namespace, shared::pid_namespace()) {
        return Some(waiter);
    }
    if !shared::exists(mark.thread) {
        return None;
    }
    waiter.tid = Some(mark.thread);
    // In a /proc of another namespace the same number is another thread, or none.
    let is_own_proc = fs::read_link("/proc/self").is_ok_and(|own| own == Path::new(&shared::process().to_string()));
    let home = PathBuf::from(format!("/proc/{}", mark.thread));
    let status = if is_own_proc { fs::read_to_string(home.join("status")).ok() } else { None };
    match status {
        Some(status) => {
            waiter.pid = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
            let command = fs::read(home.join("cmdline")).unwrap_or_default();
            waiter.command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
        }
        // There is no /proc of ours, or it hides others' processes.
        None => waiter.pid = shared::is_first_thread(mark.thread).then_some(mark.thread),
    }
    Some(waiter)
}
