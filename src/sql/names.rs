//! Names as they stand in a statement, and whom the judge asks what they name.
//!
//! In: parts of a statement text. Out: names as the server folds them. Must not know where the answers come from.

use super::reason::Reason;

/// The longest name a server keeps apart from others (NAMEDATALEN - 1).
pub const NAME_BYTES: usize = 63;

/// A name in a statement: quoted ones keep their case.
#[derive(Clone, Copy, Debug)]
pub struct Name<'a> {
    /// As it is written, without the quotes.
    pub text: &'a [u8],
    /// Whether it stood in double quotes.
    pub quoted: bool,
}

impl Name<'_> {
    /// As the server keeps it; none when it is longer than any name.
    pub fn fold<'b>(&self, room: &'b mut [u8; NAME_BYTES]) -> Option<&'b [u8]> {
        let folded = room.get_mut(..self.text.len())?;
        folded.copy_from_slice(self.text);
        if !self.quoted {
            folded.make_ascii_lowercase();
        }
        Some(folded)
    }

    /// Whether both name the same thing.
    pub fn same(&self, other: &Self) -> bool {
        if self.quoted && other.quoted {
            return self.text == other.text;
        }
        let fold = |name: &Self, byte: u8| if name.quoted { byte } else { byte.to_ascii_lowercase() };
        let mut pairs = self.text.iter().zip(other.text);
        self.text.len() == other.text.len() && pairs.all(|(a, b)| fold(self, *a) == fold(other, *b))
    }

    /// Whether it names `word`, which is in lower case.
    pub fn is(&self, word: &str) -> bool {
        self.same(&Name { text: word.as_bytes(), quoted: true })
    }
}

/// A name with the schema it was written with, if any.
#[derive(Clone, Copy, Debug)]
pub struct Qualified<'a> {
    /// The part before the dot.
    pub schema: Option<Name<'a>>,
    /// The name itself.
    pub name: Name<'a>,
}

/// What is known of what a name names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Whichever of that name is meant, a read may use it on a standby.
    Safe,
    /// Nothing of that name is known.
    Unknown,
    /// One of that name belongs to the primary.
    Unsafe(Reason),
}

/// Whom the judge asks. Every name of a statement that may stand for code or data is asked for once or more.
pub trait Names {
    /// A function, aggregate or window function that is called, built-in or not; of any arguments.
    fn function(&mut self, called: Qualified<'_>) -> Known;
    /// A name behind a dot: a column, or a function of one row in disguise. Only the latter may be unsafe.
    fn attribute(&mut self, name: Name<'_>) -> Known;
    /// A table, view or sequence that is read.
    fn relation(&mut self, read: Qualified<'_>) -> Known;
    /// A type that something is cast to.
    fn kind(&mut self, cast: Qualified<'_>) -> Known;
    /// An operator, of any schema and any arguments.
    fn operator(&mut self, sign: &[u8]) -> Known;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fold_as_the_server_folds_them() {
        let plain = |text| Name { text, quoted: false };
        let quoted = |text| Name { text, quoted: true };
        assert!(plain(b"NextVal").is("nextval") && quoted(b"nextval").is("nextval"));
        assert!(!quoted(b"NextVal").is("nextval"));
        assert!(plain(b"A").same(&plain(b"a")) && plain(b"A").same(&quoted(b"a")));
        assert!(!quoted(b"A").same(&plain(b"a")) && !plain(b"ab").same(&plain(b"a")));
        let mut room = [0; NAME_BYTES];
        assert_eq!(plain("GRÖSSE".as_bytes()).fold(&mut room), Some("grÖsse".as_bytes()));
        assert_eq!(plain(&[b'a'; 64]).fold(&mut room), None);
    }
}
