//! The tokens of a text, one ahead, with what PostgreSQL's scanner refuses or joins made visible.
//!
//! In: a text. Out: tokens, and where they stand. Must not know what statements mean.

use super::{Found, Stop};
use crate::sql::lexer::{Lexer, Token};
use crate::sql::names::Name;
use crate::sql::reason::Reason;

/// A walk over a text's tokens.
#[derive(Clone)]
pub(super) struct Tokens<'a> {
    sql: &'a [u8],
    lexer: Lexer<'a>,
    ahead: Option<Token<'a>>,
    /// Where the token that was read last ends.
    end: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(sql: &'a [u8], standard_strings: bool) -> Self {
        let mut lexer = Lexer::new(sql, standard_strings);
        let ahead = lexer.next();
        Self { sql, lexer, ahead, end: 0 }
    }

    pub(super) fn sql(&self) -> &'a [u8] {
        self.sql
    }

    /// Where the token that was read last ends.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// The token that comes next.
    #[inline]
    pub(super) fn peek(&self) -> Option<Token<'a>> {
        self.ahead
    }

    /// The next token. Two texts in a row are one, and the second is read as the first was: with `E''` our lexer would be
    /// wrong about where it ends.
    #[inline]
    pub(super) fn next(&mut self) -> Option<Token<'a>> {
        let token = self.ahead?;
        self.end = self.lexer.position();
        self.ahead = self.lexer.next();
        if matches!((token, self.ahead), (Token::Text(_), Some(Token::Text(_)))) {
            self.ahead = Some(Token::Odd);
        }
        Some(token)
    }

    /// The next byte of the text, when it is a mark with no white space before it.
    pub(super) fn touching(&self) -> Option<u8> {
        match self.ahead {
            Some(Token::Mark(byte)) if self.lexer.position() == self.end + 1 => Some(byte),
            _ => None,
        }
    }

    pub(super) fn sees(&self, byte: u8) -> bool {
        self.ahead == Some(Token::Mark(byte))
    }

    pub(super) fn sees_word(&self, word: &str) -> bool {
        self.ahead.is_some_and(|token| token.is(word))
    }

    /// Passes over the next token when it is that mark.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let there = self.sees(byte);
        if there {
            self.next();
        }
        there
    }

    /// Passes over the next token when it is that word.
    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let there = self.sees_word(word);
        if there {
            self.next();
        }
        there
    }

    /// Passes over a semicolon.
    pub(super) fn take_semicolon(&mut self) -> bool {
        let there = self.ahead == Some(Token::Semicolon);
        if there {
            self.next();
        }
        there
    }

    pub(super) fn must_take(&mut self, byte: u8) -> Found<'a, ()> {
        if self.take(byte) { Ok(()) } else { Err(self.stop_ahead()) }
    }

    pub(super) fn must_take_word(&mut self, word: &str) -> Found<'a, ()> {
        if self.take_word(word) { Ok(()) } else { Err(self.stop_ahead()) }
    }

    /// The next token, which must be a name of any kind.
    pub(super) fn name(&mut self) -> Found<'a, Name<'a>> {
        match self.ahead {
            Some(Token::Word(text)) => {
                self.next();
                Ok(Name { text, quoted: false })
            }
            Some(Token::QuotedName(text)) => {
                self.next();
                Ok(Name { text, quoted: true })
            }
            _ => Err(self.stop_ahead()),
        }
    }

    /// True at the end of a statement.
    pub(super) fn at_end(&self) -> bool {
        matches!(self.ahead, None | Some(Token::Semicolon))
    }

    /// The next token cannot stand here.
    #[cold]
    pub(super) fn stop_ahead(&self) -> Stop<'a> {
        self.stop_at(self.end)
    }

    /// What begins at `from`, up to the next token, cannot stand there.
    #[cold]
    pub(super) fn stop_at(&self, from: usize) -> Stop<'a> {
        let to = self.lexer.position().min(from + 40);
        Stop { reason: Reason::Syntax, word: self.sql.get(from..to).unwrap_or_default().trim_ascii() }
    }

    /// A number as every version reads it: digits, at most one dot, at most one exponent.
    pub(super) fn number(&mut self, digits: &'a [u8]) -> Found<'a, ()> {
        let stop = Err(Stop { reason: Reason::Syntax, word: digits });
        let whole = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
        let mut rest = digits.get(whole..).unwrap_or_default();
        if let Some(fraction) = rest.strip_prefix(b".") {
            let part = fraction.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(fraction.len());
            rest = fraction.get(part..).unwrap_or_default();
        }
        match rest {
            [] => Ok(()),
            [b'e' | b'E', exponent @ ..] if !exponent.is_empty() => {
                if exponent.iter().all(u8::is_ascii_digit) { Ok(()) } else { stop }
            }
            [b'e' | b'E'] if matches!(self.touching(), Some(b'+' | b'-')) => {
                self.next();
                let touches = |exponent: &[u8]| self.lexer.position() == self.end + exponent.len();
                match self.ahead {
                    Some(Token::Number(exponent))
                        if touches(exponent) && exponent.iter().all(u8::is_ascii_digit) =>
                    {
                        self.next();
                        Ok(())
                    }
                    _ => stop,
                }
            }
            _ => stop,
        }
    }

    /// The digits of a parameter, whose `$` has been read.
    pub(super) fn parameter(&mut self) -> Found<'a, ()> {
        match self.ahead {
            Some(Token::Number(digits))
                if self.lexer.position() == self.end + digits.len()
                    && digits.iter().all(u8::is_ascii_digit) =>
            {
                self.next();
                Ok(())
            }
            _ => Err(self.stop_ahead()),
        }
    }

    /// The operator whose first byte has been read, as PostgreSQL's scanner takes it: as long as it can be, but a `+` or `-` at
    /// the end is an operator of its own unless there is a sign that no standard operator has. Those come second.
    pub(super) fn operator(&mut self) -> (&'a [u8], &'a [u8]) {
        let start = self.end.saturating_sub(1);
        while self.touching().is_some_and(is_operator) {
            self.next();
        }
        let all = self.sql.get(start..self.end).unwrap_or_default();
        if all.iter().any(|byte| b"~!@#%^&|`?".contains(byte)) {
            return (all, b"");
        }
        let signs = all.iter().rev().take_while(|byte| matches!(byte, b'+' | b'-')).count();
        all.split_at_checked((all.len() - signs).max(1)).unwrap_or((all, b""))
    }
}

