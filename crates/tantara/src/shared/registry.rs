//! Who waits, and since when: each sleeper sets a mark on the event's file, which the kernel
//! removes when it dies.
//!
//! A mark is a read lock of the open file description on a range of bytes that need not exist. The
//! position and length of the range carry the data:
//!
//! ```text
//!   start = thread (22 bits) | PID namespace (9 bits) | 0 | upper half of the message (31 bits)
//!   length = 1 + lower half of the message (31 bits)
//!   message = when it began to wait (35 bits: milliseconds since 2025, in a round of a year) | counter (27 bits)
//! ```
//!
//! A thread number is valid only in its own PID namespace. The namespace is an index into the table
//! in the page. Seen from another namespace, or if the table is full, a mark only tells that a
//! thread waits, and since when.
//!
//! Ranges of different threads, and of threads with the same number in different namespaces,
//! neither overlap nor touch, so the kernel does not merge them. Read locks exclude no other
//! process. [`waiters`] asks which lock *would* conflict with a write lock, and takes none.
//!
//! Setting a mark costs a system call, and so does removing it. A mark is set only after a sleep
//! has lasted for a while ([`crate::shared::handle`]). It names the counter of the event at that
//! time, which is odd for a wait that lasts while the event is set. A released waiter does not
//! remove its mark if the counter has changed, because that makes the mark void. Void marks are
//! removed when the next mark is set through the same handle, or with the handle.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::protocol::layout::{ENDING, Page};
use crate::protocol::word::Word;
use crate::shared::holders;
use crate::sync::lock;
use crate::sys::files::{self, Range};
use crate::sys::process;

/// 2025-01-01, in seconds since 1970.
const EPOCH: Duration = Duration::from_secs(1_735_689_600);
const TIME_BITS: u32 = 35;
const COUNTER_BITS: u32 = 27;
const HALF_BITS: u32 = (TIME_BITS + COUNTER_BITS) / 2;
/// One bit more than half of a message has, so that ranges do not touch.
const NAMESPACE_AT: u32 = HALF_BITS + 1;
const NAMESPACE_BITS: u32 = 9;
const THREAD_AT: u32 = NAMESPACE_AT + NAMESPACE_BITS;
const MOST_THREADS: u64 = 1 << 22;
/// No thread has the number zero.
const _: () = assert!(ENDING < 1 << THREAD_AT);

const fn low(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// Upper bound on the queries, two for each mark, because a hostile process can set any number of
/// marks.
const MOST_QUESTIONS: usize = 10_000;

/// A waiter of an event between processes.
///
/// Process and thread numbers are those of the caller's PID namespace. Waiters in other namespaces,
/// for example in other containers, have none.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Waiter {
    /// The process. `None` if it is in another PID namespace; perhaps also if the system hides the
    /// processes of other users (`hidepid`).
    pub pid: Option<u32>,
    /// The thread that waits, by its kernel thread ID. `None` if it is in another PID namespace.
    pub tid: Option<u32>,
    /// Since when it waits.
    pub since: SystemTime,
    /// The program and its arguments, separated by spaces; empty if they are not known.
    pub command: String,
}

/// The void marks that were set through one handle.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    void: Mutex<Vec<Mark>>,
}

/// A mark. Hand it to [`Registry::leave`].
#[derive(Debug)]
pub(crate) struct Mark {
    range: Range,
    /// The counter that it names.
    counter: u32,
    /// The child of a fork has the parent's marks in its memory, and must not remove them.
    forks: u32,
}

impl Registry {
    /// Marks this thread, of the namespace with that index, as having waited for `waited`. `None`
    /// if the file system has no locks, or too many are held; then the wait is not shown.
    pub(crate) fn enter(&self, file: &File, namespace: u32, word: Word, waited: Duration) -> Option<Mark> {
        let mut void = lock(&self.void);
        for mark in void.drain(..) {
            mark.take_off(file);
        }
        // A release must not allocate.
        void.reserve(1);
        drop(void);
        let since = SystemTime::now().checked_sub(waited)?;
        let (thread, counter) = (process::thread(), word.counter());
        let range = Told { namespace, thread, since: milliseconds(since), counter }.to_range();
        files::mark(file, range).is_ok().then_some(Mark { range, counter, forks: process::forks() })
    }

