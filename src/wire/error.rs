//! ErrorResponse and NoticeResponse: the ones we send and a view of the ones we receive (section 55.8).
//!
//! In: field bytes, or a code and a text. Out: encoded messages and borrowed fields. Must not know who is told.

use super::encode;

/// A five-character SQLSTATE (appendix A of the PostgreSQL manual).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// 08000: connection exception.
    pub const CONNECTION_EXCEPTION: Self = Self(*b"08000");
    /// 08007: the fate of a transaction is unknown.
    pub const TRANSACTION_RESOLUTION_UNKNOWN: Self = Self(*b"08007");
    /// 08P01: protocol violation.
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    /// 0A000: feature not supported.
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    /// 22023: invalid parameter value.
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// 25006: read-only transaction.
    pub const READ_ONLY_TRANSACTION: Self = Self(*b"25006");
    /// 25P02: the current transaction is aborted.
    pub const IN_FAILED_TRANSACTION: Self = Self(*b"25P02");
    /// 28000: invalid authorization.
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    /// 28P01: invalid password.
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// 3D000: no such database.
    pub const INVALID_CATALOG_NAME: Self = Self(*b"3D000");
    /// 26000: a prepared statement that is not there.
    pub const UNDEFINED_PREPARED_STATEMENT: Self = Self(*b"26000");
    /// 42P05: a prepared statement of this name exists.
    pub const DUPLICATE_PREPARED_STATEMENT: Self = Self(*b"42P05");
    /// 40001: the work was rolled back; doing it again is safe.
    pub const SERIALIZATION_FAILURE: Self = Self(*b"40001");
    /// 40P01: the work was rolled back to end a deadlock.
    pub const DEADLOCK_DETECTED: Self = Self(*b"40P01");
    /// 42704: no such object or parameter.
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    /// 42501: insufficient privilege.
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    /// 42601: syntax error.
    pub const SYNTAX_ERROR: Self = Self(*b"42601");
    /// 53300: too many connections.
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// 55000: not in the state that this needs; on a standby, that is in recovery.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// 55P02: a parameter that cannot be changed now.
    pub const CANT_CHANGE_RUNTIME_PARAM: Self = Self(*b"55P02");
    /// 57014: query cancelled.
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    /// 57P01: terminated by an administrator.
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// 57P02: crash of another server process.
    pub const CRASH_SHUTDOWN: Self = Self(*b"57P02");
    /// 57P03: cannot connect now.
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// 57P04: the database was dropped, or a standby has to drop it.
    pub const DATABASE_DROPPED: Self = Self(*b"57P04");
    /// XX000: internal error.
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");

    /// The code as text; a code with bytes outside ASCII shows as `?????`.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("?????")
    }

    /// Reads a code from an error's `C` field.
    pub fn parse(text: &str) -> Option<Self> {
        Some(Self(text.as_bytes().try_into().ok()?))
    }
}

impl std::fmt::Debug for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::fmt::Display for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How bad: decides what a client does with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, the connection stays.
    Error,
    /// The connection ends.
    Fatal,
    /// The server ends.
    Panic,
    /// Anything below an error.
    Notice,
}

impl Severity {
    /// The word of fields `S` and `V`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "ERROR",
            Self::Fatal => "FATAL",
            Self::Panic => "PANIC",
            Self::Notice => "NOTICE",
        }
    }

    fn parse(word: &str) -> Self {
        match word {
            "ERROR" => Self::Error,
            "FATAL" => Self::Fatal,
            "PANIC" => Self::Panic,
            _ => Self::Notice,
        }
    }
}

/// An error that we originate. Its texts go to clients: no secrets, no addresses of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {code}: {message}", severity.as_str())]
pub struct PgError {
    /// ERROR keeps the connection, FATAL ends it.
    pub severity: Severity,
    /// The SQLSTATE drivers act on.
    pub code: SqlState,
    /// One sentence, lower case, as the server writes them.
    pub message: String,
    /// What else is known.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
}

impl PgError {
    /// An error that leaves the connection open.
    pub fn error(code: SqlState, message: impl Into<String>) -> Self {
        Self { severity: Severity::Error, code, message: message.into(), detail: None, hint: None }
    }

    /// An error that ends the connection.
    pub fn fatal(code: SqlState, message: impl Into<String>) -> Self {
        Self { severity: Severity::Fatal, ..Self::error(code, message) }
    }

