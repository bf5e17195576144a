//! One session on two kinds of nodes: its writes on the primary, its reads on a standby.
//!
//! In: the batch that waits, outside a transaction. Out: the kind of node it goes to, and a backend there. What a batch
//! asks for is found in `ask` and its place in `place`; how fresh a node must be is known to `route`; `kept` has the batch for
//! the case that a standby fails it (`again`); `aside` holds the backend that is not in use.

mod again;
pub mod aside;
mod ask;
mod kept;
mod moving;
mod own;
mod place;
mod position;
mod shapes;
mod trace;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use aside::Aside;
pub use ask::Text;
use ask::{Asked, Reader, Standing};
use kept::Kept;
pub use kept::MAY_BE_FAILOVER;
pub use shapes::Distrusted;
use trace::Trace;

use super::context::Context;
use super::limbo::Limbo;
use super::relay::{Event, Look};
use super::run::{Login, Session};
use super::share::Home;
use super::state::State;
use crate::config::{Consistency, Settings, Split};
use crate::pool::StartupSet;
use crate::route::{Floors, Wants, Why};
use crate::sql::catalogue::Catalogue;
use crate::sql::{Reason, judge};
use crate::topology::NodeId;
use crate::wire::backend::TxStatus;
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::Kind;
use crate::wire::startup::option_settings;

/// What a session has that may use both kinds of nodes.
#[expect(clippy::struct_excessive_bools, reason = "independent facts, not the steps of one machine")]
pub(super) struct Splitter {
    /// It came for a standby: all it does is done there.
    is_endpoint: bool,
    split: Split,
    /// What it has written and read binds its reads.
    bound: bool,
    /// The startup parameters it came with.
    startup: StartupSet,
    standing: Standing,
    /// How its texts are read.
    context: judge::Context,
    /// The settings from which both were found.
    standing_of: Option<u32>,
    max_lag: Option<Duration>,
    /// The limit at its listener.
    max_lag_here: Option<Duration>,
    catalogue: Arc<Catalogue>,
    catalogue_version: u64,
    /// The version in which a name was missed last.
    missed_in: u64,
    pub(super) floors: Floors,
    /// The batch that waits has its place.
    is_chosen: bool,
    /// It was the proxy that chose a standby for it.
    pub(super) is_ours: bool,
    /// The primary may serve it when no standby does.
    pub(super) primary_will_do: bool,
    /// The node chosen for it.
    pub(super) node: Option<NodeId>,
    /// The client asks for the position of its last write.
    asks_position: bool,
    /// The BEGIN of a transaction in which nothing else has been done yet; empty when there is none.
    begun: Vec<u8>,
    /// The kind of node that this transaction is to go on at.
    moves_to: Option<Wants>,
    /// Until when it may wait for a standby to become fresh enough.
    pub(super) patience: Option<Instant>,
    /// How many waits for its own latest reads were in vain, in a row.
    vain: u8,
    /// A standby has failed it.
    is_refused: bool,
    /// What is under way.
    under_way: Trace,
    /// The highest number of a probe when it was sent.
    since: u64,
    kept: Kept,
    /// The backend of the other kind of node.
    pub(super) aside: Option<Box<Aside>>,
    /// Where the backends of the other kind came from.
    other_home: Option<Box<Home>>,
    /// The kind of node that the last backends came from.
    home_side: Wants,
    /// Where the unnamed statement is.
    unnamed_on: Wants,
    /// Its texts were read otherwise at some time.
    had_other_strings: bool,
    /// No standby had room for it until then.
    crowded_until: Option<Instant>,
}

