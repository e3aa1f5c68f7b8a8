//! Keys and values that others have written into etcd. The invariants are in `crates/tantara-etcd/src/fuzzing.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tantara_etcd::fuzzing::keys(input));
