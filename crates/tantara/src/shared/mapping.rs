//! The page in memory, and what happens when its file is truncated.
//!
//! A process that may write to a file may also truncate it. Then the next access to the page is a
//! fault, SIGBUS, which ends the process. Sealed memory cannot be truncated. For all other files a
//! handler is installed, once per process: if the fault is in a page that is listed here, it maps a
//! page of zeros over it, writes [`Word::LOST`] into it, and the instruction runs again. Any other
//! fault goes to the handler that was installed before. Programs that want no handler call
//! [`disable_handler`].
//!
//! The kernel refuses a new mapping if the process has reached its limit (`vm.max_map_count`), even
//! if it replaces another. So some mappings are kept in reserve, which the handler unmaps if it has
//! to.
//!
//! Invariants:
//!
//! 1. A [`Listing`] is never freed. Its `page` is an address exactly while a [`Mapping`] owns it
//!    and its page is mapped.
//! 2. The list of all listings only grows, at its head, by a compare-exchange. So the handler can
//!    walk it at any moment, without a lock. It allocates nothing but the page that it maps.
//! 3. Nothing here takes a lock, because the child of a fork would wait for ever for a lock that
//!    another thread of its parent held. A fork in the middle of a step leaks at most a listing or
//!    a reserve.
//! 4. The page of zeros is mapped before LOST is written. Until then it has no seal, so readers see
//!    that it is not an event's page ([`Page::is_whole`]).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, AtomicUsize};

use crate::protocol::layout::{PAGE, Page, WORD_AT};
use crate::protocol::word::Word;
use crate::sys::keeping_errno;

/// A page of a file, shared with all processes that have it mapped.
#[derive(Debug)]
pub(crate) struct Mapping {
    page: NonNull<Page>,
    listing: Option<&'static Listing>,
}

// SAFETY: the page is accessed through shared references to atomics only, and is unmapped by the
// last owner.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first page of a file that is at least that long. A file that is sealed cannot
    /// become shorter.
    pub(crate) fn new(file: &File, is_writable: bool, is_sealed: bool) -> io::Result<Mapping> {
        let listing = if is_sealed { None } else { Some(Listing::take()) };
        let access = libc::PROT_READ | if is_writable { libc::PROT_WRITE } else { 0 };
        // SAFETY: a new mapping where the kernel likes, of a descriptor that is open.
        let page = unsafe { libc::mmap(ptr::null_mut(), PAGE, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if page == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            listing.into_iter().for_each(Listing::give_back);
            return Err(error);
        }
        if let Some(listing) = listing {
            listing.page.store(page.addr(), Release);
        }
        let page = NonNull::new(page.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Mapping { page, listing })
    }

    #[inline]
    pub(crate) fn page(&self) -> &Page {
        // SAFETY: mapped as long as `self` lives, page-aligned and long enough. All fields are
        // atomics, for which every bit pattern is valid, and which other processes may write at any
        // time.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(listing) = self.listing {
            listing.page.store(CLAIMED, Release);
        }
        // SAFETY: the page was mapped by `new`, and no reference to it is left.
        unsafe {
            libc::munmap(self.page.as_ptr().cast(), PAGE);
        }
        self.listing.into_iter().for_each(Listing::give_back);
    }
}

/// A page whose file may be truncated.
#[derive(Debug)]
struct Listing {
    /// Its address; [`UNUSED`] while the listing has no owner, [`CLAIMED`] while its owner has no
    /// page.
    page: AtomicUsize,
    next: AtomicPtr<Listing>,
}

/// Not addresses of pages.
const UNUSED: usize = 0;
const CLAIMED: usize = 1;

static LISTINGS: AtomicPtr<Listing> = AtomicPtr::new(ptr::null_mut());
/// How many listings are unused, without those that threads are about to claim.
static UNUSED_LISTINGS: AtomicUsize = AtomicUsize::new(0);
/// Where to begin the search for an unused one.
static HINT: AtomicPtr<Listing> = AtomicPtr::new(ptr::null_mut());

