//! One opening of an event: what the methods of [`SharedEvent`](crate::SharedEvent) do with its file, its marks, and
//! the clock. How the word is changed is in [`signal`].

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::{Error, Kind};
use crate::event::Event;
use crate::interrupt;
use crate::protocol::layout::{LastSet, Page};
use crate::protocol::signal::{self, Gone};
use crate::protocol::word::{Generation, Word};
use crate::shared::file::{EventFile, Standing};
use crate::shared::registry::{self, Registry};
use crate::sync::lock;
use crate::sys::{self, Awake, shared};

/// One opening of an event.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) file: EventFile,
    pub(crate) path: Option<PathBuf>,
    registry: Registry,
    /// Notified when the word has changed: this process's tasks wait for it. See [`reactor`](crate::shared::reactor).
    pub(crate) local_event: Event,
    /// One more than the number of forks, while a reactor thread of this process sleeps on the word; else zero. See
    /// [`reactor`](crate::shared::reactor).
    pub(crate) registered_in: AtomicU32,
    /// The mark that shows that tasks wait. The reactor thread sets it.
    mark_of_tasks: Mutex<Option<registry::Mark>>,
    /// Whether there is one. The reactor thread sets the mark and then checks for listeners. A task leaves the queue
    /// of the local event and then checks for the mark. The queue's lock orders the two, so no mark stays without
    /// listeners.
    has_mark_of_tasks: AtomicBool,
    /// How many threads of this process sleep; for `Debug`.
    sleepers: AtomicU32,
    /// The file was found to have lost its name.
    is_abandoned: AtomicBool,
}

/// A thread that sleeps. Its mark is removed when the wait ends, also by a panic of the callback of
/// [`interruptible`](crate::interruptible).
struct Sleeper<'a> {
    handle: &'a Handle,
    mark: Option<registry::Mark>,
    is_released: bool,
}

impl Sleeper<'_> {
    fn new(handle: &Handle) -> Sleeper<'_> {
        handle.sleepers.fetch_add(1, Relaxed);
        Sleeper { handle, mark: None, is_released: false }
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.handle.sleepers.fetch_sub(1, Relaxed);
        if let Some(mark) = self.mark.take() {
            self.handle.registry.leave(&self.handle.file.file, mark, self.is_released);
        }
    }
}

/// How long a thread sleeps before it sets a mark.
pub(crate) const ANONYMOUS_NAP: Duration = Duration::from_millis(50);
/// How long to sleep between checks whether the file is still there, at first and at most.
pub(crate) const SHORTEST_NAP: Duration = Duration::from_secs(1);
const LONGEST_NAP: Duration = Duration::from_secs(2);
/// How often to look at the word if setters do not know of this sleeper.
const BLIND_NAP: Duration = Duration::from_millis(20);

/// This process, and the PID namespace in which it has that number.
#[inline]
fn who_sets() -> (u32, u32) {
    (shared::process(), shared::pid_namespace())
}

#[inline]
fn note_raising(page: &Page) -> impl Fn(Word) {
    |before| page.note_raising(before, who_sets(), shared::coarse_time())
}

