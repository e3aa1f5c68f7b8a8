//! One opening of an event: what the methods of [`SharedEvent`](crate::SharedEvent) do with its
//! file, its marks, and the clock. How the word is changed is in [`signal`].

#![forbid(unsafe_code)]

use std::panic::Location;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::{self, Error};
use crate::event::Event;
use crate::interrupt;
use crate::protocol::layout::Page;
use crate::protocol::record::{LastSet, Note, Numbers};
use crate::protocol::signal::{self, Gone, LostRace, Recorder};
use crate::protocol::target::{Aim, Target};
use crate::protocol::word::{Sleeper, Word};
use crate::shared::file::{EventFile, Standing};
use crate::shared::holders;
use crate::shared::registry::{self, Registry};
use crate::sync::lock;
use crate::sys::{self, Awake, keeping_errno, process, ticks};
use crate::waits::hooks::{self, Identity, Kind, Place, State};
use crate::word::Generation;

/// One opening of an event.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) file: EventFile,
    pub(crate) path: Option<PathBuf>,
    registry: Registry,
    /// Notified when the word has changed: this process's tasks wait for it. See
    /// [`reactor`](crate::shared::reactor).
    pub(crate) local_event: Event,
    /// One more than the number of forks, while a reactor thread of this process sleeps on the
    /// word; else zero. See [`reactor`](crate::shared::reactor).
    pub(crate) registered_in: AtomicU32,
    /// The mark that shows that tasks wait. The reactor thread sets it.
    mark_of_tasks: Mutex<Option<registry::Mark>>,
    /// Whether there is one. The reactor thread sets the mark and then checks for listeners. A task
    /// leaves the queue of the local event and then checks for the mark. The queue's lock orders
    /// the two, so no mark stays without listeners.
    has_mark_of_tasks: AtomicBool,
    /// How many threads of this process sleep; for `Debug`.
    sleepers: AtomicU32,
    /// How many tasks wait for more than that it is set: until it is unset, or for the next `set`.
    pub(crate) other_listeners: AtomicU32,
    /// The file was found to have lost its name.
    is_abandoned: AtomicBool,
}

/// A thread that sleeps. Its mark is removed when the wait ends, also by a panic of the callback of
/// [`interruptible`](crate::interruptible).
struct ThreadAsleep<'a> {
    handle: &'a Handle,
    mark: Option<registry::Mark>,
}

impl ThreadAsleep<'_> {
    fn new(handle: &Handle) -> ThreadAsleep<'_> {
        handle.sleepers.fetch_add(1, Relaxed);
        ThreadAsleep { handle, mark: None }
    }

    fn leave(&mut self) {
        self.mark.take().into_iter().for_each(|mark| self.handle.leave(mark));
    }
}

impl Drop for ThreadAsleep<'_> {
    fn drop(&mut self) {
        self.handle.sleepers.fetch_sub(1, Relaxed);
        self.leave();
    }
}

/// How long a thread sleeps before it sets a mark.
pub(crate) const ANONYMOUS_NAP: Duration = Duration::from_millis(50);
/// How long to sleep between checks whether the file is still there, at first and at most.
pub(crate) const SHORTEST_NAP: Duration = Duration::from_secs(1);
const LONGEST_NAP: Duration = Duration::from_secs(2);
/// How often to look whether the holder still lives.
pub(crate) const HOLDER_NAP: Duration = Duration::from_millis(500);
/// How often to look at the word if setters do not know of this sleeper.
const BLIND_NAP: Duration = Duration::from_millis(20);

/// This process, and the PID namespace in which it has that number; and the time.
fn origin() -> (Numbers, Numbers) {
    (process::process_and_namespace(), ticks::recent_time().unwrap_or_else(|| ticks::noted(process::coarse_time)))
}

/// The same, if that takes no call.
#[inline]
fn known_origin() -> Option<(Numbers, Numbers)> {
    Some((process::known_process_and_namespace()?, ticks::recent_time()?))
}

impl Handle {
    pub(crate) fn new(file: EventFile, path: Option<PathBuf>) -> Handle {
        // Determined now, because a signal handler may call `set`, and the first call takes locks
        // and allocates.
        let _ = process::process_and_namespace();
        let handle = Handle {
            file,
            path,
            registry: Registry::default(),
            local_event: Event::new(),
            registered_in: AtomicU32::new(0),
            mark_of_tasks: Mutex::new(None),
            has_mark_of_tasks: AtomicBool::new(false),
            sleepers: AtomicU32::new(0),
            other_listeners: AtomicU32::new(0),
            is_abandoned: AtomicBool::new(false),
        };
        // Ends the hold of a killed process, before others look for it.
        handle.seen(handle.word());
        handle
    }

    #[inline]
    pub(crate) fn page(&self) -> &Page {
        self.file.mapping.page()
    }

