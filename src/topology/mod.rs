//! The immutable view of all nodes and the pure function that decides it.
