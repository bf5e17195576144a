//! The first packet of a connection: SSLRequest, GSSENCRequest, CancelRequest or StartupMessage 3.0 to 3.2 (55.2.1).
//!
//! In: the bytes of one packet. Out: a [`FirstPacket`]. Must not know who may log in.

use super::error::{PgError, SqlState};

/// Code of SSLRequest.
pub const SSL_REQUEST: u32 = 80_877_103;
/// Code of GSSENCRequest.
pub const GSSENC_REQUEST: u32 = 80_877_104;
/// Code of CancelRequest.
pub const CANCEL_REQUEST: u32 = 80_877_102;
/// Protocol 3.0.
pub const PROTOCOL_3_0: u32 = 3 << 16;
/// Protocol 3.2: longer cancel keys. 3.1 is reserved and never offered.
pub const PROTOCOL_3_2: u32 = (3 << 16) | 2;
/// Longest cancel key of protocol 3.2, bytes.
pub const MAX_CANCEL_KEY: usize = 256;
/// Names are cut to this many bytes, as the server does (NAMEDATALEN - 1).
pub const MAX_NAME: usize = 63;

/// What a client asked for first.
#[derive(Debug, PartialEq, Eq)]
pub enum FirstPacket {
    /// Answer `S` or `N`, then the next packet follows.
    Ssl,
    /// Answer `N`: no GSSAPI here.
    Gss,
    /// Cancel what the session with this key runs; the connection ends without an answer.
    Cancel {
        /// Process id as the client was told it.
        pid: i32,
        /// Secret as the client was told it.
        key: Vec<u8>,
    },
    /// A login.
    Startup(Startup),
}

/// A login's parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Startup {
    /// The protocol version to speak: 3.0 or 3.2.
    pub version: u32,
    /// The user, never empty.
    pub user: String,
    /// The database; the user's name when the client sent none.
    pub database: String,
    /// The value of `replication`, when the client sent one.
    pub replication: Option<String>,
    /// All other parameters in the client's order, `options` included; the last of a repeated name wins.
    pub params: Vec<(String, String)>,
    /// Set when the client asked for something newer: NegotiateProtocolVersion must be sent with these unknown options.
    pub negotiate: Option<Vec<String>>,
}

impl Startup {
    /// The value of one parameter.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Why a first packet is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The server closes without a word (`COMMERROR`): whoever sent this does not speak the protocol.
    Silent(&'static str),
    /// The server says this.
    Told(PgError),
}

impl From<PgError> for Refusal {
    fn from(error: PgError) -> Self {
        Self::Told(error)
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Silent(why) => f.write_str(why),
            Self::Told(error) => write!(f, "{error}"),
        }
    }
}

const BAD_LENGTH: Refusal = Refusal::Silent("invalid length of startup packet");

/// Bytes a first packet has in all, from its length field; longer ones than `limit` are refused.
pub fn packet_len(head: [u8; 4], limit: usize) -> Result<usize, Refusal> {
    let len = u32::from_be_bytes(head) as usize;
    if (8..=limit).contains(&len) { Ok(len) } else { Err(BAD_LENGTH) }
}

fn violation(message: &str) -> PgError {
    PgError::fatal(SqlState::PROTOCOL_VIOLATION, message)
}

/// Reads a whole first packet, length field included.
pub fn parse(packet: &[u8]) -> Result<FirstPacket, Refusal> {
    let Some((code, body)) = packet.get(4..).and_then(<[u8]>::split_first_chunk::<4>) else {
        return Err(BAD_LENGTH);
    };
    match u32::from_be_bytes(*code) {
        SSL_REQUEST => Ok(FirstPacket::Ssl),
        GSSENC_REQUEST => Ok(FirstPacket::Gss),
        CANCEL_REQUEST => parse_cancel(body),
        version => Ok(FirstPacket::Startup(parse_startup(version, body)?)),
    }
}

fn parse_cancel(body: &[u8]) -> Result<FirstPacket, Refusal> {
    match body.split_first_chunk::<4>() {
        Some((pid, key)) if !key.is_empty() && key.len() <= MAX_CANCEL_KEY => {
            Ok(FirstPacket::Cancel { pid: i32::from_be_bytes(*pid), key: key.to_vec() })
        }
        _ => Err(Refusal::Silent("invalid length of query cancel packet")),
    }
}

/// The server's words for a version it does not speak; a request for encryption in the wrong place counts as one.
pub fn unsupported(version: u32) -> PgError {
    let (major, minor) = (version >> 16, version & 0xFFFF);
    PgError::fatal(
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2"),
    )
}

fn parse_startup(version: u32, body: &[u8]) -> Result<Startup, PgError> {
    let (major, minor) = (version >> 16, version & 0xFFFF);
    if major != 3 {
        return Err(unsupported(version));
    }
    let mut startup =
        Startup { version: if minor >= 2 { PROTOCOL_3_2 } else { PROTOCOL_3_0 }, ..Startup::default() };
    let mut unknown = Vec::new();
    for (name, value) in pairs(body)? {
        if name.starts_with("_pq_.") {
            unknown.push(name);
        } else {
            startup.take(name, value);
        }
    }
    if startup.user.is_empty() {
        return Err(PgError::fatal(
            SqlState::INVALID_AUTHORIZATION,
            "no PostgreSQL user name specified in startup packet",
        ));
    }
    if startup.database.is_empty() {
        startup.database.clone_from(&startup.user);
    }
    if minor > 2 || minor == 1 || !unknown.is_empty() {
        startup.negotiate = Some(unknown);
    }
    Ok(startup)
}

