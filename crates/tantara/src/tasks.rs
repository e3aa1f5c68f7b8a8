//! The queue of waiting tasks: an intrusive doubly linked list whose nodes live inside the pinned
//! futures, so that waiting allocates nothing.
//!
//! # Invariants
//!
//! 1. `head`, every node's `links`, and the `waker` of every LISTED node are accessed under the
//!    queue's lock only. The `generation` of a node is written by its owner only, and only while
//!    the node is not LISTED.
//! 2. A node's `state` becomes LISTED and stops being LISTED under the lock. It leaves LISTED
//!    exactly once per listing: to RELEASED by a drain, or to UNLISTED by its owner.
//! 3. Storing RELEASED (with Release) is a drain's last access to a node. An owner that loads
//!    RELEASED or UNLISTED (with Acquire) therefore has exclusive access to the node, and needs no
//!    lock.
//! 4. A node that is not LISTED holds no waker.
//! 5. The fields of a node are reached through shared references and raw pointers only; its owner's
//!    `Pin<&mut _>` is never turned into a `&mut` to them. (The compiler assumes nothing of a
//!    `&mut` to a type that is not `Unpin`.)
//! 6. User code (cloning, waking and dropping wakers) never runs under the lock.
//! 7. Generations do not decrease along the list, because each is compared with the word under the
//!    lock when it is appended.
//! 8. A waiter's holder keeps the queue alive and in its place, and is dropped after the node was
//!    unlinked.
//!
//! ```text
//!                  enlist (lock)            drain (lock)
//!    UNLISTED ───────────────────► LISTED ───────────────► RELEASED ──► CLAIMED
//!        ▲                           │                         ▲      (the owner has used
//!        └───────────────────────────┘                         │        the release up)
//!                withdraw (lock)                UNLISTED ──────┘ released without waiting
//! ```
//!
//! `next` of the tail is null, and `prev` of the head is the tail, as in `utlist`'s DL lists. So
//! one pointer suffices to append and to take from the front.

use std::marker::PhantomPinned;
use std::pin::Pin;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::task::Waker;

use crate::sleepers::Sleepers;
use crate::sync::{AtomicU8, AtomicU32, BATCH, Lock, UnsafeCell, const_new};
use crate::waits::hooks::{self, Identity, Kind, Mark, Place, SlotIndexCell, State, Subject};
use crate::wakers::{Wakers, drop_from_drop};
use crate::word::{Generation, Word};

/// A state word and its waiters: a whole event. The mark is in a byte that would be padding.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) word: AtomicU32,
    /// The threads that sleep on the word.
    pub(crate) sleepers: Sleepers,
    lock: Lock,
    mark: Mark,
    head: UnsafeCell<*const Node>,
}

// SAFETY: a queue's nodes belong to futures that hold the queue in its place (invariant 8), so no
// node that can still be used is listed when the queue moves. (A leaked node stays in its place,
// and is accessed under the lock only.) Wakers are Send.
unsafe impl Send for Queue {}
// SAFETY: `head` is accessed under `lock` only (invariant 1); the other fields are atomics.
unsafe impl Sync for Queue {}

#[derive(Debug)]
struct Node {
    links: UnsafeCell<Links>,
    waker: UnsafeCell<Option<Waker>>,
    generation: UnsafeCell<Generation>,
    state: AtomicU8,
    /// The record of this wait. Only the owner accesses it.
    index: SlotIndexCell,
}

#[derive(Clone, Copy, Debug)]
struct Links {
    prev: *const Node,
    next: *const Node,
}

/// Not in the list. Only the owner has access to the node.
const UNLISTED: u8 = 0;
/// In the list: dropping must unlink it.
const LISTED: u8 = 1;
/// A release was given to it. Not in the list.
const RELEASED: u8 = 2;
/// The owner has consumed the release. Not in the list.
const CLAIMED: u8 = 3;

/// Upper bound on the waiters that are counted for `Debug`.
const MOST_COUNTED: usize = 1 << 16;

