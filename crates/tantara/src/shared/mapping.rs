//! The page in memory, and what happens when its file is cut off under it.
//!
//! Whoever may write to a file may also make it shorter, and then the next look at the page is a fault, SIGBUS, which
//! ends the process. A file that nobody can shorten (sealed memory) needs no care. For every other one a handler is
//! installed, once for the process: if the fault is in a page that is listed here, it puts a page in its place that
//! says "lost" ([`Word::LOST`]), and the instruction is done over. Any other fault goes to whoever handled it before.
//!
//! Discipline:
//!
//! 1. A [`Listing`] lives for ever; its `page` is not zero exactly while a [`Mapping`] owns it and its page is mapped.
//! 2. The list of all listings only grows, at its head, by a compare-exchange. So the handler can walk it at any
//!    moment; it takes no lock and allocates nothing but the page that it puts in place.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicPtr, AtomicUsize};
use std::sync::{Mutex, Once, OnceLock, PoisonError};

use crate::shared::layout::{PAGE, Page, WORD_AT, Word};
use crate::sys::files;

/// A page of a file, shared with all others who have it mapped.
#[derive(Debug)]
pub(crate) struct Mapping {
    page: NonNull<Page>,
    listing: Option<&'static Listing>,
}

// SAFETY: the page is reached through shared references to atomics only, and is unmapped by the last owner.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first page of a file that is at least that long.
    pub(crate) fn new(file: &File, is_writable: bool) -> io::Result<Mapping> {
        let listing = if files::is_sealed(file) { None } else { Some(Listing::take()) };
        Mapping::map(file, is_writable, listing)
    }

    /// Maps the page of a file that is known to be sealed.
    pub(crate) fn of_sealed(file: &File) -> io::Result<Mapping> {
        Mapping::map(file, true, None)
    }

    fn map(file: &File, is_writable: bool, listing: Option<&'static Listing>) -> io::Result<Mapping> {
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
        // SAFETY: mapped as long as `self` lives, page-aligned, long enough, and all fields are atomics, for which
        // every pattern of bits is valid and which others may write to at any time.
        unsafe { self.page.as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if let Some(listing) = self.listing {
            listing.page.store(0, Release);
        }
        // SAFETY: the page was mapped by `new`, and nobody refers to it any more.
        unsafe {
            libc::munmap(self.page.as_ptr().cast(), PAGE);
        }
        self.listing.into_iter().for_each(Listing::give_back);
    }
}

/// A page that may be cut off.
#[derive(Debug)]
struct Listing {
    /// Its address; zero while nobody uses the listing.
    page: AtomicUsize,
    next: AtomicPtr<Listing>,
}

static LISTINGS: AtomicPtr<Listing> = AtomicPtr::new(ptr::null_mut());
static UNUSED: Mutex<Vec<&'static Listing>> = Mutex::new(Vec::new());

impl Listing {
    fn take() -> &'static Listing {
        static GUARDS: Once = Once::new();
        GUARDS.call_once(guard);
        let unused = UNUSED.lock().unwrap_or_else(PoisonError::into_inner).pop();
        unused.unwrap_or_else(|| {
            let new = Box::leak(Box::new(Listing { page: AtomicUsize::new(0), next: AtomicPtr::default() }));
            let mut head = LISTINGS.load(Relaxed);
            loop {
                new.next.store(head, Relaxed);
                match LISTINGS.compare_exchange_weak(head, new, Release, Relaxed) {
                    Ok(_) => return new,
                    Err(other) => head = other,
                }
            }
        })
    }

    fn give_back(&'static self) {
        UNUSED.lock().unwrap_or_else(PoisonError::into_inner).push(self);
    }

    fn is_listed(page: usize) -> bool {
        let mut cursor = LISTINGS.load(Acquire);
        // SAFETY: listings live for ever (discipline 1).
        while let Some(listing) = unsafe { cursor.as_ref() } {
            if listing.page.load(Acquire) == page {
                return true;
            }
            cursor = listing.next.load(Acquire);
        }
        false
    }
}

/// What was to be done about SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

fn guard() {
    // SAFETY: all-zero is a valid sigaction: the default action, no flags, an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_fault as *const () as usize;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: as above.
    let mut before: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: asks for what is installed; both pointers are valid.
    unsafe {
        libc::sigaction(libc::SIGBUS, ptr::null(), &mut before);
    }
    // Kept before ours can be called.
    let _ = BEFORE.set(before);
    // SAFETY: the handler is of the kind that SA_SIGINFO asks for.
    unsafe {
        libc::sigaction(libc::SIGBUS, &action, ptr::null_mut());
    }
}

extern "C" fn on_fault(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid siginfo.
    let told = unsafe { &*info };
    // SAFETY: SIGBUS comes with an address, or with zeros where it would stand.
    let page = unsafe { told.si_addr() }.addr() & !(PAGE - 1);
    let is_fault = told.si_code > 0;
    if is_fault && Listing::is_listed(page) && replace(page) {
        return;
    }
    let before = BEFORE.get();
    let handler = before.map_or(libc::SIG_DFL, |before| before.sa_sigaction);
    match handler {
        libc::SIG_IGN if !is_fault => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: restores the default, and the fault, or the signal that is raised anew, ends the process.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            if !is_fault {
                // SAFETY: takes a number.
                unsafe { libc::raise(signal) };
            }
        }
        handler if before.is_some_and(|before| before.sa_flags & libc::SA_SIGINFO != 0) => {
            // SAFETY: it was installed as a function of this kind, and is called as the kernel would.
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

/// Puts a page in place that says "lost". It gets there in one step, so nobody sees it half done.
fn replace(page: usize) -> bool {
    // SAFETY: takes nothing and always succeeds.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: `errno` is this thread's own.
    let interrupted = unsafe { *errno };
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping where the kernel likes.
    let new = unsafe { libc::mmap(ptr::null_mut(), PAGE, access, kind, -1, 0) };
    if new == libc::MAP_FAILED {
        return false;
    }
    // SAFETY: inside the new page, aligned, and nobody else knows of it.
    let word = unsafe { new.byte_add(WORD_AT) }.cast::<u32>();
    // SAFETY: as above.
    unsafe { word.write(Word::LOST.bits()) };
    let there = ptr::without_provenance_mut::<libc::c_void>(page);
    // SAFETY: the page that is replaced is one of ours, which is mapped, and reached through atomics only.
    let moved = unsafe { libc::mremap(new, PAGE, PAGE, libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, there) };
    // SAFETY: as above. What was interrupted may be about to look at it.
    unsafe { *errno = interrupted };
    moved != libc::MAP_FAILED
}
