//! What the types promise: auto traits, and where a misuse panics.

use std::future::Future;
use std::panic::{AssertUnwindSafe, RefUnwindSafe, UnwindSafe, catch_unwind, set_hook, take_hook};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};

use tantara::{
    All, Any, AutoResetEvent, AutoResetWait, Error, Event, OwnedAutoResetWait, OwnedWait, Wait, Waitable, all, any,
};

/// May be sent, shared, moved and used after a panic.
const fn free<T: Send + Sync + Unpin + UnwindSafe + RefUnwindSafe>() {}
/// The same, but not moved once it was polled.
const fn pinned<T: Send + Sync + UnwindSafe + RefUnwindSafe>() {}

/// The same, and lives as long as it has to.
const fn spawned<T: Future + Send + Sync + UnwindSafe + RefUnwindSafe + 'static>() {}

/// Does not compile if the type implements the trait: then the method exists twice.
macro_rules! is_not {
    ($trait:path: $($type:ty),*) => {$(
        const _: () = {
            trait Ambiguous<Which> {
                fn method() {}
            }
            struct IfImplemented;
            impl<T> Ambiguous<()> for T {}
            impl<T: $trait> Ambiguous<IfImplemented> for T {}
            let _ = <$type as Ambiguous<_>>::method;
        };
    )*};
}

const _: () = {
    free::<Event>();
    free::<AutoResetEvent>();
    free::<Any<'_>>();
    free::<All<'_>>();
    free::<Error>();
    free::<Box<dyn Waitable>>();
    pinned::<Wait<'_>>();
    pinned::<AutoResetWait<'_>>();
    spawned::<OwnedWait>();
    spawned::<OwnedAutoResetWait>();
    spawned::<Any<'static>>();
    spawned::<All<'static>>();
};
is_not!(Unpin: Wait<'_>, AutoResetWait<'_>, OwnedWait, OwnedAutoResetWait);
is_not!(Clone: Event, AutoResetEvent, Error);

#[cfg(shared_events)]
mod between_processes {
    use tantara::{Changed, Entry, LastSet, OwnedSharedWait, SharedEvent, SharedWait, State, Waiter};

    use super::{free, pinned, spawned};

    const _: () = {
        free::<SharedEvent>();
        free::<Entry>();
        free::<LastSet>();
        free::<State>();
        free::<Waiter>();
        pinned::<SharedWait<'_>>();
        pinned::<Changed<'_>>();
        spawned::<OwnedSharedWait>();
    };
    is_not!(Unpin: SharedWait<'_>, Changed<'_>, OwnedSharedWait);
}

/// The line in this file at which it panics.
fn line_of_panic(misuse: impl FnOnce()) -> u32 {
    static ALONE: Mutex<()> = Mutex::new(());
    static LINE: Mutex<Option<(String, u32)>> = Mutex::new(None);
    let _alone = ALONE.lock().unwrap();
    let name = std::thread::current().name().map(str::to_owned);
    let before = take_hook();
    set_hook(Box::new(move |info| {
        if std::thread::current().name() == name.as_deref() {
            *LINE.lock().unwrap() = info.location().map(|place| (place.file().to_owned(), place.line()));
        } else {
            before(info);
        }
    }));
    catch_unwind(AssertUnwindSafe(misuse)).unwrap_err();
    let _ = take_hook();
    let (file, line) = LINE.lock().unwrap().take().unwrap();
    assert!(file.ends_with("promises.rs"), "{file}:{line}");
    line
}

fn poll_once(future: impl Future) {
    _ = pin!(future).poll(&mut Context::from_waker(Waker::noop()));
}

#[test]
fn a_future_that_is_polled_again_panics_where_that_is_done() {
    let (event, auto_reset) = (Event::new(), AutoResetEvent::new());
    event.set();
    auto_reset.set();
    let mut wait = pin!(auto_reset.wait_async());
    let owned = Arc::new(AutoResetEvent::new());
    owned.set();
    let mut owned = pin!(owned.wait_owned());
    poll_once(owned.as_mut());
    let (mut first, mut both) = (any([&event]), all([&event]));
    poll_once(wait.as_mut());
    poll_once(&mut first);
    poll_once(&mut both);
    let context = || Context::from_waker(Waker::noop());
    assert_eq!(line_of_panic(|| _ = wait.as_mut().poll(&mut context())), line!());
    assert_eq!(line_of_panic(|| _ = owned.as_mut().poll(&mut context())), line!());
    assert_eq!(line_of_panic(|| _ = Pin::new(&mut first).poll(&mut context())), line!());
    assert_eq!(line_of_panic(|| _ = Pin::new(&mut both).poll(&mut context())), line!());
}

#[cfg(shared_events)]
#[test]
fn plain_any_and_all_panic_at_their_callers_line() {
    use std::time::{Duration, Instant};

    let removed = tantara::SharedEvent::open_in(tempfile::tempdir().unwrap().path(), "door").unwrap();
    removed.remove().unwrap();
    let events = [removed];
    let (second, soon) = (Duration::from_secs(1), Instant::now() + Duration::from_secs(1));
    assert_eq!(line_of_panic(|| _ = any(&events).wait()), line!());
    assert_eq!(line_of_panic(|| _ = any(&events).wait_timeout(second)), line!());
    assert_eq!(line_of_panic(|| _ = any(&events).wait_deadline(soon)), line!());
    assert_eq!(line_of_panic(|| all(&events).wait()), line!());
    assert_eq!(line_of_panic(|| _ = all(&events).wait_timeout(second)), line!());
    assert_eq!(line_of_panic(|| _ = all(&events).wait_deadline(soon)), line!());
    // A future panics where it is awaited.
    assert_eq!(line_of_panic(|| poll_once(async { any(&events).await })), line!());
    assert_eq!(line_of_panic(|| poll_once(async { all(&events).await })), line!());
}
