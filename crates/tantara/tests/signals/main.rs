//! What may be called in a signal handler: a thread is interrupted at random in the middle of each operation, and the
//! handler sets the very event of the operation. It must neither hang, nor allocate, nor change `errno`.
#![cfg(all(shared_events, not(miri)))]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tantara::{Event, SharedEvent, all, any};

/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(120);
/// How often each operation is interrupted.
const HITS: usize = 1_000;
/// Longer than a handler takes, so that the thread makes progress in between.
const PERIOD: Duration = Duration::from_micros(60);
const BRIEFLY: Duration = Duration::from_micros(30);

thread_local! {
    static IS_IN_HANDLER: Cell<bool> = const { Cell::new(false) };
}

/// Records whether a handler allocates or frees.
struct Watched;

static HANDLER_ALLOCATED: AtomicBool = AtomicBool::new(false);

fn note() {
    if IS_IN_HANDLER.get() {
        HANDLER_ALLOCATED.store(true, SeqCst);
    }
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: what the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        note();
        // SAFETY: what the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// What the handlers have done so far.
struct Handled {
    calls: AtomicUsize,
    failures: AtomicUsize,
}

/// Runs `set` as a handler must, and checks `errno`.
fn handle(handled: &Handled, set: impl FnOnce() -> bool) {
    const MARK: i32 = 77;
    IS_IN_HANDLER.set(true);
    // SAFETY: takes nothing.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the C library's errno of this thread is always there, and is an initialised number.
    let before = unsafe { errno.replace(MARK) };
    let is_set = set();
    // SAFETY: as above.
    let after = unsafe { errno.replace(before) };
    if !is_set || after != MARK {
        handled.failures.fetch_add(1, SeqCst);
    }
    IS_IN_HANDLER.set(false);
    handled.calls.fetch_add(1, SeqCst);
}

type Operations<'a> = Vec<(&'static str, Box<dyn Fn() + Send + 'a>)>;

/// Interrupts a thread that repeats one operation after the other, until each was interrupted often.
fn storm(
    signal: libc::c_int,
    handler: extern "C" fn(libc::c_int),
    handled: &'static Handled,
    operations: Operations<'static>,
) {
    // SAFETY: all-zero is a valid sigaction.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    // SAFETY: both point to what they have to; the handler only does what this test claims to be allowed.
    assert_eq!(unsafe { libc::sigaction(signal, &action, ptr::null_mut()) }, 0);

    let names: Vec<_> = operations.iter().map(|&(name, _)| name).collect();
    let current: &'static AtomicUsize = Box::leak(Box::new(AtomicUsize::new(0)));
    let worker = thread::spawn(move || {
        let timer = interrupt_this_thread(signal);
        for (number, (_, operation)) in operations.iter().enumerate() {
            current.store(number, SeqCst);
            let before = handled.calls.load(SeqCst);
            while handled.calls.load(SeqCst) - before < HITS {
                operation();
            }
        }
        // SAFETY: the timer is ours, and is not used again.
        assert_eq!(unsafe { libc::timer_delete(timer) }, 0);
    });
    let (mut seen, mut since) = (0, Instant::now());
    while !worker.is_finished() {
        thread::sleep(Duration::from_millis(1));
        let calls = handled.calls.load(SeqCst);
        if calls != seen {
            (seen, since) = (calls, Instant::now());
        }
        assert!(since.elapsed() < LONG, "the handler hangs; it has interrupted {}", names[current.load(SeqCst)]);
    }
    worker.join().unwrap();
    assert_eq!(handled.failures.load(SeqCst), 0, "set failed in a handler, or has changed errno");
    assert!(!HANDLER_ALLOCATED.load(SeqCst), "a handler has allocated");
}

/// Sends the signal to the calling thread every [`PERIOD`], until the timer is deleted.
fn interrupt_this_thread(signal: libc::c_int) -> libc::timer_t {
    // SAFETY: all-zero is a valid sigevent.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = signal;
    // SAFETY: takes nothing.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer = ptr::null_mut();
    // SAFETY: both are valid for the call.
    assert_eq!(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) }, 0);
    let period = libc::timespec { tv_sec: 0, tv_nsec: PERIOD.subsec_nanos() as _ };
    let times = libc::itimerspec { it_interval: period, it_value: period };
    // SAFETY: the timer was just made, and the times are valid for the call.
    assert_eq!(unsafe { libc::timer_settime(timer, 0, &times, ptr::null_mut()) }, 0);
    timer
}

