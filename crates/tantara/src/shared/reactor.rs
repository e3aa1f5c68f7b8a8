//! How tasks wait for events between processes: a helper thread sleeps for them.
//!
//! A task listens to its handle's bell, a local [`Event`](crate::Event), and hands the handle to the bridge. A helper
//! sleeps on the words of up to [`MOST_EVENTS`] handles at once (`futex_waitv`), and on a control word of its own, by
//! which it is told of newcomers. When a word has changed it rings the bell, and all who listen look for themselves. So
//! a helper decides nothing, and may ring once too often; it must only never miss a change that somebody listens for:
//!
//! 1. Whoever listens enters the bell's queue, then hands the handle over together with the word that it saw, then
//!    looks at the word again.
//! 2. A helper compares the word with the one that it rang for last, or that came with the handle.
//! 3. A helper that lets go of a handle for want of listeners says so (`attended_by`) and then looks for listeners once
//!    more; a listener enters the queue and then looks whether the handle is attended to. One of the two sees the
//!    other, because both change `attended_by`.
//!
//! A helper holds handles weakly: to drop a `SharedEvent` ends it at once. It ends itself when it has had nothing to do
//! for a while. In the child of a fork there are no helpers; it makes its own. (What a thread of the parent had locked
//! at that moment, be it a handle, stays locked in the child: it does well to open its events anew.)
//!
//! Where the kernel has no `futex_waitv` (before Linux 5.16), or a sandbox forbids it, a helper looks at its words
//! every [`BLIND`] instead. Where no helper can be started, a thread that blocks looks that often by itself
//! ([`wait`](crate::shared::wait)); a task gets an error.

use std::path::Path;
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicPtr, AtomicU32};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::protocol::word::Word;
use crate::shared::handle::{ANONYMOUS_NAP, Handle, SHORTEST_NAP};
use crate::sys;
use crate::sys::shared::{self, MOST_WORDS, ManyError, Sleep};
use crate::wakers::quietly;

/// How many events a helper sleeps for: one word is its own.
const MOST_EVENTS: usize = MOST_WORDS - 1;
/// How often to look where one cannot sleep on many words.
pub(crate) const BLIND: Duration = Duration::from_millis(5);
/// How long a helper without work waits for more.
const PATIENCE: Duration = Duration::from_secs(5);

/// All helpers of this process. The child of a fork inherits the pointer, but no helper, and perhaps a lock that nobody
/// will give back; so it makes a list of its own, and the old one is left as it is.
static HELPERS: AtomicPtr<Helpers> = AtomicPtr::new(ptr::null_mut());

struct Helpers {
    /// After how many forks the list was made.
    forks: u32,
    all: RwLock<Vec<Arc<Helper>>>,
}

impl Helpers {
    fn of_process(forks: u32) -> &'static Helpers {
        let mut list = HELPERS.load(Acquire);
        loop {
            // SAFETY: lists live for ever.
            if let Some(helpers) = unsafe { list.as_ref() }.filter(|helpers| helpers.forks == forks) {
                return helpers;
            }
            let new = Box::into_raw(Box::new(Helpers { forks, all: RwLock::default() }));
            match HELPERS.compare_exchange(list, new, AcqRel, Acquire) {
                Ok(_) => list = new,
                // A list that another thread has made first; ours is left.
                Err(other) => list = other,
            }
        }
    }
}

/// One helper, seen from outside.
#[derive(Default)]
struct Helper {
    /// Changes when somebody has come.
    control: AtomicU32,
    desk: Mutex<Desk>,
}

#[derive(Default)]
struct Desk {
    newcomers: Vec<(Weak<Handle>, Word)>,
    /// How many handles it has, newcomers included.
    load: usize,
    is_running: bool,
}

/// Makes sure that `handle`'s bell is rung when its word is no longer `seen`. The caller listens already.
pub(crate) fn attend(handle: &Arc<Handle>, seen: Word) -> Result<(), Error> {
    let forks = shared::forks();
    if handle.attended_by.swap(forks + 1, AcqRel) == forks + 1 {
        return Ok(());
    }
    let handed_over = hand_over(handle, seen, Helpers::of_process(forks));
    if handed_over.is_err() {
        handle.attended_by.store(0, Relaxed);
        // Whoever has relied on us tries for themselves.
        handle.bell.pulse();
    }
    handed_over
}

fn hand_over(handle: &Arc<Handle>, seen: Word, helpers: &Helpers) -> Result<(), Error> {
    for helper in helpers.all.read().unwrap_or_else(PoisonError::into_inner).iter() {
        let mut desk = helper.desk();
        if desk.load < MOST_EVENTS {
            return helper.receive(&mut desk, handle, seen);
        }
    }
    let helper = Arc::<Helper>::default();
    helpers.all.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&helper));
    let mut desk = helper.desk();
    helper.receive(&mut desk, handle, seen)
}