    /// The wait is over, and the event has this word. A mark that has not become void is removed.
    pub(crate) fn leave(&self, file: &File, mark: Mark, word: Word) {
        if mark.is_void(word) {
            lock(&self.void).push(mark);
        } else {
            mark.take_off(file);
        }
    }
}

impl Mark {
    /// Whether it does not count any more, because the event has changed.
    pub(crate) fn is_void(&self, word: Word) -> bool {
        self.counter != word.counter()
    }

    /// Whether this process has set it, and not the parent that it was forked from.
    pub(crate) fn is_own(&self) -> bool {
        self.forks == process::forks()
    }

    fn take_off(&self, file: &File) {
        if self.is_own() {
            files::unmark(file, self.range);
        }
    }
}

/// All waiters of the event of this page, those who have waited longest first. `file` is a
/// description through which no mark was set, because its own marks would not be found.
pub(crate) fn waiters(file: &File, page: &Page) -> io::Result<Vec<Waiter>> {
    if !page.word().may_have_waiters() {
        return Ok(Vec::new());
    }
    let word = holders::seen(file, page.word());
    let is_void = |told: &Told| told.counter != word.counter();
    let mut marks: Vec<_> = marks(file)?.into_iter().filter_map(Told::from_range).collect();
    marks.retain(|mark| !is_void(mark));
    // A thread that has several handles of the same event is one waiter.
    let now = milliseconds(SystemTime::now());
    let waited = |mark: &Told| Reverse(mark.waited(now));
    marks.sort_by_key(|mark| (mark.namespace, mark.thread, waited(mark)));
    marks.dedup_by_key(|mark| (mark.namespace, mark.thread));
    marks.sort_by_key(waited);
    Ok(marks.into_iter().filter_map(|mark| identify(&mark, page, now)).collect())
}

/// All marks. Each query finds one, and splits the remaining range in two.
fn marks(file: &File) -> io::Result<BTreeSet<Range>> {
    let mut found = BTreeSet::new();
    // Behind the locks of holders, so that many of those hide no waiter.
    let mut open = vec![(ENDING + 1, i64::MAX as u64)];
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

/// The data in a mark.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Told {
    namespace: u32,
    thread: u32,
    /// In milliseconds; modulo the round if it was read from a range.
    since: u64,
    counter: u32,
}

/// Since 2025.
fn milliseconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH + EPOCH).unwrap_or_default().as_millis() as u64
}

impl Told {
    fn to_range(self) -> Range {
        let message = (self.since & low(TIME_BITS)) << COUNTER_BITS | u64::from(self.counter);
        let thread = u64::from(self.thread) % MOST_THREADS;
        let start = thread << THREAD_AT | u64::from(self.namespace) << NAMESPACE_AT | message >> HALF_BITS;
        Range { start, length: 1 + (message & low(HALF_BITS)) }
    }

    /// `None` if the range is not a mark.
    fn from_range(range: Range) -> Option<Told> {
        let (upper, lower) = (range.start & low(NAMESPACE_AT), range.length - 1);
        if upper > low(HALF_BITS) || lower > low(HALF_BITS) {
            return None;
        }
        let message = upper << HALF_BITS | lower;
        Some(Told {
            namespace: (range.start >> NAMESPACE_AT & low(NAMESPACE_BITS)) as u32,
            // No thread has the number zero. The kernel would take it for the caller.
            thread: u32::try_from(range.start >> THREAD_AT).ok().filter(|thread| *thread != 0)?,
            since: message >> COUNTER_BITS,
            counter: (message & low(COUNTER_BITS)) as u32,
        })
    }