impl Handle {
    pub(crate) fn new(file: EventFile, path: Option<PathBuf>) -> Handle {
        // Determined now, because a signal handler may call `set`, and the first call takes locks and allocates.
        let _ = who_sets();
        Handle {
            file,
            path,
            registry: Registry::default(),
            local_event: Event::new(),
            registered_in: AtomicU32::new(0),
            mark_of_tasks: Mutex::new(None),
            has_mark_of_tasks: AtomicBool::new(false),
            sleepers: AtomicU32::new(0),
            is_abandoned: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(crate) fn page(&self) -> &Page {
        self.file.mapping.page()
    }

    #[inline]
    pub(crate) fn word(&self) -> Word {
        self.page().word()
    }

    /// The word; marked as gone if this handle has found out that the event is gone, and could not write that.
    pub(crate) fn known_word(&self) -> Word {
        let word = self.word();
        if !self.page().is_whole() {
            // The file was truncated and extended again without a fault in between.
            return Word::LOST;
        }
        if self.is_abandoned() { word.gone() } else { word }
    }

    #[inline]
    pub(crate) fn is_set(&self) -> Result<bool, Error> {
        self.live_word().map(Word::is_set)
    }

    pub(crate) fn last_set(&self) -> Result<Option<LastSet>, Error> {
        self.live_word().map(|_| self.page().last_set(shared::pid_namespace()))
    }

    #[inline]
    fn live_word(&self) -> Result<Word, Error> {
        let word = self.known_word();
        if word.is_gone() { Err(self.gone(word)) } else { Ok(word) }
    }

    pub(crate) fn name(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => "an event without a name".to_owned(),
        }
    }

    #[cold]
    pub(crate) fn read_only(&self) -> Error {
        Error::new(Kind::ReadOnly { event: self.name() })
    }

    #[cold]
    pub(crate) fn gone(&self, word: Word) -> Error {
        let event = self.name();
        let is_lost = word.is_lost() || self.file.is_cut_off();
        Error::new(if is_lost { Kind::Lost { event } } else { Kind::Removed { event } })
    }

    #[inline]
    pub(crate) fn set(&self) -> Result<(), Error> {
        self.change(|page| signal::set(&page.word, note_raising(page), || page.count_repeat()))
    }

    pub(crate) fn pulse(&self) -> Result<(), Error> {
        self.change(|page| signal::pulse(&page.word, note_raising(page), || page.count_repeat()))
    }

    #[inline]
    pub(crate) fn clear(&self) -> Result<(), Error> {
        self.change(|page| signal::clear(&page.word))
    }

    #[inline]
    fn change(&self, change: impl FnOnce(&Page) -> Result<(), Gone>) -> Result<(), Error> {
        if !self.file.is_writable {
            return Err(self.read_only());
        }
        change(self.page()).map_err(|Gone(word)| self.gone(word))?;
        self.check_whole()
    }

    /// An error if the page is what is left of a truncated file: see [`Page::is_whole`].
    #[inline]
    pub(crate) fn check_whole(&self) -> Result<(), Error> {
        if self.page().is_whole() { Ok(()) } else { Err(self.gone(Word::LOST)) }
    }

    /// Whether it is released; an error if the event is gone.
    #[inline]
    pub(crate) fn look(&self, generation: Generation) -> Result<bool, Error> {
        self.judge(self.word(), generation)
    }

    #[inline]
    fn judge(&self, now: Word, generation: Generation) -> Result<bool, Error> {
        if now.releases(generation) {
            return self.check_whole().map(|()| true);
        }
        if now.is_gone() || self.is_abandoned() { Err(self.gone(now)) } else { Ok(false) }
    }

    #[inline]
    pub(crate) fn wait(&self, deadline: impl FnOnce() -> Deadline) -> Result<bool, Error> {
        if self.is_set_and_there() { Ok(true) } else { self.wait_cold(deadline()) }
    }

    #[inline]
    fn is_set_and_there(&self) -> bool {
        let now = self.word();
        now.is_set() && !now.is_gone()
    }

    #[cold]
    fn wait_cold(&self, deadline: Deadline) -> Result<bool, Error> {
        let first = self.word();
        if first.is_gone() {
            return Err(self.gone(first));
        }
        let generation = first.generation();
        if first.releases(generation) {
            return Ok(true);
        }
        if deadline.has_passed() {
            return self.look(generation);
        }
        let is_over = || {
            let now = self.word();
            now.releases(generation) || now.is_gone()
        };
        // Do not spin when others sleep already: the next `set` needs a system call anyway.
        if first.has_sleepers() {
            return self.sleep(generation, deadline);
        }
        if sys::spin::until(deadline, is_over) {
            return self.look(generation);
        }
        sys::spin::noting_sleep(|| self.sleep(generation, deadline))
    }

    fn sleep(&self, generation: Generation, deadline: Deadline) -> Result<bool, Error> {
        let mut sleeper = Sleeper::new(self);
        let mut nap = ANONYMOUS_NAP;
        // When the nap is over. Determined only after the sleep was interrupted, as signals may do again and again; in
        // the usual case no look at the clock is needed.
        let mut nap_ends = None;
        let outcome = loop {
            let now = self.word();
            match self.judge(now, generation) {
                Ok(false) => {}
                over => break over,
            }
            let longest = self.longest_nap(nap);
            let left = nap_ends.map_or(longest, |ends: Instant| ends.saturating_duration_since(Instant::now()));
            let left = left.min(longest);
            let left = deadline.instant().map_or(left, |at| at.saturating_duration_since(Instant::now()).min(left));
            let awake = match left {
                Duration::ZERO => Awake::TimedOut,
                left => signal::sleep(&self.page().word, now, self.file.is_writable, Some(left)),
            };
            if matches!(awake, Awake::TimedOut | Awake::Interrupted) && interrupt::gives_up(deadline) {
                break self.look(generation);
            }
            if awake != Awake::TimedOut {
                nap_ends.get_or_insert_with(|| Instant::now() + longest);
                continue;
            }
            nap_ends = None;
            if deadline.has_passed() {
                // On a tie, released wins.
                break self.look(generation);
            }
            if nap == ANONYMOUS_NAP && sleeper.mark.is_none() {
                sleeper.mark = self.enter(generation, ANONYMOUS_NAP);
                nap = SHORTEST_NAP;
            } else {
                nap = LONGEST_NAP.min(nap * 2);
            }
            self.check_place();
        };
        sleeper.is_released = matches!(outcome, Ok(true));
        outcome
    }

    /// How many threads and tasks of this process wait through this handle.
    pub(crate) fn waiting(&self) -> usize {
        self.sleepers.load(Relaxed) as usize + self.local_event.queue().len()
    }

    fn enter(&self, generation: Generation, waited: Duration) -> Option<registry::Mark> {
        let namespace = self.page().index_of_namespace(shared::pid_namespace(), self.file.is_writable);
        self.registry.enter(&self.file.file, namespace, generation, waited)
    }

    /// Sets the mark of waiting tasks, unless there is one.
    pub(crate) fn enter_for_listeners(&self, generation: Generation, waited: Duration) {
        let mut mark = lock(&self.mark_of_tasks);
        // In the child of a fork, the parent's mark does not stand for this process.
        if mark.as_ref().is_none_or(|mark| !mark.is_own()) {
            *mark = self.enter(generation, waited);
            self.has_mark_of_tasks.store(mark.is_some(), Relaxed);
        }
    }

    /// Removes the mark of waiting tasks: none waits any more, or all were released.
    pub(crate) fn leave_for_listeners(&self, is_released: bool) {
        let mut mark = lock(&self.mark_of_tasks);
        if let Some(mark) = mark.take() {
            self.registry.leave(&self.file.file, mark, is_released);
        }
        self.has_mark_of_tasks.store(false, Relaxed);
    }

    pub(crate) fn is_marked_for_listeners(&self) -> bool {
        self.has_mark_of_tasks.load(Relaxed)
    }

    /// See [`signal::announce_sleep`].
    pub(crate) fn announce_sleep(&self, now: Word) -> Option<Word> {
        signal::announce_sleep(&self.page().word, now, self.file.is_writable)
    }

    /// `nap`, or less if setters do not know of this sleeper.
    pub(crate) fn longest_nap(&self, nap: Duration) -> Duration {
        let now = self.word();
        let is_heard = self.file.is_writable || (now.has_readers() && !now.is_set());
        if is_heard { nap } else { nap.min(BLIND_NAP) }
    }

    /// Checks whether others can still find the event. An event whose file has lost its last name, or its page, is gone
    /// even if it was not removed, and is marked so for all. One that has lost only the name by which it was opened is
    /// gone for this handle, because others may have opened it by another name.
    pub(crate) fn check_place(&self) {
        let standing = if self.page().is_whole() { self.file.standing() } else { Standing::Gone };
        if standing == Standing::InPlace {
            return;
        }
        self.is_abandoned.store(true, Relaxed);
        if standing == Standing::Gone && self.file.is_writable {
            signal::remove(&self.page().word);
        }
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Relaxed)
    }
}
