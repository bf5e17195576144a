//! What prepared statements take and return. A client that has been told a statement's columns must never get others.
//!
//! In: descriptions, as servers tell them; statements about to be used. Out: what a server must be asked before. Sans-IO.
//!
//! A server fails a statement whose result has got other columns since it was prepared (`RevalidateCachedQuery` of its
//! plan cache). A session's statement may be prepared again, on another backend, after such a change, and would then
//! return what its client does not expect. So each statement that is prepared is also described; where the two differ
//! the client gets the error that its own server would have given it.

use std::rc::Rc;

use sha2::{Digest, Sha256};

use crate::pool::{Shape, StatementId};
use crate::session::pipeline::{Own, Request};
use crate::session::prepared::{Description, Statement};
use crate::session::sharing::names::encode_named;
use crate::session::state::State;
use crate::wire::backend::TxStatus;
use crate::wire::encode;
use crate::wire::frontend::{self, Kind, Named};

/// A number that no statement of ours has: what must fail is bound to it.
pub(super) const NO_STATEMENT: u32 = 0;

/// A statement whose description is on its way, or must be asked for.
#[derive(Debug)]
pub(super) struct Describing {
    id: StatementId,
    number: u32,
    description: Rc<Description>,
    /// The client is told.
    to_client: bool,
    /// The types of its parameters, as soon as they are here.
    types: Vec<u8>,
}

impl Describing {
    pub(super) fn new(statement: &Statement, number: u32, to_client: bool) -> Self {
        let description = Rc::clone(&statement.description);
        Self { id: statement.id, number, description, to_client, types: Vec::new() }
    }
}

impl State {
    /// True while the client's next message must not be sent: it uses a statement whose columns the client knows, and
    /// only the server can say whether they are still the same. [`super::Sharing::bytes`] asks it.
    pub fn must_verify(&mut self, kind: Kind, body: &[u8]) -> bool {
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.bytes.clear();
        }
        // In a failed transaction nothing is revalidated, and what follows an error is passed over.
        if self.tx == TxStatus::Failed || self.pipeline.is_skipping() {
            return false;
        }
        let Some(name) = used(kind, body) else { return false };
        let Some((id, shape)) = self.told_shape(name) else { return false };
        let verified = self.sharing.as_ref().map_or(NO_STATEMENT, |sharing| sharing.verified);
        match self.carried().and_then(|carried| carried.find(&id)) {
            Some(slot) if slot.shape == Some(shape) => false,
            Some(slot) if slot.number == verified => slot.shape.is_none(),
            _ => {
                self.prepare_backend(kind, body);
                let number = self.prepare(name, id);
                if let Some(sharing) = self.sharing.as_mut() {
                    encode::flush(&mut sharing.bytes);
                    sharing.verified = number;
                }
                true
            }
        }
    }

    /// The identity and shape of a statement whose rows the client expects to be of that shape.
    fn told_shape(&self, name: &[u8]) -> Option<(StatementId, Shape)> {
        let known = |statement: &&Statement| statement.description.is_told() && !statement.is_open;
        let statement = self.prepared.kept(name).filter(known)?;
        let shape = statement.description.shape().filter(|shape| shape.returns_rows)?;
        Some((statement.id, shape))
    }

    /// True when the server has just said that a statement returns something else than its client expects.
    pub(super) fn is_stale(&mut self, name: &[u8]) -> bool {
        let Some((id, shape)) = self.told_shape(name) else { return false };
        let verified = self.sharing.as_ref().map_or(NO_STATEMENT, |sharing| sharing.verified);
        let slot = self.carried().and_then(|carried| carried.find(&id));
        slot.is_some_and(|slot| slot.number == verified && slot.shape != Some(shape))
    }

    /// What the client's last message has prepared is described before its next one, unless that asks for it itself.
    pub(super) fn describe_last(&mut self, kind: Kind, body: &[u8]) {
        let Some((name, last)) = self.sharing.as_mut().and_then(|sharing| sharing.undescribed.take()) else {
            return;
        };
        let named = if kind == Kind::Describe { frontend::named(body) } else { None };
        if named != Some(Named::Statement(&name)) {
            self.describe(last);
        }
    }

    /// Asks the server what a statement takes and returns; the client does not see it.
    pub(super) fn describe(&mut self, one: Describing) {
        let Some(sharing) = self.sharing.as_mut() else { return };
        let number = one.number;
        encode_named(&mut sharing.bytes, b'D', number);
        sharing.describing.push(one);
        self.sent(Request::Own(Own::Describe(number)));
    }

    /// A Describe has not been answered, and will not be.
    pub(in crate::session) fn undescribed(&mut self, number: u32) {
        let Some(sharing) = self.sharing.as_mut() else { return };
        if let Some(at) = sharing.describing.iter().rposition(|one| one.number == number) {
            sharing.describing.remove(at);
        }
    }

    /// The server has told what the statement takes (`t`) or returns (`T`, `n`) whose description comes next.
    pub(in crate::session) fn note_description(&mut self, tag: u8, body: &[u8]) {
        if !matches!(tag, b't' | b'T' | b'n') {
            return;
        }
        let (Some(number), Some(sharing)) = (self.pipeline.describing(), self.sharing.as_mut()) else {
            return;
        };
        let Some(at) = sharing.describing.iter().position(|one| one.number == number) else { return };
        if tag == b't' {
            if let Some(one) = sharing.describing.get_mut(at) {
                one.types = body.to_vec();
            }
            return;
        }
        let one = sharing.describing.remove(at);
        let shape = shape(&one.types, body, tag == b'T');
        if let Some(carried) = sharing.carried.as_deref_mut() {
            carried.describe(&one.id, number, shape);
        }
        one.description.settle(shape, one.to_client, &one.types);
    }
}

