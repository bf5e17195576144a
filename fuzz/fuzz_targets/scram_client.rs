//! See `pgsteer_fuzz::scram_client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgsteer_fuzz::scram_client(data));