impl Startup {
    fn take(&mut self, name: String, value: String) {
        match name.as_str() {
            "user" => self.user = cut_name(value),
            "database" => self.database = cut_name(value),
            "replication" => self.replication = Some(value),
            _ => match self.params.iter_mut().find(|(key, _)| *key == name) {
                Some(pair) => pair.1 = value,
                None => self.params.push((name, value)),
            },
        }
    }
}

/// Cuts a name to 63 bytes at a character border, as the server truncates identifiers.
fn cut_name(mut name: String) -> String {
    if name.len() > MAX_NAME {
        let end = (0..=MAX_NAME).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
        name.truncate(end);
    }
    name
}

fn pairs(mut body: &[u8]) -> Result<Vec<(String, String)>, PgError> {
    let layout = || violation("invalid startup packet layout: expected terminator as last byte");
    let mut found = Vec::new();
    loop {
        let name = take_cstr(&mut body).ok_or_else(layout)?;
        if name.is_empty() {
            break;
        }
        let value = take_cstr(&mut body).ok_or_else(layout)?;
        found.push((text(name)?, text(value)?));
    }
    if body.is_empty() { Ok(found) } else { Err(layout()) }
}

fn text(bytes: &[u8]) -> Result<String, PgError> {
    String::from_utf8(bytes.to_vec())
        .map_err(|_| PgError::fatal(SqlState::INVALID_PARAMETER_VALUE, "startup packet is not valid UTF-8"))
}

/// Takes the bytes before the next zero off the front of `rest`.
pub fn take_cstr<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(0, rest)?;
    let (text, after) = rest.split_at_checked(end)?;
    *rest = after.get(1..)?;
    Some(text)
}

/// Splits `options` into its words as the server does (`pg_split_opts`): blanks separate, a backslash escapes.
pub fn split_options(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// The settings named in `options`: `-c a=b`, `-ca=b` and `--a=b`, dashes in names as underscores. Other switches are
/// left to the server.
pub fn option_settings(options: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut words = split_options(options).into_iter();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") if word == "-c" => words.next(),
            Some(rest) => Some(rest.to_owned()),
            None => None,
        };
        if let Some((name, value)) = setting.as_deref().and_then(|text| text.split_once('=')) {
            found.push((name.replace('-', "_").to_ascii_lowercase(), value.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::encode;
    use proptest::prelude::*;

    fn packet(version: u32, params: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        encode::startup_packet(&mut out, version, params.iter().copied());
        out
    }

    fn startup(version: u32, params: &[(&str, &str)]) -> Startup {
        match parse(&packet(version, params)).unwrap() {
            FirstPacket::Startup(startup) => startup,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn database_defaults_to_the_user() {
        let got = startup(PROTOCOL_3_0, &[("user", "app"), ("application_name", "x")]);
        assert_eq!((got.user.as_str(), got.database.as_str()), ("app", "app"));
        assert_eq!(got.param("application_name"), Some("x"));
        assert_eq!(got.negotiate, None);
    }

    #[test]
    fn newer_minor_versions_and_unknown_options_are_negotiated() {
        assert_eq!(startup(PROTOCOL_3_2, &[("user", "u")]).negotiate, None);
        let got = startup((3 << 16) | 0x270F, &[("user", "u"), ("_pq_.x", "1")]);
        assert_eq!(got.version, PROTOCOL_3_2);
        assert_eq!(got.negotiate, Some(vec!["_pq_.x".to_owned()]));
        assert_eq!(
            startup(PROTOCOL_3_0, &[("user", "u"), ("_pq_.y", "")]).negotiate,
            Some(vec!["_pq_.y".to_owned()])
        );
    }

    #[test]
    fn long_names_are_cut_at_a_character() {
        let long = "ä".repeat(40);
        assert_eq!(startup(PROTOCOL_3_0, &[("user", &long)]).user, "ä".repeat(31));
    }

    #[test]
    fn broken_packets_get_the_servers_words() {
        let code = |packet: &[u8]| match parse(packet).unwrap_err() {
            Refusal::Told(error) => error.code,
            silent @ Refusal::Silent(_) => panic!("{silent}"),
        };
        assert_eq!(code(&packet(PROTOCOL_3_0, &[])), SqlState::INVALID_AUTHORIZATION);
        assert_eq!(code(&packet(2 << 16, &[("user", "u")])), SqlState::FEATURE_NOT_SUPPORTED);
        let mut unterminated = packet(PROTOCOL_3_0, &[("user", "u")]);
        unterminated.pop();
        assert_eq!(code(&unterminated), SqlState::PROTOCOL_VIOLATION);
        assert_eq!(code(b"\0\0\0\x0d\0\x03\0\0user\0"), SqlState::PROTOCOL_VIOLATION);
        assert_eq!(packet_len(*b"GET ", 10_000), Err(BAD_LENGTH));
        assert_eq!(packet_len([0, 0, 0, 4], 10_000), Err(BAD_LENGTH));
        assert!(matches!(parse(b"\0\0\0\x0c\x04\xd2\x16\x2e\0\0\0\x01"), Err(Refusal::Silent(_))));
    }

    #[test]
    fn options_are_split_as_the_server_splits_them() {
        assert_eq!(split_options(r" -c  a=b\ c --d-e=f "), ["-c", "a=b c", "--d-e=f"]);
        assert_eq!(
            option_settings(r"-c default_transaction_read_only=on -csearch_path=a\ b --work-mem=1MB -B 5"),
            [("default_transaction_read_only", "on"), ("search_path", "a b"), ("work_mem", "1MB")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
        );
    }

    proptest! {
        #[test]
        fn any_packet_is_read_or_refused(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&body);
            let mut with_version = vec![0, 0, 0, 0, 0, 3, 0, 0];
            with_version.extend(&body);
            let _ = parse(&with_version);
        }
    }
}
