//! A session without a backend whose client must be answered as a server would: a failed transaction block, or one
//! statement that could not be run.
//!
//! Sans-IO: the client's messages go in, replies come out. Nothing is sent unasked. Must not know sockets or nodes.

use super::prepared::{Prepared, Statement};
use crate::sql::{Effect, effect};
use crate::wire::backend::TxStatus;
use crate::wire::encode;
use crate::wire::error::{PgError, SqlState};
use crate::wire::frontend::{self, Kind};

/// What the client believes and has not been told yet.
#[derive(Debug)]
pub struct Limbo {
    /// Not told yet.
    error: Option<PgError>,
    /// The client is in a transaction block.
    block: bool,
    skip: Skip,
    /// The batch under way ends the block this way.
    exit: Option<Effect>,
}

/// What is passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    Nothing,
    /// Everything up to the next Sync, as a server does after an error.
    Failed,
    /// The same, for an error that the client was told of an earlier batch as well: had it come alone, this batch could
    /// still end the block.
    Lost,
}

/// Whether the session may go on to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More messages are answered here.
    Stay,
    /// The client is outside any block, has been told everything, and a new request may begin.
    Leave,
}

impl Limbo {
    /// The client's transaction block is gone; `error` is told at its next message, if it has not been told.
    pub fn block(error: Option<PgError>) -> Self {
        Self { error, block: true, skip: Skip::Nothing, exit: None }
    }

    /// The client's next request fails with `error`.
    pub fn refusal(error: PgError) -> Self {
        Self { error: Some(error), block: false, skip: Skip::Nothing, exit: None }
    }

    /// The client was told and sends the rest of a batch, which is passed over; `block` as in [`Limbo::block`]. That ends
    /// when the batch runs what was bound to end it.
    pub fn rest_of_batch(block: bool) -> Self {
        Self { error: None, block, skip: Skip::Lost, exit: None }
    }

    fn status(&self) -> u8 {
        if self.block { TxStatus::Failed.byte() } else { TxStatus::Idle.byte() }
    }

    fn step(&self) -> Step {
        if self.block || self.skip != Skip::Nothing || self.error.is_some() || self.exit.is_some() {
            Step::Stay
        } else {
            Step::Leave
        }
    }

    /// Answers one message; `body` is only its beginning when the message is very long.
    pub fn message(
        &mut self,
        kind: Kind,
        message: &[u8],
        body: &[u8],
        prepared: &mut Prepared,
        out: &mut Vec<u8>,
    ) -> Step {
        match kind {
            Kind::Sync => self.sync(out),
            _ if self.skip != Skip::Nothing => self.pass_over(kind, body, prepared),
            Kind::Query => self.query(body, out),
            Kind::FunctionCall => {
                self.fail(out);
                encode::ready_for_query(out, self.status());
            }
            Kind::Parse => self.parse(message, body, prepared, out),
            Kind::Bind => self.bind(body, prepared, out),
            Kind::Describe => self.describe(body, out),
            Kind::Execute => self.execute(out),
            Kind::Close => self.close(body, prepared, out),
            // A server passes over copy messages that come after an error, and Flush asks for nothing here.
            Kind::CopyData | Kind::CopyDone | Kind::CopyFail | Kind::Flush | Kind::Terminate => {}
        }
        self.step()
    }

    fn pass_over(&mut self, kind: Kind, body: &[u8], prepared: &mut Prepared) {
        match (self.skip, kind) {
            (Skip::Lost, Kind::Bind) => {
                if let Some(bind) = frontend::bind(body) {
                    prepared.bind(bind.portal, bind.statement);
                }
            }
            (Skip::Lost, Kind::Execute) => {
                let portal = frontend::execute(body).and_then(|portal| prepared.portal(portal));
                if let Some([Effect::Commit | Effect::Rollback]) = portal.map(|effects| &effects[..]) {
                    self.block = false;
                }
            }
            _ => {}
        }
    }

    fn sync(&mut self, out: &mut Vec<u8>) {
        self.skip = Skip::Nothing;
        self.exit = None;
        encode::ready_for_query(out, self.status());
    }

    /// Tells what has not been told, else that the block has failed.
    fn fail(&mut self, out: &mut Vec<u8>) {
        self.error.take().unwrap_or_else(in_failed_block).encode(out);
    }

    fn fail_batch(&mut self, out: &mut Vec<u8>) {
        self.fail(out);
        self.skip = Skip::Failed;
        self.exit = None;
    }

    fn query(&mut self, body: &[u8], out: &mut Vec<u8>) {
        match frontend::query(body).and_then(exit_of) {
            Some(exit) if self.block => self.leave_block(&exit, out),
            _ => self.fail(out),
        }
        encode::ready_for_query(out, self.status());
    }

