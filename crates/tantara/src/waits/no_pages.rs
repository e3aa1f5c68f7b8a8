//! Where no other process can read what this one waits for: nothing is published.

#![forbid(unsafe_code)]

pub(crate) fn start() {}

pub(crate) fn withdraw() {}
