//! Under which numbers the statements of a session are on its backend, and what must be sent before they can be used.
//!
//! In: names, as the client's messages use them. Out: numbers, and messages of ours. Sans-IO.

use sha2::{Digest, Sha256};

use super::Plan;
use super::shapes::{Describing, NO_STATEMENT};
use crate::pool::{NAME_PREFIX, Slot, StatementId, Statements, Unnamed};
use crate::session::pipeline::{Own, Request};
use crate::session::state::State;
use crate::sql::{PinCause, glance};
use crate::wire::backend::TxStatus;
use crate::wire::encode;
use crate::wire::frame::HEADER_LEN;
use crate::wire::frontend::{self, Kind};

/// Parameters that decide what a server makes of a text while it reads it: of its bytes, strings, dates and intervals.
/// The server reports them.
const READ_BY_REPORTED: [&str; 5] =
    ["client_encoding", "standard_conforming_strings", "DateStyle", "IntervalStyle", "TimeZone"];
/// Others, which it does not report: where names are looked up, as whom, and what some constants mean.
const READ_BY: [&str; 9] = [
    "search_path",
    "role",
    "session_authorization",
    "array_nulls",
    "backslash_quote",
    "lc_monetary",
    "timezone_abbreviations",
    "transform_null_equals",
    "xmloption",
];

/// The owner of an unnamed statement that may or may not be there: no session has this number.
const UNKNOWN: Unnamed = (0, 0);

impl State {
    /// Prepared statements on the session's backend, as far as they have names.
    pub fn prepared_on_backend(&self) -> usize {
        match self.sharing.as_deref() {
            Some(sharing) => sharing.carried.as_deref().map_or(0, Statements::len),
            None => self.prepared.len(),
        }
    }

    /// The number of a statement that is about to be used, prepared first if need be; `None` when the name stays.
    pub(super) fn number_for_use(&mut self, name: &[u8]) -> Option<u32> {
        if name.is_empty() {
            self.bring_unnamed();
            return None;
        }
        let shared = self.prepared.kept(name).is_some();
        shared.then(|| self.number_of(name))
    }

    /// The number of a shared statement on this backend. Where it is not there, it is prepared before.
    pub(super) fn number_of(&mut self, name: &[u8]) -> u32 {
        self.identify_again(name);
        let Some(statement) = self.prepared.get(name) else { return NO_STATEMENT };
        let (id, shape) = (statement.id, statement.description.shape().filter(|_| !statement.is_open));
        // Of two shapes only the server knows which is right. In a failed transaction it would not say.
        let fits = |slot: &Slot| slot.shape == shape || shape.is_none() || slot.shape.is_none();
        let failed = self.tx == TxStatus::Failed;
        match self.carried().and_then(|carried| carried.find(&id)) {
            Some(slot) if failed || fits(&slot) => slot.number,
            _ => self.prepare(name, id),
        }
    }

    /// True for a name that the server takes for one, in the client's encoding.
    pub(super) fn is_name(&self, name: &[u8]) -> bool {
        name.is_ascii()
            || (self.params.reported("client_encoding") == Some("UTF8") && std::str::from_utf8(name).is_ok())
    }

    /// A Parse that is sent as it is, and whose statement only this backend has.
    pub(super) fn prepare_unkept(&mut self, message: &[u8], body: &[u8]) -> Plan {
        if frontend::parse_name(body).is_some_and(<[u8]>::is_empty) {
            return self.translate_unnamed(&[], None);
        }
        self.doubt();
        self.client_message(Kind::Parse, message, false);
        Plan::Pass
    }

    /// Where a statement has to be prepared again, it is read under the settings of this moment: others that share it must
    /// have the same.
    fn identify_again(&mut self, name: &[u8]) {
        let Some(old) = self.prepared.get(name).map(|statement| statement.id) else { return };
        if self.carried().and_then(|carried| carried.find(&old)).is_none()
            && let Some(statement) = self.prepared.get(name)
        {
            let id = self.identity(statement.asked_text(name));
            self.prepared.identify(name, id);
        }
    }