    /// COMMIT of a block whose loss was not told yet must not look like a plain ROLLBACK.
    fn leave_block(&mut self, exit: &Effect, out: &mut Vec<u8>) {
        self.block = false;
        match (exit, self.error.take()) {
            (Effect::Commit, Some(error)) => error.encode(out),
            _ => encode::command_complete(out, "ROLLBACK"),
        }
    }

    fn parse(&mut self, message: &[u8], body: &[u8], prepared: &mut Prepared, out: &mut Vec<u8>) {
        let parse = frontend::parse(body);
        let exit = parse.and_then(|parse| exit_of(parse.sql));
        let (Some(parse), Some(exit), true) = (parse, exit, self.block) else { return self.fail_batch(out) };
        let effects = Some([exit.clone()].into());
        if parse.name.is_empty() {
            prepared.set_unnamed(message, effects, false);
        } else {
            prepared
                .insert(parse.name, Statement { message: message.into(), effects, ..Statement::default() });
        }
        self.exit = Some(exit);
        encode::message(out, b'1', |_| {});
    }

    fn bind(&mut self, body: &[u8], prepared: &Prepared, out: &mut Vec<u8>) {
        let effects = frontend::bind(body).and_then(|bind| prepared.effects(bind.statement));
        match effects.map(|effects| &effects[..]) {
            Some([exit @ (Effect::Commit | Effect::Rollback)]) if self.block => {
                self.exit = Some(exit.clone());
                encode::message(out, b'2', |_| {});
            }
            _ => self.fail_batch(out),
        }
    }

    fn describe(&mut self, body: &[u8], out: &mut Vec<u8>) {
        if self.exit.is_none() {
            return self.fail_batch(out);
        }
        if body.first() == Some(&b'S') {
            encode::message(out, b't', |body| body.extend_from_slice(&0i16.to_be_bytes()));
        }
        encode::message(out, b'n', |_| {});
    }

    fn execute(&mut self, out: &mut Vec<u8>) {
        match self.exit.take() {
            Some(exit) => {
                let failed = exit == Effect::Commit && self.error.is_some();
                self.leave_block(&exit, out);
                if failed {
                    self.skip = Skip::Failed;
                } else {
                    // The batch goes on to its Sync: what follows belongs to it.
                    self.exit = Some(Effect::None);
                }
            }
            None => self.fail_batch(out),
        }
    }

    fn close(&mut self, body: &[u8], prepared: &mut Prepared, out: &mut Vec<u8>) {
        if !self.block {
            return self.fail_batch(out);
        }
        // Close is allowed in a failed block.
        if let Some(frontend::Named::Statement(name)) = frontend::named(body) {
            prepared.remove(name);
        }
        encode::message(out, b'3', |_| {});
    }
}

/// How a text ends a transaction block, if that is all it does.
fn exit_of(sql: &[u8]) -> Option<Effect> {
    match effect::effects(sql, true).as_slice() {
        [exit @ (Effect::Commit | Effect::Rollback)] => Some(exit.clone()),
        _ => None,
    }
}

