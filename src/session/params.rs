//! What a session carries from one backend to another: settings, SQL-level prepared statements, and the causes that pin
//! it to its backend.
//!
//! In: effects of statements that succeeded, transaction borders, reported parameters. Out: what to replay. Must not know
//! sockets or nodes.

mod before;
mod channels;
mod several;

use std::borrow::Cow;

use before::Before;
use channels::Channels;

use super::name::{self, Server};
use crate::pool::{self, Applied, Setting};
use crate::sql::{Effect, PinCause, Pins};

/// Longest statement kept for replay, bytes; a longer one pins the session.
pub const MAX_STATEMENT: usize = 8 * 1024;
/// Most settings kept per session; one more pins the session.
pub const MAX_SETTINGS: usize = 200;

/// The name of the client's program: the session's own, backends are opened without it.
const APPLICATION_NAME: &str = "application_name";
/// The backend's role, which is not the session's to report: the endpoint's does not change.
pub const HOT_STANDBY: &str = "in_hot_standby";

/// A parameter of several parts.
const COMPOSED: &str = "DateStyle";

/// Parameters that the server reports but no SET can change.
const FIXED: [&str; 8] = [
    "server_version",
    "server_encoding",
    "integer_datetimes",
    "is_superuser",
    "session_authorization",
    HOT_STANDBY,
    // Set for real through the startup set of a read-only endpoint; a client's own SET is replayed as a statement.
    "default_transaction_read_only",
    "scram_iterations",
];

/// Causes that the server can be asked about, in the order of its answer.
pub const ASKABLE: [PinCause; 4] =
    [PinCause::AdvisoryLock, PinCause::HeldCursor, PinCause::Listen, PinCause::TempTable];

/// Causes that a rollback does not take back.
const LASTING: [PinCause; 5] =
    [PinCause::AdvisoryLock, PinCause::Sequence, PinCause::Seed, PinCause::Library, PinCause::Prepare];

/// Settings and pins of one session, with what an open transaction may still undo.
#[derive(Debug, Default)]
pub struct Params {
    /// What the backend reported at its login; shared with it.
    base: pool::Params,
    /// What differs from `base`.
    own: Vec<(Box<str>, Box<str>)>,
    /// The `application_name` that the client gave at startup, as it came: RESET returns to it.
    given_name: Option<Box<str>>,
    settings: Vec<Setting>,
    prepares: Vec<Setting>,
    /// What a backend of this session has set; `None` until asked for after a change.
    wanted: Option<Applied>,
    changes: u32,
    pins: Pins,
    /// Causes that may have ended since the server was asked.
    doubtful: Pins,
    /// What it listens to, in few sessions.
    channels: Option<Box<Channels>>,
    /// What the transaction has changed of reported parameters, in few sessions.
    before: Option<Box<Before>>,
    pending: Vec<Effect>,
    savepoints: Vec<(Vec<u8>, usize)>,
}

impl Params {
    fn changed(&mut self) {
        self.wanted = None;
        self.changes = self.changes.wrapping_add(1);
    }

    /// Notes what the server reported last; true when the value is new.
    pub fn report(&mut self, name: &str, value: &str) -> bool {
        let new = self.note_report(name, value);
        if new {
            self.changed();
        }
        new
    }

    fn note_report(&mut self, name: &str, value: &str) -> bool {
        match self.own.iter_mut().find(|(key, _)| &**key == name) {
            Some((_, old)) if &**old == value => false,
            Some((_, old)) => {
                *old = value.into();
                true
            }
            None if self.base.get(name) == Some(value) => false,
            None => {
                self.own.push((name.into(), value.into()));
                true
            }
        }
    }

    /// The client gave this `application_name` at startup.
    pub fn give_name(&mut self, name: &str) {
        self.given_name = Some(name.into());
    }

    /// True when the client gave a name at startup.
    pub fn has_given_name(&self) -> bool {
        self.given_name.is_some()
    }

