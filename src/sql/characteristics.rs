//! SET SESSION CHARACTERISTICS AS TRANSACTION: the settings that its modes stand for (manual, SET TRANSACTION).
//!
//! In: the tokens of its modes. Out: names and statements. Must not know what is done about them.

use super::lexer::Token;

/// The word that tells a level from the others, and the statement that makes it the default.
const ISOLATION_LEVELS: [(&str, &str); 4] = [
    ("serializable", "SET default_transaction_isolation = 'serializable'"),
    ("repeatable", "SET default_transaction_isolation = 'repeatable read'"),
    ("committed", "SET default_transaction_isolation = 'read committed'"),
    ("uncommitted", "SET default_transaction_isolation = 'read uncommitted'"),
];

/// For each mode its setting, and a statement that makes it the default.
pub(super) fn modes<'a>(mut next: impl FnMut() -> Option<Token<'a>>) -> Vec<(&'static str, &'static str)> {
    let mut modes = Vec::new();
    let mut not = false;
    while let Some(token) = next() {
        if let Some((_, statement)) = ISOLATION_LEVELS.iter().find(|(word, _)| token.is(word)) {
            modes.push(("default_transaction_isolation", *statement));
        } else if token.is("only") {
            modes.push(("default_transaction_read_only", "SET default_transaction_read_only = on"));
        } else if token.is("write") {
            modes.push(("default_transaction_read_only", "SET default_transaction_read_only = off"));
        } else if token.is("deferrable") {
            let on = "SET default_transaction_deferrable = on";
            let off = "SET default_transaction_deferrable = off";
            modes.push(("default_transaction_deferrable", if not { off } else { on }));
        }
        not = token.is("not");
    }
    modes
}
