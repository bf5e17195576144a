//! One-pass tokens of PostgreSQL's lexical structure (manual, section 4.1), no allocation.
//!
//! In: a statement text. Out: tokens that borrow from it. Must not know what the words mean. Whatever it does not
//! understand is a [`Token::Odd`], after which callers must assume the worst.

/// One token. White space and comments are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'a> {
    /// An unquoted word: keyword, name or part of a number with letters.
    Word(&'a [u8]),
    /// A quoted name without its outer quotes; inner doubled quotes stay doubled.
    QuotedName(&'a [u8]),
    /// A string constant of any kind, quotes and prefix included.
    Text(&'a [u8]),
    /// A number.
    Number(&'a [u8]),
    /// `;`
    Semicolon,
    /// Any other single byte: operators, brackets, commas, dots, `$` of parameters.
    Mark(u8),
    /// Something unterminated or unknown: the rest of the text cannot be trusted.
    Odd,
}

impl Token<'_> {
    /// True for the unquoted word `word` (given in lower case), in any case.
    pub fn is(&self, word: &str) -> bool {
        matches!(self, Token::Word(text) if text.eq_ignore_ascii_case(word.as_bytes()))
    }

    /// True for any of `words`.
    pub fn is_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| self.is(word))
    }
}

/// Iterates over the tokens of one text.
#[derive(Clone, Debug)]
pub struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    escapes: bool,
    done: bool,
}

impl<'a> Lexer<'a> {
    /// Starts at the beginning of `text`. `standard_strings` is the session's `standard_conforming_strings`: when off, a
    /// backslash escapes in every quoted string.
    pub fn new(text: &'a [u8], standard_strings: bool) -> Self {
        Self { text, at: 0, escapes: !standard_strings, done: false }
    }

    /// Byte offset of the next token or the white space before it.
    pub fn position(&self) -> usize {
        self.at
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    fn slice(&self, from: usize, to: usize) -> &'a [u8] {
        self.text.get(from..to).unwrap_or_default()
    }

    fn odd(&mut self) -> Token<'a> {
        self.done = true;
        self.at = self.text.len();
        Token::Odd
    }

    /// Passes over white space and comments; false when a comment does not end.
    fn skip_blank(&mut self) -> bool {
        while let Some(byte) = self.peek(0) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0c | 0x0b => self.at += 1,
                b'-' if self.peek(1) == Some(b'-') => self.skip_line(),
                b'/' if self.peek(1) == Some(b'*') => {
                    if !self.skip_comment() {
                        return false;
                    }
                }
                _ => break,
            }
        }
        true
    }

    fn skip_line(&mut self) {
        let rest = self.slice(self.at, self.text.len());
        self.at += memchr::memchr2(b'\n', b'\r', rest).unwrap_or(rest.len());
    }

    /// Passes over a comment that may hold others; false when it does not end.
    fn skip_comment(&mut self) -> bool {
        let mut depth = 0usize;
        while let Some(byte) = self.peek(0) {
            match (byte, self.peek(1)) {
                (b'/', Some(b'*')) => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', Some(b'/')) => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return true;
                    }
                }
                _ => self.at += 1,
            }
        }
        false
    }

    /// A quoted part that starts at `self.at` with `quote`; doubled quotes stay inside. False when it does not end.
    fn skip_quoted(&mut self, quote: u8, escapes: bool) -> bool {
        self.at += 1;
        loop {
            let rest = self.slice(self.at, self.text.len());
            let Some(found) = memchr::memchr2(quote, b'\\', rest) else { return false };
            self.at += found + 1;
            if rest.get(found) == Some(&b'\\') {
                self.at += usize::from(escapes);
            } else if self.peek(0) == Some(quote) {
                self.at += 1;
            } else {
                return true;
            }
        }
    }

    fn string(&mut self, start: usize, escapes: bool) -> Token<'a> {
        if self.skip_quoted(b'\'', escapes) { Token::Text(self.slice(start, self.at)) } else { self.odd() }
    }

    fn quoted_name(&mut self) -> Token<'a> {
        let start = self.at + 1;
        if self.skip_quoted(b'"', false) {
            Token::QuotedName(self.slice(start, self.at.saturating_sub(1)))
        } else {
            self.odd()
        }
    }

    /// A word, or a string whose prefix looks like a word (`E''`, `B''`, `X''`, `N''`, `U&''`, `U&""`).
    fn word(&mut self) -> Token<'a> {
        let start = self.at;
        let rest = self.text.get(start..).unwrap_or_default();
        self.at += rest.iter().position(|byte| !is_word_byte(*byte)).unwrap_or(rest.len());
        let word = self.slice(start, self.at);
        match (word, self.peek(0)) {
            ([b'e' | b'E'], Some(b'\'')) => self.string(start, true),
            ([b'b' | b'B' | b'x' | b'X' | b'n' | b'N'], Some(b'\'')) => self.string(start, self.escapes),
            ([b'u' | b'U'], Some(b'&')) if self.peek(1) == Some(b'\'') => {
                self.at += 1;
                self.string(start, self.escapes)
            }
            ([b'u' | b'U'], Some(b'&')) if self.peek(1) == Some(b'"') => {
                self.at += 1;
                self.quoted_name()
            }
            _ => Token::Word(word),
        }
    }

    /// `$1`, or a string between dollar quotes.
    fn dollar(&mut self) -> Token<'a> {
        let start = self.at;
        let mut end = start + 1;
        let tag_byte = |byte: u8| is_word_byte(byte) && byte != b'$';
        if self.text.get(end).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
            return Token::Mark(b'$');
        }
        while self.text.get(end).copied().is_some_and(tag_byte) {
            end += 1;
        }
        if self.text.get(end) != Some(&b'$') {
            self.at += 1;
            return Token::Mark(b'$');
        }
        let tag = self.slice(start, end + 1);
        match memchr::memmem::find(self.slice(end + 1, self.text.len()), tag) {
            Some(found) => {
                self.at = end + 1 + found + tag.len();
                Token::Text(self.slice(start, self.at))
            }
            None => self.odd(),
        }
    }

    fn number(&mut self) -> Token<'a> {
        let start = self.at;
        while self.peek(0).is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.') {
            self.at += 1;
        }
        Token::Number(self.slice(start, self.at))
    }
}