    #[inline]
    pub(crate) fn word(&self) -> Word {
        self.page().word()
    }

    /// The word; marked as gone if this handle has found that the event is gone but could not write
    /// that.
    pub(crate) fn known_word(&self) -> Word {
        let word = self.word();
        if !self.page().is_whole() {
            // The file was truncated and extended again without a fault in between.
            return Word::LOST;
        }
        if self.is_abandoned() { word.gone() } else { word }
    }

    /// How often it was set without a change of the word.
    #[inline]
    pub(crate) fn repeats(&self) -> u32 {
        self.page().repeats()
    }

    /// The word as it counts: a hold whose holder was killed has ended, and is ended for all if
    /// this process may. A look for the locks of holders takes about a microsecond. Without HELD
    /// there is none.
    #[inline]
    pub(crate) fn seen(&self, word: Word) -> Word {
        if word.depends_on_a_holder() { self.seen_held(word) } else { word }
    }

    /// May be called in a signal handler, as `is_set` may.
    #[cold]
    fn seen_held(&self, word: Word) -> Word {
        keeping_errno(|| self.seen_by_locks(word))
    }

    fn seen_by_locks(&self, word: Word) -> Word {
        let seen = holders::seen(&self.file.file, word);
        if seen.is_set() || !self.file.is_writable {
            return seen;
        }
        holders::clean_up(&self.file.file, self.page());
        let after = self.word();
        // Another process may be about to do the same.
        if after.depends_on_a_holder() { holders::seen(&self.file.file, after) } else { after }
    }

    /// Whether a process holds the event, whose word says so. If none does, the hold of a killed
    /// process is ended, before the word is changed, if that is possible.
    #[cold]
    fn is_held(&self) -> bool {
        keeping_errno(|| {
            let is_held = holders::is_held(&self.file.file);
            if !is_held {
                holders::clean_up(&self.file.file, self.page());
            }
            is_held
        })
    }

    /// [`known_word`](Handle::known_word) as it counts.
    #[inline]
    pub(crate) fn known_seen(&self) -> Word {
        self.seen(self.known_word())
    }

    #[inline]
    pub(crate) fn is_set(&self) -> Result<bool, Error> {
        self.live_word().map(Word::is_set)
    }

    pub(crate) fn last_set(&self) -> Result<Option<LastSet>, Error> {
        self.live_word().map(|_| self.page().last_set(process::pid_namespace()))
    }

    #[inline]
    fn live_word(&self) -> Result<Word, Error> {
        let word = self.known_word();
        if word.is_plain() { Ok(word) } else { self.held_word(word) }
    }

    #[cold]
    fn held_word(&self, word: Word) -> Result<Word, Error> {
        if word.is_gone() { Err(self.gone(word)) } else { Ok(self.seen(word)) }
    }

