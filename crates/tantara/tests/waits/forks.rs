//! The record in the children of forks, which other threads of the parent may be changing at that moment.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Waker};
use std::thread;

use tantara::{Event, waits};

use crate::{labelled, waits_for};

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

#[test]
fn a_child_records_its_own_waits_and_keeps_the_labels() {
    let event = labelled(Arc::new(Event::new()), "forked");
    let mut context = Context::from_waker(Waker::noop());
    let mut parents = Box::pin(event.wait_async());
    assert!(parents.as_mut().poll(&mut context).is_pending());
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
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
        is_over.store(true, SeqCst);
    });
    assert_eq!(waits_for("forked").len(), 1);
    drop(parents);
    assert!(waits_for("forked").is_empty());
}
