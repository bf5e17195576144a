//! SASLprep of passwords as PostgreSQL does it (`pg_saslprep` and its callers).

use std::borrow::Cow;

/// The password as both sides hash it. Text that is not UTF-8, or that SASLprep forbids, is used as it is: the server and
/// libpq do the same, so that passwords in other encodings work.
pub fn saslprep(password: &[u8]) -> Cow<'_, [u8]> {
    // Pure ASCII is taken unchanged, control characters included.
    if password.is_ascii() {
        return Cow::Borrowed(password);
    }
    let Ok(text) = std::str::from_utf8(password) else { return Cow::Borrowed(password) };
    match stringprep::saslprep(text) {
        // What normalises to nothing is prohibited in PostgreSQL, so the raw bytes count.
        Ok(prepared) if !prepared.is_empty() => Cow::Owned(prepared.into_owned().into_bytes()),
        _ => Cow::Borrowed(password),
    }
}
