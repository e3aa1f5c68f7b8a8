//! On systems without `tantara ps`: nothing is published.

#![forbid(unsafe_code)]

pub(crate) fn start() {}

pub(crate) fn withdraw() {}