    /// Has a statement prepared and described before the client's message.
    pub(super) fn prepare(&mut self, name: &[u8], id: StatementId) -> u32 {
        let number = self.add(id);
        let (Some(sharing), Some(statement)) = (self.sharing.as_mut(), self.prepared.get(name)) else {
            return number;
        };
        encode::message(&mut sharing.bytes, b'P', |body| {
            push_name(body, number);
            statement.encode_text(name, body);
        });
        let describing = Describing::new(statement, number, false);
        self.sent(Request::Own(Own::Parse(Some((id, number)))));
        self.describe(describing);
        self.doubt();
        number
    }

    /// A number for a statement that the backend does not have. What falls out for it is closed.
    pub(super) fn add(&mut self, id: StatementId) -> u32 {
        let number = self.carried().map_or(0, |carried| carried.add(id));
        while let Some(old) = self.carried().and_then(Statements::take_closing) {
            self.close(old);
            if self.pipeline.is_skipping() {
                // Passed over, and kept for later.
                break;
            }
        }
        number
    }

    fn close(&mut self, number: u32) {
        if let Some((out, _)) = self.out() {
            encode_named(out, b'C', number);
        }
        self.sent(Request::Own(Own::Close(Some(number))));
    }

    pub(super) fn parse_head(&mut self, rest: usize, number: u32) {
        if let Some((out, _)) = self.out() {
            encode_parse_head(out, rest, number);
        }
    }

