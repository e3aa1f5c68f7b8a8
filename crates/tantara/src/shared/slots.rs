//! How a `SharedEvent` takes part in `any` and `all`, and how it gets a label.

#![forbid(unsafe_code)]

use crate::protocol::target::Aim;
use crate::shared::event::SharedEvent;
use crate::shared::wait::HandleWait;
use crate::slots::sealed::{IntoSlot, Seal, Sealed};
use crate::slots::{Collected, Slot, Waitable};
use crate::waits::hooks::{self, Subject};

impl Waitable for SharedEvent {}

impl Sealed for SharedEvent {
    fn slot(&self, _: Seal) -> Slot<'_> {
        Slot::external(HandleWait::new(&self.handle, Aim::Set, None))
    }

    fn subject(&self, _: Seal) -> Option<Subject<'_>> {
        Some(hooks::outside(self.handle.identity()))
    }
}

impl<'a> IntoSlot<'a> for SharedEvent {
    fn add_to(self, slots: &mut Collected<'a>, _: Seal) {
        slots.add(Slot::external(HandleWait::new(self.handle, Aim::Set, None)));
    }
}

#[cfg(test)]
mod tests {
    use std::{env, process, time::Duration};

    use crate::waits::hooks::State;
    use crate::{Event, SharedEvent, any};

    /// Otherwise every later wait of the process, even for other events, would look for what is
    /// known of this event.
    #[test]
    fn waits_that_are_not_recorded_leave_nothing_known() {
        // The record is that of a whole process.
        const CHILD: &str = "RECORDS_NOTHING";
        if env::var_os(CHILD).is_none() {
            let mut child = process::Command::new(env::current_exe().unwrap());
            let name = "shared::slots::tests::waits_that_are_not_recorded_leave_nothing_known";
            child.args([name, "--exact"]).env(CHILD, "1").env_remove("TANTARA_WAITS");
            let output = child.output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
            return;
        }
        let (event, short) = (SharedEvent::anonymous().unwrap(), Duration::from_millis(1));
        assert!(!event.wait_timeout(short).unwrap());
        assert_eq!(any([&event]).wait_timeout(short), None);
        assert_eq!(any([&Event::new() as &dyn crate::Waitable, &event]).wait_timeout(short), None);
        assert!(State::now().is_idle() && !State::now().knows());
    }
}
