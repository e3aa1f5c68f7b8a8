//! The interface by which events that live outside of this process take part in `any` and `all`.

use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomPinned;
use std::mem::MaybeUninit;
use std::panic::RefUnwindSafe;
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::AtomicU32;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::error::Error;
use crate::waits::hooks::Identity;

/// A wait for an event that lives outside of this process.
pub trait External: fmt::Debug + Send + Sync {
    /// Ready when the wait was released (`true`), has ended without a release (`false`), or has
    /// failed. Every later poll has the same outcome. `blocks` says that a thread is about to
    /// block, which then sleeps for no longer than [`longest_sleep`](External::longest_sleep).
    fn poll_outcome(self: Pin<&mut Self>, context: &mut Context<'_>, blocks: bool) -> Poll<Result<bool, Error>>;

    /// Whether it has to be polled before its turn: because it has failed, or because its task was
    /// woken without a release and will not be woken again.
    fn needs_poll(&self) -> bool;

    /// How long a thread that blocks may sleep until the next poll, if its waker may never be
    /// called.
    fn longest_sleep(&self) -> Option<Duration> {
        None
    }

    /// As `poll_outcome`, for a thread that blocks and needs no waker, because it can sleep on
    /// words. `sleeps` if it is about to, else it only looks. `waited`: it is time to show that it
    /// waits, and since when, and to look whether the event is still there.
    fn poll_word(self: Pin<&mut Self>, sleeps: bool, waited: Option<Duration>) -> Found<'_> {
        let _ = (sleeps, waited);
        Found::Nothing
    }

    /// The identity of its event in the record of waits.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// Called when the time has passed. `true` if `poll_outcome` must be ready before a timeout can
    /// be reported, and will be soon.
    fn decide(self: Pin<&mut Self>) -> bool {
        false
    }
}

/// What a poll of a thread that sleeps on words of events has found.
#[derive(Debug)]
pub enum Found<'a> {
    /// The outcome, as of [`External::poll_outcome`].
    Outcome(Result<bool, Error>),
    /// Not ready: poll again when the word no longer has this value, and after that time at the
    /// latest.
    Word(&'a AtomicU32, u32, Duration),
    /// The event has no such word.
    Nothing,
}

/// Large enough for every wait; a larger one does not compile.
type Storage = MaybeUninit<[u64; 10]>;

/// A wait of any type, in place. With a box for each event, `any` over many events would take 1.5
/// times as long.
pub struct InPlace<'a> {
    /// Holds the wait, from `new` until `drop`.
    ///
    /// The wait may contain a node of the list of `tasks.rs`, which other threads write to. So no
    /// reference to the storage is ever made, only pointers to it: a `&` to plain bytes would claim
    /// that nobody writes to them, and a `&mut` that nobody else has access to them. A reference to
    /// the wait claims neither of a node.
    storage: UnsafeCell<Storage>,
    /// Casts a pointer to the storage to one to the wait in it.
    cast: fn(*mut Storage) -> *mut (dyn External + 'a),
    _pinned: PhantomPinned,
}

// SAFETY: a shared reference gives access to the wait through `&dyn External` only, and waits are
// Sync.
unsafe impl Sync for InPlace<'_> {}
// As for the other futures: a panic leaves them in a valid state.
impl RefUnwindSafe for InPlace<'_> {}

impl<'a> InPlace<'a> {
    pub(crate) fn new<W: External + 'a>(wait: W) -> InPlace<'a> {
        const { assert!(size_of::<W>() <= size_of::<Storage>() && align_of::<W>() <= align_of::<Storage>()) }
        let mut storage = Storage::uninit();
        // SAFETY: the storage is large enough and aligned, as was just checked.
        unsafe { storage.as_mut_ptr().cast::<W>().write(wait) };
        InPlace { storage: UnsafeCell::new(storage), cast: |storage| storage.cast::<W>(), _pinned: PhantomPinned }
    }

    pub(crate) fn get(&self) -> &(dyn External + 'a) {
        let wait = (self.cast)(self.storage.get());
        // SAFETY: the storage holds a wait of the type that `cast` was made for, and is borrowed.
        unsafe { &*wait }
    }

    pub(crate) fn project(self: Pin<&mut Self>) -> Pin<&mut (dyn External + 'a)> {
        // SAFETY: nothing is moved out of it.
        let this = unsafe { self.get_unchecked_mut() };
        let wait = (this.cast)(this.storage.get());
        // SAFETY: as in `get`, and the borrow is exclusive. (A wait with a node in it is not
        // `Unpin`.)
        let wait = unsafe { &mut *wait };
        // SAFETY: structural pinning: the wait stays in the storage until it is dropped there.
        unsafe { Pin::new_unchecked(wait) }
    }
}

impl Drop for InPlace<'_> {
    fn drop(&mut self) {
        // SAFETY: as in `get`; the wait is dropped once, and never used again.
        unsafe { ptr::drop_in_place((self.cast)(self.storage.get())) };
    }
}

impl fmt::Debug for InPlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}
