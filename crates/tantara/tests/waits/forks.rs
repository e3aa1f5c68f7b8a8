//! The record in the children of forks, which other threads of the parent may be changing at that moment.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use tantara::{Event, waits};

use crate::{is_alone, labelled, waits_for};

const FORKS: usize = 40;

/// The exit code of a child that runs `body`.
fn in_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the C library keeps its own locks usable in the child, which uses no others but those of the record, and
    // ends without destructors.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: a child that hangs is killed by the kernel, and the test fails.
        unsafe { libc::alarm(60) };
        let code = body();
        // SAFETY: ends the process.
        unsafe { libc::_exit(code) };
    }
    assert!(pid > 0, "cannot fork");
    let mut status = 0;
    // SAFETY: the child is ours; `status` is valid for writing.
    assert_eq!(unsafe { libc::waitpid(pid, &mut status, 0) }, pid);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -status }
}

/// Ends the threads of a test, also if it fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_child_records_its_own_waits_and_keeps_the_labels() {
    let event = labelled(Arc::new(Event::new()), "forked");
    let mut context = Context::from_waker(Waker::noop());
    let mut parents = Box::pin(event.wait_async());
    assert!(parents.as_mut().poll(&mut context).is_pending());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Ends(&is_over);
        for _ in 0..3 {
            scope.spawn(|| {
                let other = Event::new();
                while !is_over.load(SeqCst) {
                    let mut wait = pin!(other.wait_async());
                    assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                    waits::label(&*event, "forked");
                }
            });
        }
        for _ in 0..FORKS {
            let code = in_child(|| {
                if !waits::waits().is_empty() {
                    return 2;
                }
                let mut own = Box::pin(event.wait_async());
                let mut context = Context::from_waker(Waker::noop());
                if own.as_mut().poll(&mut context).is_ready() || waits::waits().len() != 1 {
                    return 3;
                }
                // A label that was being changed is lost.
                if waits_for("forked").len() + usize::from(waits::waits()[0].events[0].label.is_none()) != 1 {
                    return 4;
                }
                drop(own);
                if !waits::waits().is_empty() {
                    return 5;
                }
                in_child(|| waits::waits().len() as i32)
            });
            assert_eq!(code, 0);
        }
    });
    assert_eq!(waits_for("forked").len(), 1);
    drop(parents);
    assert!(waits_for("forked").is_empty());
}

/// As a daemon does, whose intermediate process waits for nothing.
#[test]
fn the_child_of_a_child_that_has_noted_nothing_keeps_the_labels() {
    // A label is lost if another test notes something beside it at the moment of the fork.
    if !is_alone("forks::the_child_of_a_child_that_has_noted_nothing_keeps_the_labels") {
        return;
    }
    let event = labelled(Event::new(), "forked twice");
    waits::label(&event, "forked twice");
    let is_kept = || {
        let code = in_child(|| {
            in_child(|| {
                let mut own = pin!(event.wait_async());
                let is_pending = own.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending();
                i32::from(!is_pending || waits_for("forked twice").len() != 1)
            })
        });
        code == 0
    };
    // The thread that publishes the record may look at it at the moment of a fork.
    assert!((0..FORKS).any(|_| is_kept()));
}

/// A binding tells where each call is made, and a program may watch its waits, before and after a fork.
#[test]
fn a_child_tells_places_and_watches_waits_while_threads_of_its_parent_do() {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ends = Ends(&is_over);
        for _ in 0..3 {
            scope.spawn(|| {
                while !is_over.load(SeqCst) {
                    waits::with_origin("program.py", 1, None, || ());
                }
            });
        }
        for _ in 0..4 * FORKS {
            let code = in_child(|| {
                let event = Event::new();
                let mut wait = pin!(event.wait_async());
                waits::longer_than(Duration::from_secs(600), |_| ());
                waits::with_origin("program.py", 7, Some("a task"), || {
                    assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                });
                let all = waits::waits();
                i32::from(all.len() != 1 || all[0].place.file != "program.py" || all[0].place.line != 7)
            });
            assert_eq!(code, 0);
        }
    });
}
