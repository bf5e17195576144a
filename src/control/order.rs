//! Orders about the primary and their results: plain values between the console and who carries them out.

use std::time::Duration;

use crate::topology::{Epoch, Lsn, Timeline};

/// `PROMOTE node (...)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Name or address of the node that becomes the primary.
    pub node: String,
    /// How long writes may be held; by default `cluster.switchover.timeout`.
    pub timeout: Option<Duration>,
    /// Nobody writes but through this proxy: the old primary need not be closed.
    pub sole_entry: bool,
}

/// A switchover that was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// Who was the primary.
    pub old: String,
    /// Who is.
    pub new: String,
    /// How long writes were held.
    pub held: Duration,
    /// The epoch after it.
    pub epoch: Epoch,
    /// The timeline after it.
    pub timeline: Option<Timeline>,
    /// The old primary's last position, which the new one had replayed before it was promoted.
    pub closed_at: Option<Lsn>,
    /// Where the new timeline forked off, when that was seen.
    pub fork: Option<Lsn>,
    /// What was found out about lost writes, and what is to be done now.
    pub verdict: String,
}

/// `ACCEPT ...`: an operator says what no server can know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accept {
    /// `ACCEPT node`: of several nodes that take writes on one timeline this one, by name or address, is the primary.
    Node(String),
    /// `ACCEPT TIMELINE n`: what came later never happened.
    Timeline(Timeline),
}

/// What is so after an ACCEPT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// Who is the primary, if one is known already.
    pub primary: Option<String>,
    /// The highest timeline.
    pub timeline: Option<Timeline>,
    /// The epoch.
    pub epoch: Epoch,
}

/// Why an order was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What is in the way.
    pub text: String,
    /// What to do about it, or how things are now.
    pub detail: String,
}