impl Queue {
    const_new! {
        pub(crate) fn new(word: u32) -> Self {
            Self {
                word: AtomicU32::new(word),
                sleepers: Sleepers::new(),
                lock: Lock::new(),
                mark: Mark::new(),
                head: UnsafeCell::new(ptr::null()),
            }
        }
    }

    /// Releases, in order, the waiters of `last` and of earlier generations, and wakes them in
    /// batches outside of the lock. If a waker panics, the others are woken nevertheless, and then
    /// the first panic propagates. TASKS stays on while waits are recorded: the next `set` is noted.
    #[cold]
    pub(crate) fn release_up_to(&self, last: Generation) {
        let mut wakers = Wakers::new();
        loop {
            let guard = self.lock.lock();
            // A drain may be delayed for so long that the generation advances by half of its range,
            // where `is_within` inverts. So the word must release the generation too, which
            // excludes new waiters.
            let now = Word::from_bits(self.word.load(Acquire));
            let belongs = |generation: Generation| generation.is_within(last) && now.releases(generation);
            // SAFETY: the lock is held.
            let rest = unsafe { self.take_front(|waker| wakers.push(waker), BATCH, belongs) };
            if rest == Rest::Empty && !State::now().records() {
                self.word.fetch_and(Word::ALL_BUT_TASKS, AcqRel);
            }
            drop(guard);
            wakers.wake();
            if rest != Rest::More {
                break;
            }
        }
        wakers.resume_panic();
    }

    /// Gives one release to the first waiter, whose waker the caller must wake; or, if the queue is
    /// empty, calls `store` under the lock. `last`: under the lock, when it has become empty.
    #[cold]
    #[must_use = "the task sleeps until its waker is woken"]
    pub(crate) fn release_one(&self, last: impl FnOnce(&AtomicU32), store: impl FnOnce(&AtomicU32)) -> Option<Waker> {
        let mut first = None;
        let _guard = self.lock.lock();
        // SAFETY: the lock is held.
        let rest = unsafe { self.take_front(|waker| first = Some(waker), 1, |_| true) };
        if first.is_none() {
            store(&self.word);
        } else if rest == Rest::Empty {
            last(&self.word);
        }
        first
    }

    /// How many waiters are queued now: at most [`MOST_COUNTED`], as the lock is held meanwhile.
    pub(crate) fn len(&self) -> usize {
        let _guard = self.lock.lock();
        let mut count = 0;
        let mut cursor = self.head();
        while !cursor.is_null() && count < MOST_COUNTED {
            count += 1;
            // SAFETY: the lock is held and the node is in the list, so it is alive (invariant 2).
            cursor = unsafe { &*cursor }.links().next;
        }
        count
    }

    pub(crate) fn is_empty(&self) -> bool {
        let _guard = self.lock.lock();
        self.head().is_null()
    }

