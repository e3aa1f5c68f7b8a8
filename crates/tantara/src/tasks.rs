//! The queue of waiting tasks: an intrusive doubly linked list whose nodes live inside the pinned futures, so that
//! waiting allocates nothing.
//!
//! # Discipline
//!
//! 1. `head`, every node's `links`, and the `waker` of every LISTED node are touched under the queue's lock alone.
//! 2. A node's `stage` becomes LISTED and stops being LISTED under the lock. It leaves LISTED exactly once per
//!    listing: to RELEASED by a drain, or to UNLISTED by its owner.
//! 3. Storing RELEASED (with Release) is the drain's last touch of a node. An owner that loads RELEASED or UNLISTED
//!    (with Acquire) therefore owns the node alone and needs no lock.
//! 4. A node that is not LISTED holds no waker.
//! 5. The fields of a node are reached through shared references and raw pointers only; its owner's `Pin<&mut _>` is
//!    never turned into a `&mut` to them. (The compiler assumes nothing of a `&mut` to a type that is not `Unpin`.)
//! 6. Foreign code, the clone, the wake and the drop of wakers, runs while the lock is not held.
//! 7. Tickets do not decrease along the list: each is checked against the word under the lock as it is appended.
//!
//! ```text
//!                  enlist (lock)            drain (lock)
//!    UNLISTED ───────────────────► LISTED ───────────────► RELEASED ──► CLAIMED
//!        ▲                           │                         ▲      (the owner has used
//!        └───────────────────────────┘                         │        the release up)
//!                withdraw (lock)                UNLISTED ──────┘ released without waiting
//! ```
//!
//! The list is kept as in `utlist`'s DL flavour: `next` ends in null, `prev` of the head is the tail; one pointer is
//! enough to append and to take from the front.

use std::marker::PhantomPinned;
use std::pin::Pin;
use std::ptr;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::task::{Poll, Waker};

use crate::sync::{AtomicU16, AtomicU32, BATCH, Lock, UnsafeCell, const_new};
use crate::wakers::{Wakers, drop_from_drop};
use crate::word::{Ticket, Word};

/// A state word and those who wait for it: the whole of an event.
///
/// The word stands here because it fits where the lock would leave padding.
#[derive(Debug)]
pub(crate) struct Queue {
    pub(crate) word: AtomicU32,
    /// How many threads sleep on the word: a figure for `Debug`, modulo 65,536.
    sleepers: AtomicU16,
    lock: Lock,
    head: UnsafeCell<*const Node>,
}

// SAFETY: a queue's nodes belong to futures that borrow the queue, so none that can still be used is listed when it
// moves. (One that was leaked stays where it is for ever, and is reached under the lock alone.) Wakers are Send.
unsafe impl Send for Queue {}
// SAFETY: `head` is touched under `lock` alone (discipline 1); the other fields are atomics.
unsafe impl Sync for Queue {}

#[derive(Debug)]
struct Node {
    links: UnsafeCell<Links>,
    waker: UnsafeCell<Option<Waker>>,
    stage: AtomicU32,
    ticket: Ticket,
}

#[derive(Clone, Copy, Debug)]
struct Links {
    prev: *const Node,
    next: *const Node,
}

/// In no list. Nobody but the owner knows the node.
const UNLISTED: u32 = 0;
/// In the list: dropping must take it out.
const LISTED: u32 = 1;
/// A release was given to it. Not in the list.
const RELEASED: u32 = 2;
/// The owner has used its release up. Not in the list.
const CLAIMED: u32 = 3;

/// Who counts those who wait stops here.
const MOST_COUNTED: usize = 1 << 16;

impl Queue {
    const_new! {
        pub(crate) fn new(word: u32) -> Self {
            Self {
                word: AtomicU32::new(word),
                sleepers: AtomicU16::new(0),
                lock: Lock::new(),
                head: UnsafeCell::new(ptr::null()),
            }
        }
    }

