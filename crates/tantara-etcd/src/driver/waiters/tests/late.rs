//! Waits until an event is unset, whose time passes before all is shown.

use super::*;

#[test]
fn a_deadline_waits_for_the_watch_and_for_reads_of_the_past_that_may_show_an_unset_event() {
    let set = |at| state(Some(at), Some("1"));
    let late = |is_past_read: bool| {
        let mut one = One::begun_with(Aim::Unset, set(5));
        one.change(Part::Level, false, 12);
        one.change(Part::Pulse, false, 14);
        if is_past_read {
            assert!(one.waiters.late.expect_past(12) && !one.waiters.late.expect_past(12));
        }
        one
    };
    // The watch has shown all that came before the read; or not, and shows it in time, or does not.
    assert_eq!(late(false).decide(20, &set(14)), "false");
    for is_in_time in [true, false] {
        let mut one = late(false);
        assert_eq!(one.decide(20, &set(15)), "None");
        assert_eq!(one.waiters.end_late(one.now, "x"), Some(one.now + DOUBT));
        if is_in_time {
            drop(one.change(Part::Pulse, false, 15))
        } else {
            one.now += DOUBT
        }
        one.waiters.end_late(one.now, "x");
        assert_eq!(one.outcome(), "false");
    }
    // A moment that is read for longer than the watch may take.
    for (level, outcome) in [("0", "true"), ("1", "false")] {
        let mut one = late(true);
        one.decide(20, &set(14));
        one.now += 2 * DOUBT;
        assert!(one.waiters.end_late(one.now, "x").is_some());
        assert_eq!(one.outcome(), "None");
        release(one.waiters.on_past(12, &state(Some(5), Some(level))));
        one.waiters.late.forget_past(12);
        one.waiters.end_late(one.now, "x");
        assert_eq!(one.outcome(), outcome);
    }
    // One that cannot be read, after another that came too late to matter.
    let mut one = late(true);
    one.waiters.late.expect_past(21);
    one.decide(20, &set(14));
    one.waiters.late.fail(21, &Error::removed("y"));
    assert_eq!(one.outcome(), "None");
    one.waiters.late.fail(12, &Error::removed("y"));
    assert_eq!(one.outcome(), "y was removed");
    // One whose read never ends.
    let mut one = late(true);
    one.decide(20, &set(14));
    one.now += 5 * DOUBT;
    one.waiters.end_late(one.now, "x");
    assert_eq!(one.outcome(), "false");
}
