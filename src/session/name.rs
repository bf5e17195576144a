//! What a server makes of the `application_name` that a client gave at startup.
//!
//! In: the name as it came. Out: the name as the server tells it, and a constant by which SET gives a backend the same:
//! backends are opened without it, since sessions share them. Sans-IO.

use std::borrow::Cow;
use std::fmt::Write as _;

use super::params::literal;
use crate::pool::Params;

/// Longest name, bytes (`NAMEDATALEN` - 1).
const NAME_BYTES: usize = 63;
/// The first version that shows what is no plain text as `\xNN` instead of `?`.
const ESCAPES_SINCE: u32 = 16;

/// What of a server decides on names.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    /// Its `server_version`, as far as it is known.
    pub version: Option<&'a str>,
    /// Its `server_encoding`, as far as it is known.
    pub encoding: Option<&'a str>,
}

/// The name as this server tells it: cut, and only printable ASCII.
pub fn shown<'a>(given: &'a str, server: Server<'_>) -> Cow<'a, str> {
    let cut = cut(given, server);
    match std::str::from_utf8(cut) {
        Ok(plain) if cut.iter().all(|byte| is_plain(*byte)) => Cow::Borrowed(plain),
        _ => Cow::Owned(cleaned(cut, server.escapes())),
    }
}

/// A string constant that SET takes for the name that a startup packet would have given.
pub fn constant(given: &str, server: Server<'_>) -> String {
    let cut = cut(given, server);
    match std::str::from_utf8(cut) {
        Ok(plain) if cut.is_ascii() => literal(plain),
        // Bytes of a startup packet are not converted, those of a statement are, if they are not escaped.
        _ if server.takes_any_bytes() => {
            let mut text = String::from("E'");
            for byte in cut {
                // Writing to a string cannot fail.
                let _ = write!(text, "\\x{byte:02x}");
            }
            text.push('\'');
            text
        }
        _ => literal(&shown(given, server)),
    }
}

impl<'a> Server<'a> {
    /// One that reported these.
    pub fn of(reported: &'a Params) -> Self {
        Self { version: reported.get("server_version"), encoding: reported.get("server_encoding") }
    }

    fn is_utf8(self) -> bool {
        self.encoding == Some("UTF8")
    }

    fn escapes(self) -> bool {
        let digits = self.version.and_then(|version| version.split(|c: char| !c.is_ascii_digit()).next());
        digits.and_then(|digits| digits.parse().ok()).is_none_or(|major: u32| major >= ESCAPES_SINCE)
    }

    /// UTF-8 that came as UTF-8, or an encoding of which every byte is a character.
    fn takes_any_bytes(self) -> bool {
        let one_byte = |name: &str| {
            ["LATIN", "ISO_8859", "WIN", "KOI8"].iter().any(|family| name.starts_with(family))
                || name == "SQL_ASCII"
        };
        self.is_utf8() || self.encoding.is_some_and(one_byte)
    }
}

/// At a border of characters of the server's encoding, as it cuts identifiers.
fn cut<'a>(given: &'a str, server: Server<'_>) -> &'a [u8] {
    let len = if server.is_utf8() { given.floor_char_boundary(NAME_BYTES) } else { NAME_BYTES };
    let bytes = given.as_bytes();
    bytes.get(..len).unwrap_or(bytes)
}

fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

/// As `pg_clean_ascii` does it.
fn cleaned(bytes: &[u8], escapes: bool) -> String {
    let mut text = String::new();
    for byte in bytes {
        if is_plain(*byte) {
            text.push(char::from(*byte));
        } else if escapes {
            // Writing to a string cannot fail.
            let _ = write!(text, "\\x{byte:02x}");
        } else {
            text.push('?');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: Server<'_> =
        Server { version: Some("15.18 (Debian 15.18-0+deb12u1)"), encoding: Some("UTF8") };
    const NEW: Server<'_> = Server { version: Some("16.4"), encoding: Some("UTF8") };

    #[test]
    fn plain_names_stay() {
        assert!(matches!(shown("psql", OLD), Cow::Borrowed("psql")));
        assert_eq!(constant("it's", OLD), "'it''s'");
        assert_eq!(shown(&"n".repeat(9000), NEW), "n".repeat(63));
    }

    #[test]
    fn other_characters_become_what_the_version_makes_of_them() {
        assert_eq!(shown("na\u{ef}ve\n", OLD), "na??ve?");
        assert_eq!(shown("na\u{ef}ve\n", NEW), r"na\xc3\xafve\x0a");
        assert_eq!(constant("\u{ef}", NEW), r"E'\xc3\xaf'");
    }

    #[test]
    fn long_names_are_cut_between_characters_of_the_servers_encoding() {
        let long = "\u{6f22}".repeat(22);
        assert_eq!(shown(&long, OLD), "?".repeat(63));
        let odd = format!("nn{long}");
        assert_eq!(shown(&odd, OLD), format!("nn{}", "?".repeat(60)));
        let latin = Server { encoding: Some("LATIN1"), ..OLD };
        assert_eq!(shown(&odd, latin), format!("nn{}", "?".repeat(61)));
        // What is longer than a name once it is cleaned is not cut again.
        assert_eq!(shown(&long, NEW).len(), 4 * 63);
    }

    #[test]
    fn bytes_that_the_encoding_may_not_have_are_not_sent() {
        let other = Server { encoding: Some("EUC_JP"), ..OLD };
        assert_eq!(constant("\u{ef}", other), "'??'");
    }
}