/// The name of the statement that a message uses and that the server revalidates for it.
fn used(kind: Kind, body: &[u8]) -> Option<&[u8]> {
    let name = match kind {
        Kind::Bind => frontend::bind(body)?.statement,
        Kind::Describe => match frontend::named(body)? {
            Named::Statement(name) => name,
            Named::Portal(_) => return None,
        },
        _ => return None,
    };
    (!name.is_empty()).then_some(name)
}

/// The shape of a statement by its ParameterDescription and RowDescription, or NoData.
fn shape(types: &[u8], columns: &[u8], returns_rows: bool) -> Shape {
    let mut digest = Sha256::new();
    digest.update(types);
    if returns_rows && digest_columns(&mut digest, columns).is_none() {
        // Longer than what is looked at: the number of columns must do.
        digest.update(columns.get(..2).unwrap_or_default());
    }
    let mut shape = Shape { returns_rows, ..Shape::default() };
    for (to, from) in shape.digest.iter_mut().zip(digest.finalize()) {
        *to = from;
    }
    shape
}

/// Names, types and type modifiers of all columns, as the server compares them; not the table they come from.
fn digest_columns(digest: &mut Sha256, columns: &[u8]) -> Option<()> {
    let mut all = digest.clone();
    let (count, mut rest) = columns.split_first_chunk::<2>()?;
    for _ in 0..u16::from_be_bytes(*count) {
        let (name, after) = rest.split_at_checked(memchr::memchr(0, rest)? + 1)?;
        let (fields, after) = after.split_first_chunk::<18>()?;
        let [_, _, _, _, _, _, r#type @ .., _, _] = fields;
        all.update(name);
        all.update(r#type);
        rest = after;
    }
    *digest = all;
    Some(())
}

/// What a server says of a statement whose columns have changed; asked to describe it, it tells its parameters before.
/// Drivers know the error by its code and its routine.
pub(super) fn changed_result(described: Option<&Description>) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(description) = described {
        description.encode_types(&mut out);
    }
    encode::message(&mut out, b'E', |body| {
        for field in [
            "SERROR",
            "VERROR",
            "C0A000",
            "Mcached plan must not change result type",
            "Fplancache.c",
            "RRevalidateCachedQuery",
        ] {
            encode::cstr(body, field.as_bytes());
        }
        body.push(0);
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(all: &[(&str, u32, u32)]) -> Vec<u8> {
        let mut body = u16::try_from(all.len()).unwrap().to_be_bytes().to_vec();
        for (name, table, r#type) in all {
            encode::cstr(&mut body, name.as_bytes());
            body.extend(table.to_be_bytes());
            body.extend(1u16.to_be_bytes());
            body.extend(r#type.to_be_bytes());
            body.extend([0, 4, 255, 255, 255, 255, 0, 0]);
        }
        body
    }

    #[test]
    fn a_shape_is_names_and_types() {
        let one = shape(b"\0\0", &columns(&[("id", 1, 23), ("name", 1, 25)]), true);
        assert_eq!(one, shape(b"\0\0", &columns(&[("id", 2, 23), ("name", 2, 25)]), true));
        for other in [
            columns(&[("id", 1, 23)]),
            columns(&[("id", 1, 20), ("name", 1, 25)]),
            columns(&[("id", 1, 23), ("named", 1, 25)]),
        ] {
            assert_ne!(one, shape(b"\0\0", &other, true));
        }
        assert_ne!(one, shape(b"\0\x01\0\0\0\x17", &columns(&[("id", 1, 23), ("name", 1, 25)]), true));
        assert_ne!(shape(b"\0\0", b"", false), shape(b"\0\0", b"\0\0", true));
    }

    #[test]
    fn a_description_that_is_cut_off_is_told_by_its_number_of_columns() {
        let whole = columns(&[("id", 1, 23), ("name", 1, 25)]);
        let cut = |len: usize| shape(b"\0\0", &whole[..len], true);
        assert_eq!(cut(whole.len() - 1), cut(10));
        assert_ne!(cut(10), shape(b"\0\0", &whole, true));
        for len in 0..2 {
            assert_eq!(cut(len), cut(0));
        }
    }
}
