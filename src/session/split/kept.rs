//! A batch of reads that can be run again: what the client has sent, for as long as it has heard nothing of the answer.
//!
//! In: the batch, what the server says. Out: whether the client may hear it, or the batch is to be run elsewhere. Sans-IO.

use crate::session::prepared::Prepared;
use crate::wire::error::{ErrorView, SqlState};
use crate::wire::frame;
use crate::wire::frontend::{self, Kind};

/// Longest batch that is kept, bytes.
pub const LONGEST: usize = 8 * 1024;
/// Room kept for the next one, bytes.
const ROOM: usize = 512;
/// Longest answer that is held back to see how it ends, bytes.
const HELD: usize = 16 * 1024;

/// The batch.
#[derive(Debug, Default)]
pub struct Kept {
    bytes: Vec<u8>,
    /// How much of it has been sent, from its beginning.
    sent: usize,
    active: bool,
}

/// What became of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// More must be heard.
    More,
    /// It is the client's.
    Deliver,
    /// A standby could not do it, and is ready for something else.
    Refused(SqlState),
    /// The standby has ended the connection for something that only happens to standbys.
    Ended(SqlState),
    /// The server goes, or only this connection of it: its last message.
    Gone(Vec<u8>),
}

impl Kept {
    /// True while the batch can be run again.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Keeps a batch. False when it is too long.
    pub fn keep(&mut self, batch: &[u8]) -> bool {
        self.clear();
        if batch.len() > LONGEST {
            return false;
        }
        self.bytes.extend_from_slice(batch);
        self.active = true;
        true
    }

    /// The client hears of it: it cannot be run again.
    pub fn hear(&mut self) {
        self.active = false;
    }

    /// It is over, or it was none.
    pub fn clear(&mut self) {
        self.active = false;
        self.sent = 0;
        self.bytes.clear();
        self.bytes.shrink_to(ROOM);
    }

    /// So many bytes more of it are sent.
    pub fn note_sent(&mut self, length: usize) {
        self.sent = self.bytes.len().min(self.sent + length);
    }

    /// The texts in it, those that were prepared before among them.
    pub fn texts(&self, prepared: &Prepared) -> Vec<Vec<u8>> {
        let mut texts = Vec::new();
        let mut rest = self.bytes.as_slice();
        while let Ok(Some((message, next))) = frame::split(rest) {
            let text = match Kind::of(message.tag) {
                Some(Kind::Query) => frontend::query(message.body),
                Some(Kind::Parse) => frontend::parse(message.body).map(|parse| parse.sql),
                Some(Kind::Bind) => frontend::bind(message.body)
                    .and_then(|bind| prepared.kept(bind.statement))
                    .and_then(|statement| frontend::parse(statement.message.get(frame::HEADER_LEN..)?))
                    .map(|parse| parse.sql),
                _ => None,
            };
            texts.extend(text.map(<[u8]>::to_vec));
            rest = next;
        }
        texts
    }

    /// The names that it prepares.
    pub fn names(&self) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        let mut rest = self.bytes.as_slice();
        while let Ok(Some((message, next))) = frame::split(rest) {
            if Kind::of(message.tag) == Some(Kind::Parse) {
                let name = frontend::parse_name(message.body).filter(|name| !name.is_empty());
                names.extend(name.map(<[u8]>::to_vec));
            }
            rest = next;
        }
        names
    }

    /// What has been sent of the batch, once; the rest of it still waits.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        self.active.then(|| {
            self.active = false;
            self.bytes.truncate(std::mem::take(&mut self.sent));
            std::mem::take(&mut self.bytes)
        })
    }
}

/// SQLSTATEs of FATAL errors that may mean the whole server and not just this backend.
pub const MAY_BE_FAILOVER: [SqlState; 3] =
    [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];