    /// The name given at startup, as the server in hand shows it.
    pub fn given_name(&self) -> Option<Cow<'_, str>> {
        Some(name::shown(self.given_name.as_deref()?, Server::of(&self.base)))
    }

    /// The session has the name given at startup, as a server that reported these makes it. Returns what is new to the
    /// client.
    pub fn report_given_name(&mut self, server: &pool::Params) -> Option<String> {
        let shown = name::shown(self.given_name.as_deref()?, Server::of(server)).into_owned();
        self.report(APPLICATION_NAME, &shown).then_some(shown)
    }

    /// A statement that gives a backend the name given at startup.
    pub fn set_given_name(&self, server: &pool::Params) -> Option<String> {
        let constant = name::constant(self.given_name.as_deref()?, Server::of(server));
        Some(format!("SET application_name = {constant}"))
    }

    /// A statement that sets a parameter to the value that was reported, on a server that reported these.
    pub fn set_reported(&self, name: &str, value: &str, server: &pool::Params) -> String {
        if name != APPLICATION_NAME {
            // Takes lists such as `search_path` as they are reported; SET would quote them as one name.
            return set_config(name, value);
        }
        // In nearly every session and never a list: SET costs the server a small part of a SELECT.
        let shown = self.given_name.as_deref().map(|given| name::shown(given, Server::of(server)));
        let given = if shown.as_deref() == Some(value) { self.set_given_name(server) } else { None };
        given.unwrap_or_else(|| format!("SET application_name = {}", literal(value)))
    }

    /// Notes what another backend reported at its login and `later`; returns what is new to the client. Of the first
    /// backend nothing is: the end of the login tells it all.
    pub fn adopt(&mut self, base: &pool::Params, later: &[(String, String)]) -> Vec<(String, String)> {
        let later_pairs = later.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let is_later = |name: &str| later.iter().any(|(key, _)| key == name);
        let told = !self.base.is_empty();
        let pairs = base.iter().filter(|(name, _)| !is_later(name)).chain(later_pairs.clone());
        let changed = pairs
            .filter(|(name, value)| told && *name != HOT_STANDBY && self.reported(name) != Some(*value))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let old = std::mem::replace(&mut self.base, base.clone());
        // What the new backend has not mentioned stays as the client knows it.
        self.own.retain(|(name, _)| base.get(name).is_none());
        for (name, value) in old.iter().filter(|(name, _)| base.get(name).is_none()).chain(later_pairs) {
            if name == HOT_STANDBY || (self.own.iter().any(|(key, _)| &**key == name) && !is_later(name)) {
                continue;
            }
            self.report(name, value);
        }
        self.own.shrink_to_fit();
        self.changed();
        changed
    }

    /// The value last reported for `name`.
    pub fn reported(&self, name: &str) -> Option<&str> {
        let own = self.own.iter().find(|(key, _)| &**key == name).map(|(_, value)| &**value);
        own.or_else(|| self.base.get(name).filter(|_| name != HOT_STANDBY))
    }

    /// All reported parameters: the server's in its order, then those that differ.
    pub fn all_reported(&self) -> impl Iterator<Item = (&str, &str)> {
        let is_own = |name: &str| self.own.iter().any(|(key, _)| &**key == name);
        let base = self.base.iter().filter(move |(name, _)| *name != HOT_STANDBY && !is_own(name));
        base.chain(self.own.iter().map(|(name, value)| (&**name, &**value)))
    }

    /// All reported parameters that SET can change.
    pub fn settable(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all_reported().filter(|(name, _)| !FIXED.contains(name))
    }

    /// True unless the session switched `standard_conforming_strings` off.
    pub fn standard_strings(&self) -> bool {
        self.reported("standard_conforming_strings") != Some("off")
    }

    /// Statements to replay on a fresh backend, in the order they were given.
    pub fn replays(&self) -> impl Iterator<Item = &Setting> {
        self.settings.iter().chain(&self.prepares)
    }

    /// Everything that is set on a backend of this session beyond its startup set: what the client has set by
    /// statements, then what the server reported without one. Between transactions only.
    pub fn wanted(&mut self) -> &Applied {
        if self.wanted.is_none() {
            // Each SET of this one changes a part of it.
            let style = self.reported(COMPOSED).map(|value| self.reported_setting(COMPOSED, value));
            let of = |known: &Setting| {
                style.clone().filter(|_| known.is(COMPOSED)).unwrap_or_else(|| known.clone())
            };
            let mut all: Vec<Setting> = self.settings.iter().map(of).collect();
            let unknown: Vec<(&str, &str)> = self
                .own
                .iter()
                .map(|(name, value)| (&**name, &**value))
                .filter(|(name, value)| !FIXED.contains(name) && self.base.get(name) != Some(*value))
                .filter(|(name, _)| !self.settings.iter().any(|setting| setting.is(name)))
                .collect();
            // The name changes most often: behind everything else it is the only difference.
            let (names, others): (Vec<_>, Vec<_>) =
                unknown.into_iter().partition(|(name, _)| *name == APPLICATION_NAME);
            all.extend(
                others.into_iter().chain(names).map(|(name, value)| self.reported_setting(name, value)),
            );
            self.wanted = Some(Applied::new(all));
        }
        self.wanted.get_or_insert_default()
    }

    fn reported_setting(&self, name: &str, value: &str) -> Setting {
        let statement = self.set_reported(name, value, &self.base).into_bytes();
        Setting { key: name.as_bytes().to_ascii_lowercase(), statement }
    }

    /// Forgets a statement that could not be replayed.
    pub fn forget(&mut self, setting: &Setting) {
        self.settings.retain(|known| known != setting);
        self.prepares.retain(|known| known != setting);
        self.changed();
    }

    /// Why the session cannot leave its backend unnoticed.
    pub fn pins(&self) -> Pins {
        self.pins
    }

    /// The same where PREPARE is not repeated elsewhere.
    pub fn pins_of_transaction_mode(&self) -> Pins {
        let prepare = if self.prepares.is_empty() { Pins::default() } else { PinCause::Prepare.into() };
        self.pins.union(prepare)
    }

    /// True when names may mean temporary tables of the session, also of its open transaction.
    pub fn has_temporary(&self) -> bool {
        let is_temporary = |effect: &Effect| match effect {
            Effect::TempInBlock => true,
            Effect::Pin(pins) => pins.contains(PinCause::TempTable),
            _ => false,
        };
        self.pins.contains(PinCause::TempTable) || self.pending.iter().any(is_temporary)
    }

    /// True when something would be lost with the backend.
    pub fn is_pinned(&self) -> bool {
        !self.pins.is_empty()
    }

    /// Causes of which the server must say whether they still hold.
    pub fn doubtful(&self) -> Pins {
        self.doubtful
    }

    /// The server has said which of `asked` still hold.
    pub fn resolve(&mut self, asked: Pins, hold: Pins) {
        self.pins = self.pins.without(asked).union(hold);
        self.doubtful = self.doubtful.without(asked);
        if asked.contains(PinCause::Listen) && !hold.contains(PinCause::Listen) {
            self.channels = None;
        }
    }

    /// These may hold: where the server can be asked, it must be.
    pub fn suspect(&mut self, pins: Pins) {
        self.pins = self.pins.union(pins);
        self.note_unknown_channels(pins);
        for cause in ASKABLE.into_iter().filter(|cause| pins.contains(*cause)) {
            self.doubtful.insert(cause);
        }
    }

    /// A cause that nobody needs to be asked about.
    pub fn pin(&mut self, cause: PinCause) {
        self.pins.insert(cause);
    }

    /// The server has said what a setting is that a function may have made; `None`: not the session's own.
    pub fn learn(&mut self, name: &str, value: Option<&str>) {
        let Some(value) = value else {
            let before = self.settings.len();
            self.settings.retain(|known| !known.is(name));
            if self.settings.len() < before {
                self.changed();
            }
            return;
        };
        let statement = set_config(name, value).into_bytes();
        let setting = Setting { key: name.as_bytes().to_vec(), statement };
        if !self.settings.contains(&setting) {
            self.changed();
            keep(&mut self.settings, &mut self.pins, setting.key, setting.statement);
        }
    }

    /// Another backend, which reported these at its login, takes the place of the last; what the session has set will
    /// be set on it. Returns what else is new to the client.
    pub fn rebase(&mut self, base: &pool::Params) -> Vec<(String, String)> {
        if self.base.is_same(base) {
            return Vec::new();
        }
        let is_own = |name: &str| self.own.iter().any(|(key, _)| &**key == name);
        let changed: Vec<(String, String)> = base
            .iter()
            .filter(|(name, value)| {
                *name != HOT_STANDBY && !is_own(name) && self.base.get(name) != Some(*value)
            })
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        self.base = base.clone();
        if !changed.is_empty() {
            self.changed();
        }
        changed
    }

    /// The backend is gone and with it everything only it had.
    pub fn clear_pins(&mut self) {
        self.pins = Pins::default();
        self.doubtful = Pins::default();
        self.pending.clear();
        self.savepoints.clear();
    }

    /// A statement succeeded. What a rollback can undo waits for the transaction's end.
    pub fn succeeded(&mut self, effect: &Effect) {
        match effect {
            Effect::None | Effect::Begin | Effect::Commit | Effect::Rollback | Effect::Hidden(_) => {}
            Effect::Savepoint(name) => self.savepoints.push((name.clone(), self.pending.len())),
            Effect::Release(name) => self.released(name),
            Effect::RollbackTo(name) => self.rolled_back_to(name),
            // Session locks, prepared statements and DISCARD are not undone by a rollback.
            Effect::Pin(pins) => self.pin_all(*pins),
            Effect::Unpin(PinCause::AdvisoryLock)
            | Effect::MayUnpin(PinCause::AdvisoryLock)
            | Effect::DiscardSequences
            | Effect::Prepare { .. }
            | Effect::Deallocate(_)
            | Effect::DeallocateAll
            | Effect::DiscardAll => self.apply(effect.clone()),
            undoable => self.pending.push(undoable.clone()),
        }
    }

    fn pin_all(&mut self, pins: Pins) {
        let lasting = LASTING.into_iter().collect();
        let undoable = pins.without(lasting);
        self.pins = self.pins.union(pins.without(undoable));
        if !undoable.is_empty() {
            self.pending.push(Effect::Pin(undoable));
        }
    }

    /// What came after it stays; an older one may have its name.
    fn released(&mut self, name: &[u8]) {
        if let Some(at) = self.savepoints.iter().rposition(|(known, _)| known == name) {
            self.savepoints.truncate(at);
        }
    }

    fn rolled_back_to(&mut self, name: &[u8]) {
        if let Some(at) = self.savepoints.iter().rposition(|(known, _)| known == name) {
            self.savepoints.truncate(at + 1);
            if let Some((_, len)) = self.savepoints.last() {
                self.pending.truncate(*len);
            }
        }
    }

    /// The transaction is over, and what the server has reported stands.
    pub fn ended(&mut self) {
        self.before = None;
    }

    /// The transaction committed.
    pub fn committed(&mut self) {
        self.savepoints.clear();
        for effect in std::mem::take(&mut self.pending) {
            self.apply(effect);
        }
    }

    /// The transaction rolled back.
    pub fn rolled_back(&mut self) {
        self.savepoints.clear();
        self.pending.clear();
    }

    fn apply(&mut self, effect: Effect) {
        self.changed();
        match effect {
            Effect::Set { name, statement } => self.set(name, statement),
            Effect::Characteristics(modes) => {
                for (name, statement) in modes {
                    self.set(name.to_owned(), statement.into());
                }
            }
            Effect::Reset(name) => {
                // The session's user takes the role along.
                let role = name == "session_authorization";
                let goes = |key: &[u8]| key == name.as_bytes() || (role && key == b"role");
                self.settings.retain(|known| !goes(&known.key));
            }
            Effect::ResetAll => self.settings.retain(|known| is_identity(&known.key)),
            Effect::DiscardAll => self.discard_all(),
            Effect::DiscardTemp => self.pins.remove(PinCause::TempTable),
            Effect::DiscardSequences => self.pins.remove(PinCause::Sequence),
            Effect::Prepare { name, statement } => keep(&mut self.prepares, &mut self.pins, name, statement),
            Effect::Deallocate(name) => self.prepares.retain(|known| known.key != name),
            Effect::DeallocateAll => self.prepares.clear(),
            Effect::Listen(name) => {
                self.pins.insert(PinCause::Listen);
                self.channels.get_or_insert_default().listen(&name);
            }
            Effect::Unlisten(name) => {
                if let Some(channels) = self.channels.as_mut() {
                    channels.unlisten(&name);
                }
                self.apply(Effect::MayUnpin(PinCause::Listen));
            }
            Effect::Pin(pins) => {
                self.pins = self.pins.union(pins);
                self.note_unknown_channels(pins);
            }
            Effect::Unpin(cause) => {
                self.pins.remove(cause);
                if cause == PinCause::Listen {
                    self.channels = None;
                }
            }
            Effect::MayUnpin(cause) if self.pins.contains(cause) => self.doubtful.insert(cause),
            _ => {}
        }
    }

    /// DISCARD ALL ends everything but a library and the state of the random numbers.
    fn discard_all(&mut self) {
        self.settings.clear();
        self.prepares.clear();
        let mut left = Pins::from(PinCause::Seed);
        left.insert(PinCause::Library);
        self.pins = self.pins.without(self.pins.without(left));
        self.doubtful = Pins::default();
        self.channels = None;
    }

    fn set(&mut self, name: String, statement: Vec<u8>) {
        if name == "session_authorization" {
            // SET SESSION AUTHORIZATION also resets the role.
            self.settings.retain(|known| known.key != b"role");
        }
        keep(&mut self.settings, &mut self.pins, name.into_bytes(), statement);
    }
}

