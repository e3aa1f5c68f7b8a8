//! `Event`: set, clear, wait, async wait, drop, timeout.

use std::pin::Pin;
use std::task::Poll;

use tantara::{Event, OwnedWait};

use crate::fixture::{Arc, AtomicUsize, Letter, Ordering, SOON, WakeCounter, block_on, explore, poll, thread};

/// An event, and data that only the event protects.
struct Post {
    event: std::sync::Arc<Event>,
    letter: Letter,
}

impl Post {
    fn new() -> Arc<Post> {
        Arc::new(Post { event: std::sync::Arc::new(Event::new()), letter: Letter::new() })
    }

    fn send(&self) {
        self.letter.write();
        self.event.set();
    }
}

/// How a participant waits for the data.
#[derive(Clone, Copy)]
enum Waiting {
    Blocking,
    Deadline,
    Task,
    /// Polls with one waker, then with another, like a task that moves.
    MovedTask,
    /// Polls once and gives up.
    DroppedTask,
}

impl Waiting {
    fn for_post(self, post: &Post) {
        let released = match self {
            Waiting::Blocking => {
                post.event.wait();
                true
            }
            Waiting::Deadline => post.event.wait_timeout(SOON),
            Waiting::Task => {
                block_on(post.event.wait_async());
                true
            }
            Waiting::MovedTask => {
                let mut wait = Box::pin(post.event.wait_async());
                let _ = poll(&mut wait, &WakeCounter::new().1);
                block_on(wait);
                true
            }
            Waiting::DroppedTask => {
                let mut wait = Box::pin(post.event.wait_async());
                poll(&mut wait, &WakeCounter::new().1).is_ready()
            }
        };
        if released {
            post.letter.read();
        }
    }
}

/// One sends, the others wait: all are released, and may read the data.
fn delivery(bound: Option<usize>, waiting: &'static [Waiting]) {
    explore(bound, move || {
        let post = Post::new();
        let participants: Vec<_> = waiting
            .iter()
            .map(|&waiting| {
                let post = Arc::clone(&post);
                thread::spawn(move || waiting.for_post(&post))
            })
            .collect();
        post.send();
        for participant in participants {
            participant.join().unwrap();
        }
        assert!(post.event.is_set(), "leaving must not change the flag");
    });
}

#[test]
fn a_thread_is_released() {
    delivery(None, &[Waiting::Blocking]);
}

#[test]
fn a_task_is_released() {
    delivery(None, &[Waiting::Task]);
}

#[test]
fn a_task_that_was_moved_is_released() {
    delivery(None, &[Waiting::MovedTask]);
}

#[test]
fn two_threads_are_released() {
    delivery(Some(3), &[Waiting::Blocking, Waiting::Blocking]);
}

#[test]
fn a_thread_and_a_task_are_released() {
    delivery(Some(3), &[Waiting::Blocking, Waiting::Task]);
}

#[test]
fn two_tasks_are_released() {
    delivery(Some(3), &[Waiting::Task, Waiting::Task]);
}

#[test]
fn a_timeout_does_not_affect_other_waits() {
    delivery(Some(3), &[Waiting::Deadline, Waiting::Blocking]);
    delivery(Some(3), &[Waiting::Deadline, Waiting::Task]);
}

#[test]
fn a_dropped_task_does_not_affect_other_waits() {
    delivery(Some(3), &[Waiting::DroppedTask, Waiting::Blocking]);
    delivery(Some(3), &[Waiting::DroppedTask, Waiting::Task]);
}

/// Futures from before a pulse are released by it, although the flag is lowered when they run.
fn pulse(bound: Option<usize>, tasks: usize, dropped: usize) {
    explore(bound, move || {
        let post = Post::new();
        let waits: Vec<_> = (0..tasks).map(|_| owned(&post)).collect();
        let setter = {
            let post = Arc::clone(&post);
            thread::spawn(move || {
                post.send();
                post.event.clear();
            })
        };
        let mut waits = waits.into_iter();
        for mut wait in waits.by_ref().take(dropped) {
            let _ = poll(&mut wait, &WakeCounter::new().1);
        }
        for wait in waits {
            block_on(wait);
            post.letter.read();
        }
        setter.join().unwrap();
        assert!(!post.event.is_set());
    });
}

fn owned(post: &Post) -> Pin<Box<OwnedWait>> {
    Box::pin(Event::wait_owned(post.event.clone()))
}

#[test]
fn a_pulse_releases_who_waited() {
    pulse(None, 1, 0);
}

#[test]
fn a_pulse_releases_who_waited_while_another_leaves() {
    pulse(None, 2, 1);
}

/// Three listed tasks are more than one batch under loom: the drain releases the lock in between, and one of them
/// leaves just then.
#[test]
fn a_drain_survives_a_leaver_between_its_batches() {
    explore(None, || {
        let post = Post::new();
        let mut waits: Vec<_> = (0..3).map(|_| owned(&post)).collect();
        let counters: Vec<_> = (0..3).map(|_| WakeCounter::new()).collect();
        for (wait, (_, waker)) in waits.iter_mut().zip(&counters) {
            assert!(poll(wait, waker).is_pending());
        }
        let setter = {
            let post = Arc::clone(&post);
            thread::spawn(move || {
                post.event.set();
                post.event.clear();
            })
        };
        drop(waits.remove(1));
        setter.join().unwrap();
        for (mut wait, counter) in waits.into_iter().zip([0, 2]) {
            assert_eq!(counters[counter].0.wakes(), 1, "a waiter was not woken, or woken twice");
            assert_eq!(poll(&mut wait, &counters[counter].1), Poll::Ready(()));
        }
    });
}

