#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tandem_replication_core::fuzzing::replica(bytes));
