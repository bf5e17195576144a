//! See `pgsteer_fuzz::frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgsteer_fuzz::frames(data));
