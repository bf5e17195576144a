//! See `pgsteer_fuzz::config`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgsteer_fuzz::config(data));