/// The setter and the waiter drop the event while the other may still use it: the last one frees it.
#[test]
fn whoever_is_last_frees_the_event() {
    for is_dropped_early in [false, true] {
        explore(None, move || {
            let event = std::sync::Arc::new(Event::new());
            let mut wait = Box::pin(event.clone().wait_owned());
            assert!(poll(&mut wait, &WakeCounter::new().1).is_pending());
            let setter = thread::spawn(move || {
                event.set();
                drop(event);
            });
            if is_dropped_early {
                drop(wait);
            } else {
                block_on(wait);
            }
            setter.join().unwrap();
        });
    }
}

/// A wait that begins after the pulse is not released by it, even if the drain is not done yet.
#[test]
fn a_pulse_does_not_release_newcomers() {
    explore(Some(4), || {
        let post = Post::new();
        let mut old = owned(&post);
        let (counter, waker) = WakeCounter::new();
        assert!(poll(&mut old, &waker).is_pending());
        let other = {
            let post = Arc::clone(&post);
            // Both pulse, so each drain may meet the new wait of the other.
            thread::spawn(move || pulse_then_wait(&post))
        };
        let newcomer = pulse_then_wait(&post);
        let other = other.join().unwrap();
        assert!(counter.wakes() == 1, "the old waiter is woken once");
        assert!(poll(&mut old, &waker).is_ready());
        // A new wait may have been released by the other's pulse, but not after the last pulse.
        assert!(!(newcomer && other), "both newcomers were released, one of them by a pulse before it began to wait");
    });
}

/// Whether a wait that began after this participant's own pulse was released.
fn pulse_then_wait(post: &Arc<Post>) -> bool {
    post.event.set();
    post.event.clear();
    let mut wait = owned(post);
    poll(&mut wait, &WakeCounter::new().1).is_ready()
}

/// Set and clear race. In any case, the next set releases a waiter.
#[test]
fn set_and_clear_leave_the_event_in_order() {
    explore(None, || {
        let post = Post::new();
        let clearer = {
            let post = Arc::clone(&post);
            thread::spawn(move || post.event.clear())
        };
        post.event.set();
        clearer.join().unwrap();
        post.event.clear();
        assert!(!post.event.is_set());
        let waiter = {
            let post = Arc::clone(&post);
            thread::spawn(move || post.event.wait())
        };
        post.event.set();
        waiter.join().unwrap();
    });
}

/// All that two setters did before is visible to a thread that sees the event set by both.
#[test]
fn a_set_of_a_set_event_publishes_too() {
    explore(None, || {
        let posts = Arc::new((Event::new(), Letter::new(), Event::new()));
        let setter = {
            let posts = Arc::clone(&posts);
            thread::spawn(move || {
                posts.1.write();
                posts.0.set();
                posts.2.set();
            })
        };
        posts.0.set();
        // Only the other thread sets the second event, so it has called `set` on the first, which may have been set
        // before.
        if posts.2.is_set() {
            assert!(posts.0.is_set());
            posts.1.read();
        }
        setter.join().unwrap();
    });
}

/// The last waker is the one that is woken.
#[test]
fn a_replaced_waker_is_not_missed() {
    explore(None, || {
        let post = Post::new();
        let mut wait = owned(&post);
        let (_, first) = WakeCounter::new();
        let (counter, second) = WakeCounter::new();
        assert!(poll(&mut wait, &first).is_pending());
        let setter = {
            let post = Arc::clone(&post);
            thread::spawn(move || post.send())
        };
        let polled = poll(&mut wait, &second);
        setter.join().unwrap();
        assert!(polled.is_ready() || counter.wakes() == 1, "the task would sleep for ever");
        assert!(poll(&mut wait, &second).is_ready());
        post.letter.read();
    });
}

/// One wait is polled again with another waker while its neighbour leaves and a set comes.
#[test]
fn a_moved_task_and_a_leaving_neighbour() {
    explore(Some(3), || {
        let post = Post::new();
        let mut neighbour = owned(&post);
        let mut wait = owned(&post);
        assert!(poll(&mut neighbour, &WakeCounter::new().1).is_pending());
        assert!(poll(&mut wait, &WakeCounter::new().1).is_pending());
        let setter = {
            let post = Arc::clone(&post);
            thread::spawn(move || {
                post.send();
                post.event.clear();
            })
        };
        let leaver = thread::spawn(move || drop(neighbour));
        let (counter, waker) = WakeCounter::new();
        let polled = poll(&mut wait, &waker);
        setter.join().unwrap();
        leaver.join().unwrap();
        assert!(polled.is_ready() || counter.wakes() == 1, "the task would sleep for ever");
        assert!(poll(&mut wait, &waker).is_ready());
        post.letter.read();
    });
}

/// A set announces work. The worker clears, looks for work, and would wait if there is none. It sees the work of every
/// set that the clear undid.
#[test]
fn a_clear_sees_what_came_with_the_set_that_it_undoes() {
    explore(None, || {
        let inbox = Arc::new((Event::new(), AtomicUsize::new(0)));
        let client = {
            let inbox = Arc::clone(&inbox);
            thread::spawn(move || {
                inbox.1.store(1, Ordering::Relaxed);
                inbox.0.set();
            })
        };
        inbox.0.clear();
        let work = inbox.1.load(Ordering::Relaxed);
        client.join().unwrap();
        assert!(work == 1 || inbox.0.is_set(), "the worker would sleep with work on the inbox");
    });
}
