//! Where in a program in another language a wait begins: bindings tell, for the calls that they make.

#![forbid(unsafe_code)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::{Arc, Mutex};

use crate::sync::lock;
use crate::sys::process::{self, GENERATIONS};

/// A place in the code of another language.
#[derive(Debug)]
pub(crate) struct OtherPlace {
    pub(crate) file: Box<str>,
    pub(crate) line: u32,
}

/// Where and for whom the calls of this thread are made.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) place: &'static OtherPlace,
    pub(crate) task: Option<Arc<str>>,
}

thread_local! {
    /// Whether there is an origin, so that a look at it costs little.
    static HAS_ORIGIN: Cell<bool> = const { Cell::new(false) };
    static ORIGIN: Cell<Option<Origin>> = const { Cell::new(None) };
}

/// The origin of the current call. `None` if it is a call of Rust.
#[inline]
pub(crate) fn current() -> Option<Origin> {
    if HAS_ORIGIN.get() { copy() } else { None }
}

#[cold]
fn copy() -> Option<Origin> {
    ORIGIN
        .try_with(|kept| {
            let origin = kept.take();
            kept.set(origin.clone());
            origin
        })
        .ok()
        .flatten()
}

/// Runs `call`, which begins waits or sets events, for that line of a file, and for a task of that
/// name. Not part of the public API.
pub fn with_origin<R>(file: &str, line: u32, task: Option<&str>, call: impl FnOnce() -> R) -> R {
    struct Restore(Option<Origin>);

    impl Drop for Restore {
        fn drop(&mut self) {
            let before = self.0.take();
            HAS_ORIGIN.set(before.is_some());
            let _ = ORIGIN.try_with(|kept| kept.replace(before));
        }
    }

    // A child after many forks records nothing.
    let Some(place) = place(file, line) else { return call() };
    let origin = Origin { place, task: task.map(Arc::from) };
    let before = ORIGIN.try_with(|kept| kept.replace(Some(origin))).ok().flatten();
    HAS_ORIGIN.set(true);
    let _restore = Restore(before);
    call()
}

/// Runs `call`, which blocks or polls inside of another crate, for the call of Rust that has begun the
/// wait there. Nothing changes if another language has made that. Not part of the public API.
pub fn with_place<R>(place: &'static Location<'static>, call: impl FnOnce() -> R) -> R {
    if HAS_ORIGIN.get() { call() } else { with_origin(place.file(), place.line(), None, call) }
}

/// The place, of which there is one for each line: a program has so many.
fn place(file: &str, line: u32) -> Option<&'static OtherPlace> {
    type Files = BTreeMap<Box<str>, BTreeMap<u32, &'static OtherPlace>>;
    static PLACES: [Mutex<Files>; GENERATIONS] = [const { Mutex::new(BTreeMap::new()) }; GENERATIONS];
    let mut places = lock(process::own(&PLACES)?);
    let known = places.get(file).and_then(|lines| lines.get(&line)).copied();
    Some(known.unwrap_or_else(|| {
        let place: &OtherPlace = Box::leak(Box::new(OtherPlace { file: file.into(), line }));
        places.entry(file.into()).or_default().insert(line, place);
        place
    }))
}
