//! Local clusters, and the demonstration of a failover on one of them.
//! In: PostgreSQL's server programs. Out: running primaries and standbys for `pgsteer demo` and for the
//! integration tests. Sees the proxy only from outside: as a program with a file, ports and HTTP pages.

pub mod cluster;
pub mod error;
pub mod load;
pub mod node;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod setup;
pub mod sql;
pub mod steps;
pub mod wait;
pub mod workspace;
