//! What a session needs to know of its settings that has several backends.
//!
//! In: settings and pins. Out: whether they have changed, and what binds the session to one of its backends. Must not know
//! which backend that is.

use super::Params;
use crate::pool::{Change, Setting};
use crate::sql::Pins;

impl Params {
    /// Grows whenever what the session has set may have changed.
    pub fn changes(&self) -> u32 {
        self.changes
    }

    /// The settings made by statements and at startup, by name: the last statement that made one.
    pub fn setting(&self, name: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.is(name))
    }

    /// The session's SQL-level prepared statements.
    pub fn prepared_by_sql(&self) -> &[Setting] {
        &self.prepares
    }

    /// Another backend of the session is in use: what binds the session to it takes the place of what bound it to the
    /// last. Between transactions only.
    pub fn exchange_pins(&mut self, pins: &mut (Pins, Pins)) {
        std::mem::swap(&mut self.pins, &mut pins.0);
        std::mem::swap(&mut self.doubtful, &mut pins.1);
    }

    /// The session's SQL-level prepared statements for a backend that does not have them, if there are any.
    pub fn prepares(&self) -> Option<Change> {
        (!self.prepares.is_empty()).then(|| Change::of(&self.prepares))
    }
}
