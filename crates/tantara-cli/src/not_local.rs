//! Takes the place of `local` on systems without events between processes: it refuses what needs them.

use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::time::Instant;

use tantara::__private::Slot;
use tantara_bank::{Audience, Plan, Run};

use crate::events::aim::Aim;
use crate::events::change::Change;
use crate::events::entry::Entry;
use crate::events::origin::Origin;
use crate::events::printer::{Ended, Printer};
use crate::events::waiter::Waiter;
use crate::failure::Failure;

/// There is none.
#[derive(Debug)]
pub(crate) enum Directory {}

/// There is none.
#[derive(Clone, Debug)]
pub(crate) enum LocalEvent {}

/// There is none.
#[derive(Debug)]
pub(crate) enum LocalHold {}

/// There is none.
#[derive(Debug)]
pub(crate) enum Observer {}

impl Directory {
    pub(crate) fn new(_: Option<PathBuf>) -> Result<Directory, Failure> {
        Err(Failure::usage("events between processes need Linux; with --etcd, the same command works between machines"))
    }

    pub(crate) fn shown(&self) -> String {
        match *self {}
    }

    pub(crate) fn open(&self, _: &str) -> Result<LocalEvent, Failure> {
        match *self {}
    }

    pub(crate) fn find(&self, _: &str) -> Result<Option<LocalEvent>, Failure> {
        match *self {}
    }

    pub(crate) fn all(&self) -> Result<Vec<LocalEvent>, Failure> {
        match *self {}
    }

    pub(crate) fn names(&self) -> Vec<String> {
        match *self {}
    }

    pub(crate) fn is_set(&self, _: &str) -> Result<bool, Failure> {
        match *self {}
    }

    pub(crate) fn prepare(&self, _: &[String]) -> Result<(), Failure> {
        match *self {}
    }

    pub(crate) fn change(&self, _: &[String], _: Change<'_>) -> Result<(), Failure> {
        match *self {}
    }
}

impl LocalEvent {
    pub(crate) fn slot(&self, _: Aim) -> Slot<'_> {
        match *self {}
    }

    pub(crate) fn wait_until(&self, _: Aim, _: Option<Instant>) -> Result<bool, Failure> {
        match *self {}
    }

    pub(crate) fn seems_set(&self) -> bool {
        match *self {}
    }

    pub(crate) fn waiters(&self) -> Vec<Waiter> {
        match *self {}
    }

    pub(crate) fn last_set(&self) -> Option<Origin> {
        match *self {}
    }

    pub(crate) fn hold(&self) -> Result<LocalHold, Failure> {
        match *self {}
    }

    pub(crate) fn remove(&self) -> Result<(), Failure> {
        match *self {}
    }
}

impl Observer {
    pub(crate) fn new(
        _: Vec<(usize, u32)>,
        _: Vec<(usize, PathBuf)>,
        _: impl Fn(usize) + Send + 'static,
    ) -> Result<Observer, Failure> {
        Err(Failure::usage("--pid and --file need Linux; wait for an event that the other program sets or holds"))
    }

    pub(crate) fn is_done(&self) -> bool {
        match *self {}
    }

    pub(crate) fn sleep(&mut self) -> Result<(), Failure> {
        match *self {}
    }
}

pub(crate) fn entries(directory: &Directory, _: &[String]) -> Result<Vec<Entry>, Failure> {
    match *directory {}
}

pub(crate) fn watch(
    directory: &Directory,
    _: &[String],
    _: &Rc<Printer>,
    _: Option<Instant>,
) -> Result<Ended, Failure> {
    match *directory {}
}

/// Nothing is published.
pub(crate) fn publish_waits_in(_: Option<&std::path::Path>) {}

pub(crate) fn check_ps() -> Result<(), Failure> {
    Err(Failure::usage(
        "ps needs Linux, where processes publish their waits; in a program, tantara::waits::waits() has them",
    ))
}

pub(crate) fn ps(directory: &Directory, _: Option<u32>, _: bool) -> Result<(), Failure> {
    match *directory {}
}

pub(crate) fn check_bank() -> Result<(), Failure> {
    Err(Failure::usage("--reach processes needs Linux; --reach machines works here, with --etcd"))
}

/// Not called, because [`check_bank`] fails.
pub(crate) fn run_bank(_: Plan, _: Audience, _: impl Fn() -> Command + Send + Sync + 'static) -> std::io::Result<Run> {
    Err(std::io::ErrorKind::Unsupported.into())
}

pub(crate) fn work_for_bank(_: &[String]) -> Result<(), Failure> {
    check_bank()
}