/// What the beginning of the primary's answer means: the client hears it, unless the server has gone before it had
/// anything to say.
pub fn hear_primary(mut answer: &[u8]) -> Heard {
    if answer.len() > HELD {
        return Heard::Deliver;
    }
    while let Ok(Some((message, next))) = frame::split(answer) {
        let code = ErrorView::new(message.body).code();
        match message.tag {
            b'N' if MAY_BE_FAILOVER.contains(&code) => answer = next,
            b'E' => return ended(&ErrorView::new(message.body), &answer[..answer.len() - next.len()]),
            _ => return Heard::Deliver,
        }
    }
    // An error is waited for until it is whole.
    if matches!(answer.first(), None | Some(b'E' | b'N')) { Heard::More } else { Heard::Deliver }
}

/// What the beginning of a standby's answer means.
pub fn hear(answer: &[u8]) -> Heard {
    let mut rest = answer;
    let mut has_rows = false;
    loop {
        let (message, next) = match frame::split(rest) {
            Ok(Some(split)) => split,
            Ok(None) => break,
            // Whoever relays it will say so.
            Err(_) => return Heard::Deliver,
        };
        match message.tag {
            b'1' | b'2' | b'3' | b'T' | b't' | b'n' | b'S' => {}
            b'D' | b'C' | b'I' => has_rows = true,
            // A server that is stopped at once says no more than that.
            b'N' if MAY_BE_FAILOVER.contains(&ErrorView::new(message.body).code()) => {}
            b'E' => {
                return failed(&ErrorView::new(message.body), &rest[..rest.len() - next.len()], next);
            }
            _ => return Heard::Deliver,
        }
        rest = next;
    }
    // Rows that are here in part only are not waited for.
    if has_rows || rest.first() == Some(&b'D') || answer.len() > HELD { Heard::Deliver } else { Heard::More }
}

/// An error of any server that ends the connection: no answer yet.
fn ended(error: &ErrorView<'_>, message: &[u8]) -> Heard {
    let goes = error.ends_connection() && MAY_BE_FAILOVER.contains(&error.code());
    if goes { Heard::Gone(message.to_vec()) } else { Heard::Deliver }
}

/// An error of a standby.
fn failed(error: &ErrorView<'_>, message: &[u8], mut rest: &[u8]) -> Heard {
    let code = error.code();
    if error.ends_connection() {
        return if is_conflict(code) { Heard::Ended(code) } else { ended(error, message) };
    }
    if !may_be_recovery(error) {
        return Heard::Deliver;
    }
    while let Ok(Some((message, next))) = frame::split(rest) {
        if message.tag == b'Z' {
            return Heard::Refused(code);
        }
        rest = next;
    }
    Heard::More
}

/// True for what only happens to a statement because its server is in recovery, or may be that. Where it is not, the
/// primary says the same.
fn may_be_recovery(error: &ErrorView<'_>) -> bool {
    const CODES: [SqlState; 6] = [
        SqlState::READ_ONLY_TRANSACTION,
        SqlState::FEATURE_NOT_SUPPORTED,
        SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE,
        SqlState::INTERNAL_ERROR,
        SqlState::SERIALIZATION_FAILURE,
        SqlState::DEADLOCK_DETECTED,
    ];
    error.field(b'R') != Some("RevalidateCachedQuery") && CODES.contains(&error.code())
}

/// True for what a standby says when it ends a connection that is in the way of its recovery.
pub fn is_conflict(code: SqlState) -> bool {
    [SqlState::SERIALIZATION_FAILURE, SqlState::DATABASE_DROPPED].contains(&code)
}