    /// Releases, first come first served, everyone whose ticket is within `cohort`, and wakes them in batches outside
    /// the lock. If a waker panics the others are woken all the same, and the first panic goes on afterwards.
    #[cold]
    pub(crate) fn release_cohort(&self, cohort: Ticket) {
        let mut wakers = Wakers::new();
        loop {
            let guard = self.lock.lock();
            // A drain may be held up for so long that the generation comes half around, and `is_within` turns over.
            // So the word is asked too, which no newcomer's ticket agrees with.
            let now = Word::from_bits(self.word.load(Acquire));
            let belongs = |ticket: Ticket| ticket.is_within(cohort) && now.releases(ticket);
            // SAFETY: the lock is held.
            let rest = unsafe { self.take_front(|waker| wakers.push(waker), BATCH, belongs) };
            if rest == Rest::Empty {
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

    /// Gives one release to the first in the queue, whose waker the caller has to wake; or, if the queue is empty,
    /// calls `store` under the lock. `last` is called under the lock when the queue has become empty.
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

    /// How many are in the queue now; a snapshot, in time linear in the answer. No more than [`MOST_COUNTED`], so
    /// that nobody else is kept waiting for the lock.
    pub(crate) fn len(&self) -> usize {
        let _guard = self.lock.lock();
        let mut count = 0;
        let mut cursor = self.head();
        while !cursor.is_null() && count < MOST_COUNTED {
            count += 1;
            // SAFETY: the lock is held and the node is in the list, so it is alive (discipline 2).
            cursor = unsafe { &*cursor }.links().next;
        }
        count
    }

    #[allow(dead_code, reason = "for events between processes")]
    pub(crate) fn is_empty(&self) -> bool {
        let _guard = self.lock.lock();
        self.head().is_null()
    }

    /// How many threads and tasks wait now; a snapshot.
    pub(crate) fn waiting(&self) -> usize {
        usize::from(self.sleepers.load(Relaxed)) + self.len()
    }

    /// Counts the calling thread as asleep on the word while `sleep` runs, which may panic: a callback of
    /// [`interruptible`](crate::interruptible) runs in it.
    pub(crate) fn counting_sleeper<R>(&self, sleep: impl FnOnce() -> R) -> R {
        struct Counted<'a>(&'a AtomicU16);

        impl Drop for Counted<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Relaxed);
            }
        }

