//! Hints: a comment at the start of a text, `/* pgsteer: standby */` or `/* pgsteer: primary */`.
//!
//! In: a text. Out: what its author asks for. Must not know statements. A comment behind the first word is none: a text
//! that was put together from others must not be steered by what one of them brings along.

/// What the author of a statement asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hint {
    /// The primary, whatever the statement does.
    Primary,
    /// A standby: what the statement may not do there fails there.
    Standby,
}

/// The hint among the comments before the first word; the first one counts.
pub(super) fn hint(sql: &[u8]) -> Option<Hint> {
    let mut rest = sql.trim_ascii_start();
    while let Some(comment) = rest.strip_prefix(b"/*") {
        let end = memchr::memmem::find(comment, b"*/")?;
        let text = comment.get(..end).unwrap_or_default();
        // Where comments are nested, ours ends too early; what follows is then no comment, and the search ends.
        if let Some(asked) = asked(text) {
            return Some(asked);
        }
        rest = comment.get(end + 2..).unwrap_or_default().trim_ascii_start();
    }
    None
}

fn asked(comment: &[u8]) -> Option<Hint> {
    let comment = comment.trim_ascii();
    let (key, value) = (comment.get(..8)?, comment.get(8..)?.trim_ascii());
    if !key.eq_ignore_ascii_case(b"pgsteer:") {
        return None;
    }
    if value.eq_ignore_ascii_case(b"primary") {
        Some(Hint::Primary)
    } else {
        value.eq_ignore_ascii_case(b"standby").then_some(Hint::Standby)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_stand_before_the_first_word() {
        let of = |text: &str| hint(text.as_bytes());
        assert_eq!(of("/* pgsteer: standby */ select 1"), Some(Hint::Standby));
        assert_eq!(of(" \n/*PGSTEER:Primary*/select 1"), Some(Hint::Primary));
        assert_eq!(of("/* app */ /* pgsteer: primary */ /* pgsteer: standby */ x"), Some(Hint::Primary));
        for none in [
            "",
            "select /* pgsteer: standby */ 1",
            "-- pgsteer: standby\nselect 1",
            "/* pgsteer: elsewhere */ select 1",
            "/* pgsteer: standby",
            "/* no pgsteer: standby */ select 1",
            "'/* pgsteer: standby */'",
            "/* pgsteer */ select 1",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
    }
}