/// True when the statement itself is to blame, and would be again: no conflict that another try may not meet.
pub fn is_for_ever(code: SqlState) -> bool {
    ![SqlState::SERIALIZATION_FAILURE, SqlState::DEADLOCK_DETECTED, SqlState::DATABASE_DROPPED]
        .contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode;
    use crate::wire::error::{PgError, Severity};

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::message(&mut out, tag, |to| to.extend_from_slice(body));
        out
    }

    fn error(code: SqlState, severity: Severity) -> Vec<u8> {
        let mut out = Vec::new();
        PgError { severity, ..PgError::error(code, "x") }.encode(&mut out);
        out
    }

    fn refused() -> Vec<u8> {
        error(SqlState::READ_ONLY_TRANSACTION, Severity::Error)
    }

    #[test]
    fn nothing_is_delivered_before_it_is_known_to_be_no_refusal() {
        let head = [message(b'1', b""), message(b'2', b""), message(b'T', b"\0\0")].concat();
        let end = message(b'Z', b"I");
        assert_eq!(hear(b""), Heard::More);
        assert_eq!(hear(&head), Heard::More);
        assert_eq!(hear(&[&head[..], b"E"].concat()), Heard::More);
        assert_eq!(hear(&[&head[..], &refused()].concat()), Heard::More, "not ready yet");
        let again = Heard::Refused(SqlState::READ_ONLY_TRANSACTION);
        assert_eq!(hear(&[&head[..], &refused(), &end].concat()), again);
        let row = message(b'D', b"\0\0");
        assert_eq!(hear(&[&head[..], &row, &refused(), &end].concat()), again, "the row was not delivered");
        assert_eq!(hear(&[&head[..], &row].concat()), Heard::Deliver);
        assert_eq!(hear(&[&head[..], &row[..2]].concat()), Heard::Deliver);
        assert_eq!(hear(&[&head[..], &row, &message(b'C', b"SELECT 1\0"), &end].concat()), Heard::Deliver);
    }

    #[test]
    fn a_server_that_goes_has_not_answered() {
        let gone = error(SqlState::ADMIN_SHUTDOWN, Severity::Fatal);
        let head = message(b'1', b"");
        let mut notice = error(SqlState::ADMIN_SHUTDOWN, Severity::Notice);
        notice[0] = b'N';
        for hear in [hear, hear_primary] {
            assert_eq!(hear(b""), Heard::More);
            assert_eq!(hear(&gone), Heard::Gone(gone.clone()));
            assert_eq!(hear(&gone[..9]), Heard::More);
            assert_eq!(hear(&notice), Heard::More);
            assert_eq!(hear(&[&notice[..], &gone].concat()), Heard::Gone(gone.clone()));
            assert_eq!(hear(&error(SqlState::SYNTAX_ERROR, Severity::Fatal)), Heard::Deliver);
            assert_eq!(hear(&error(SqlState::ADMIN_SHUTDOWN, Severity::Error)), Heard::Deliver);
        }
        assert_eq!(hear(&[&head[..], &gone].concat()), Heard::Gone(gone.clone()));
        assert_eq!(hear_primary(&[&head[..], &gone].concat()), Heard::Deliver);
    }

    #[test]
    fn errors_that_are_the_clients_are_delivered() {
        let end = message(b'Z', b"I");
        for code in [SqlState::QUERY_CANCELED, SqlState::UNDEFINED_PREPARED_STATEMENT] {
            assert_eq!(hear(&[error(code, Severity::Error), end.clone()].concat()), Heard::Deliver);
        }
        let fatal = |code| hear(&error(code, Severity::Fatal));
        assert_eq!(fatal(SqlState::SYNTAX_ERROR), Heard::Deliver);
        let conflict = SqlState::SERIALIZATION_FAILURE;
        assert_eq!(fatal(conflict), Heard::Ended(conflict));
        assert!(is_for_ever(SqlState::READ_ONLY_TRANSACTION) && !is_for_ever(conflict));
    }

    #[test]
    fn a_batch_is_taken_once_and_never_when_it_is_too_long() {
        let mut kept = Kept::default();
        assert!(kept.keep(b"abc") && kept.is_active());
        kept.note_sent(2);
        assert_eq!(kept.take().as_deref(), Some(&b"ab"[..]), "the rest still waits");
        assert!(kept.keep(b"abc"));
        kept.note_sent(2);
        kept.note_sent(2);
        assert_eq!(kept.take().as_deref(), Some(&b"abc"[..]));
        assert_eq!(kept.take(), None);
        assert!(!kept.keep(&[0; LONGEST + 1]) && !kept.is_active());
        kept.keep(b"abc");
        kept.clear();
        assert_eq!(kept.take(), None);
    }
}
