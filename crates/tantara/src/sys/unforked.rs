//! Descriptors that the child of a fork closes, so that what the kernel ties to their open file
//! descriptions (locks) ends with this process and not with its children.
//!
//! Invariants:
//!
//! 1. A [`Slot`] is never freed, and the list of all slots only grows, at its head. So the fork
//!    handler can walk it in the child, without a lock.
//! 2. A descriptor is in its slot before anything is tied to its description, and until that has
//!    been undone.
//! 3. A fork that happens between the opening of a descriptor and its entry in a slot is noticed,
//!    because the handlers count how many forks have begun and how many are over. The descriptor is
//!    then closed and opened again.
//!
//! (A child that is made without the C library's handlers, as by `posix_spawn`, closes them when it
//! executes its program: all of them are closed on exec.)

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32};
use std::time::{Duration, Instant};

use crate::sync::sleep;

/// The place of a descriptor.
struct Slot {
    /// The descriptor; [`UNUSED`], or [`CLAIMED`] by a thread.
    descriptor: AtomicI32,
    next: AtomicPtr<Slot>,
}

const UNUSED: libc::c_int = -1;
const CLAIMED: libc::c_int = -2;

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());

/// How many forks have begun, and how many of them are over. In a child both are the same.
static BEGUN: AtomicU32 = AtomicU32::new(0);
static OVER: AtomicU32 = AtomicU32::new(0);
/// How many forks lie between the first process and this one.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// For how long to try again while other threads fork. To fork a process with much memory takes
/// seconds.
const PATIENCE: Duration = Duration::from_secs(20);
const SHORTEST_PAUSE: Duration = Duration::from_micros(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);

fn slots() -> impl Iterator<Item = &'static Slot> {
    let mut cursor = SLOTS.load(Acquire);
    std::iter::from_fn(move || {
        // SAFETY: slots are never freed (invariant 1).
        let slot = unsafe { cursor.as_ref() }?;
        cursor = slot.next.load(Acquire);
        Some(slot)
    })
}

impl Slot {
    fn claim() -> &'static Slot {
        let is_claimed = |slot: &&Slot| slot.descriptor.compare_exchange(UNUSED, CLAIMED, AcqRel, Relaxed).is_ok();
        if let Some(slot) = slots().find(is_claimed) {
            return slot;
        }
        let new = Box::leak(Box::new(Slot { descriptor: AtomicI32::new(CLAIMED), next: AtomicPtr::default() }));
        let mut head = SLOTS.load(Relaxed);
        loop {
            new.next.store(head, Relaxed);
            match SLOTS.compare_exchange_weak(head, new, Release, Relaxed) {
                Ok(_) => return new,
                Err(other) => head = other,
            }
        }
    }
}

/// An open file that children of this process do not have.
#[derive(Debug)]
pub(crate) struct Unforked {
    /// Closed by `drop`, but not in a child, where the fork handler has closed it.
    file: ManuallyDrop<File>,
    slot: &'static Slot,
    generation: u32,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.descriptor.fmt(f)
    }
}

impl Unforked {
    /// Keeps a file that `open` opens, closed on exec.
    pub(crate) fn open(open: impl Fn() -> io::Result<File>) -> io::Result<Unforked> {
        register_handlers()?;
        let (slot, generation) = (Slot::claim(), GENERATION.load(Relaxed));
        let (began, mut pause) = (Instant::now(), SHORTEST_PAUSE);
        while began.elapsed() < PATIENCE {
            let over = OVER.load(SeqCst);
            if BEGUN.load(SeqCst) == over {
                let file = open().inspect_err(|_| slot.descriptor.store(UNUSED, Release))?;
                slot.descriptor.store(file.as_raw_fd(), SeqCst);
                if BEGUN.load(SeqCst) == over {
                    return Ok(Unforked { file: ManuallyDrop::new(file), slot, generation });
                }
                // A child may have it (invariant 3).
                slot.descriptor.store(CLAIMED, SeqCst);
                drop(file);
            }
            sleep(pause);
            pause = LONGEST_PAUSE.min(pause * 2);
        }
        slot.descriptor.store(UNUSED, Release);
        Err(io::Error::new(io::ErrorKind::ResourceBusy, "other threads of this process keep forking"))
    }

    /// The file; `None` in a child.
    pub(crate) fn file(&self) -> Option<&File> {
        (self.generation == GENERATION.load(Relaxed)).then_some(&self.file)
    }
}

impl Drop for Unforked {
    fn drop(&mut self) {
        if self.file().is_some() {
            self.slot.descriptor.store(UNUSED, Release);
            // SAFETY: it is dropped once, here, and not used again.
            unsafe { ManuallyDrop::drop(&mut self.file) };
        }
    }
}

fn register_handlers() -> io::Result<()> {
    extern "C" fn before() {
        BEGUN.fetch_add(1, SeqCst);
    }
    extern "C" fn after() {
        OVER.fetch_add(1, SeqCst);
    }
    extern "C" fn in_child() {
        OVER.store(BEGUN.load(SeqCst), SeqCst);
        GENERATION.fetch_add(1, Relaxed);
        for slot in slots() {
            let descriptor = slot.descriptor.swap(UNUSED, AcqRel);
            if descriptor >= 0 {
                // SAFETY: the descriptor is the child's copy of one in a slot, whose owner does not
                // close it here.
                unsafe { libc::close(descriptor) };
            }
        }
    }
    // No lock and no `Once`, as in `shared.rs`. Several threads may register the handlers, each
    // before it relies on them: then each fork counts for more, in the same way at its beginning
    // and at its end.
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
    if !IS_REGISTERED.load(Acquire) {
        // SAFETY: the handlers use atomics and `close`, which the child of a fork may do.
        let error = unsafe { libc::pthread_atfork(Some(before), Some(after), Some(in_child)) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        IS_REGISTERED.store(true, Release);
    }
    Ok(())
}
