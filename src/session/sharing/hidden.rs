//! What the functions a session calls may have left behind, until the server has been asked.
//!
//! In: statements, and what the functions of the database do. Out: what to ask when the transaction is over. Sans-IO.

use std::sync::Arc;

use crate::session::state::State;
use crate::sql::Effect;
use crate::sql::hidden::{Hidden, Risks};

/// What is known of the database's functions, and what they may have done since the server was asked.
#[derive(Debug, Default)]
pub(super) struct Watch {
    risks: Arc<Risks>,
    /// Which of the catalogue's versions that is.
    version: u64,
    left: Hidden,
    /// Functions, or what calls them, have been made or changed.
    changed: bool,
}

impl Watch {
    /// True when a server must be asked for settings.
    pub(super) fn is_waiting(&self) -> bool {
        self.changed || !self.left.settings.is_empty()
    }
}

impl State {
    /// The version of what is known of functions.
    pub fn risks_version(&self) -> u64 {
        self.sharing.as_ref().map_or(0, |sharing| sharing.watch.version)
    }

    /// Another version is known.
    pub fn set_risks(&mut self, risks: Option<Arc<Risks>>, version: u64) {
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.watch.risks = risks.unwrap_or_default();
            sharing.watch.version = version;
        }
    }

    /// What a statement may leave by what it calls.
    pub(in crate::session) fn hidden(&self, sql: &[u8]) -> Option<Effect> {
        let watch = &self.sharing.as_ref()?.watch;
        let hidden = watch.risks.of(sql, self.params.standard_strings());
        (!hidden.is_empty()).then(|| Effect::Hidden(Box::new(hidden)))
    }

    /// A statement with these effects is sent.
    pub(in crate::session) fn note_hidden(&mut self, effects: Option<&[Effect]>) {
        let Some(Effect::Hidden(hidden)) = effects.and_then(<[Effect]>::last) else { return };
        if let Some(sharing) = self.sharing.as_mut() {
            sharing.watch.left.add(hidden);
        }
    }

    /// A statement completed with this tag: it may have changed what functions there are, or what calls them.
    pub(super) fn note_definition(&mut self, tag: &[u8]) {
        let Some(sharing) = self.sharing.as_mut() else { return };
        let thing = tag.strip_prefix(b"CREATE ").or_else(|| tag.strip_prefix(b"ALTER "));
        sharing.watch.changed |= match thing {
            Some(b"FUNCTION" | b"PROCEDURE" | b"ROUTINE" | b"EXTENSION") => true,
            // They matter by the functions that they call.
            Some(b"TRIGGER" | b"VIEW" | b"TABLE") => !sharing.watch.risks.is_empty(),
            _ => false,
        };
    }

    /// The transaction is over: what may be left of what the server can be asked about is doubtful now.
    pub(in crate::session) fn settle_hidden(&mut self) {
        let Some(sharing) = self.sharing.as_mut() else { return };
        let pins = std::mem::take(&mut sharing.watch.left.pins);
        if !pins.is_empty() {
            self.params.suspect(pins);
        }
    }

    /// True when a server must be asked what the session has left on it.
    pub fn is_in_doubt(&self) -> bool {
        let waiting = self.sharing.as_ref().is_some_and(|sharing| sharing.watch.is_waiting());
        waiting || !self.params.doubtful().is_empty()
    }

    /// True, once, when functions have changed. Whatever they do now the session may have done since.
    pub fn take_changed_functions(&mut self) -> bool {
        self.sharing.as_mut().is_some_and(|sharing| std::mem::take(&mut sharing.watch.changed))
    }

    /// The session may have called any function that is known.
    pub fn suspect_all_functions(&mut self) {
        let Some(sharing) = self.sharing.as_mut() else { return };
        let all = sharing.watch.risks.all();
        sharing.watch.left.add(&all);
        self.settle_hidden();
    }

    /// The settings that functions may have made, once.
    pub fn take_settings_left(&mut self) -> Vec<String> {
        self.sharing
            .as_mut()
            .map(|sharing| std::mem::take(&mut sharing.watch.left.settings))
            .unwrap_or_default()
    }
}