        self.sleepers.fetch_add(1, Relaxed);
        let _counted = Counted(&self.sleepers);
        sleep()
    }

    fn head(&self) -> *const Node {
        // SAFETY: every caller holds the lock, so nobody writes meanwhile.
        self.head.with(|head| unsafe { *head })
    }

    fn set_head(&self, node: *const Node) {
        // SAFETY: every caller holds the lock, so nobody else reads or writes meanwhile.
        self.head.with_mut(|head| unsafe { *head = node });
    }

    /// Takes nodes from the front while `belongs` says so and `limit` allows, marks them released, and gives their
    /// wakers to `taken`.
    ///
    /// # Safety
    ///
    /// The caller holds the lock.
    unsafe fn take_front(&self, mut taken: impl FnMut(Waker), limit: usize, belongs: impl Fn(Ticket) -> bool) -> Rest {
        let head = self.head();
        if head.is_null() {
            return Rest::Empty;
        }
        // SAFETY: the lock is held, so listed nodes are alive (discipline 2).
        let tail = unsafe { &*head }.links().prev;
        let mut cursor = head;
        let mut count = 0;
        let rest = loop {
            if cursor.is_null() {
                break Rest::Empty;
            }
            // SAFETY: as above; the node has not been released yet.
            let node = unsafe { &*cursor };
            if !belongs(node.ticket) {
                break Rest::Others;
            }
            if count == limit {
                break Rest::More;
            }
            count += 1;
            cursor = node.links().next;
            // SAFETY: the lock is held and the node is listed, so its waker is ours (discipline 1).
            if let Some(waker) = node.waker.with_mut(|waker| unsafe { (*waker).take() }) {
                taken(waker);
            }
            // The last touch: from here on the owner may free the node.
            node.stage.store(RELEASED, Release);
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

    /// Appends a node. The caller holds the lock, and takes the node out again before it dies.
    fn append(&self, node: &Node) {
        let this: *const Node = node;
        let head = self.head();
        if head.is_null() {
            node.set_links(Links { prev: this, next: ptr::null() });
            self.set_head(this);
            return;
        }
        // SAFETY: the lock is held (see above), so listed nodes are alive (discipline 2).
        let first = unsafe { &*head };
        let tail = first.links().prev;
        node.set_links(Links { prev: tail, next: ptr::null() });
        // SAFETY: as above.
        let last = unsafe { &*tail };
        last.set_links(Links { next: this, ..last.links() });
        // Read anew: the first may be the last.
        first.set_links(Links { prev: this, ..first.links() });
    }

    /// Takes a node out of the middle. The caller holds the lock, and the node is listed.
    fn unlink(&self, node: &Node) {
        let this: *const Node = node;
        let Links { prev, next } = node.links();
        let head = self.head();
        if head == this {
            self.set_head(next);
        } else {
            // SAFETY: the lock is held and neighbours of a listed node are listed, so alive (discipline 2).
            let before = unsafe { &*prev };
            before.set_links(Links { next, ..before.links() });
        }
        // Who now keeps `prev`: the follower, or, if we were the tail, the head that remembers the tail.
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

/// What `take_front` left behind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// Nothing.
    Empty,
    /// Nodes that do not belong.
    Others,
    /// Nodes that belong; the limit was reached.
    More,
}

impl Node {
    #[inline]
    fn links(&self) -> Links {
        // SAFETY: links are read under the lock alone (discipline 1).
        self.links.with(|links| unsafe { *links })
    }

    #[inline]
    fn set_links(&self, new: Links) {
        // SAFETY: links are written under the lock alone (discipline 1).
        self.links.with_mut(|links| unsafe { *links = new });
    }
}

/// One who waits in a queue: the node, and the queue it belongs to for life.
#[derive(Debug)]
pub(crate) struct Waiter<'a> {
    queue: &'a Queue,
    node: Node,
    /// The list points to the node.
    _pinned: PhantomPinned,
}

// SAFETY: the raw pointers lead to nodes that are touched under the queue's lock alone; wakers are Send.
unsafe impl Send for Waiter<'_> {}
// SAFETY: through a shared reference only atomics can be reached; poll, withdraw and claim want a `&mut`.
unsafe impl Sync for Waiter<'_> {}

impl<'a> Waiter<'a> {
    #[inline]
    pub(crate) fn new(queue: &'a Queue, ticket: Ticket) -> Waiter<'a> {
        let nowhere = Links { prev: ptr::null(), next: ptr::null() };
        Waiter {
            queue,
            node: Node {
                links: UnsafeCell::new(nowhere),
                waker: UnsafeCell::new(None),
                stage: AtomicU32::new(UNLISTED),
                ticket,
            },
            _pinned: PhantomPinned,
        }
    }

    #[inline]
    pub(crate) fn queue(&self) -> &'a Queue {
        self.queue
    }

    #[inline]
    pub(crate) fn ticket(&self) -> Ticket {
        self.node.ticket
    }

    /// Whether this waiter stands in no line and holds nothing: not yet polled, or withdrawn.
    #[inline]
    pub(crate) fn is_unlisted(&self) -> bool {
        self.node.stage.load(Acquire) == UNLISTED
    }

    /// Whether a release was given to this waiter (and not yet used up).
    #[inline]
    pub(crate) fn is_released(&self) -> bool {
        self.node.stage.load(Acquire) == RELEASED
    }

    /// Whether this waiter has used its release up.
    #[inline]
    pub(crate) fn is_claimed(&self) -> bool {
        // Only the owner writes CLAIMED.
        self.node.stage.load(Relaxed) == CLAIMED
    }

    /// Ready once a release was given. Until then the waiter is in the queue, and `waker` is the one to be woken.
    ///
    /// A waiter that is not in the queue enters it if `admit` agrees; `admit` is asked under the lock. If it does not
    /// agree, the waiter counts as released.
    #[inline]
    pub(crate) fn poll(self: Pin<&mut Self>, waker: &Waker, admit: impl FnOnce(&AtomicU32) -> bool) -> Poll<()> {
        match self.node.stage.load(Acquire) {
            UNLISTED => self.enlist(waker, admit),
            LISTED => self.renew(waker),
            _ => Poll::Ready(()),
        }
    }

    fn enlist(self: Pin<&mut Self>, waker: &Waker, admit: impl FnOnce(&AtomicU32) -> bool) -> Poll<()> {
        let waker = waker.clone();
        let guard = self.queue.lock.lock();
        if !admit(&self.queue.word) {
            drop(guard);
            // Nobody else knows the node.
            self.node.stage.store(RELEASED, Relaxed);
            return Poll::Ready(());
        }
        // SAFETY: the lock is held, and the node is not listed: the waker is ours.
        self.node.waker.with_mut(|slot| unsafe { *slot = Some(waker) });
        // The node stays where it is and is taken out before it dies: it is pinned, and its drop withdraws it.
        self.queue.append(&self.node);
        self.node.stage.store(LISTED, Relaxed);
        drop(guard);
        Poll::Pending
    }

    /// A listed waiter is polled again: make sure that the right task will be woken.
    fn renew(self: Pin<&mut Self>, waker: &Waker) -> Poll<()> {
        let guard = self.queue.lock.lock();
        if self.node.stage.load(Relaxed) != LISTED {
            return Poll::Ready(());
        }
        // SAFETY: the lock is held and the node is listed. Comparing wakers runs no foreign code.
        let same = self.node.waker.with(|own| unsafe { &*own }.as_ref().is_some_and(|own| own.will_wake(waker)));
        drop(guard);
        if same {
            return Poll::Pending;
        }
        let waker = waker.clone();
        let guard = self.queue.lock.lock();
        if self.node.stage.load(Relaxed) != LISTED {
            drop(guard);
            return Poll::Ready(());
        }
        // SAFETY: the lock is held and the node is listed.
        let replaced = self.node.waker.with_mut(|own| unsafe { (*own).replace(waker) });
        drop(guard);
        drop(replaced);
        Poll::Pending
    }

    /// Leaves the queue, if it is in there. A release that was given stays given.
    #[inline]
    pub(crate) fn withdraw(&mut self) {
        if self.node.stage.load(Acquire) == LISTED {
            self.unlist();
        }
    }

    #[inline(never)]
    fn unlist(&self) {
        let guard = self.queue.lock.lock();
        if self.node.stage.load(Relaxed) != LISTED {
            return;
        }
        self.queue.unlink(&self.node);
        // SAFETY: the lock is held and the node is listed.
        let waker = self.node.waker.with_mut(|waker| unsafe { (*waker).take() });
        self.node.stage.store(UNLISTED, Relaxed);
        drop(guard);
        if let Some(waker) = waker {
            drop_from_drop(waker);
        }
    }

    /// Notes a release that was had without waiting in the queue.
    pub(crate) fn mark_released(self: Pin<&mut Self>) {
        debug_assert_ne!(self.node.stage.load(Relaxed), LISTED);
        self.node.stage.store(RELEASED, Relaxed);
    }

    /// Uses the release up: it will not be handed on.
    pub(crate) fn claim(self: Pin<&mut Self>) {
        debug_assert!(self.is_released());
        self.node.stage.store(CLAIMED, Relaxed);
    }
}

impl Drop for Waiter<'_> {
    #[inline]
    fn drop(&mut self) {
        self.withdraw();
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::pin::pin;

    /// A drain that was held up while the generation went half around meets a newcomer.
    #[test]
    fn a_drain_from_half_the_world_ago_releases_no_newcomer() {
        let old = Word::NEW.ticket();
        // Beyond half the range, where "earlier" and "later" have changed places.
        let queue = Queue::new((1 << 31) + (1 << 16));
        let now = Word::from_bits(queue.word.load(Acquire));
        assert!(now.ticket().is_within(old), "the arithmetic alone would release it");
        let mut newcomer = pin!(Waiter::new(&queue, now.ticket()));
        assert!(newcomer.as_mut().poll(Waker::noop(), |_| true).is_pending());
        queue.release_cohort(old);
        assert!(!newcomer.is_released());
        queue.word.store(now.set().bits(), Release);
        queue.release_cohort(now.ticket());
        assert!(newcomer.is_released());
    }
}