fn in_failed_block() -> PgError {
    PgError::error(
        SqlState::IN_FAILED_TRANSACTION,
        "current transaction is aborted, commands ignored until end of transaction block",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::state::rolled_back;
    use crate::wire::error::ErrorView;
    use crate::wire::frame;

    /// Feeds messages; returns the replies as text such as "E40001 ZE" and where the session stands.
    fn talk(limbo: &mut Limbo, prepared: &mut Prepared, messages: &[(u8, &str)]) -> (String, Step) {
        let mut out = Vec::new();
        let mut step = Step::Stay;
        for (tag, body) in messages {
            let mut message = Vec::new();
            encode::message(&mut message, *tag, |to| to.extend_from_slice(body.as_bytes()));
            step = limbo.message(Kind::of(*tag).unwrap(), &message, body.as_bytes(), prepared, &mut out);
        }
        let mut words = Vec::new();
        let mut rest = &out[..];
        while let Some((frame, next)) = frame::split(rest).unwrap() {
            words.push(match frame.tag {
                b'E' => format!("E{}", ErrorView::new(frame.body).code()),
                b'Z' => format!("Z{}", frame.body[0] as char),
                b'C' => String::from_utf8_lossy(&frame.body[..frame.body.len() - 1]).into_owned(),
                tag => (tag as char).to_string(),
            });
            rest = next;
        }
        (words.join(" "), step)
    }

    fn query(limbo: &mut Limbo, sql: &str) -> (String, Step) {
        talk(limbo, &mut Prepared::new(1000), &[(b'Q', &format!("{sql}\0"))])
    }

    #[test]
    fn a_lost_block_is_told_and_then_failed_until_its_end() {
        let mut limbo = Limbo::block(Some(rolled_back()));
        assert_eq!(query(&mut limbo, "select 1"), ("E40001 ZE".into(), Step::Stay));
        assert_eq!(query(&mut limbo, "select 1"), ("E25P02 ZE".into(), Step::Stay));
        assert_eq!(query(&mut limbo, "rollback to s"), ("E25P02 ZE".into(), Step::Stay));
        assert_eq!(query(&mut limbo, "commit"), ("ROLLBACK ZI".into(), Step::Leave));
    }

    #[test]
    fn commit_is_never_answered_before_the_loss_is_told() {
        for commit in ["commit", "end", "prepare transaction 'x'"] {
            let mut limbo = Limbo::block(Some(rolled_back()));
            assert_eq!(query(&mut limbo, commit), ("E40001 ZI".into(), Step::Leave), "{commit}");
        }
        let mut limbo = Limbo::block(Some(rolled_back()));
        assert_eq!(query(&mut limbo, "rollback"), ("ROLLBACK ZI".into(), Step::Leave));
    }

    #[test]
    fn the_extended_protocol_ends_a_block_too() {
        let mut prepared = Prepared::new(1000);
        let mut limbo = Limbo::block(Some(rolled_back()));
        let select =
            [(b'P', "\0select 1\0\0\0"), (b'B', "\0\0\0\0\0\0\0\0"), (b'E', "\0\0\0\0\0"), (b'S', "")];
        assert_eq!(talk(&mut limbo, &mut prepared, &select), ("E40001 ZE".into(), Step::Stay));
        let rollback = [
            (b'P', "r\0ROLLBACK\0\0\0"),
            (b'B', "\0r\0\0\0\0\0\0\0"),
            (b'D', "P\0"),
            (b'E', "\0\0\0\0\0"),
            (b'S', ""),
        ];
        assert_eq!(talk(&mut limbo, &mut prepared, &rollback), ("1 2 n ROLLBACK ZI".into(), Step::Leave));
        let mut limbo = Limbo::block(Some(rolled_back()));
        let commit = [
            (b'P', "\0COMMIT\0\0\0"),
            (b'B', "\0\0\0\0\0\0\0\0"),
            (b'E', "\0\0\0\0\0"),
            (b'H', ""),
            (b'S', ""),
        ];
        assert_eq!(talk(&mut limbo, &mut prepared, &commit), ("1 2 E40001 ZI".into(), Step::Leave));
        let mut limbo = Limbo::block(None);
        let cached = [(b'B', "\0r\0\0\0\0\0\0\0"), (b'E', "\0\0\0\0\0"), (b'S', "")];
        assert_eq!(talk(&mut limbo, &mut prepared, &cached), ("2 ROLLBACK ZI".into(), Step::Leave));
    }

    #[test]
    fn a_refused_request_fails_once() {
        let error = PgError::error(SqlState::CANNOT_CONNECT_NOW, "no primary");
        assert_eq!(query(&mut Limbo::refusal(error.clone()), "select 1"), ("E57P03 ZI".into(), Step::Leave));
        let mut limbo = Limbo::refusal(error);
        let batch = [(b'P', "\0select 1\0\0\0"), (b'B', "\0\0\0\0\0\0\0\0")];
        let mut prepared = Prepared::new(0);
        assert_eq!(talk(&mut limbo, &mut prepared, &batch), ("E57P03".into(), Step::Stay));
        assert_eq!(
            talk(&mut limbo, &mut prepared, &[(b'E', "\0\0\0\0\0"), (b'S', "")]),
            ("ZI".into(), Step::Leave)
        );
    }

    #[test]
    fn the_rest_of_a_batch_ends_the_block_if_that_was_bound_to_do_so() {
        let mut prepared = Prepared::new(1000);
        prepared.set_unnamed(b"", Some([Effect::Commit].into()), false);
        prepared.bind(b"", b"");
        let rest = [(b'E', "\0\0\0\0\0"), (b'S', "")];
        assert_eq!(talk(&mut Limbo::rest_of_batch(true), &mut prepared, &rest), ("ZI".into(), Step::Leave));
        // What failed here stays failed.
        let mut limbo = Limbo::block(None);
        assert_eq!(talk(&mut limbo, &mut prepared, &rest), ("E25P02 ZE".into(), Step::Stay));
        prepared.insert(b"other", Statement::default());
        let other = [(b'B', "\0other\0\0\0\0\0\0\0"), rest[0], rest[1]];
        assert_eq!(talk(&mut Limbo::rest_of_batch(true), &mut prepared, &other), ("ZE".into(), Step::Stay));
    }

    #[test]
    fn copy_messages_are_passed_over() {
        let mut limbo = Limbo::block(None);
        let mut prepared = Prepared::new(0);
        assert_eq!(
            talk(&mut limbo, &mut prepared, &[(b'd', "x"), (b'c', ""), (b'H', "")]),
            (String::new(), Step::Stay)
        );
    }
}
