//! How tasks wait for events between processes: reactor threads sleep for them.
//!
//! A task waits for its handle's local event, an [`Event`](crate::Event), and registers the handle
//! with the reactor. A reactor thread sleeps on the words of up to [`MOST_EVENTS`] handles at once
//! (`futex_waitv`), and on a control word of its own, by which it learns of new registrations. When
//! a word has changed, it notifies the local event, and each task looks at the word itself. So a
//! reactor thread may notify once too often. It must not miss a change that a task waits for:
//!
//! 1. A task enters the queue of the local event, then registers the handle together with the word
//!    that it saw, then looks at the word again.
//! 2. A reactor thread compares the word with the one that it last notified for, or that came with
//!    the registration.
//! 3. A reactor thread that drops a registration because no task waits says so (`registered_in`)
//!    and then checks once more for waiting tasks. A task enters the queue and then checks whether
//!    the handle is registered. One of the two sees the other, because both change `registered_in`.
//!
//! A reactor thread holds handles weakly, so dropping a `SharedEvent` closes it at once. It ends
//! when it has had no registrations for a while. The child of a fork has no reactor threads and
//! starts its own. (A lock that a thread of the parent held at the fork, such as one of a handle,
//! stays locked in the child, so the child should open its events anew.)
//!
//! For a task that waits for the next `set` of an event that is set, the thread also sleeps on the
//! page's `repeats`. It does so before there is such a task, because it may sleep already when one
//! comes. If there are too many words for one sleep, and tasks that need them, it looks at its
//! words every [`BLIND`].
//!
//! Where the kernel has no `futex_waitv` (before Linux 5.16), or a sandbox forbids it, a reactor
//! thread looks at its words every [`BLIND`] instead. Where no thread can be started, a task gets
//! an error.
//!
//! A thread that blocks needs a reactor thread only where it cannot sleep on the words by itself,
//! or for more events than fit into one sleep. If none can be started, it looks every [`BLIND`]
//! ([`wait`](crate::shared::wait)).

use std::path::Path;
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};
use std::sync::atomic::{AtomicPtr, AtomicU32};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::Error;
use crate::protocol::word::Word;
use crate::shared::handle::{ANONYMOUS_NAP, Handle, SHORTEST_NAP};
use crate::sync::lock;
use crate::sys;
use crate::sys::process;
use crate::sys::shared::{self, BLIND, MOST_WORDS, ManyError, Sleep};
use crate::wakers::quietly;

/// How many events one thread sleeps for. One word is its own.
const MOST_EVENTS: usize = MOST_WORDS - 1;
/// How long a thread without registrations waits before it ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// The reactor of this process. The child of a fork inherits the pointer, but no threads, and
/// perhaps a lock that is never released. So it makes a reactor of its own and leaks the old one.
static REACTOR: AtomicPtr<Reactor> = AtomicPtr::new(ptr::null_mut());

struct Reactor {
    /// How many forks had happened when it was made.
    forks: u32,
    threads: RwLock<Vec<Arc<ReactorThread>>>,
}

impl Reactor {
    fn of_process(forks: u32) -> &'static Reactor {
        let mut current = REACTOR.load(Acquire);
        loop {
            // SAFETY: reactors are never freed.
            if let Some(reactor) = unsafe { current.as_ref() }.filter(|reactor| reactor.forks == forks) {
                return reactor;
            }
            let new = Box::into_raw(Box::new(Reactor { forks, threads: RwLock::default() }));
            match REACTOR.compare_exchange(current, new, AcqRel, Acquire) {
                Ok(_) => current = new,
                // Another thread was faster. Ours is leaked.
                Err(other) => current = other,
            }
        }
    }

    fn register(&self, handle: &Arc<Handle>, seen: Seen) -> Result<(), Error> {
        for thread in self.threads.read().unwrap_or_else(PoisonError::into_inner).iter() {
            let mut inbox = lock(&thread.inbox);
            if inbox.load < MOST_EVENTS {
                return thread.receive(&mut inbox, handle, seen);
            }
        }
        let thread = Arc::<ReactorThread>::default();
        self.threads.write().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&thread));
        thread.receive(&mut lock(&thread.inbox), handle, seen)
    }
}

/// A reactor thread, as other threads see it. It may have ended; then the next registration starts
/// it again.
#[derive(Default)]
struct ReactorThread {
    /// Changes with every new registration.
    control: AtomicU32,
    inbox: Mutex<Inbox>,
}

#[derive(Default)]
struct Inbox {
    new: Vec<Registration>,
    /// How many registrations the thread has, the new ones included.
    load: usize,
    is_running: bool,
}

/// What a task or a reactor thread saw of an event: the word as it counts, and the number of
/// repeats.
#[derive(Clone, Copy)]
struct Seen {
    word: Word,
    repeats: u32,
}

impl Seen {
    fn differs(self, now: Seen) -> bool {
        let (word, before) = (now.word, self.word);
        word.counter() != before.counter() || word.is_gone() != before.is_gone() || now.repeats != self.repeats
    }
}

/// Makes sure that `handle`'s local event is notified when its word is no longer `word`, or is set
/// again. The caller is in the queue of the local event already.
pub(crate) fn register(handle: &Arc<Handle>, word: Word, repeats: u32) -> Result<(), Error> {
    let seen = Seen { word, repeats };
    let forks = process::forks();
    if handle.registered_in.swap(forks + 1, AcqRel) == forks + 1 {
        return Ok(());
    }
    let registered = Reactor::of_process(forks).register(handle, seen);
    if registered.is_err() {
        handle.registered_in.store(0, Relaxed);
        // Tasks that relied on this registration try for themselves.
        handle.local_event.pulse();
    }
    registered
}

