//! The Rust code of README.md, compiled and run by `cargo test --doc`.
//!
//! README.md belongs to the repository and to no package, so no package can include it.

#![forbid(unsafe_code)]

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