fn poll_and_drop(future: impl Future) {
    let _ = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
}

/// A thread that sleeps on the event again and again, so that the handlers wake it.
struct Sleeper {
    thread: thread::JoinHandle<()>,
    is_over: &'static AtomicBool,
    released: &'static AtomicU32,
}

impl Sleeper {
    fn start(wait_and_clear: impl Fn() + Send + 'static) -> Sleeper {
        let is_over: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let released: &'static AtomicU32 = Box::leak(Box::new(AtomicU32::new(0)));
        let thread = thread::spawn(move || {
            while !is_over.load(SeqCst) {
                wait_and_clear();
                released.fetch_add(1, SeqCst);
            }
        });
        Sleeper { thread, is_over, released }
    }

    fn end(self, set: impl Fn()) {
        assert!(self.released.load(SeqCst) > 0, "no wait was released by a handler");
        self.is_over.store(true, SeqCst);
        while !self.thread.is_finished() {
            set();
            thread::sleep(BRIEFLY);
        }
        self.thread.join().unwrap();
    }
}

#[test]
fn shared_event_set_in_the_middle_of_every_operation() {
    static TARGET: AtomicPtr<SharedEvent> = AtomicPtr::new(ptr::null_mut());
    static HANDLED: Handled = Handled { calls: AtomicUsize::new(0), failures: AtomicUsize::new(0) };

    extern "C" fn handler(_: libc::c_int) {
        // SAFETY: it points to an event that is never dropped.
        let event = unsafe { &*TARGET.load(SeqCst) };
        handle(&HANDLED, || {
            let done = match HANDLED.calls.load(SeqCst) % 4 {
                0 => event.pulse(),
                1 => event.clear(),
                _ => event.set(),
            };
            done.is_ok() && event.is_set().is_ok()
        });
    }

    let directory = tempfile::tempdir().unwrap();
    let place = || directory.path().to_owned();
    let open = |name: &str| -> &'static SharedEvent {
        Box::leak(Box::new(SharedEvent::open_in(directory.path(), name).unwrap()))
    };
    let (event, other) = (open("interrupted"), open("other"));
    TARGET.store(ptr::from_ref(event).cast_mut(), SeqCst);
    let sleeper = Sleeper::start(|| {
        assert!(event.wait_timeout(LONG).unwrap(), "a handler's set was lost");
        event.clear().unwrap();
    });
    let both: &'static [&SharedEvent; 2] = Box::leak(Box::new([event, other]));
    let places = [(); 4].map(|()| place());
    let [again, doomed, listed, found] = places;
    storm(
        libc::SIGRTMIN() + 3,
        handler,
        &HANDLED,
        vec![
            ("set", Box::new(|| event.set().unwrap())),
            ("clear", Box::new(|| event.clear().unwrap())),
            ("pulse", Box::new(|| event.pulse().unwrap())),
            ("set and clear", Box::new(|| event.set().and_then(|()| event.clear()).unwrap())),
            ("is_set", Box::new(|| _ = event.is_set())),
            ("wait_timeout", Box::new(|| _ = event.wait_timeout(BRIEFLY))),
            ("wait_timeout, unset", Box::new(|| _ = (event.clear(), event.wait_timeout(BRIEFLY)))),
            ("a long wait", Box::new(|| event.clear().and_then(|()| event.wait()).unwrap())),
            ("wait_async", Box::new(|| _ = (event.clear(), poll_and_drop(event.wait_async())))),
            ("any", Box::new(|| _ = (event.clear(), any(both.iter().copied()).wait_timeout(BRIEFLY)))),
            ("all", Box::new(|| _ = (event.clear(), all(both.iter().copied()).wait_timeout(BRIEFLY)))),
            ("any, async", Box::new(|| _ = (event.clear(), poll_and_drop(any(both.iter().copied()))))),
            ("Debug", Box::new(move || _ = format!("{event:?}"))),
            ("state", Box::new(|| _ = event.state())),
            ("last_set", Box::new(|| _ = event.last_set())),
            ("waiters", Box::new(|| _ = event.waiters())),
            ("open_in", Box::new(move || _ = SharedEvent::open_in(&again, "interrupted").unwrap())),
            ("find_in", Box::new(move || _ = SharedEvent::find_in(&found, "interrupted").unwrap())),
            ("remove", Box::new(move || _ = SharedEvent::open_in(&doomed, "doomed").unwrap().remove().unwrap())),
            ("list_in", Box::new(move || _ = SharedEvent::list_in(&listed).unwrap())),
            ("anonymous", Box::new(|| _ = SharedEvent::anonymous().unwrap())),
        ],
    );
    sleeper.end(|| event.set().unwrap());
}

