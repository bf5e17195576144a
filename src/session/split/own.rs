//! The settings of a session that routing looks at: `pgsteer.target`, `pgsteer.min_lsn`, `pgsteer.max_lag`. To servers they
//! are custom settings like others.
//!
//! In: statements that make settings. Out: their values, or why a session cannot have them.

use crate::config::parse_duration;
use crate::sql::lexer::Lexer;
use crate::topology::{Lsn, Timeline};
use crate::wire::error::{PgError, SqlState};

/// A setting that routing looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// `pgsteer.target`.
    Target,
    /// `pgsteer.min_lsn`.
    MinLsn,
    /// `pgsteer.max_lag`.
    MaxLag,
    /// `pgsteer.lsn`, which is only shown.
    Lsn,
    /// No such one.
    Unknown,
}

impl Own {
    fn of(name: &str) -> Self {
        match name {
            "pgsteer.target" => Self::Target,
            "pgsteer.min_lsn" => Self::MinLsn,
            "pgsteer.max_lag" => Self::MaxLag,
            "pgsteer.lsn" => Self::Lsn,
            _ => Self::Unknown,
        }
    }

    fn takes(self, value: &str) -> bool {
        match self {
            Self::Target => ["auto", "primary", "standby", "default"].contains(&value),
            Self::MinLsn => ["", "default"].contains(&value) || position(value).is_some(),
            Self::MaxLag => ["", "default", "0"].contains(&value) || parse_duration(value).is_ok(),
            Self::Lsn | Self::Unknown => false,
        }
    }

    /// What the client is told of a value that it cannot have.
    pub fn refusal(self) -> PgError {
        let invalid = |text| PgError::error(SqlState::INVALID_PARAMETER_VALUE, text);
        match self {
            Self::Target => invalid("invalid value for parameter \"pgsteer.target\"")
                .with_hint("Available values: auto, primary, standby."),
            Self::MinLsn => invalid("invalid value for parameter \"pgsteer.min_lsn\"")
                .with_hint("Write what SHOW pgsteer.lsn says, such as '2:0/16B3748', or '' for none."),
            Self::MaxLag => invalid("invalid value for parameter \"pgsteer.max_lag\"").with_hint(
                "Write a duration with its unit, such as '500ms' or '5s', or '' for the cluster's limit.",
            ),
            Self::Lsn => PgError::error(
                SqlState::CANT_CHANGE_RUNTIME_PARAM,
                "parameter \"pgsteer.lsn\" cannot be changed",
            ),
            Self::Unknown => {
                PgError::error(SqlState::UNDEFINED_OBJECT, "unrecognized configuration parameter").with_hint(
                    "Those of pgsteer are pgsteer.target, pgsteer.min_lsn, pgsteer.max_lag and pgsteer.lsn.",
                )
            }
        }
    }
}

/// A setting of ours that a text gives a value it cannot have.
pub fn invalid_setting(sql: &[u8]) -> Option<Own> {
    let at = memchr::memmem::find(sql, b"pgsteer.").filter(|at| *at < 32)?;
    let first = Lexer::new(sql, true).next()?;
    if !first.is("set") {
        return None;
    }
    let rest = std::str::from_utf8(sql.get(at..)?).ok()?;
    let end = rest.find(|letter: char| !(letter.is_ascii_alphanumeric() || "._".contains(letter)));
    let own = Own::of(&rest.get(..end?)?.to_ascii_lowercase());
    let value = value(sql)?;
    (!own.takes(&value)).then_some(own)
}

/// `timeline:LSN`, or an LSN of the present timeline.
pub fn position(value: &str) -> Option<(Option<Timeline>, Lsn)> {
    match value.trim().split_once(':') {
        Some((timeline, lsn)) => {
            Some((Some(Timeline(timeline.trim().parse().ok()?)), lsn.trim().parse().ok()?))
        }
        None => Some((None, value.trim().parse().ok()?)),
    }
}

/// The value in a statement that makes a setting.
pub fn value(statement: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(statement).ok()?;
    let text = text.trim().trim_end_matches(';').trim_end();
    let unquote = |text: &str| {
        let inner = text.trim().trim_start_matches(['E', 'e']).strip_prefix('\'')?.strip_suffix('\'')?;
        Some(inner.replace("''", "'"))
    };
    if let Some(called) = text.strip_suffix(", false)") {
        // As `set_config` makes it: name and value are constants.
        return unquote(called.split_once("', ")?.1);
    }
    let at = text.find('=').map(|at| (at, at + 1)).or_else(|| {
        let at = text.to_ascii_lowercase().find(" to ")?;
        Some((at, at + 4))
    })?;
    let value = text.get(at.1..)?.trim();
    Some(unquote(value).unwrap_or_else(|| value.trim_matches('"').to_ascii_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_settings_are_read_as_they_were_made() {
        for (statement, expected) in [
            ("SET pgsteer.target = 'standby'", Some("standby")),
            ("set session pgsteer.target to Standby;", Some("standby")),
            ("SELECT pg_catalog.set_config('pgsteer.min_lsn', '2:0/16B3748', false)", Some("2:0/16B3748")),
            ("SET pgsteer.max_lag = '5s'", Some("5s")),
            ("SET x", None),
        ] {
            assert_eq!(value(statement.as_bytes()).as_deref(), expected, "{statement}");
        }
    }
}
