//! See `pgsteer_fuzz::sql_lexer`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pgsteer_fuzz::sql_lexer(data));
