//! Texts that were too long to be read whole: what they may have set is not known.
//!
//! In: that one was sent, what completes. Out: whether anything of it can matter. Sans-IO.

use super::Sharing;
use crate::session::params::ASKABLE;
use crate::session::state::State;
use crate::sql::glance;
use crate::wire::frontend::Kind;

/// What is known of texts that were too long to be read whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Unread {
    #[default]
    Nothing,
    /// One of a single statement: only functions in it can have had an effect, of which the server can be asked.
    Statement,
    /// A Query under way and how many statements of it have completed.
    Query(usize),
    /// Several statements, or one that sets something: nobody can know what they have left.
    Statements,
}

impl State {
    /// A text was sent of which only the beginning was seen.
    pub(super) fn note_unread(&mut self, kind: Kind, head: &[u8]) {
        let alone = self.pipeline.is_idle();
        let name = if kind == Kind::Parse { head.iter().position(|byte| *byte == 0) } else { None };
        let secret = glance::begins_secretly(head.get(name.map_or(0, |end| end + 1)..).unwrap_or_default());
        let Some(sharing) = self.sharing.as_mut() else { return };
        sharing.unread = match (kind, sharing.unread) {
            (_, Unread::Statements) => Unread::Statements,
            _ if secret => Unread::Statements,
            (Kind::Parse, _) => Unread::Statement,
            _ if alone => Unread::Query(0),
            _ => Unread::Statements,
        };
    }

    /// A statement completed with this tag.
    pub(in crate::session) fn note_completion(&mut self, tag: &[u8]) {
        self.note_definition(tag);
        if let Some(Sharing { unread: Unread::Query(count), .. }) = self.sharing.as_deref_mut() {
            *count += 1;
        }
    }

    /// DISCARD ALL has ended what a text left that nobody has read.
    pub(in crate::session) fn forget_unread(&mut self) {
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.unread = Unread::Nothing;
        }
    }

    /// The server is ready: a long Query of one statement can only have called functions.
    pub(in crate::session) fn settle_unread(&mut self) {
        let Some(sharing) = self.sharing.as_mut() else { return };
        sharing.unread = match sharing.unread {
            Unread::Query(0 | 1) | Unread::Statement => Unread::Nothing,
            Unread::Query(_) => Unread::Statements,
            other => return sharing.unread = other,
        };
        if sharing.unread == Unread::Nothing {
            self.params.suspect(ASKABLE.into_iter().collect());
        }
    }
}