    /// Adds field `D`.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// Adds field `H`.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Appends the ErrorResponse message to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_as(b'E', out);
    }

    /// Appends the same text as a NoticeResponse.
    pub fn encode_notice(&self, out: &mut Vec<u8>) {
        self.encode_as(b'N', out);
    }

    fn encode_as(&self, tag: u8, out: &mut Vec<u8>) {
        encode::message(out, tag, |body| {
            let word = self.severity.as_str();
            for (field, text) in
                [(b'S', word), (b'V', word), (b'C', self.code.as_str()), (b'M', &self.message)]
            {
                encode_field(body, field, text);
            }
            for (field, text) in [(b'D', &self.detail), (b'H', &self.hint)] {
                if let Some(text) = text {
                    encode_field(body, field, text);
                }
            }
            body.push(0);
        });
    }
}

fn encode_field(body: &mut Vec<u8>, field: u8, text: &str) {
    body.push(field);
    // A zero byte would end the field early and shift all that follows.
    body.extend(text.bytes().filter(|byte| *byte != 0));
    body.push(0);
}

/// A received ErrorResponse or NoticeResponse: fields found on demand, never copied.
#[derive(Clone, Copy, Debug)]
pub struct ErrorView<'a> {
    body: &'a [u8],
}

impl<'a> ErrorView<'a> {
    /// Looks into the body of an `E` or `N` message.
    pub fn new(body: &'a [u8]) -> Self {
        Self { body }
    }

    /// The text of one field, if it is there and is valid UTF-8.
    pub fn field(&self, wanted: u8) -> Option<&'a str> {
        let mut rest = self.body;
        while let Some((&field, tail)) = rest.split_first() {
            if field == 0 {
                return None;
            }
            let end = memchr::memchr(0, tail)?;
            let (text, after) = tail.split_at_checked(end)?;
            if field == wanted {
                return std::str::from_utf8(text).ok();
            }
            rest = after.get(1..)?;
        }
        None
    }

    /// All fields: type and text.
    pub fn fields(&self) -> impl Iterator<Item = (u8, &'a [u8])> + use<'a> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            let (&field, tail) = rest.split_first().filter(|(field, _)| **field != 0)?;
            let end = memchr::memchr(0, tail).unwrap_or(tail.len());
            let (text, after) = tail.split_at_checked(end)?;
            rest = after.get(1..).unwrap_or_default();
            Some((field, text))
        })
    }

    /// The SQLSTATE; XX000 when the server sent none.
    pub fn code(&self) -> SqlState {
        self.field(b'C').and_then(SqlState::parse).unwrap_or(SqlState::INTERNAL_ERROR)
    }

    /// The severity, from the field that is never translated (`V`), else from `S`.
    pub fn severity(&self) -> Severity {
        self.field(b'V').or_else(|| self.field(b'S')).map_or(Severity::Error, Severity::parse)
    }

    /// The primary text.
    pub fn message(&self) -> &'a str {
        self.field(b'M').unwrap_or("")
    }

    /// Appends the same error with another primary text.
    pub fn encode_with_message(&self, out: &mut Vec<u8>, message: &[u8]) {
        encode::message(out, b'E', |out| {
            let mut rest = self.body;
            while let Some((&field, tail)) = rest.split_first().filter(|(field, _)| **field != 0) {
                let end = memchr::memchr(0, tail).unwrap_or(tail.len());
                let (text, after) = tail.split_at(end);
                out.push(field);
                encode::cstr(out, if field == b'M' { message } else { text });
                rest = after.get(1..).unwrap_or_default();
            }
            out.push(0);
        });
    }

    /// True when the sender closes the connection after this message.
    pub fn ends_connection(&self) -> bool {
        matches!(self.severity(), Severity::Fatal | Severity::Panic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame;

    #[test]
    fn what_we_write_we_can_read() {
        let error = PgError::fatal(SqlState::INVALID_PASSWORD, "no\0 way").with_detail("d").with_hint("h");
        let mut out = Vec::new();
        error.encode(&mut out);
        let (frame, rest) = frame::split(&out).unwrap().unwrap();
        assert!(rest.is_empty());
        let view = ErrorView::new(frame.body);
        assert_eq!(view.code(), SqlState::INVALID_PASSWORD);
        assert_eq!(view.message(), "no way");
        assert_eq!(view.field(b'D'), Some("d"));
        assert_eq!(view.field(b'H'), Some("h"));
        assert!(view.ends_connection());
    }

    #[test]
    fn truncated_fields_are_none() {
        for body in [&b""[..], b"\0", b"C", b"C28P01", b"Mx\0C"] {
            assert_eq!(ErrorView::new(body).code(), SqlState::INTERNAL_ERROR);
        }
    }
}
