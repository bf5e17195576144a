//! The judge against PostgreSQL's grammar; see `tree`. Needs libclang to be built.
#![no_main]

#[path = "../src/tree.rs"]
mod tree;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(sql) = std::str::from_utf8(data)
        && !sql.contains('\0')
        && let tree::Outcome::Wrong(why) = tree::check(sql)
    {
        panic!("{why}: {sql}");
    }
});
