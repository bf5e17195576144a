//! The backend of a session that is not in use: that of the primary while it reads from a standby, or the other way
//! round.
//!
//! In: the backend that was in use. Out: the same, made as the session is now. What has been set or prepared meanwhile on
//! the other one is set and prepared here before it is used.

use tokio::time::Instant;

use crate::pool::{Setting, Verdict};
use crate::route::Wants;
use crate::session::relay::{Event, Look};
use crate::session::restore::{self, RestoreError};
use crate::session::run::{Attached, Flow, Session};
use crate::session::state::State;
use crate::sql::Pins;
use crate::topology::NodeId;
use crate::wire::encode;

/// A backend that waits for its turn in the session.
pub struct Aside {
    attached: Attached,
    /// What binds the session to it, and what of that is doubtful.
    pins: (Pins, Pins),
    /// The topology under which it was found good.
    seen_version: u64,
}

impl Aside {
    /// The kind of node that it was taken for.
    pub(in crate::session) fn side(&self) -> Wants {
        self.attached.side
    }

    /// Its node.
    pub(in crate::session) fn node(&self) -> NodeId {
        self.attached.node
    }

    /// What binds the session to it.
    pub(in crate::session) fn pins(&self) -> Pins {
        self.pins.0
    }
}

/// The session's statements as a backend has them.
#[derive(Debug, Default)]
pub struct Copied {
    /// [`crate::session::prepared::Prepared::changes`] then.
    changes: u32,
    named: Vec<(Box<[u8]>, u32)>,
    by_sql: Vec<Setting>,
}

impl Copied {
    /// Notes that the backend has what the session has.
    pub(in crate::session) fn note(&mut self, state: &State) {
        if self.changes != state.prepared.changes() {
            self.changes = state.prepared.changes();
            self.named = state.prepared.serials().map(|(name, serial)| (name.into(), serial)).collect();
        }
        if self.by_sql != state.params.prepared_by_sql() {
            self.by_sql = state.params.prepared_by_sql().to_vec();
        }
    }

    fn is_current(&self, state: &State) -> bool {
        self.changes == state.prepared.changes() && self.by_sql == state.params.prepared_by_sql()
    }

    /// Messages that give the backend what has come since and take away what has gone, and how many answers there will
    /// be.
    fn missing(&self, state: &State) -> (Vec<u8>, usize) {
        let (mut bytes, mut count) = (Vec::new(), 0);
        for (name, serial) in &self.named {
            if state.prepared.serials().any(|(known, now)| known == &**name && now == *serial) {
                continue;
            }
            encode::message(&mut bytes, b'C', |body| {
                body.push(b'S');
                body.extend_from_slice(name);
                body.push(0);
            });
            encode::sync(&mut bytes);
            count += 1;
        }
        let is_known = |name: &[u8]| {
            let serial = state.prepared.serials().find(|(known, _)| *known == name).map(|(_, serial)| serial);
            self.named.iter().any(|(known, at)| &**known == name && Some(*at) == serial)
        };
        for (name, message) in state.prepared.messages() {
            if !is_known(name) {
                bytes.extend_from_slice(message);
                encode::sync(&mut bytes);
                count += 1;
            }
        }
        for setting in self.by_sql.iter().filter(|one| !state.params.prepared_by_sql().contains(one)) {
            let name = String::from_utf8_lossy(&setting.key).replace('"', "\"\"");
            encode::query(&mut bytes, format!("DEALLOCATE \"{name}\""));
            count += 1;
        }
        for setting in state.params.prepared_by_sql().iter().filter(|one| !self.by_sql.contains(one)) {
            encode::query(&mut bytes, &setting.statement);
            count += 1;
        }
        (bytes, count)
    }
}

impl Session {
    /// The backend in hand is about to be put aside: what it has is noted with it.
    fn leave_as_it_is(&mut self, attached: &mut Attached) {
        let mut wanted = self.state.params.wanted().clone();
        if self.state.take_name_reset() {
            let settings = wanted.settings().iter().filter(|setting| !setting.is("application_name"));
            wanted = crate::pool::Applied::new(settings.cloned().collect());
        }
        attached.backend.applied = wanted;
        if let Some(sharing) = self.state.sharing.as_mut() {
            attached.backend.statements = sharing.give();
        } else {
            attached.copied.get_or_insert_default().note(&self.state);
        }
    }

    /// Puts the backend in hand aside, where there is none.
    fn set_aside(&mut self) {
        let Some(mut attached) = self.attached.take() else { return };
        self.leave_as_it_is(&mut attached);
        self.entry.detached();
        let mut pins = (Pins::default(), Pins::default());
        self.state.params.exchange_pins(&mut pins);
        let Some(split) = self.split.as_mut() else { return };
        split.aside = Some(Box::new(Aside { attached, pins, seen_version: self.seen_version }));
    }

    /// The backend in hand goes aside, and that which was there is used.
    fn exchange(&mut self) {
        let Some(mut split) = self.split.take() else { return };
        if let Some(aside) = split.aside.as_deref_mut()
            && let Some(mut attached) = self.attached.take()
        {
            self.leave_as_it_is(&mut attached);
            std::mem::swap(&mut attached, &mut aside.attached);
            std::mem::swap(&mut self.seen_version, &mut aside.seen_version);
            self.state.params.exchange_pins(&mut aside.pins);
            self.enter(attached);
        }
        self.split = Some(split);
    }