    /// The identity of the event in the record of waits.
    pub(crate) fn subject(&self, kind: Kind) -> Subject<'_> {
        Subject { address: hooks::address(self), kind, mark: Some(&self.mark) }
    }

    /// How many threads and tasks wait now.
    pub(crate) fn waiting(&self) -> usize {
        self.sleepers.count() + self.len()
    }

    fn head(&self) -> *const Node {
        // SAFETY: every caller holds the lock, so no other thread writes meanwhile.
        self.head.with(|head| unsafe { *head })
    }

    fn set_head(&self, node: *const Node) {
        // SAFETY: every caller holds the lock, so no other thread reads or writes meanwhile.
        self.head.with_mut(|head| unsafe { *head = node });
    }

    /// Unlinks up to `limit` nodes from the front while `belongs` holds, marks them released, and
    /// passes their wakers to `taken`.
    ///
    /// # Safety
    ///
    /// The caller holds the lock.
    unsafe fn take_front(
        &self,
        mut taken: impl FnMut(Waker),
        limit: usize,
        belongs: impl Fn(Generation) -> bool,
    ) -> Rest {
        let head = self.head();
        if head.is_null() {
            return Rest::Empty;
        }
        // SAFETY: the lock is held, so listed nodes are alive (invariant 2).
        let tail = unsafe { &*head }.links().prev;
        let mut cursor = head;
        let mut count = 0;
        let rest = loop {
            if cursor.is_null() {
                break Rest::Empty;
            }
            // SAFETY: as above; the node has not been released yet.
            let node = unsafe { &*cursor };
            if !belongs(node.generation()) {
                break Rest::Others;
            }
            if count == limit {
                break Rest::More;
            }
            count += 1;
            cursor = node.links().next;
            // SAFETY: the lock is held and the node is listed, so its waker is ours (invariant 1).
            if let Some(waker) = node.waker.with_mut(|waker| unsafe { (*waker).take() }) {
                taken(waker);
            }
            // The last access: from here on the owner may free the node.
            node.state.store(RELEASED, Release);
        };
        if cursor != head {
            self.set_head(cursor);
            if !cursor.is_null() {
                // SAFETY: the lock is held and the node is still listed.
                let new_head = unsafe { &*cursor };
                new_head.set_links(Links { prev: tail, ..new_head.links() });
            }
        }
        rest
    }

    /// Appends a node. The caller holds the lock, and unlinks the node before it is freed.
    fn append(&self, node: &Node) {
        let this: *const Node = node;
        let head = self.head();
        if head.is_null() {
            node.set_links(Links { prev: this, next: ptr::null() });
            self.set_head(this);
            return;
        }
        // SAFETY: the lock is held (see above), so listed nodes are alive (invariant 2).
        let first = unsafe { &*head };
        let tail = first.links().prev;
        node.set_links(Links { prev: tail, next: ptr::null() });
        // SAFETY: as above.
        let last = unsafe { &*tail };
        last.set_links(Links { next: this, ..last.links() });
        // Read anew: the first may be the last.
        first.set_links(Links { prev: this, ..first.links() });
    }

    /// Unlinks a node. The caller holds the lock, and the node is listed.
    fn unlink(&self, node: &Node) {
        let this: *const Node = node;
        let Links { prev, next } = node.links();
        let head = self.head();
        if head == this {
            self.set_head(next);
        } else {
            // SAFETY: the lock is held and neighbours of a listed node are listed, so alive
            // (invariant 2).
            let before = unsafe { &*prev };
            before.set_links(Links { next, ..before.links() });
        }
        // The node that now refers to `prev`: the next one, or, if this was the tail, the head.
        let heir = if !next.is_null() {
            next
        } else if head != this {
            head
        } else {
            return;
        };
        // SAFETY: as above.
        let heir = unsafe { &*heir };
        heir.set_links(Links { prev, ..heir.links() });
    }
}

impl Drop for Queue {
    #[inline]
    fn drop(&mut self) {
        if self.mark.is_on() {
            hooks::forget(hooks::address(self));
        }
    }
}

/// What `take_front` has left in the list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Nothing.
    Empty,
    /// Nodes for which `belongs` does not hold.
    Others,
    /// More nodes: the limit was reached.
    More,
}

impl Node {
    #[inline]
    fn links(&self) -> Links {
        // SAFETY: links are read under the lock alone (invariant 1).
        self.links.with(|links| unsafe { *links })
    }

    #[inline]
    fn set_links(&self, new: Links) {
        // SAFETY: links are written under the lock alone (invariant 1).
        self.links.with_mut(|links| unsafe { *links = new });
    }

    /// For its owner, or for a drain while the node is LISTED.
    #[inline]
    fn generation(&self) -> Generation {
        // SAFETY: only the owner writes it, by a `Pin<&mut _>` and while no drain has access
        // (invariants 1 and 3).
        self.generation.with(|generation| unsafe { *generation })
    }
}