/// A byte that operators are made of.
pub(super) fn is_operator(byte: u8) -> bool {
    b"+-*/<>=~!@#%^&|`?".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operators(text: &str) -> Vec<(&[u8], &[u8])> {
        let mut tokens = Tokens::new(text.as_bytes(), true);
        let mut found = Vec::new();
        while let Some(token) = tokens.next() {
            if matches!(token, Token::Mark(byte) if is_operator(byte)) {
                found.push(tokens.operator());
            }
        }
        found
    }

    #[test]
    fn operators_are_as_long_as_the_server_takes_them() {
        let alone =
            |text| operators(text).into_iter().map(|(one, rest)| (rest.is_empty(), one)).collect::<Vec<_>>();
        assert_eq!(alone("a<=b"), [(true, &b"<="[..])]);
        assert_eq!(operators("a=-1"), [(&b"="[..], &b"-"[..])]);
        assert_eq!(operators("a=>+-1"), [(&b"=>"[..], &b"+-"[..])]);
        assert_eq!(alone("a @- b"), [(true, &b"@-"[..])]);
        assert_eq!(alone("a- -1"), [(true, &b"-"[..]), (true, b"-")]);
        assert_eq!(alone("a +/* x */- b"), [(true, &b"+"[..]), (true, b"-")]);
        assert_eq!(alone("a <-- x\n> b"), [(true, &b"<"[..]), (true, b">")]);
        assert_eq!(alone("a#>>b ? c"), [(true, &b"#>>"[..]), (true, b"?")]);
    }

    #[test]
    fn numbers_are_those_of_every_version() {
        let good = |text: &'static str| {
            let mut tokens = Tokens::new(text.as_bytes(), true);
            let Some(Token::Number(digits)) = tokens.next() else { return false };
            tokens.number(digits).is_ok() && tokens.peek().is_none()
        };
        for text in ["1", "12.5", "1.", "1e5", "1.5E10", "1e-5", "1.e+5"] {
            assert!(good(text), "{text}");
        }
        for text in
            ["1a", "0xff", "1_000", "1..2", "1.2.3", "1e", "1e+", "1e+ 5", "1e+5a", "1.nextval", "1e5e5"]
        {
            assert!(!good(text), "{text}");
        }
    }

    #[test]
    fn a_text_goes_on_in_the_next_line() {
        let mut tokens = Tokens::new(
            br"E'a' -- x
            'b\' , nextval('",
            true,
        );
        assert!(matches!(tokens.next(), Some(Token::Text(_))));
        assert_eq!(tokens.next(), Some(Token::Odd));
    }
}