    /// Uses a backend that was aside.
    fn enter(&mut self, mut attached: Attached) {
        if let Some(sharing) = self.state.sharing.as_mut() {
            sharing.take(attached.backend.statements.take().unwrap_or_else(|| {
                Box::new(crate::pool::Statements::new(self.ctx.settings.load().pool.max_prepared))
            }));
        }
        let standby = attached.backend.parameter("in_hot_standby").map(|value| value == "on");
        self.state.hot_standby = if attached.on_primary { Some(false) } else { standby };
        self.attach(attached);
    }

    /// Takes the backend that was aside, if it is of the kind that is wanted and none is in hand.
    fn take_aside(&mut self) -> bool {
        let wants = self.wants;
        let aside = self.split.as_mut().and_then(|split| split.aside.take_if(|aside| aside.side() == wants));
        let Some(mut aside) = aside else { return false };
        self.state.params.exchange_pins(&mut aside.pins);
        self.seen_version = aside.seen_version;
        self.enter(aside.attached);
        true
    }

    /// Gives back whatever is aside.
    pub(in crate::session) fn release_aside(&mut self, verdict: Verdict) {
        if let Some(aside) = self.split.as_mut().and_then(|split| split.aside.take()) {
            self.ctx.registry.release(aside.attached.backend, verdict);
        }
    }

    /// The batch that waits goes to the other backend: at once when that is as the session left it, else as soon as it
    /// has been made so.
    pub(in crate::session) fn change_sides_at_once(&mut self) -> Look {
        if self.up.must_write() {
            return Look::WriteFirst;
        }
        if self.down.has_unseen() || self.down.is_inside_message() {
            // A notice is half here.
            return Look::Wait;
        }
        if !self.is_aside_ready() {
            return Look::Stop(Event::Request);
        }
        self.exchange();
        // There is another backend to listen to; then this message is looked at again.
        Look::Wait
    }

    /// True when the backend that is aside can be used as it is.
    fn is_aside_ready(&mut self) -> bool {
        if self.is_sharing() || self.state.wants_name() || self.attached.is_none() {
            return false;
        }
        let wanted = self.state.params.wanted().clone();
        let Some(split) = self.split.as_ref() else { return false };
        let Some(Aside { attached, seen_version, .. }) = split.aside.as_deref() else { return false };
        attached.side == self.wants
            && *seen_version == self.ctx.store.version()
            && !attached.is_over(&self.ctx.store)
            && attached.backend.applied.is_same(&wanted)
            && attached.copied.as_ref().is_some_and(|copied| copied.is_current(&self.state))
            && (self.wants == Wants::Primary || split.node.is_none_or(|node| node == attached.node))
    }

    /// Between transactions: the backend in hand is of the kind that is wanted, or there is none.
    pub(in crate::session) async fn change_sides(&mut self) -> Flow {
        let Some(side) = self.attached.as_ref().map(|attached| attached.side) else {
            if self.take_aside() {
                return self.catch_up().await;
            }
            self.use_home();
            return Ok(());
        };
        if side == self.wants {
            return Ok(());
        }
        self.reapply_name().await?;
        if self.split.as_ref().is_some_and(|split| split.aside.is_some()) {
            self.exchange();
            return self.catch_up().await;
        }
        self.set_aside();
        self.use_home();
        Ok(())
    }

    /// The backend in hand gets what the session has set and prepared on the other one.
    async fn catch_up(&mut self) -> Flow {
        let Some(attached) = self.attached.as_ref() else { return Ok(()) };
        if attached.is_over(&self.ctx.store) {
            return self.settle_loss();
        }
        let deadline = Instant::now() + self.ctx.settings.load().pool.reset_timeout;
        let changed = self.state.params.rebase(&attached.backend.params);
        for (name, value) in &changed {
            encode::parameter_status(&mut self.replies, name, value);
        }
        let wanted = self.state.params.wanted().clone();
        let Some(attached) = self.attached.as_mut() else { return Ok(()) };
        let done = match attached.backend.applied.change_to(&wanted) {
            Some(change) => restore::apply(&mut attached.backend, &change, deadline).await,
            None => Ok(()),
        };
        attached.backend.applied = wanted;
        let done = match done {
            Ok(()) if !self.is_sharing() => self.copy_statements(deadline).await,
            done => done,
        };
        match done {
            Ok(()) => Ok(()),
            // It is not as the session is: another one will be.
            Err(RestoreError::Lost | RestoreError::Stranger | RestoreError::Refused(_)) => self.settle_loss(),
        }
    }

    async fn copy_statements(&mut self, deadline: Instant) -> Result<(), RestoreError> {
        let Some(attached) = self.attached.as_mut() else { return Ok(()) };
        let copied = attached.copied.get_or_insert_default();
        if copied.is_current(&self.state) {
            return Ok(());
        }
        let (messages, count) = copied.missing(&self.state);
        // One that this node does not take is told when it is used.
        restore::send(&mut attached.backend, &messages, count, deadline, &mut self.replies).await?;
        copied.note(&self.state);
        Ok(())
    }
}
