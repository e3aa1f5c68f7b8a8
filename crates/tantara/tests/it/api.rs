//! Properties of the types: size, `Debug`.

use std::sync::Arc;
use std::thread;

use tantara::{AutoResetEvent, AutoResetWait, Event, OwnedAutoResetWait, OwnedWait, Wait, Waitable, all, any};

use crate::{WakeCounter, poll};

const _: () = assert!(size_of::<OwnedWait>() <= 64 && size_of::<OwnedAutoResetWait>() <= 64);
#[cfg(shared_events)]
const _: () = assert!(size_of::<tantara::OwnedSharedWait>() <= 72);

static DOOR: Event = Event::new();
static AUTO_RESET: AutoResetEvent = AutoResetEvent::new();

#[test]
fn events_are_small() {
    // 16 and 56 bytes on 64-bit processors.
    let (event, wait) = (8 + size_of::<usize>(), 8 + 6 * size_of::<usize>());
    assert_eq!(size_of::<Event>(), event);
    assert_eq!(size_of::<AutoResetEvent>(), event);
    assert_eq!(size_of::<Wait<'_>>(), wait);
    assert_eq!(size_of::<AutoResetWait<'_>>(), wait);
    assert_eq!(size_of::<OwnedWait>(), wait);
    assert_eq!(size_of::<OwnedAutoResetWait>(), wait);
}

#[test]
fn events_live_in_statics() {
    let guest = thread::spawn(|| {
        DOOR.wait();
        AUTO_RESET.wait();
    });
    DOOR.set();
    AUTO_RESET.set();
    guest.join().unwrap();
    assert!(DOOR.is_set());
    assert!(!AUTO_RESET.is_set());
}

#[test]
fn debug_says_whether_it_is_set_and_how_many_wait() {
    let event = Event::default();
    assert_eq!(format!("{event:?}"), "Event { set: false, waiting: 0 }");
    let mut waits = [Box::pin(event.wait_async()), Box::pin(event.wait_async())];
    waits.iter_mut().for_each(|wait| assert!(poll(wait, &WakeCounter::new().1).is_pending()));
    assert_eq!(format!("{event:?}"), "Event { set: false, waiting: 2 }");
    assert_eq!(format!("{:?}", waits[0]), "Wait { released: false, .. }");
    event.set();
    assert_eq!(format!("{event:?}"), "Event { set: true, waiting: 0 }");
    assert_eq!(format!("{:?}", waits[0]), "Wait { released: true, .. }");
    drop(waits);
    let owned = Arc::new(event).wait_owned();
    assert_eq!(format!("{owned:?}"), "OwnedWait { released: true, .. }");

    let event = AutoResetEvent::default();
    assert_eq!(format!("{event:?}"), "AutoResetEvent { set: false, waiting: 0 }");
    event.set();
    assert_eq!(format!("{event:?}"), "AutoResetEvent { set: true, waiting: 0 }");
}

#[test]
fn any_and_all_take_whatever_iterates_over_events() {
    let (a, b) = (Event::new(), Event::new());
    b.set();
    let vec = vec![Event::new(), Event::new()];
    vec.iter().for_each(Event::set);
    let auto_reset = AutoResetEvent::new();
    auto_reset.set();

    assert_eq!(any([&a, &b]).wait(), 1);
    assert_eq!(any(vec![&a, &b]).wait(), 1);
    assert_eq!(any(&vec).wait(), 0);
    assert_eq!(any(vec.iter().skip(1)).wait(), 0);
    assert_eq!(any([&a as &dyn Waitable, &auto_reset]).wait(), 1);
    all(&vec).wait();
    all([&b, &vec[0]]).wait();
    let shared = [Arc::new(Event::new()), Arc::new(Event::new())];
    shared[1].set();
    assert_eq!(any(&shared).wait(), 1);
    assert_eq!(any([&shared[0] as &dyn Waitable, &auto_reset]).wait_timeout(std::time::Duration::ZERO), None);
    assert_eq!(any([&&b]).wait(), 0);
    let mixed: Vec<Box<dyn Waitable>> = vec![Box::new(Event::new()), Box::new(AutoResetEvent::new())];
    assert!(!all(&mixed).wait_timeout(std::time::Duration::ZERO));
    assert!(!all(mixed.iter().map(|event| &**event)).wait_timeout(std::time::Duration::ZERO));
    assert_eq!(any(shared.iter().map(Arc::clone)).wait(), 1);
    assert_eq!(any(shared.clone()).wait(), 1);
    all(shared.clone().into_iter().skip(1)).wait();
    assert_eq!(any([shared[0].clone() as Arc<dyn Waitable>, shared[1].clone()]).wait(), 1);
    let also_sent: [Arc<dyn Waitable + Send>; 2] = [shared[0].clone(), shared[1].clone()];
    let also_shared: [Arc<dyn Waitable + Sync>; 2] = [shared[0].clone(), shared[1].clone()];
    let also_both: [Arc<dyn Waitable + Send + Sync>; 2] = [shared[0].clone(), shared[1].clone()];
    assert_eq!([any(&also_both).wait(), any(also_sent).wait(), any(also_shared).wait(), any(also_both).wait()], [1; 4]);
}
