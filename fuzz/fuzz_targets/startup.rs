//! See `pgsteer_fuzz::startup`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgsteer_fuzz::startup(data));