impl ReactorThread {
    fn receive(self: &Arc<Self>, inbox: &mut Inbox, handle: &Arc<Handle>, seen: Seen) -> Result<(), Error> {
        if !inbox.is_running {
            let this = Arc::clone(self);
            let started = process::start_thread("tantara", move || this.run());
            started.map_err(|error| Error::system("started", Path::new("reactor thread for async waits"), error))?;
            inbox.is_running = true;
        }
        inbox.new.push(Registration::new(Arc::downgrade(handle), seen));
        inbox.load += 1;
        self.control.fetch_add(1, AcqRel);
        sys::wake_one(&self.control);
        Ok(())
    }

    fn run(&self) {
        let mut registrations: Vec<Registration> = Vec::new();
        let mut can_sleep_on_many = true;
        let mut idle_since = Instant::now();
        loop {
            let control = self.control.load(Acquire);
            registrations.append(&mut lock(&self.inbox).new);
            let (mut sleeps, mut on_repeats) = (vec![Sleep::on_private(&self.control, control)], Vec::new());
            let now = Instant::now();
            let mut until = now + PATIENCE;
            registrations.retain_mut(|registration| match registration.check(now) {
                Some(Rest { word, repeats, until: wake }) => {
                    sleeps.push(word);
                    on_repeats.extend(repeats);
                    until = until.min(wake);
                    true
                }
                None => false,
            });
            {
                let mut inbox = lock(&self.inbox);
                inbox.load = registrations.len() + inbox.new.len();
                if inbox.load > 0 {
                    idle_since = now;
                } else if idle_since + PATIENCE <= now {
                    inbox.is_running = false;
                    return;
                }
            }
            // Those that a task needs come first.
            on_repeats.sort_unstable_by_key(|&(_, is_needed)| !is_needed);
            let room = MOST_WORDS.saturating_sub(sleeps.len());
            if on_repeats.get(room).is_some_and(|&(_, is_needed)| is_needed) {
                until = until.min(now + BLIND);
            }
            sleeps.extend(on_repeats.into_iter().take(room).map(|(sleep, _)| sleep));
            let slept = if can_sleep_on_many { shared::wait_many(&sleeps, until) } else { Err(ManyError::Unsupported) };
            match slept {
                Ok(()) | Err(ManyError::TimedOut | ManyError::Interrupted) => {}
                Err(error) => {
                    can_sleep_on_many = error != ManyError::Unsupported;
                    let until = if registrations.is_empty() { until } else { until.min(now + BLIND) };
                    let _ = sys::wait(&self.control, control, Deadline::At(until));
                }
            }
        }
    }
}

/// What a reactor thread sleeps on for a handle, and until when.
struct Rest {
    word: Sleep,
    /// And whether a task needs it.
    repeats: Option<(Sleep, bool)>,
    until: Instant,
}

/// A handle whose word a reactor thread sleeps on.
struct Registration {
    handle: Weak<Handle>,
    /// For what the local event was last notified.
    seen: Seen,
    since: Instant,
    /// When to check the file.
    next_look: Instant,
}

impl Registration {
    fn new(handle: Weak<Handle>, seen: Seen) -> Registration {
        let since = Instant::now();
        Registration { handle, seen, since, next_look: since + ANONYMOUS_NAP }
    }

    /// Notifies if the word has changed, and returns what to sleep on, and until when. Nothing, if
    /// no task waits.
    fn check(&mut self, now: Instant) -> Option<Rest> {
        let handle = self.handle.upgrade()?;
        loop {
            let now_there = handle.word();
            let word = handle.seen(now_there);
            let seen = Seen { word, repeats: handle.repeats() };
            if self.seen.differs(seen) {
                self.notify(&handle, seen);
            }
            if !handle.local_event.has_listeners() && !self.is_needed_after_all(&handle) {
                return None;
            }
            if now >= self.next_look {
                self.check_file(&handle, word, now);
            }
            // Sleep only on the word that was compared above. If it has changed, compare again.
            if let Some(asleep) = handle.announce_sleep(now_there, word) {
                let page = handle.page();
                let is_needed = handle.other_listeners.load(Relaxed) > 0;
                let repeats = (is_needed || word.is_set()).then(|| Sleep::on(&page.repeats, seen.repeats));
                let nap = handle.longest_nap(self.next_look.saturating_duration_since(now), word);
                let word = Sleep::on(&page.word, asleep.bits());
                return Some(Rest { word, repeats: repeats.map(|on| (on, is_needed)), until: now + nap });
            }
        }
    }

    fn notify(&mut self, handle: &Handle, seen: Seen) {
        handle.leave_for_listeners();
        self.seen = seen;
        self.since = Instant::now();
        self.next_look = self.since + ANONYMOUS_NAP;
        // The panic of one task's waker must not affect other tasks.
        quietly(|| handle.local_event.pulse());
    }

    /// Gives the registration up, unless a task has begun to wait in the last moment (3).
    fn is_needed_after_all(&mut self, handle: &Handle) -> bool {
        let registered_in = handle.registered_in.swap(0, AcqRel);
        if handle.local_event.has_listeners() && handle.registered_in.swap(registered_in, AcqRel) == 0 {
            return true;
        }
        handle.leave_for_listeners();
        false
    }

    fn check_file(&mut self, handle: &Handle, word: Word, now: Instant) {
        handle.enter_for_listeners(word, self.since.elapsed());
        // The last task may have left before the mark was there.
        if !handle.local_event.has_listeners() {
            handle.leave_for_listeners();
        }
        self.next_look = now + 2 * SHORTEST_NAP;
        handle.check_place();
        // Also if it was known before: a thread that sleeps on the same handle may have found it
        // out first.
        if handle.is_abandoned() {
            self.notify(handle, Seen { word: handle.seen(handle.word()), repeats: handle.repeats() });
        }
    }
}
