//! pgsteer: one endpoint in front of a PostgreSQL primary and its hot standbys.
//!
//! Data flows one way and a module imports only from lower layers:
//!
//! ```text
//! net::listener -> serve -> session::startup -+- Session -> auth -> run <-> state - route -> pool -> backend
//!                           (Phase)           +- Cancel  -> session::cancel       +- relay: client <-> backend
//!                                             +- Console -> admin::console
//! beside it: health::prober (one per node) -> observations -> topology::decide -> topology::Store
//!            (immutable Topology, epoch) -> route, pool, sessions that hold work
//! ```
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod control;
pub mod demo;
pub mod drain;
pub mod health;
pub mod metrics;
pub mod net;
pub mod pool;
pub mod reload;
pub mod route;
pub mod scram;
pub mod serve;
pub mod session;
pub mod sql;
pub mod topology;
pub mod wire;