/// The handler finds what a killed holder has left, and cleans it up.
#[test]
fn a_look_for_holders_in_the_middle_of_every_operation() {
    static TARGET: AtomicPtr<SharedEvent> = AtomicPtr::new(ptr::null_mut());
    static HANDLED: Handled = Handled { calls: AtomicUsize::new(0), failures: AtomicUsize::new(0) };
    static WAS_UNSET: AtomicBool = AtomicBool::new(false);

    extern "C" fn handler(_: libc::c_int) {
        // SAFETY: it points to an event that is never dropped.
        let event = unsafe { &*TARGET.load(SeqCst) };
        handle(&HANDLED, || {
            event.is_set().is_ok_and(|is_set| {
                WAS_UNSET.fetch_or(!is_set, SeqCst);
                true
            })
        });
    }

    const WORD_AT: u64 = 128;
    const HELD: u32 = 0b1_0000;
    let directory = tempfile::tempdir().unwrap();
    let open = || SharedEvent::open_in(directory.path(), "held").unwrap();
    let event: &'static SharedEvent = Box::leak(Box::new(open()));
    TARGET.store(ptr::from_ref(event).cast_mut(), SeqCst);
    let file = std::fs::OpenOptions::new().write(true).open(event.path().unwrap()).unwrap();
    // As a holder leaves it that was killed.
    let leave = move || std::os::unix::fs::FileExt::write_all_at(&file, &HELD.to_ne_bytes(), WORD_AT).unwrap();
    let leave: &'static (dyn Fn() + Send + Sync) = Box::leak(Box::new(leave));
    storm(
        libc::SIGRTMIN() + 5,
        handler,
        &HANDLED,
        vec![
            ("a killed holder", Box::new(leave)),
            ("is_set", Box::new(|| _ = (leave(), event.is_set()))),
            ("wait_timeout", Box::new(|| _ = (leave(), event.wait_timeout(BRIEFLY)))),
            ("wait_unset", Box::new(|| _ = (leave(), event.wait_unset()))),
            ("hold", Box::new(|| drop(event.hold().unwrap()))),
            ("hold after a killed holder", Box::new(|| _ = (leave(), event.hold().unwrap()))),
        ],
    );
    assert!(WAS_UNSET.load(SeqCst));
}

/// If only threads wait for it: see the documentation of [`Event`].
#[test]
fn event_set_in_the_middle_of_what_threads_do() {
    static EVENT: Event = Event::new();
    static HANDLED: Handled = Handled { calls: AtomicUsize::new(0), failures: AtomicUsize::new(0) };

    extern "C" fn handler(_: libc::c_int) {
        handle(&HANDLED, || {
            if HANDLED.calls.load(SeqCst).is_multiple_of(4) {
                EVENT.clear()
            } else {
                EVENT.set()
            }
            let _ = EVENT.is_set();
            true
        });
    }

    // Without a record of waits, a label changes nothing.
    tantara::waits::label(&EVENT, "interrupted");
    let sleeper = Sleeper::start(|| {
        assert!(EVENT.wait_timeout(LONG), "a handler's set was lost");
        EVENT.clear();
    });
    storm(
        libc::SIGRTMIN() + 4,
        handler,
        &HANDLED,
        vec![
            ("set", Box::new(|| EVENT.set())),
            ("clear", Box::new(|| EVENT.clear())),
            ("set and clear", Box::new(|| (EVENT.set(), EVENT.clear()).0)),
            ("is_set", Box::new(|| _ = EVENT.is_set())),
            ("wait", Box::new(|| (EVENT.clear(), EVENT.wait()).0)),
            ("wait_timeout", Box::new(|| (EVENT.clear(), EVENT.wait_timeout(BRIEFLY)).0)),
            ("wait_deadline", Box::new(|| (EVENT.clear(), EVENT.wait_deadline(Instant::now() + BRIEFLY)).0)),
            ("a new event", Box::new(|| drop(Event::new()))),
            ("a future that is not polled", Box::new(|| drop(EVENT.wait_async()))),
            ("Debug", Box::new(|| _ = format!("{EVENT:?}"))),
        ],
    );
    sleeper.end(|| EVENT.set());
}
