//! The threads that the record refers to: their numbers and names, and whether they poll tasks.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::catch_unwind;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex};

use crate::sync::lock;
use crate::sys::process::{self, GENERATIONS};

/// A thread that has waited, set or declared anything while this was recorded.
#[derive(Debug)]
pub(crate) struct Thread {
    /// Its number in the record; zero if it has none.
    pub(crate) number: u32,
    /// The number that the system gives it.
    pub(crate) id: u32,
    pub(crate) name: Option<Box<str>>,
    /// Whether it has polled a task that waited.
    pub(crate) polls_tasks: AtomicBool,
    has_ended: AtomicBool,
}

impl Thread {
    fn new(number: u32, name: Option<Box<str>>) -> Thread {
        let [polls_tasks, has_ended] = [const { AtomicBool::new(false) }; 2];
        Thread { number, id: process::thread(), name, polls_tasks, has_ended }
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended.load(Acquire)
    }
}

/// The threads of a process, by numbers that are used once.
struct Threads {
    known: BTreeMap<u32, Arc<Thread>>,
    ended: VecDeque<u32>,
}

/// How many threads that have ended are remembered, for the tasks that they have polled.
const ENDED: usize = 1024;

static THREADS: [Mutex<Threads>; GENERATIONS] =
    [const { Mutex::new(Threads { known: BTreeMap::new(), ended: VecDeque::new() }) }; GENERATIONS];

/// How a record refers to the current thread.
#[derive(Clone, Copy)]
pub(crate) struct Own {
    /// Zero if it is not known yet.
    pub(crate) number: u32,
    polls_tasks: bool,
    /// Of the process in which it has that number.
    generation: u16,
}

thread_local! {
    static OWN: Cell<Own> = const { Cell::new(Own { number: 0, polls_tasks: false, generation: 0 }) };
    /// What a binding calls the thread.
    static NAME: Cell<Option<Box<str>>> = const { Cell::new(None) };
    /// The thread itself; notes its end.
    static END: Cell<Option<End>> = const { Cell::new(None) };
}

struct End(Own, Arc<Thread>);

impl Drop for End {
    fn drop(&mut self) {
        let End(own, thread) = self;
        if usize::from(own.generation) != process::generation() {
            return;
        }
        let Some(threads) = process::own(&THREADS) else { return };
        let mut threads = lock(threads);
        thread.has_ended.store(true, Release);
        threads.ended.push_back(own.number);
        if threads.ended.len() > ENDED {
            let forgotten = threads.ended.pop_front().and_then(|oldest| threads.known.remove(&oldest));
            drop(threads);
            drop(forgotten);
        }
    }
}

impl Own {
    #[inline]
    pub(crate) fn get() -> Own {
        let own = OWN.get();
        let is_known = own.number != 0 && usize::from(own.generation) == process::generation();
        if is_known { own } else { Own::introduce() }
    }

    /// The thread polls a task that waits.
    #[inline]
    pub(crate) fn note_task(self) {
        if !self.polls_tasks {
            OWN.set(Own { polls_tasks: true, ..self });
            this_thread().polls_tasks.store(true, Release);
        }
    }

    #[cold]
    fn introduce() -> Own {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Relaxed);
        let generation = process::generation();
        let own = Own { number, polls_tasks: false, generation: generation as u16 };
        let own_name = NAME.try_with(Cell::take).ok().flatten();
        let name = own_name.or_else(std_name);
        let thread = Arc::new(Thread::new(number, name));
        if let Some(threads) = process::own(&THREADS) {
            lock(threads).known.insert(number, Arc::clone(&thread));
        }
        OWN.set(own);
        // Not if the thread's destructors run already.
        let _ = END.try_with(|end| end.set(Some(End(own, thread))));
        own
    }
}

/// The name that std has for the current thread. In destructors that the C library runs after those of
/// Rust std panics instead, and nothing tells beforehand.
fn std_name() -> Option<Box<str>> {
    catch_unwind(|| std::thread::current().name().map(Box::from)).ok().flatten()
}

/// Sets the name of the current thread to what `name` returns, if it has none yet. Not part of the
/// public API.
pub fn name_thread(name: impl FnOnce() -> String) {
    let own = OWN.get();
    if own.number == 0 || usize::from(own.generation) != process::generation() {
        let name = name().into_boxed_str();
        let _ = NAME.try_with(|kept| kept.set(Some(name)));
    }
}

/// The current thread.
pub(crate) fn this_thread() -> Arc<Thread> {
    let number = Own::get().number;
    let cached = END.try_with(|end| {
        let kept = end.take();
        let thread = kept.as_ref().map(|End(_, thread)| Arc::clone(thread));
        end.set(kept);
        thread
    });
    if let Ok(Some(thread)) = cached {
        return thread;
    }
    let known = process::own(&THREADS).and_then(|threads| lock(threads).known.get(&number).cloned());
    known.unwrap_or_else(|| Arc::new(Thread::new(0, None)))
}

/// The threads that records refer to.
pub(crate) fn threads() -> BTreeMap<u32, Arc<Thread>> {
    process::own(&THREADS).map(|threads| lock(threads).known.clone()).unwrap_or_default()
}
