//! `SHOW pgsteer.lsn`: the position of what the session has written and seen, for other sessions to wait for.
//!
//! In: a SHOW that waits. Out: the same, with the position set where the server finds it. So the answer is the server's own,
//! in every protocol and format.

use tokio::time::Instant;

use super::Splitter;
use crate::session::attach::NoBackend;
use crate::session::relay::{Event, Look};
use crate::session::run::Session;
use crate::wire::backend::TxStatus;
use crate::wire::encode;
use crate::wire::error::{PgError, SqlState};

impl Session {
    /// Puts the position of the session's last write where SHOW finds it. `None` when that is done, or nobody asks.
    pub(super) fn tell_position(&mut self) -> Option<Look> {
        let split = self.split.as_mut().filter(|split| split.asks_position)?;
        if self.state.tx == TxStatus::Failed {
            return None;
        }
        let topology = self.ctx.store.load();
        let Some((timeline, lsn)) = split.floors.position(&topology) else {
            return Some(Look::Stop(Event::Request));
        };
        let mut message = Vec::new();
        encode::query(&mut message, format!("SET pgsteer.lsn = '{timeline}:{lsn}'"));
        if !self.up.insert(&message) {
            return Some(Look::WriteFirst);
        }
        split.asks_position = false;
        self.state.send_own(1);
        None
    }

    /// Waits until the position of the session's last write is known, if the client asks for it.
    pub(in crate::session) async fn await_position(&mut self) -> Result<(), NoBackend> {
        let asks = |split: &mut Box<Splitter>| split.asks_position;
        if !self.split.as_mut().is_some_and(asks) {
            return Ok(());
        }
        let until = Instant::now() + self.ctx.settings.load().cluster.hold_timeout;
        let mut decisions = self.ctx.store.decisions();
        loop {
            let topology = self.ctx.store.load();
            let known = self.split.as_mut().and_then(|split| split.floors.position(&topology));
            if known.is_some() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(NoBackend::Refused(PgError::error(
                    SqlState::CANNOT_CONNECT_NOW,
                    "the position of the last write is not known, since no primary answers",
                )));
            }
            self.ask_for_news(&topology);
            self.wait_while(until, decisions.changed()).await?;
        }
    }
}