impl Helper {
    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn receive(self: &Arc<Self>, desk: &mut Desk, handle: &Arc<Handle>, seen: Word) -> Result<(), Error> {
        if !desk.is_running {
            let helper = Arc::clone(self);
            let thread = thread::Builder::new().name("tantara".into());
            let started = shared::starting_without_signals(|| thread.spawn(move || helper.run()));
            started.map_err(|error| Error::system("started", Path::new("helper thread for async waits"), error))?;
            desk.is_running = true;
        }
        desk.newcomers.push((Arc::downgrade(handle), seen));
        desk.load += 1;
        self.control.fetch_add(1, AcqRel);
        sys::wake_one(&self.control);
        Ok(())
    }

    fn run(&self) {
        let mut charges: Vec<Charge> = Vec::new();
        let mut can_sleep_on_many = true;
        let mut idle_since = Instant::now();
        loop {
            let control = self.control.load(Acquire);
            charges.extend(self.desk().newcomers.drain(..).map(Charge::new));
            let mut sleeps = vec![Sleep::on_private(&self.control, control)];
            let now = Instant::now();
            let mut until = now + PATIENCE;
            charges.retain_mut(|charge| match charge.attend(now) {
                Some((sleep, wake)) => {
                    sleeps.push(sleep);
                    until = until.min(wake);
                    true
                }
                None => false,
            });
            {
                let mut desk = self.desk();
                desk.load = charges.len() + desk.newcomers.len();
                if desk.load > 0 {
                    idle_since = now;
                } else if idle_since + PATIENCE <= now {
                    desk.is_running = false;
                    return;
                }
            }
            let slept = if can_sleep_on_many { shared::wait_many(&sleeps, until) } else { Err(ManyError::Unsupported) };
            match slept {
                Ok(()) | Err(ManyError::TimedOut) => {}
                Err(error) => {
                    can_sleep_on_many = error != ManyError::Unsupported;
                    let until = if charges.is_empty() { until } else { until.min(now + BLIND) };
                    let _ = sys::wait(&self.control, control, Deadline::At(until));
                }
            }
        }
    }
}

/// A handle that a helper attends to.
struct Charge {
    handle: Weak<Handle>,
    /// What the bell was last rung for.
    seen: Word,
    since: Instant,
    /// When to look after its file.
    next_look: Instant,
}

impl Charge {
    fn new((handle, seen): (Weak<Handle>, Word)) -> Charge {
        let since = Instant::now();
        Charge { handle, seen, since, next_look: since + ANONYMOUS_NAP }
    }

    /// Rings if the word has changed, and says what to sleep on and for how long at most. Nothing, if there is nobody
    /// to sleep for any more.
    fn attend(&mut self, now: Instant) -> Option<(Sleep, Instant)> {
        let handle = self.handle.upgrade()?;
        loop {
            let word = handle.word();
            if word.counter() != self.seen.counter() || word.is_gone() != self.seen.is_gone() {
                self.ring(&handle, word);
            }
            if !handle.bell.has_listeners() && !self.keep(&handle) {
                return None;
            }
            if now >= self.next_look {
                self.look_after(&handle, word, now);
            }
            // Only over the word that was looked at; else around again.
            if let Some(asleep) = handle.announce_sleep(word) {
                let nap = handle.longest_nap(self.next_look.saturating_duration_since(now));
                return Some((Sleep::on(&handle.page().word, asleep.bits()), now + nap));
            }
        }
    }

    fn ring(&mut self, handle: &Handle, word: Word) {
        handle.leave_for_listeners(word.releases(self.seen.ticket()));
        self.seen = word;
        self.since = Instant::now();
        self.next_look = self.since + ANONYMOUS_NAP;
        // A listener's waker may panic; nobody else is to suffer from that.
        quietly(|| handle.bell.pulse());
    }

    /// Whether the last moment has brought a listener (3).
    fn keep(&mut self, handle: &Handle) -> bool {
        let attended_by = handle.attended_by.swap(0, AcqRel);
        if handle.bell.has_listeners() && handle.attended_by.swap(attended_by, AcqRel) == 0 {
            return true;
        }
        handle.leave_for_listeners(false);
        false
    }

    fn look_after(&mut self, handle: &Handle, word: Word, now: Instant) {
        if !word.is_set() {
            handle.enter_for_listeners(word.ticket(), self.since.elapsed());
            // The last one may have left just before, and taken off a mark that was not there yet.
            if !handle.bell.has_listeners() {
                handle.leave_for_listeners(false);
            }
        }
        self.next_look = now + 2 * SHORTEST_NAP;
        handle.check_place();
        // Again with each look: a sleeper on the same handle may have found out before us.
        if handle.is_abandoned() {
            self.ring(handle, handle.word());
        }
    }
}
