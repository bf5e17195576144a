//! The program: see `cli` for the commands.

fn main() {}