/// One bit for each byte that words are made of: looked up, since most of a text is words.
const WORD_BYTES: [u64; 4] = [0x03ff_0010_0000_0000, 0x07ff_fffe_87ff_fffe, u64::MAX, u64::MAX];

/// Letters, digits, `_`, `$`, and every byte beyond ASCII.
fn is_word_byte(byte: u8) -> bool {
    WORD_BYTES.get(usize::from(byte >> 6)).is_some_and(|bits| bits >> (byte & 63) & 1 == 1)
}

impl<'a> Iterator for Lexer<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        if self.done {
            return None;
        }
        if !self.skip_blank() {
            return Some(self.odd());
        }
        let byte = self.peek(0)?;
        Some(match byte {
            b'\'' => self.string(self.at, self.escapes),
            b'"' => self.quoted_name(),
            b'$' => self.dollar(),
            b'0'..=b'9' => self.number(),
            b';' => {
                self.at += 1;
                Token::Semicolon
            }
            byte if is_word_byte(byte) => self.word(),
            byte => {
                self.at += 1;
                Token::Mark(byte)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tokens(text: &str) -> Vec<Token<'_>> {
        Lexer::new(text.as_bytes(), true).collect()
    }

    #[test]
    fn words_are_made_of_letters_digits_and_what_is_no_sign() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80;
            assert_eq!(is_word_byte(byte), expected, "{byte}");
        }
    }

    #[test]
    fn comments_and_strings_hide_what_they_hold() {
        use Token::{Mark, Odd, QuotedName, Semicolon, Text, Word};
        assert_eq!(tokens("a /* x /* ; */ ' */ b -- ;\n c"), [Word(b"a"), Word(b"b"), Word(b"c")]);
        assert_eq!(tokens("'it''s;' \"a;\"\"b\""), [Text(b"'it''s;'"), QuotedName(b"a;\"\"b")]);
        assert_eq!(
            tokens(r"E'\';' U&'x' $$;$$ $t$ $$; $t$"),
            [Text(br"E'\';'"), Text(b"U&'x'"), Text(b"$$;$$"), Text(b"$t$ $$; $t$")]
        );
        assert_eq!(tokens(r"'\';"), [Text(br"'\'"), Semicolon]);
        assert_eq!(tokens("$1"), [Mark(b'$'), Token::Number(b"1")]);
        for unterminated in ["'a", "\"a", "$$ a", "/* a", "E'\\'"] {
            assert_eq!(tokens(unterminated), [Odd], "{unterminated}");
        }
    }

    #[test]
    fn backslashes_escape_when_strings_are_not_standard() {
        let text = br"'\';' x";
        let all: Vec<_> = Lexer::new(text, false).collect();
        assert_eq!(all, [Token::Text(br"'\';'"), Token::Word(b"x")]);
    }

    proptest! {
        #[test]
        fn any_text_ends(text in proptest::collection::vec(any::<u8>(), 0..200), standard: bool) {
            prop_assert!(Lexer::new(&text, standard).count() <= text.len() + 1);
        }
    }
}
