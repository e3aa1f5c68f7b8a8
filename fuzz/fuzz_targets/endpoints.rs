//! Endpoints, as users write them and as members report them. The invariants are in
//! `crates/tantara-etcd/src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &str| tantara_etcd::fuzzing::endpoints(input));
