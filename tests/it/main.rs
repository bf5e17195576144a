//! Integration tests: the real program in front of real clusters, as one binary.
//! `harness` holds everything that is not a test.
#![expect(clippy::disallowed_methods, reason = "tests spawn freely: their runtime ends with them")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed helper is a failed test"
)]

mod auth;
mod balancing;
mod basic;
mod catalogue;
mod catalogues;
mod check;
mod columns;
mod crowd;
mod demo;
mod drivers;
mod explain;
mod failover;
mod fencing;
mod figures;
mod freshness;
mod functions;
mod gap;
mod harness_self;
mod hooks;
mod lag;
mod leaks;
mod limits;
mod losses;
mod operate;
mod passwords;
mod pooled;
mod protocol;
mod readers;
mod replay;
mod resolve;
mod routing;
mod sessions;
mod sharing;
mod split;
mod switchover;
mod tls;
mod topology;
mod vanish;
mod waits;

#[allow(dead_code, reason = "a toolbox: not every tool is in use at every time")]
mod harness;