impl Listing {
    fn take() -> &'static Listing {
        install_handler();
        fill_reserves();
        if UNUSED_LISTINGS.fetch_update(AcqRel, Acquire, |count| count.checked_sub(1)).is_ok() {
            return Listing::claim();
        }
        let new = Box::leak(Box::new(Listing { page: AtomicUsize::new(CLAIMED), next: AtomicPtr::default() }));
        let mut head = LISTINGS.load(Relaxed);
        loop {
            new.next.store(head, Relaxed);
            match LISTINGS.compare_exchange_weak(head, new, Release, Relaxed) {
                Ok(_) => return new,
                Err(other) => head = other,
            }
        }
    }

    /// Finds an unused listing. There is one, because the caller has decremented the count.
    fn claim() -> &'static Listing {
        let mut cursor = HINT.load(Acquire);
        loop {
            // SAFETY: listings are never freed (invariant 1).
            let Some(listing) = (unsafe { cursor.as_ref() }) else {
                cursor = LISTINGS.load(Acquire);
                continue;
            };
            cursor = listing.next.load(Acquire);
            if listing.page.compare_exchange(UNUSED, CLAIMED, AcqRel, Relaxed).is_ok() {
                HINT.store(cursor, Release);
                return listing;
            }
        }
    }

    fn give_back(&'static self) {
        self.page.store(UNUSED, Release);
        HINT.store(ptr::from_ref(self).cast_mut(), Release);
        UNUSED_LISTINGS.fetch_add(1, AcqRel);
    }

    fn is_listed(page: usize) -> bool {
        let mut cursor = LISTINGS.load(Acquire);
        // SAFETY: listings are never freed (invariant 1).
        while let Some(listing) = unsafe { cursor.as_ref() } {
            if listing.page.load(Acquire) == page {
                return true;
            }
            cursor = listing.next.load(Acquire);
        }
        false
    }
}

/// Whether the process has the handler.
static HANDLING: AtomicU32 = AtomicU32::new(NOT_YET);
const NOT_YET: u32 = 0;
/// A thread is about to install it.
const BEGUN: u32 = 1;
const INSTALLED: u32 = 2;
const DISABLED: u32 = 3;

/// The action for SIGBUS before: the handler, or one of SIG_DFL and SIG_IGN, and its flags.
static HANDLER_BEFORE: AtomicUsize = AtomicUsize::new(libc::SIG_DFL);
static FLAGS_BEFORE: AtomicI32 = AtomicI32::new(0);

/// From now on no handler is installed. `false` if one was installed before, or is being installed.
pub(crate) fn disable_handler() -> bool {
    matches!(HANDLING.compare_exchange(NOT_YET, DISABLED, AcqRel, Acquire), Ok(_) | Err(DISABLED))
}

/// Installs the handler, unless it is installed. Several threads may do it at the same time
/// (invariant 3): each step can be repeated, and none takes this handler for the one before.
fn install_handler() {
    // From the first step on it is too late to disable the handler.
    let before = HANDLING.compare_exchange(NOT_YET, BEGUN, AcqRel, Acquire);
    if !matches!(before, Ok(_) | Err(BEGUN)) {
        return;
    }
    let note = |before: &libc::sigaction| {
        if before.sa_sigaction != on_fault as *const () as usize {
            FLAGS_BEFORE.store(before.sa_flags, Relaxed);
            HANDLER_BEFORE.store(before.sa_sigaction, Release);
        }
    };
    // SAFETY: all-zero is a valid sigaction: the default action, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    let mut before = action;
    // SAFETY: asks for what is installed; the pointer is valid.
    unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &mut before) };
    // Before this handler can be called.
    note(&before);
    // SAFETY: the handler is of the kind that SA_SIGINFO asks for; both pointers are valid.
    unsafe { libc::sigaction(libc::SIGBUS, &action, &mut before) };
    // Another handler may have been installed in between.
    note(&before);
    HANDLING.store(INSTALLED, Release);
}

/// Mappings that are unmapped if a fault finds that the process has reached its limit. The handler
/// uses the gap at once, so more than one is needed only if other threads take it first. So the
/// handler unmaps more with each try.
static RESERVES: [AtomicUsize; 32] = [const { AtomicUsize::new(0) }; 32];