    /// For how many milliseconds it has waited. Zero if the clock was set back in the meantime.
    fn waited(&self, now: u64) -> u64 {
        let waited = now.wrapping_sub(self.since) & low(TIME_BITS);
        if waited > low(TIME_BITS - 1) { 0 } else { waited }
    }
}

/// Who set the mark, as far as it is known in this namespace. `None` if that thread has ended: a
/// mark outlives its thread if another process has inherited the descriptor.
fn identify(mark: &Told, page: &Page, now: u64) -> Option<Waiter> {
    let since = EPOCH + Duration::from_millis(now.saturating_sub(mark.waited(now)));
    let since = SystemTime::UNIX_EPOCH + since;
    let mut waiter = Waiter { pid: None, tid: None, since, command: String::new() };
    if !page.is_namespace(mark.namespace, process::pid_namespace()) {
        return Some(waiter);
    }
    if !process::exists(mark.thread) {
        return None;
    }
    waiter.tid = Some(mark.thread);
    // In the /proc of another namespace, the number is that of another thread.
    let is_own_proc = fs::read_link("/proc/self").is_ok_and(|own| own == Path::new(&process::process().to_string()));
    let home = PathBuf::from(format!("/proc/{}", mark.thread));
    let status = if is_own_proc { fs::read_to_string(home.join("status")).ok() } else { None };
    match status {
        Some(status) => {
            waiter.pid = status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok());
            let command = fs::read(home.join("cmdline")).unwrap_or_default();
            waiter.command = String::from_utf8_lossy(&command).trim_end_matches('\0').replace('\0', " ");
        }
        // There is no /proc of this namespace, or it hides the processes of other users.
        None => waiter.pid = process::is_first_thread(mark.thread).then_some(mark.thread),
    }
    Some(waiter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_says_what_was_put_into_it_and_meets_none_of_another_thread() {
        let values = |most: u32| [0, 1, 2, most / 2, most - 1, most];
        let mut ranges = Vec::new();
        for thread in [1, 2, 3, 4_194_303] {
            for namespace in [0, 1, 2, 255, 256] {
                for counter in values((1 << COUNTER_BITS) - 1) {
                    for since in [0, 1, 31, 32, low(TIME_BITS) / 2, low(TIME_BITS) - 1, low(TIME_BITS)] {
                        let told = Told { namespace, thread, since, counter };
                        let range = told.to_range();
                        assert_eq!(Told::from_range(range), Some(told));
                        assert!(range.start > ENDING && range.start + range.length < i64::MAX as u64);
                        ranges.push(((thread, namespace), range));
                    }
                }
            }
        }
        ranges.sort_by_key(|(_, range)| (range.start, range.length));
        let mut end = ((0, 0), 0);
        for (who, range) in ranges {
            assert!(who == end.0 || range.start > end.1, "{who:?} and {:?} meet", end.0);
            end = (who, (range.start + range.length).max(if who == end.0 { end.1 } else { 0 }));
        }
    }

    #[test]
    fn many_holders_hide_no_waiter() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let [holders, waiter, asker] = [(); 3].map(|()| File::options().read(true).write(true).open(&path).unwrap());
        for holder in 0..MOST_QUESTIONS as u64 {
            assert!(files::try_write_lock(&holders, Range { start: 2 * holder, length: 1 }).unwrap());
        }
        let told = Told { namespace: 1, thread: 1, since: 5, counter: 2 };
        files::mark(&waiter, told.to_range()).unwrap();
        assert_eq!(marks(&asker).unwrap().into_iter().map(Told::from_range).collect::<Vec<_>>(), [Some(told)]);
    }

    #[test]
    fn times_are_told_across_the_end_of_a_round_and_by_a_clock_that_was_set_back() {
        let told = |since| Told { namespace: 1, thread: 1, since, counter: 0 };
        assert_eq!(told(5).waited(7), 2);
        assert_eq!(told(low(TIME_BITS)).waited(1), 2);
        assert_eq!(told(7).waited(5), 0);
    }
}
