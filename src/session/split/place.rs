//! The kind of node, and the node, for what a batch asks for.
//!
//! In: an [`Asked`]. Out: primary or standby, and which. A standby must have what the session has written and seen; where
//! none has, the primary serves, or a wait.

use std::time::Duration;

use tokio::time::Instant;

use super::Splitter;
use super::ask::Asked;
use crate::config::Fallback;
use crate::metrics::Counter;
use crate::route::{Refusal, Target, Wants, Why};
use crate::session::attach::NoBackend;
use crate::session::run::Session;
use crate::sql::{PinCause, Reason};
use crate::topology::{NodeId, Topology};

/// How long a session waits that only its own latest reads keep from a standby: the next sample settles it. After a wait in
/// vain the next one is twice as long, up to so many doublings: where samples take longer, a session that reads without a
/// pause would never leave the primary again.
const SETTLING: Duration = Duration::from_millis(20);
const DOUBLINGS: u8 = 4;
/// What on the primary's backend a read may have to see. Values of sequences are asked for on the primary only.
const SEEN_BY_READS: [PinCause; 8] = [
    PinCause::AdvisoryLock,
    PinCause::HeldCursor,
    PinCause::Listen,
    PinCause::TempTable,
    PinCause::Setting,
    PinCause::Seed,
    PinCause::Library,
    PinCause::Prepare,
];
/// How long a session whose reads had no place on a standby's pool leaves it alone.
const CROWDED: Duration = Duration::from_secs(1);

impl Splitter {
    fn settling(&self) -> Duration {
        SETTLING * (1 << self.vain)
    }
}

impl Session {
    /// The kind of node for what is asked, and why if that is worth a count.
    pub(super) fn place(&mut self, split: &mut Splitter, asked: Asked) -> (Wants, Option<Why>) {
        let here = self.attached.as_ref().map_or(Wants::Primary, |attached| attached.side);
        match asked {
            Asked::Either | Asked::Invalid(_) => (here, None),
            Asked::Position => {
                split.asks_position = true;
                (Wants::Primary, None)
            }
            Asked::Unnamed => (split.unnamed_on, None),
            Asked::Primary(why) => {
                self.ask_for_names(split, why);
                (Wants::Primary, Some(why))
            }
            Asked::Standby(_) if self.is_bound_to_primary(split) => (Wants::Primary, Some(Why::Pinned)),
            Asked::Standby(why) => self.place_declared(split, why),
            Asked::Read(_) if split.is_refused => (Wants::Primary, Some(Why::Rerun)),
            Asked::Read(_) if self.is_bound_to_primary(split) => (Wants::Primary, Some(Why::Pinned)),
            Asked::Read(_) => self.place_read(split),
        }
    }

    /// True when the primary has something of the session that a read may have to see.
    fn is_bound_to_primary(&self, split: &Splitter) -> bool {
        if self.state.params.owes_channels() {
            return true;
        }
        let pins = match split.aside.as_deref() {
            Some(aside) if aside.side() == Wants::Primary => aside.pins(),
            _ if self.attached.as_ref().is_none_or(|attached| attached.side == Wants::Primary) => {
                self.state.visible_pins()
            }
            _ => return self.state.has_unseen_state(),
        };
        SEEN_BY_READS.iter().any(|cause| pins.contains(*cause)) || self.state.has_unseen_state()
    }

    /// A name that nobody knows may have been made since the catalogue was read. Each session asks once for each reading.
    fn ask_for_names(&self, split: &mut Splitter, why: Why) {
        let is_unknown = matches!(
            why,
            Why::Write(
                Reason::UnknownFunction
                    | Reason::UnknownOperator
                    | Reason::UnknownRelation
                    | Reason::UnknownType
            )
        );
        // The session may mean a temporary table of its own.
        if is_unknown && split.missed_in != split.catalogue_version && !self.is_bound_to_primary(split) {
            split.missed_in = split.catalogue_version;
            self.ctx.catalogues.outdated(&self.login.database);
        }
    }

