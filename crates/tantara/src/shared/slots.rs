//! How a `SharedEvent` takes part in `any` and `all`, and how it gets a label.

#![forbid(unsafe_code)]

use crate::protocol::target::Aim;
use crate::shared::event::SharedEvent;
use crate::shared::wait::HandleWait;
use crate::slots::sealed::{IntoSlot, Seal, Sealed};
use crate::slots::{Collected, Slot, Waitable};
use crate::waits::hooks::Identity;

impl Waitable for SharedEvent {}

impl Sealed for SharedEvent {
    fn slot(&self, _: Seal) -> Slot<'_> {
        Slot::external(HandleWait::new(&self.handle, Aim::Set, None))
    }

    fn identity(&self, _: Seal) -> Option<Identity> {
        Some(self.handle.identity())
    }
}

impl<'a> IntoSlot<'a> for SharedEvent {
    fn add_to(self, slots: &mut Collected<'a>, _: Seal) {
        slots.add(Slot::external(HandleWait::new(self.handle, Aim::Set, None)));
    }
}