/// Refills the reserves, as far as the kernel allows. The handler calls this too.
fn fill_reserves() {
    for (index, reserve) in RESERVES.iter().enumerate().filter(|(_, reserve)| reserve.load(Relaxed) == 0) {
        // The kernel merges neighbours of the same access into one mapping, so the access alternates.
        // Shared mappings are not merged, but each has a file, whose making and end take longer than
        // everything else in a short process.
        let access = if index % 2 == 0 { libc::PROT_NONE } else { libc::PROT_READ };
        let kind = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice, which is never accessed.
        let new = unsafe { libc::mmap(ptr::null_mut(), PAGE, access, kind, -1, 0) };
        if new == libc::MAP_FAILED {
            return;
        }
        if reserve.compare_exchange(0, new.addr(), AcqRel, Relaxed).is_err() {
            // SAFETY: the page was mapped above, and no other thread has access to it.
            unsafe { libc::munmap(new, PAGE) };
        }
    }
}

/// Unmaps one of the reserves, if there is one.
fn give_reserve_back() -> bool {
    let taken = RESERVES.iter().map(|reserve| reserve.swap(0, AcqRel)).find(|page| *page != 0);
    let Some(page) = taken else { return false };
    // SAFETY: it was mapped by `fill_reserves`, and the thread that takes it out of the reserves
    // owns it.
    unsafe { libc::munmap(ptr::without_provenance_mut(page), PAGE) == 0 }
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid siginfo.
    let told = unsafe { &*info };
    // SAFETY: SIGBUS comes with an address, or with zeros where it would stand.
    let page = unsafe { told.si_addr() }.addr() & !(PAGE - 1);
    let is_fault = told.si_code > 0;
    if is_fault && Listing::is_listed(page) && keeping_errno(|| replace(page)) {
        return;
    }
    let handler = HANDLER_BEFORE.load(Acquire);
    let is_given_more = FLAGS_BEFORE.load(Relaxed) & libc::SA_SIGINFO != 0;
    match handler {
        libc::SIG_IGN if !is_fault => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: restores the default. The repeated fault, or the signal that is raised again,
            // ends the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            if !is_fault {
                // SAFETY: takes a number.
                unsafe { libc::raise(signal) };
            }
        }
        handler if is_given_more => {
            // SAFETY: it was installed as a function of this type, and is called as the kernel
            // would.
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: as above.
            let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// How often to try to map the page while other threads take what was unmapped.
const TRIES: u32 = 100;

/// Maps a page with [`Word::LOST`] over this one.
fn replace(page: usize) -> bool {
    let is_replaced = (0..TRIES).any(|tries| {
        if map_over(page) {
            return true;
        }
        let given_back = (0..1 << tries.min(4)).take_while(|_| give_reserve_back()).count();
        if given_back == 0 {
            // Another thread's handler has taken them, and refills them.
            // SAFETY: takes nothing.
            unsafe { libc::sched_yield() };
        }
        false
    });
    fill_reserves();
    is_replaced
}

fn map_over(page: usize) -> bool {
    let there = ptr::without_provenance_mut::<libc::c_void>(page);
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
    // SAFETY: the page that is replaced, in one step, is listed: it is mapped, and accessed through
    // atomics only.
    let new = unsafe { libc::mmap(there, PAGE, access, kind, -1, 0) };
    if new == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: inside the page.
    let word = unsafe { new.byte_add(WORD_AT) }.cast::<u32>();
    // SAFETY: it is aligned, mapped for writing, and always accessed as an atomic.
    let word = unsafe { AtomicU32::from_ptr(word) };
    word.store(Word::LOST.bits(), Release);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The handler frees one mapping by each of them.
    #[test]
    #[cfg_attr(miri, ignore = "asks the kernel")]
    fn reserves_are_not_merged() {
        fill_reserves();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let is_mapping =
            |page: usize| maps.lines().any(|line| line.starts_with(&format!("{page:x}-{:x} ", page + PAGE)));
        let reserves = RESERVES.iter().map(|reserve| reserve.load(Relaxed));
        // Other threads map memory meanwhile. So the reserves lie in several places, and at both
        // ends of each there may be a neighbour of the same access that is another's.
        let least = RESERVES.len() / 2;
        assert!(reserves.filter(|&page| is_mapping(page)).count() >= least, "{maps}");
    }
}
