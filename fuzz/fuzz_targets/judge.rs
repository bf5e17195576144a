//! See `pgsteer_fuzz::judge`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgsteer_fuzz::judge(data));
