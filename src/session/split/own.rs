//! The settings of a session that routing looks at: `pgsteer.target`, `pgsteer.min_lsn`, `pgsteer.max_lag`. To servers they
//! are custom settings like others.
//!
//! In: statements that make settings. Out: their values, or why a session cannot have them.

use crate::config::parse_duration;
use crate::sql::lexer::{Lexer, Token};
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

/// The value in a statement that makes a setting: a constant or a word, behind `=` or TO, or in a `set_config`.
pub fn value(statement: &[u8]) -> Option<String> {
    let mut tokens = Lexer::new(statement, true).filter(|token| *token != Token::Semicolon);
    let is_call = !tokens.next()?.is("set");
    let mut found = None;
    while let Some(token) = tokens.next() {
        let begins =
            if is_call { token == Token::Mark(b',') } else { token == Token::Mark(b'=') || token.is("to") };
        if begins {
            found = tokens.next();
            break;
        }
    }
    let is_last = match tokens.next() {
        None => !is_call,
        // As `set_config` makes it for the session: the third argument.
        Some(Token::Mark(b',')) => is_call && tokens.next()?.is("false"),
        Some(_) => false,
    };
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    match found.filter(|_| is_last)? {
        Token::Text(constant) => {
            let inner = text(constant)?;
            let inner = inner.trim_start_matches(['E', 'e']).strip_prefix('\'')?.strip_suffix('\'')?;
            Some(inner.replace("''", "'"))
        }
        Token::QuotedName(name) => text(name),
        Token::Word(word) | Token::Number(word) => text(&word.to_ascii_lowercase()),
        _ => None,
    }
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
            ("SET pgsteer.target = 'primary' /* = 'x' */ ; -- to y", Some("primary")),
            ("SET /* to */ pgsteer.target=E'it''s'", Some("it's")),
            ("SET pgsteer.max_lag = 0", Some("0")),
            ("SET search_path = a, b", None),
            ("SELECT set_config('pgsteer.target', 'standby', true)", None),
            ("SELECT set_config('pgsteer.target', $1, false)", None),
            ("SET x", None),
        ] {
            assert_eq!(value(statement.as_bytes()).as_deref(), expected, "{statement}");
        }
    }
}