    /// `currval` and `lastval` must not tell what another session has got. Inside a block it may be the session's own, as
    /// soon as something has run there; a session that has used sequences once is spared that by a fresh start of its next
    /// leases.
    pub(super) fn forget_foreign_sequences(&mut self, kind: Kind, body: &[u8]) {
        let own = self.params.pins().contains(PinCause::Sequence);
        let (tx, idle) = (self.tx, self.pipeline.is_idle());
        let Some(sharing) = self.sharing.as_mut().filter(|sharing| sharing.foreign_sequences) else { return };
        let text = match kind {
            Kind::Query => frontend::query(body),
            Kind::Parse => frontend::parse(body).map(|parse| parse.sql),
            _ => None,
        };
        sharing.uses_sequences |= text.is_some_and(glance::may_use_sequence);
        if sharing.uses_sequences {
            sharing.foreign_sequences = false;
            let fresh = tx == TxStatus::Idle || (tx == TxStatus::InBlock && sharing.only_borders);
            if fresh && idle && !own {
                encode::query(&mut sharing.bytes, "DISCARD SEQUENCES");
                self.send_own(1);
            }
            return;
        }
        if !sharing.only_borders {
            return;
        }
        let message = match kind {
            Kind::Bind => frontend::bind(body).and_then(|bind| self.prepared.get(bind.statement)),
            _ => None,
        };
        let known = message.map(|statement| statement.message.get(HEADER_LEN..).unwrap_or_default());
        let text = text.or(known.and_then(|body| frontend::parse(body).map(|parse| parse.sql)));
        let is_border = text.map_or(kind != Kind::Bind || known.is_none(), glance::is_border);
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.only_borders = is_border;
        }
    }

    /// DISCARD has ended what the session knew of sequences, on all backends.
    pub(in crate::session) fn discard_sequences(&mut self) {
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.discarded_sequences = true;
        }
    }

    /// The backend may have another unnamed statement than the session. It goes before anything can fail, so that from
    /// then on what happens to it is what happens to the session's.
    pub(super) fn drop_foreign_unnamed(&mut self, kind: Kind) {
        // A Query drops it anyway.
        if !self.pipeline.is_idle() || kind == Kind::Query {
            return;
        }
        let own = self.prepared.unnamed().map(|(number, _)| (self.session(), number));
        let Some((out, carried)) = self.out() else { return };
        if carried.unnamed().is_none() || carried.unnamed() == own {
            return;
        }
        carried.set_unnamed(None);
        encode::header(out, b'C', 2);
        out.extend_from_slice(b"S\0");
        self.sent(Request::Own(Own::Close(None)));
    }

    /// A Query of ours has dropped the unnamed statement.
    pub(in crate::session) fn note_own_query(&mut self) {
        if let Some(carried) = self.carried() {
            carried.set_unnamed(None);
        }
    }

    /// The unnamed statement of the session is used: the backend must have it.
    pub(super) fn bring_unnamed(&mut self) {
        let session = self.session();
        let Some((number, message)) = self.prepared.unnamed() else { return };
        let Some(sharing) = self.sharing.as_mut() else { return };
        let Some(carried) = sharing.carried.as_deref_mut() else { return };
        let wanted = Some((session, number));
        // Without its text it can only be used where it is.
        if carried.unnamed() == wanted || message.is_empty() {
            return;
        }
        sharing.bytes.extend_from_slice(message);
        sharing.touched = Some(sharing.batch);
        carried.set_unnamed(wanted);
        self.sent(Request::Own(Own::Parse(None)));
    }

    /// What two sessions must have in common to mean the same by a text: the text, the types of its parameters, and the
    /// settings by which it is read. A session with temporary tables shares with nobody.
    pub(super) fn identity(&self, text_and_types: &[u8]) -> StatementId {
        let mut digest = Sha256::new();
        digest.update(text_and_types);
        for setting in self.params.replays() {
            if READ_BY.iter().any(|name| setting.is(name)) {
                digest.update(&setting.statement);
                digest.update([0]);
            }
        }
        for name in READ_BY_REPORTED {
            digest.update(self.params.reported(name).unwrap_or_default());
            digest.update([0]);
        }
        if self.params.has_temporary() {
            digest.update(self.session().to_be_bytes());
        }
        let mut id = StatementId::default();
        for (to, from) in id.iter_mut().zip(digest.finalize()) {
            *to = from;
        }
        id
    }

    /// The server has prepared a shared statement.
    pub(in crate::session) fn is_prepared(&mut self, id: &StatementId, number: u32) {
        if let Some(carried) = self.carried() {
            carried.confirm(id, number);
        }
    }

    /// The server has not prepared a statement.
    pub(in crate::session) fn unprepared(&mut self, sent: Option<(StatementId, u32)>, unnamed: bool) {
        let Some(carried) = self.carried() else { return };
        if let Some((id, number)) = sent {
            carried.remove(&id, number);
        }
        if unnamed {
            carried.set_unnamed(Some(UNKNOWN));
        }
    }

    /// A Close of ours was passed over.
    pub(in crate::session) fn unclosed(&mut self, number: u32) {
        if let Some(carried) = self.carried() {
            carried.close_later(number);
        }
    }

    /// SQL drops all prepared statements.
    pub(in crate::session) fn retire_all(&mut self) {
        self.doubt();
        if let Some(carried) = self.carried() {
            carried.retire_all();
        }
    }

    /// SQL drops a prepared statement.
    pub(in crate::session) fn retire(&mut self, name: &[u8]) {
        self.doubt();
        if let Some(id) = self.prepared.get(name).map(|statement| statement.id)
            && let Some(carried) = self.carried()
        {
            carried.retire(&id);
        }
    }

    /// The server refused a setting that the session has.
    pub(in crate::session) fn note_refused(&mut self) {
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.refused = true;
        }
    }
}

/// The beginning of a Parse under a number; `rest` bytes of text and types follow.
fn encode_parse_head(out: &mut Vec<u8>, rest: usize, number: u32) {
    encode::header(out, b'P', name_len(number) + rest);
    push_name(out, number);
}

/// A Describe or Close (by its tag) of the shared statement of this number.
pub(super) fn encode_named(out: &mut Vec<u8>, tag: u8, number: u32) {
    encode::header(out, tag, 1 + name_len(number));
    out.push(b'S');
    push_name(out, number);
}

/// Length of [`push_name`], bytes.
pub(super) fn name_len(number: u32) -> usize {
    NAME_PREFIX.len() + number.checked_ilog10().unwrap_or(0) as usize + 2
}

/// The name of a shared statement and the zero that ends it. No allocation: it is part of every Bind.
pub(super) fn push_name(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(NAME_PREFIX.as_bytes());
    let digits = number.checked_ilog10().unwrap_or(0);
    for place in (0..=digits).rev() {
        let digit = number / 10u32.pow(place) % 10;
        out.push(b'0' + u8::try_from(digit).unwrap_or(0));
    }
    out.push(0);
}