/// How a waiter reaches its queue: by a reference, or by shared ownership of what the queue is part
/// of.
///
/// # Safety
///
/// From its creation until it is dropped, `queue` returns the same queue at the same address, also
/// after the holder was moved, and nobody has exclusive access to that queue.
pub(crate) unsafe trait Holder {
    fn queue(&self) -> &Queue;

    /// The event that the record of waits shows instead of the queue's own.
    fn identity(&self) -> Option<Identity> {
        None
    }
}

// SAFETY: a borrowed queue stays where it is, and nobody else has exclusive access to it.
unsafe impl Holder for &Queue {
    #[inline]
    fn queue(&self) -> &Queue {
        self
    }
}

// SAFETY: the queue stays in its allocation for as long as one `Arc` exists. No other one gives
// exclusive access to it meanwhile, nor moves it: `Arc::get_mut` and `Arc::try_unwrap` fail.
unsafe impl Holder for Arc<Queue> {
    #[inline]
    fn queue(&self) -> &Queue {
        self
    }
}

/// A waiter: its node, and what holds its queue.
#[derive(Debug)]
pub(crate) struct Waiter<H: Holder> {
    node: Node,
    /// Where it began. `None` if it is a part of a wait that is recorded as a whole.
    place: Option<Place>,
    /// The list points to the node.
    _pinned: PhantomPinned,
    /// Declared last, so dropped last (invariant 8): the queue may end with it.
    holder: H,
}

// SAFETY: the raw pointers lead to nodes that are touched under the queue's lock alone; wakers are
// Send.
unsafe impl<H: Holder + Send> Send for Waiter<H> {}
// SAFETY: a shared reference gives access to atomics, the holder and the generation; to write that
// takes a `&mut`.
unsafe impl<H: Holder + Sync> Sync for Waiter<H> {}

impl<H: Holder> Waiter<H> {
    #[inline]
    pub(crate) fn new(holder: H, generation: Generation, place: Option<Place>) -> Waiter<H> {
        let nowhere = Links { prev: ptr::null(), next: ptr::null() };
        Waiter {
            node: Node {
                links: UnsafeCell::new(nowhere),
                waker: UnsafeCell::new(None),
                generation: UnsafeCell::new(generation),
                state: AtomicU8::new(UNLISTED),
                index: SlotIndexCell::new(),
            },
            place,
            _pinned: PhantomPinned,
            holder,
        }
    }

    #[inline]
    pub(crate) fn holder(&self) -> &H {
        &self.holder
    }

    #[inline]
    pub(crate) fn queue(&self) -> &Queue {
        self.holder.queue()
    }

    pub(crate) fn generation(&self) -> Generation {
        self.node.generation()
    }

    /// The place where it began, the index of its record, and the owner of that. For the owner.
    #[inline]
    pub(crate) fn to_record(&self) -> (Option<Place>, &SlotIndexCell, usize) {
        (self.place, &self.node.index, hooks::address(&self.node))
    }

    /// The wait is over. For the owner.
    #[inline]
    pub(crate) fn end_record(&self) {
        if self.node.index.is_used() {
            hooks::ended(&self.node.index, hooks::address(&self.node));
        }
    }

    /// Whether this waiter is not queued and has no release: not yet polled, or withdrawn.
    #[inline]
    pub(crate) fn is_unlisted(&self) -> bool {
        self.node.state.load(Acquire) == UNLISTED
    }

    /// Whether a release was given to this waiter and not yet consumed.
    #[inline]
    pub(crate) fn is_released(&self) -> bool {
        self.node.state.load(Acquire) == RELEASED
    }

    /// Whether this waiter has consumed its release.
    #[inline]
    pub(crate) fn is_claimed(&self) -> bool {
        // Only the owner writes CLAIMED.
        self.node.state.load(Relaxed) == CLAIMED
    }

