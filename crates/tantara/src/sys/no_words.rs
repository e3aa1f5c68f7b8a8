//! Where no thread can sleep on the words of several events.

#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::time::Instant;

use super::sleep::Awake;
use crate::sync::AtomicU32;

/// Words of events that a thread sleeps on: no thread can sleep on more than one here.
#[derive(Debug)]
pub(crate) struct Words {
    none: Infallible,
}

impl Words {
    pub(crate) fn new(_: usize) -> Option<Words> {
        None
    }

    pub(crate) fn clear(&mut self) {
        match self.none {}
    }

    pub(crate) fn have_room_for(_: usize) -> bool {
        false
    }

    pub(crate) fn add(&mut self, _: &std::sync::atomic::AtomicU32, _: u32) {
        match self.none {}
    }

    pub(crate) fn wait(&mut self, _: &AtomicU32, _: u32, _: Instant) -> Awake {
        match self.none {}
    }
}