impl Splitter {
    /// For a session that came for the primary, if the settings let it use standbys.
    pub(super) fn new(settings: &Settings, login: &Login) -> Option<Box<Self>> {
        let is_endpoint = login.wants == Wants::Standby;
        if settings.route.split == Split::Off && !is_endpoint {
            return None;
        }
        let max_lag_here = login.max_lag.map(|limit| Duration::from_millis(limit.get().into()));
        Some(Box::new(Self {
            is_endpoint,
            split: settings.route.split,
            bound: settings.route.consistency == Consistency::Session,
            startup: login.set.clone(),
            standing: Standing::default(),
            context: judge::Context { standard_strings: true, encoding: judge::Encoding::Unsafe },
            standing_of: None,
            max_lag: max_lag_here,
            max_lag_here,
            catalogue: Arc::default(),
            catalogue_version: u64::MAX,
            missed_in: u64::MAX,
            floors: Floors::default(),
            is_chosen: false,
            is_ours: false,
            primary_will_do: false,
            node: None,
            begun: Vec::new(),
            moves_to: None,
            asks_position: false,
            patience: None,
            vain: 0,
            is_refused: false,
            under_way: Trace::Write,
            since: 0,
            kept: Kept::default(),
            aside: None,
            other_home: None,
            home_side: login.wants,
            unnamed_on: login.wants,
            had_other_strings: false,
            crowded_until: None,
        }))
    }

    /// Whether reads are told from writes.
    pub(super) fn is_auto(&self) -> bool {
        self.split == Split::Auto && !self.is_endpoint
    }

    /// The session may move between its nodes.
    pub(super) fn is_endpoint(&self) -> bool {
        self.is_endpoint
    }

    /// The session has said itself how fresh a node must be.
    fn is_strict(&self) -> bool {
        self.max_lag.is_some() || self.floors.is_required()
    }

    /// The node that backends of this kind came from last.
    pub(super) fn last_node(&self, side: Wants, home: Option<&Home>) -> Option<NodeId> {
        let aside = self.aside.as_deref().filter(|aside| aside.side() == side).map(Aside::node);
        let home = if side == self.home_side { home } else { self.other_home.as_deref() };
        aside.or_else(|| home.map(Home::node))
    }

    /// The session's own limit of lag.
    pub(super) fn max_lag(&self) -> Option<Duration> {
        self.max_lag
    }

    /// The next batch is another one.
    pub(super) fn forget_choice(&mut self) {
        (self.is_chosen, self.is_ours, self.primary_will_do, self.is_refused) = (false, false, false, false);
        (self.node, self.patience, self.asks_position) = (None, None, false);
        self.begun.clear();
        self.moves_to = None;
        self.kept.clear();
    }

    /// Learns what the session and its database say at this moment.
    fn look_around(&mut self, state: &mut State, ctx: &Context, database: &str) {
        let changes = state.params.changes();
        if self.standing_of != Some(changes) {
            self.standing_of = Some(changes);
            self.read_settings(state);
        }
        if self.is_auto() && self.catalogue_version != ctx.catalogues.version() {
            self.catalogue_version = ctx.catalogues.version();
            self.catalogue = ctx.catalogues.get(database);
            if let Some(unseen) = state.unseen.as_mut() {
                unseen.learn(ctx.catalogues.risks(database));
            }
        }
    }

    fn read_settings(&mut self, state: &State) {
        let options = option_settings(self.startup.get("options").unwrap_or_default());
        let startup = |name: &str| {
            let option =
                options.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            self.startup.get(name).map(str::to_owned).or(option)
        };
        self.standing = Standing::of(&state.params, startup);
        self.context = ask::context(&state.params);
        let value = |name: &str| match state.params.setting(name) {
            Some(setting) => own::value(&setting.statement),
            None => startup(name),
        };
        self.max_lag = value("pgsteer.max_lag").and_then(|value| limit(&value)).or(self.max_lag_here);
        match value("pgsteer.min_lsn").and_then(|value| own::position(&value)) {
            Some((timeline, lsn)) => self.floors.require(timeline, lsn),
            None => self.floors.relax(),
        }
        self.had_other_strings |= !state.params.standard_strings();
    }
}

/// A duration as the configuration writes it; 0 is no limit of the session's own.
fn limit(value: &str) -> Option<Duration> {
    crate::config::parse_duration(value).ok().filter(|limit| !limit.is_zero())
}