    pub(crate) fn name(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => "an event without a name".to_owned(),
        }
    }

    #[cold]
    pub(crate) fn read_only(&self) -> Error {
        Error::new(error::Kind::ReadOnly { event: self.name() })
    }

    #[cold]
    pub(crate) fn gone(&self, word: Word) -> Error {
        let event = self.name();
        let is_lost = word.is_lost() || self.file.is_cut_off();
        Error::new(if is_lost { error::Kind::Lost { event } } else { error::Kind::Removed { event } })
    }

    #[inline]
    pub(crate) fn set(&self) -> Result<(), Error> {
        let known = if self.file.is_writable { known_origin() } else { None };
        let Some(origin) = known else { return self.set_slowly(None, None) };
        let page = self.page();
        match signal::set_at_once(&page.word, |before| page.setter(None, || origin).raising(before)) {
            Ok(()) => self.check_whole(),
            Err(lost) => self.set_slowly(None, lost),
        }
    }

    pub(crate) fn set_with_note(&self, note: Option<&Note>) -> Result<(), Error> {
        self.set_slowly(note, None)
    }

    #[cold]
    fn set_slowly(&self, note: Option<&Note>, lost: Option<LostRace>) -> Result<(), Error> {
        let is_held = || self.is_held();
        self.change(|page| signal::set(&page.word, &page.repeats, lost, &page.setter(note, origin), is_held))
    }

    pub(crate) fn pulse(&self, note: Option<&Note>) -> Result<(), Error> {
        self.change(|page| signal::pulse(&page.word, &page.repeats, &page.setter(note, origin), || self.is_held()))
    }

    #[inline]
    pub(crate) fn clear(&self) -> Result<(), Error> {
        let is_unset = self.file.is_writable && signal::clear_at_once(&self.page().word);
        if is_unset { self.check_whole() } else { self.clear_slowly() }
    }

    #[cold]
    fn clear_slowly(&self) -> Result<(), Error> {
        self.change(|page| signal::clear(&page.word, || self.is_held()))
    }

    /// Begins a hold, for a process that has the lock of a holder. `is_held`: others have one too.
    pub(crate) fn begin_hold(&self, is_held: impl Fn() -> bool) -> Result<(), Error> {
        self.change(|page| signal::begin_hold(&page.word, &page.repeats, &page.setter(None, origin), is_held))
    }

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
    fn look(&self, target: Target) -> Result<bool, Error> {
        self.judge(self.seen(self.word()), target)
    }

    #[inline]
    fn judge(&self, now: Word, target: Target) -> Result<bool, Error> {
        if target.is_reached(now, self.repeats()) {
            return self.check_whole().map(|()| true);
        }
        if now.is_gone() || self.is_abandoned() { Err(self.gone(now)) } else { Ok(false) }
    }

    #[inline]
    #[track_caller]
    pub(crate) fn wait(&self, deadline: impl FnOnce() -> Deadline) -> Result<bool, Error> {
        if self.word().is_plainly_set() { Ok(true) } else { self.wait_for(Aim::Set, deadline()) }
    }

    /// Waits for anything. The wait begins here.
    #[cold]
    #[track_caller]
    pub(crate) fn wait_for(&self, aim: Aim, deadline: Deadline) -> Result<bool, Error> {
        let place = Location::caller();
        let first = self.word();
        if first.is_gone() {
            return Err(self.gone(first));
        }
        let target = Target::new(aim, self.seen(first), self.repeats());
        if self.look(target)? {
            return Ok(true);
        }
        if deadline.has_passed() {
            return self.look(target);
        }
        // Do not spin when others sleep already: the next `set` needs a system call anyway. Nor in
        // waits that are for people and scripts rather than for a fast exchange, and not while the
        // kernel has to be asked for a holder.
        if first.has_sleepers() || first.is_held() || aim != Aim::Set {
            return self.sleep(target, deadline, place);
        }
        let is_over = || {
            let now = self.word();
            target.is_reached(now, 0) || now.is_gone()
        };
        if sys::spin::until(deadline, is_over) && self.look(target)? {
            return Ok(true);
        }
        sys::spin::noting_sleep(|| self.sleep(target, deadline, place))
    }

    fn sleep(&self, target: Target, deadline: Deadline, place: Place) -> Result<bool, Error> {
        let state = State::now();
        let _recorded = if state.is_idle() { None } else { self.record(state, target, deadline, place) };
        let mut sleeper = ThreadAsleep::new(self);
        let mut nap = ANONYMOUS_NAP;
        // Since when it waits, once there is a mark that says so.
        let mut since = None;
        // When the nap is over. Determined only after a signal has interrupted the sleep, so that
        // the usual case does not read the clock.
        let mut nap_ends = None;
        loop {
            let now = self.word();
            let seen = self.seen(now);
            if self.judge(seen, target)? {
                return Ok(true);
            }
            let longest = self.longest_nap(nap, seen);
            let longest = interrupt::longest_sleep(deadline).map_or(longest, |most| most.min(longest));
            let left = nap_ends.map_or(longest, |ends: Instant| ends.saturating_duration_since(Instant::now()));
            let left = left.min(longest);
            let left = deadline.instant().map_or(left, |at| at.saturating_duration_since(Instant::now()).min(left));
            let awake = match left {
                Duration::ZERO => Awake::TimedOut,
                left => {
                    let (page, sleeper) = (self.page(), self.file.is_writable.then(|| target.sleeper(seen)));
                    match target.repeats() {
                        Some(before) => {
                            signal::sleep_until_next(&page.word, &page.repeats, (now, before), sleeper, left)
                        }
                        None => signal::sleep(&page.word, now, sleeper, Some(left)),
                    }
                }
            };
            if matches!(awake, Awake::TimedOut | Awake::Interrupted) && interrupt::gives_up(deadline) {
                return self.look(target);
            }
            if awake != Awake::TimedOut {
                nap_ends.get_or_insert_with(|| Instant::now() + longest);
                continue;
            }
            nap_ends = None;
            if deadline.has_passed() {
                // On a tie, released wins.
                return self.look(target);
            }
            if nap == ANONYMOUS_NAP && sleeper.mark.is_none() {
                since = Instant::now().checked_sub(ANONYMOUS_NAP);
                sleeper.mark = self.enter(seen, ANONYMOUS_NAP);
                nap = SHORTEST_NAP;
            } else {
                if sleeper.mark.as_ref().is_some_and(|mark| mark.is_void(seen)) {
                    // The event has changed, and the wait for its next `set` goes on.
                    sleeper.leave();
                    sleeper.mark = self.enter(seen, since.map_or(nap, |since: Instant| since.elapsed()));
                }
                nap = LONGEST_NAP.min(nap * 2);
            }
            self.check_place();
        }
    }

    #[cold]
    fn record(&self, state: State, target: Target, deadline: Deadline, place: Place) -> Option<hooks::Recorded> {
        hooks::records(state).then(|| {
            let target = self.identity_for(target).target(Generation::NONE);
            hooks::sleeps(hooks::What::One(target), place, deadline)
        })
    }

    /// The identity of the event in the record of waits, which also gets its name.
    pub(crate) fn identity(&self) -> Identity {
        let identity = Identity::new(hooks::address(self), Kind::Shared);
        // Its own name if it is a link: as the command sees it.
        let path = || self.path.as_ref()?.canonicalize().ok()?.into_os_string().into_string().ok();
        hooks::introduce(identity, || (self.short_name(), path()));
        identity
    }

    /// The same, for a wait with that target.
    pub(crate) fn identity_for(&self, target: Target) -> Identity {
        Identity { until_unset: target.is_until_unset(), ..self.identity() }
    }

    /// The name without its directory.
    fn short_name(&self) -> String {
        let name = self.path.as_ref().and_then(|path| path.file_name());
        name.map_or_else(|| self.name(), |name| name.to_string_lossy().into_owned())
    }

    /// How many threads and tasks of this process wait through this handle.
    pub(crate) fn waiting(&self) -> usize {
        self.sleepers.load(Relaxed) as usize + self.local_event.queue().len()
    }

    /// Counts a thread that sleeps on the word among others, for `Debug`.
    pub(crate) fn count_sleeper(&self) {
        self.sleepers.fetch_add(1, Relaxed);
    }

    pub(crate) fn discount_sleeper(&self) {
        self.sleepers.fetch_sub(1, Relaxed);
    }

    /// Removes the mark of a wait that is over, unless it is void. Like the mark, that is judged by
    /// the word as it counts.
    pub(crate) fn leave(&self, mark: registry::Mark) {
        self.registry.leave(&self.file.file, mark, self.seen(self.word()));
    }

    /// Marks this thread as one that waits. `word` is the word as it counts.
    pub(crate) fn enter(&self, word: Word, waited: Duration) -> Option<registry::Mark> {
        let namespace = self.page().index_of_namespace(process::pid_namespace(), self.file.is_writable);
        self.registry.enter(&self.file.file, namespace, word, waited)
    }

    /// Sets the mark of waiting tasks, unless there is one.
    pub(crate) fn enter_for_listeners(&self, word: Word, waited: Duration) {
        if word.is_set() && self.other_listeners.load(Relaxed) == 0 {
            // A task that watches changes does not count as waiting.
            return;
        }
        let mut mark = lock(&self.mark_of_tasks);
        // In the child of a fork, the parent's mark does not stand for this process.
        if mark.as_ref().is_none_or(|mark| !mark.is_own()) {
            *mark = self.enter(word, waited);
            self.has_mark_of_tasks.store(mark.is_some(), Relaxed);
        }
    }

    /// Removes the mark of waiting tasks: none waits any more, or all were released.
    pub(crate) fn leave_for_listeners(&self) {
        let mut mark = lock(&self.mark_of_tasks);
        mark.take().into_iter().for_each(|mark| self.leave(mark));
        self.has_mark_of_tasks.store(false, Relaxed);
    }

    pub(crate) fn is_marked_for_listeners(&self) -> bool {
        self.has_mark_of_tasks.load(Relaxed)
    }

    /// Announces that the tasks of this process sleep: see [`signal::announce_sleep`]. `seen` is
    /// the word as it counts.
    pub(crate) fn announce_sleep(&self, now: Word, seen: Word) -> Option<Word> {
        let counts_repeats = self.other_listeners.load(Relaxed) > 0;
        let sleeper = self.file.is_writable.then(|| Sleeper::of(seen, counts_repeats));
        signal::announce_sleep(&self.page().word, now, sleeper)
    }

    /// `nap`, or less if setters do not know of this sleeper, or if a holder may be killed. `now`
    /// is the word as it counts.
    pub(crate) fn longest_nap(&self, nap: Duration, now: Word) -> Duration {
        let is_heard = self.file.is_writable || (now.has_readers() && !now.is_set() && !self.word().is_held());
        let nap = if now.is_held() { nap.min(HOLDER_NAP) } else { nap };
        if is_heard { nap } else { nap.min(BLIND_NAP) }
    }

    /// Checks whether others can still find the event. An event whose file has lost its last name,
    /// or its page, is gone even if it was not removed, and is marked so for all. One that has lost
    /// only the name by which it was opened is gone for this handle, because others may have opened
    /// it by another name.
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

impl Drop for Handle {
    fn drop(&mut self) {
        hooks::dropped(hooks::address(self));
    }
}