    pub(super) fn place_declared(&mut self, split: &mut Splitter, why: Why) -> (Wants, Option<Why>) {
        let topology = self.ctx.store.load();
        self.wants = Wants::Standby;
        split.primary_will_do = self.ctx.settings.load().cluster.fallback == Fallback::Primary;
        match self.target_for(split, &topology, None) {
            Ok(Target::Standby(node)) => {
                split.node = Some(node);
                (Wants::Standby, Some(why))
            }
            Ok(Target::Primary(_)) => (Wants::Primary, Some(Why::NoStandby)),
            Err(Refusal::NotFresh { nearly }) => self.not_fresh(split, &topology, nearly, why),
            Err(_) if split.primary_will_do => (Wants::Primary, Some(Why::NoStandby)),
            // What happens without a standby is the operator's to say (`cluster.fallback`).
            Err(_) => (Wants::Standby, Some(why)),
        }
    }

    fn place_read(&mut self, split: &mut Splitter) -> (Wants, Option<Why>) {
        if split.crowded_until.is_some_and(|until| Instant::now() < until) {
            return (Wants::Primary, Some(Why::NoStandby));
        }
        let topology = self.ctx.store.load();
        self.wants = Wants::Standby;
        split.primary_will_do = true;
        match self.target_for(split, &topology, Some(Fallback::Error)) {
            Ok(target) => {
                split.is_ours = true;
                split.node = Some(target.node());
                (Wants::Standby, Some(Why::Read))
            }
            Err(Refusal::NoStandby | Refusal::NoPrimary) => (Wants::Primary, Some(Why::NoStandby)),
            Err(Refusal::NotFresh { nearly }) => {
                split.is_ours = true;
                self.not_fresh(split, &topology, nearly, Why::Read)
            }
        }
    }

    /// May the next batch of a session whose work is all done on standbys run on `node`? Where the primary does it for
    /// want of a standby, what was just read there must not keep the session there.
    pub(super) fn is_fit_for_endpoint(
        &mut self,
        split: &mut Splitter,
        topology: &Topology,
        node: Option<NodeId>,
    ) -> bool {
        match self.target_for(split, topology, None) {
            Ok(target) => Some(target.node()) == node,
            Err(Refusal::NotFresh { nearly: true }) => {
                self.ask_for_news(topology);
                split.patience = Some(Instant::now() + split.settling());
                false
            }
            Err(_) => false,
        }
    }

    /// Standbys qualify, but none has what the session has written or seen: the primary has, or a wait may help.
    fn not_fresh(
        &mut self,
        split: &mut Splitter,
        topology: &Topology,
        nearly: bool,
        why: Why,
    ) -> (Wants, Option<Why>) {
        self.ask_for_news(topology);
        let settling = if nearly { split.settling() } else { Duration::ZERO };
        let wait = self.ctx.settings.load().route.freshness_wait.max(settling);
        if wait.is_zero() {
            return (Wants::Primary, Some(Why::NotFresh));
        }
        split.patience = Some(Instant::now() + wait);
        (Wants::Standby, Some(why))
    }

    /// Waits until a standby has what the session must find there, at most as long as it may.
    pub(in crate::session) async fn await_freshness(&mut self) -> Result<(), NoBackend> {
        let Some(until) = self.split.as_mut().and_then(|split| split.patience.take()) else { return Ok(()) };
        let mut decisions = self.ctx.store.decisions();
        loop {
            let topology = self.ctx.store.load();
            let Some(mut split) = self.split.take() else { return Ok(()) };
            let found = self.target_for(&mut split, &topology, Some(Fallback::Error));
            let waits = matches!(found, Err(Refusal::NotFresh { .. })) && Instant::now() < until;
            if found.is_ok() {
                split.vain = 0;
            } else if !waits {
                split.vain = (split.vain + 1).min(DOUBLINGS);
                split.floors.gave_up(self.ctx.nudges.sent());
            }
            if !split.is_endpoint() {
                split.node = found.ok().map(Target::node);
                if !waits && found.is_err() {
                    split.is_ours = false;
                    self.wants = Wants::Primary;
                    self.count_route(false, Why::NotFresh);
                }
            }
            self.split = Some(split);
            if !waits {
                return Ok(());
            }
            self.ask_for_news(&topology);
            self.wait_while(until, decisions.changed()).await?;
        }
    }

    /// No standby has taken the batch: the primary does.
    pub(in crate::session) fn give_up_standby(&mut self) {
        let Some(split) = self.split.as_mut() else { return };
        split.crowded_until = Some(Instant::now() + CROWDED);
        (split.is_ours, split.node) = (false, None);
        self.wants = Wants::Primary;
        self.ctx.metrics.count(Counter::ReadWithoutStandby);
        self.use_home();
    }
}