    /// `None` once a release was given. Until then it is queued, with that waker; whether it was appended.
    /// One that is not queued is appended if `admit`, under the lock, says so, and else released.
    #[inline]
    pub(crate) fn poll(self: Pin<&mut Self>, waker: &Waker, admit: impl FnOnce(&AtomicU32) -> bool) -> Option<bool> {
        match self.node.state.load(Acquire) {
            UNLISTED => self.enlist(waker, admit),
            LISTED => self.renew(waker),
            _ => None,
        }
    }

    #[inline]
    fn enlist(self: Pin<&mut Self>, waker: &Waker, admit: impl FnOnce(&AtomicU32) -> bool) -> Option<bool> {
        let waker = waker.clone();
        let guard = self.queue().lock.lock();
        if !admit(&self.queue().word) {
            drop(guard);
            // No other thread has access to the node.
            self.node.state.store(RELEASED, Relaxed);
            return None;
        }
        // SAFETY: the lock is held, and the node is not listed: the waker is ours.
        self.node.waker.with_mut(|slot| unsafe { *slot = Some(waker) });
        // The node is pinned, and its drop withdraws it.
        self.queue().append(&self.node);
        self.node.state.store(LISTED, Relaxed);
        drop(guard);
        Some(true)
    }

    /// A listed waiter is polled again, perhaps by another task.
    fn renew(self: Pin<&mut Self>, waker: &Waker) -> Option<bool> {
        let guard = self.queue().lock.lock();
        if self.node.state.load(Relaxed) != LISTED {
            return None;
        }
        // SAFETY: the lock is held and the node is listed. Comparing wakers runs no user code.
        let same = self.node.waker.with(|own| unsafe { &*own }.as_ref().is_some_and(|own| own.will_wake(waker)));
        drop(guard);
        if same {
            return Some(false);
        }
        let waker = waker.clone();
        let guard = self.queue().lock.lock();
        if self.node.state.load(Relaxed) != LISTED {
            drop(guard);
            return None;
        }
        // SAFETY: the lock is held and the node is listed.
        let replaced = self.node.waker.with_mut(|own| unsafe { (*own).replace(waker) });
        drop(guard);
        drop(replaced);
        Some(false)
    }

    /// Leaves the queue, if it is queued. A release that was given stays given.
    #[inline]
    pub(crate) fn withdraw(&mut self) {
        if self.node.state.load(Acquire) == LISTED {
            self.unlist();
        }
    }

    #[inline(never)]
    fn unlist(&self) {
        let guard = self.queue().lock.lock();
        if self.node.state.load(Relaxed) != LISTED {
            return;
        }
        self.queue().unlink(&self.node);
        // SAFETY: the lock is held and the node is listed.
        let waker = self.node.waker.with_mut(|waker| unsafe { (*waker).take() });
        self.node.state.store(UNLISTED, Relaxed);
        drop(guard);
        if let Some(waker) = waker {
            drop_from_drop(waker);
        }
    }

    /// Forgets a release, and waits for the next one, that of another generation.
    #[allow(dead_code, reason = "for events between processes")]
    pub(crate) fn restart(self: Pin<&mut Self>, generation: Generation) {
        // The generation may have decided before a drain has found the node.
        if self.node.state.load(Acquire) == LISTED {
            self.unlist();
        }
        // SAFETY: the node is not listed, so its owner has exclusive access to it (invariant 3).
        self.node.generation.with_mut(|own| unsafe { *own = generation });
        self.node.state.store(UNLISTED, Relaxed);
    }

    /// Records a release that was taken without being queued.
    pub(crate) fn mark_released(self: Pin<&mut Self>) {
        debug_assert_ne!(self.node.state.load(Relaxed), LISTED);
        self.node.state.store(RELEASED, Relaxed);
    }

    /// Consumes the release, so that it is not handed on.
    pub(crate) fn claim(self: Pin<&mut Self>) {
        debug_assert!(self.is_released());
        self.node.state.store(CLAIMED, Relaxed);
    }
}

impl<H: Holder> Drop for Waiter<H> {
    #[inline]
    fn drop(&mut self) {
        self.withdraw();
        self.end_record();
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
