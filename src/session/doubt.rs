//! Asks the server what a session has left on its backend, where its statements do not tell.
//!
//! In: a session between transactions. Out: the same with its pins and settings as the server has them.

use tokio::time::Instant;

use super::params::{ASKABLE, literal};
use super::restore;
use super::run::{Flow, Session};
use crate::sql::{PinCause, Pins};

/// Tells by a `t` or `f` for each of [`ASKABLE`] whether the session has any; then, as JSON, settings.
const QUESTION: &str = "SELECT pg_catalog.concat(\
    EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid = pg_catalog.pg_backend_pid()), \
    EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable), \
    EXISTS (SELECT FROM pg_catalog.pg_listening_channels()), \
    EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_namespace'::regclass \
        AND refobjid = pg_catalog.pg_my_temp_schema())";

impl Session {
    /// True when only the server knows what the session has left on its backend.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.is_sharing()
            && self.attached.is_some()
            && self.state.is_in_doubt()
            && self.state.is_quiet()
            && !self.up.must_write()
    }

    /// Learns what the functions of the database do, if that is known by now.
    pub(super) fn learn_risks(&mut self) {
        let version = self.ctx.catalogues.version();
        if self.state.risks_version() != version {
            self.state.set_risks(self.ctx.catalogues.risks(&self.login.database), version);
        }
    }

    /// Asks the server what of the session's it still holds.
    pub(super) async fn settle_doubt(&mut self) -> Flow {
        if self.state.take_changed_functions() {
            if !self.ctx.catalogues.refresh(&self.login.database).await {
                // What they do is not known in time: whatever they have left stays with this backend.
                self.state.params.pin(PinCause::Setting);
            }
            self.learn_risks();
            self.state.suspect_all_functions();
        }
        let asked = self.state.params.doubtful();
        let names = self.state.take_settings_left();
        if asked.is_empty() && names.is_empty() {
            return Ok(());
        }
        let deadline = Instant::now() + self.ctx.settings.load().pool.reset_timeout;
        let Some(attached) = self.attached.as_mut() else { return Ok(()) };
        match restore::ask(&mut attached.backend, &question(&names), deadline, &mut self.replies).await {
            Ok(answer) => {
                self.settle_answer(asked, &names, answer.as_deref().unwrap_or_default());
                self.tell();
                Ok(())
            }
            Err(_) => self.settle_loss(),
        }
    }

    fn settle_answer(&mut self, asked: Pins, names: &[String], answer: &[u8]) {
        let (flags, values) = answer.split_at_checked(ASKABLE.len()).unwrap_or_default();
        let mut hold = Pins::default();
        for (at, cause) in ASKABLE.into_iter().enumerate() {
            // A server that would not say: the session keeps what it may have.
            if flags.get(at) != Some(&b'f') && asked.contains(cause) {
                hold.insert(cause);
            }
        }
        self.state.params.resolve(asked, hold);
        if names.is_empty() {
            return;
        }
        match serde_json::from_slice::<Vec<Option<String>>>(values) {
            Ok(values) => {
                for (name, value) in names.iter().zip(values) {
                    self.state.params.learn(name, value.as_deref());
                }
            }
            Err(_) => self.state.params.pin(PinCause::Setting),
        }
    }
}

/// The question, with these settings.
fn question(names: &[String]) -> String {
    let values: Vec<String> = names.iter().map(|name| value_of(name)).collect();
    if values.is_empty() {
        return format!("{QUESTION})");
    }
    format!("{QUESTION}, pg_catalog.to_json(ARRAY[{}]::text[]))", values.join(", "))
}

/// A setting's value, or NULL when the session does not have one of its own. Those with a dot in their names that no
/// extension knows are in no view: an empty one may never have been set.
fn value_of(name: &str) -> String {
    let quoted = literal(name);
    let value = format!("pg_catalog.current_setting({quoted}, true)");
    match name {
        "role" => format!("nullif({value}, 'none')"),
        _ if name.contains('.') => format!("nullif({value}, '')"),
        _ => format!(
            "(SELECT {value} FROM pg_catalog.pg_settings \
             WHERE lower(name) = {quoted} AND source = 'session')"
        ),
    }
}
