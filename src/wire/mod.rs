//! The PostgreSQL wire protocol, sans-IO: frames, the start of a connection, the messages we read and originate.
//!
//! Bytes in, borrowed views or bytes out. Knows nothing of sockets, clocks or pools. Section numbers in this module are
//! those of the PostgreSQL manual's chapter "Frontend/Backend Protocol".

pub mod backend;
pub mod encode;
pub mod error;
pub mod frame;
pub mod frontend;
pub mod startup;