impl Session {
    /// Before a message of the client is looked at that a backend is there for: where does its batch go? `None` when it
    /// may be looked at, or is answered by us.
    pub(super) fn at_border(&mut self, kind: Kind) -> Option<Look> {
        if !begins(kind) || self.state.pipeline.is_open() {
            return None;
        }
        if !self.state.is_quiet() {
            return self.at_inner_border();
        }
        if self.split.as_ref().is_some_and(|split| split.is_endpoint) {
            return self.at_endpoint_border();
        }
        self.choose();
        if self.limbo.is_some() {
            return None;
        }
        let side = self.attached.as_ref().map(|attached| attached.side);
        if self.split.as_ref().is_some_and(|split| split.patience.is_some()) {
            return Some(Look::Stop(Event::Request));
        }
        if side != Some(self.wants) || !self.is_on_chosen_node() {
            return Some(self.change_sides_at_once());
        }
        self.begin_batch();
        self.tell_position()
    }

    /// A batch of a session whose work is all done on standbys.
    fn at_endpoint_border(&mut self) -> Option<Look> {
        let mut split = self.split.take()?;
        split.look_around(&mut self.state, &self.ctx, &self.login.database);
        let topology = self.ctx.store.load();
        let node = self.attached.as_ref().map(|attached| attached.node);
        // It is at the primary for want of a standby, until there is one.
        let is_guest = self.attached.as_ref().is_some_and(|attached| attached.on_primary);
        // Else it stays for as long as its node is fit, which a change of topology tells.
        let is_fit =
            !(is_guest || split.is_strict()) || self.is_fit_for_endpoint(&mut split, &topology, node);
        self.split = Some(split);
        if !is_fit {
            return Some(Look::Stop(Event::Request));
        }
        self.begin_batch();
        None
    }

    /// Another batch, while the answers to those before it have not all come.
    fn at_inner_border(&mut self) -> Option<Look> {
        let theirs = self.state.pipeline.requests().any(|request| !request.is_ours());
        let on_standby = self.attached.as_ref().is_some_and(|attached| attached.side == Wants::Standby);
        let split = self.split.as_mut()?;
        if !theirs && self.state.tx == TxStatus::Idle {
            // Only settings of ours have been sent before it: it was chosen with them.
            return self.tell_position();
        }
        if !theirs && ask::query_shows_position(self.up.unseen()) {
            split.asks_position = true;
            return self.tell_position();
        }
        if !theirs && self.moves_transaction() {
            return Some(Look::Stop(Event::Request));
        }
        let split = self.split.as_mut()?;
        split.begun.clear();
        // A transaction stays where it is; what follows it may have to go elsewhere.
        let inside = self.state.tx != TxStatus::Idle && !self.state.ends_transaction();
        if !inside || split.under_way != Trace::Declared {
            split.under_way = Trace::Write;
        }
        if on_standby && !inside {
            return Some(Look::Wait);
        }
        // With this one behind it, nothing can be run again.
        self.let_hear();
        None
    }

    /// A request that nobody has a backend for.
    pub(super) fn seek_backend(&mut self, kind: Kind) -> Option<Look> {
        if self.split.is_some() {
            let look = self.choose_without_backend(kind);
            if look.is_some() || self.limbo.is_some() {
                return look;
            }
        }
        if self.attach_at_once() { None } else { Some(Look::Stop(Event::Request)) }
    }

    /// A batch that nobody has a backend for yet.
    fn choose_without_backend(&mut self, kind: Kind) -> Option<Look> {
        if !begins(kind) {
            return None;
        }
        if self.split.as_ref().is_some_and(|split| split.is_endpoint) {
            return None;
        }
        self.choose();
        if self.limbo.is_some() {
            return None;
        }
        let split = self.split.as_mut()?;
        if split.patience.is_some() || split.aside.is_some() {
            return Some(Look::Stop(Event::Request));
        }
        self.use_home();
        None
    }

    /// The topology is another one: where the other kind of backends came from need not be good any more.
    pub(super) fn forget_other_home(&mut self) {
        if let Some(split) = self.split.as_mut() {
            split.other_home = None;
        }
    }