/// A statement that sets a parameter for the session.
fn set_config(name: &str, value: &str) -> String {
    format!("SELECT pg_catalog.set_config({}, {}, false)", literal(name), literal(value))
}

/// A string constant that means the same whatever `standard_conforming_strings` is.
pub fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', r"\\")) } else { format!("'{quoted}'") }
}

/// RESET ALL leaves the role and the session's user as they are.
fn is_identity(key: &[u8]) -> bool {
    key == b"role" || key == b"session_authorization"
}

fn keep(list: &mut Vec<Setting>, pins: &mut Pins, key: Vec<u8>, statement: Vec<u8>) {
    list.retain(|known| known.key != key);
    if statement.len() > MAX_STATEMENT || list.len() >= MAX_SETTINGS {
        pins.insert(PinCause::Setting);
    } else {
        list.push(Setting { key, statement });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::effect::effects;

    fn run(params: &mut Params, sql: &str) {
        for effect in effects(sql.as_bytes(), true) {
            params.succeeded(&effect);
            match effect {
                Effect::Commit => params.committed(),
                Effect::Rollback => params.rolled_back(),
                _ => {}
            }
        }
    }

    fn statements(params: &Params) -> Vec<String> {
        params.replays().map(|replay| String::from_utf8(replay.statement.clone()).unwrap()).collect()
    }

    #[test]
    fn a_rollback_undoes_settings_but_not_locks() {
        let mut params = Params::default();
        run(&mut params, "set a = 1; commit");
        run(&mut params, "begin; set a = 2; set b = 3; select pg_advisory_lock(1); listen x; rollback");
        assert_eq!(statements(&params), ["set a = 1"]);
        assert_eq!(params.pins().iter().collect::<Vec<_>>(), [PinCause::AdvisoryLock]);
    }

    #[test]
    fn savepoints_undo_what_came_after_them() {
        let mut params = Params::default();
        run(
            &mut params,
            "begin; set a = 1; savepoint s; set a = 2; savepoint t; set b = 1; rollback to s; set c = 1; commit",
        );
        assert_eq!(statements(&params), ["set a = 1", "set c = 1"]);
        run(
            &mut params,
            "begin; savepoint s; set a = 2; savepoint s; set a = 3; release s; rollback to s; commit",
        );
        assert_eq!(statements(&params), ["set a = 1", "set c = 1"]);
    }

    #[test]
    fn characteristics_are_settings_of_their_own() {
        let mut params = Params::default();
        run(
            &mut params,
            "set session characteristics as transaction read only, isolation level serializable; commit",
        );
        run(&mut params, "reset default_transaction_isolation; commit");
        assert_eq!(statements(&params), ["SET default_transaction_read_only = on"]);
    }

    #[test]
    fn the_last_setting_of_a_name_wins_and_resets_forget() {
        let mut params = Params::default();
        run(
            &mut params,
            "set a = 1; set role x; set b = 1; set a = 2; reset b; prepare q as select 1; commit",
        );
        assert_eq!(statements(&params), ["set role x", "set a = 2", "prepare q as select 1"]);
        run(&mut params, "reset all; commit");
        assert_eq!(statements(&params), ["set role x", "prepare q as select 1"]);
        run(&mut params, "set session authorization y; commit");
        assert_eq!(statements(&params), ["set session authorization y", "prepare q as select 1"]);
        run(&mut params, "set role z; reset session authorization; commit");
        assert_eq!(statements(&params), ["prepare q as select 1"]);
        run(&mut params, "discard all; commit");
        assert!(statements(&params).is_empty());
    }

    #[test]
    fn what_is_too_long_or_too_much_pins() {
        let mut params = Params::default();
        run(&mut params, &format!("set a = '{}'; commit", "x".repeat(MAX_STATEMENT)));
        assert_eq!(params.pins().iter().collect::<Vec<_>>(), [PinCause::Setting]);
        let mut params = Params::default();
        for n in 0..=MAX_SETTINGS {
            run(&mut params, &format!("set x.a{n} = 1; commit"));
        }
        assert!(params.is_pinned());
        assert_eq!(params.replays().count(), MAX_SETTINGS);
    }

    #[test]
    fn parts_of_a_setting_add_up() {
        let mut params = Params::default();
        run(&mut params, "set datestyle = 'iso'; set datestyle = 'ymd'; commit");
        params.report("DateStyle", "ISO, YMD");
        let [wanted] = params.wanted().settings() else { panic!("one setting") };
        assert_eq!(wanted.statement, b"SELECT pg_catalog.set_config('DateStyle', 'ISO, YMD', false)");
    }

    fn reported_by_server(pairs: &[(&str, &str)]) -> pool::Params {
        let mut params = pool::Params::default();
        for (name, value) in pairs {
            params.set(name, value);
        }
        params
    }

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn another_backend_changes_what_it_says_and_nothing_else() {
        let mut params = Params::default();
        params.report("application_name", "app");
        let first = reported_by_server(&[
            ("TimeZone", "UTC"),
            ("server_version", "15.1"),
            ("old", "1"),
            (HOT_STANDBY, "off"),
        ]);
        // The login tells everything: nothing is news.
        assert_eq!(params.adopt(&first, &owned(&[("application_name", "app")])), []);
        params.report("TimeZone", "CET");
        let second =
            reported_by_server(&[("TimeZone", "UTC"), ("server_version", "15.2"), (HOT_STANDBY, "on")]);
        let later = owned(&[("TimeZone", "CET"), ("work", "x")]);
        assert_eq!(params.adopt(&second, &later), owned(&[("server_version", "15.2"), ("work", "x")]));
        let mut all: Vec<_> = params.all_reported().collect();
        all.sort_unstable();
        assert_eq!(
            all,
            [
                ("TimeZone", "CET"),
                ("application_name", "app"),
                ("old", "1"),
                ("server_version", "15.2"),
                ("work", "x")
            ]
        );
        assert_eq!(params.adopt(&second, &[]), owned(&[("TimeZone", "UTC")]));
        assert_eq!(params.reported("TimeZone"), Some("UTC"));
        assert_eq!(params.reported("application_name"), Some("app"));
    }

    #[test]
    fn a_name_given_at_startup_is_shown_and_set_as_the_server_does() {
        let mut params = Params::default();
        params.give_name("\u{ef}");
        let server = reported_by_server(&[
            ("server_version", "15.1"),
            ("server_encoding", "UTF8"),
            ("TimeZone", "UTC"),
        ]);
        params.adopt(&server, &[]);
        assert_eq!(params.report_given_name(&server).as_deref(), Some("??"));
        assert_eq!(
            params.set_reported(APPLICATION_NAME, "??", &server),
            r"SET application_name = E'\xc3\xaf'"
        );
        let given = params.set_given_name(&server).unwrap();
        assert_eq!(params.wanted().settings()[0].statement, given.as_bytes());
        params.report(APPLICATION_NAME, "other");
        assert_eq!(params.wanted().settings()[0].statement, b"SET application_name = 'other'");
        assert_eq!(
            params.set_reported("search_path", "\"$user\", public", &server),
            "SELECT pg_catalog.set_config('search_path', '\"$user\", public', false)"
        );
    }

    #[test]
    fn literals_mean_the_same_in_both_string_modes() {
        assert_eq!(literal("it's"), "'it''s'");
        assert_eq!(literal(r"a\b'c"), r"E'a\\b''c'");
    }

    #[test]
    fn reports_say_whether_they_are_new() {
        let mut params = Params::default();
        assert!(params.report("TimeZone", "UTC"));
        assert!(!params.report("TimeZone", "UTC"));
        assert!(params.report("TimeZone", "CET"));
        params.report("server_version", "15");
        assert_eq!(params.settable().collect::<Vec<_>>(), [("TimeZone", "CET")]);
    }
}