    /// The backends come from the kind of node that is wanted.
    pub(super) fn use_home(&mut self) {
        let Some(split) = self.split.as_mut() else { return };
        if split.home_side != self.wants {
            std::mem::swap(&mut self.home, &mut split.other_home);
            split.home_side = self.wants;
        }
        // The last standby may be too stale for this session.
        if let Some(node) = split.node.filter(|_| self.wants == Wants::Standby)
            && self.home.as_ref().is_some_and(|home| home.node() != node)
        {
            self.home = None;
        }
    }

    fn is_on_chosen_node(&self) -> bool {
        let node = self.split.as_ref().and_then(|split| split.node);
        self.wants == Wants::Primary
            || node.is_none_or(|node| self.attached.as_ref().is_some_and(|attached| attached.node == node))
    }

    /// The batch is about to be sent.
    fn begin_batch(&mut self) {
        let Some(split) = self.split.as_mut() else { return };
        split.since = self.ctx.nudges.sent();
    }

    /// Decides where the batch at the front goes.
    fn choose(&mut self) {
        let Some(mut split) = self.split.take() else { return };
        if !split.is_chosen {
            split.is_chosen = true;
            let asked = self.asked(&mut split);
            let (wants, why) = self.place(&mut split, asked);
            split.under_way = match asked {
                Asked::Read(_) => Trace::Read,
                Asked::Standby(_) => Trace::Declared,
                Asked::Primary(Why::Write(Reason::Setting))
                    if ask::only_sets(self.up.unseen(), split.context) =>
                {
                    Trace::Nothing
                }
                _ => Trace::Write,
            };
            match asked {
                Asked::Read(length) => self.keep(&mut split, length),
                Asked::Primary(Why::Transaction) | Asked::Standby(Why::Declared) => {
                    let begin = ask::plain_begin(self.up.unseen(), split.context);
                    split.begun.extend_from_slice(begin.unwrap_or_default());
                }
                _ => {}
            }
            self.wants = wants;
            if let Some(why) = why {
                self.count_route(wants == Wants::Standby, why);
            }
            if let Asked::Invalid(own) = asked {
                self.limbo = Some(Box::new(Limbo::refusal(own.refusal())));
                split.forget_choice();
            }
        }
        self.split = Some(split);
    }

    fn asked(&mut self, split: &mut Splitter) -> Asked {
        split.look_around(&mut self.state, &self.ctx, &self.login.database);
        let reader = Reader {
            split: split.split,
            standing: split.standing,
            context: split.context,
            catalogue: &split.catalogue,
            distrusted: &self.ctx.catalogues.distrusted,
            prepared: &self.state.prepared,
            by_sql: self.state.params.prepared_by_sql(),
            trusts_kept: !split.had_other_strings,
        };
        reader.batch(self.up.unseen())
    }

    fn count_route(&self, standby: bool, why: Why) {
        self.ctx.metrics.routed(standby, why.index());
    }

    /// A copy of the batch, so that it can be run again.
    fn keep(&mut self, split: &mut Splitter, length: usize) {
        if self.is_replaying() {
            // What has been heard of it must be said again.
            return;
        }
        if split.kept.keep(self.up.peek(length)) {
            self.up.reserve(length as u16);
        }
    }

    /// The batch is over.
    pub(super) fn end_batch(&mut self) {
        if let Some(split) = self.split.as_mut() {
            split.forget_choice();
            self.up.reserve(0);
        }
    }

    /// The message at the front goes to the backend in hand.
    pub(super) fn note_unnamed(&mut self, kind: Kind, length: usize) {
        let Some(split) = self.split.as_mut() else { return };
        let is_unnamed = || self.up.peek(length).get(HEADER_LEN) == Some(&0);
        if kind == Kind::Query || (kind == Kind::Parse && is_unnamed()) {
            split.unnamed_on = self.wants;
        }
    }

    /// A standby is wanted for the batch that waits, and the primary will do as well.
    pub(super) fn may_use_primary(&self) -> bool {
        self.wants == Wants::Standby && self.split.as_ref().is_some_and(|split| split.primary_will_do)
    }
}

/// True for a message that begins something to be answered.
fn begins(kind: Kind) -> bool {
    !matches!(kind, Kind::CopyData | Kind::CopyDone | Kind::CopyFail | Kind::Flush | Kind::Terminate)
}
