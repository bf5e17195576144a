//! How to log in upstream as a user.

use std::fmt;

use crate::config::Secret;
use crate::scram::ClientKey;

/// What the proxy knows of a user toward the nodes. Never shown; wiped on drop.
pub enum Credentials {
    /// The key recovered from the user's own SCRAM login: fits nodes that hold the same verifier.
    ClientKey(ClientKey),
    /// The stored md5 form (`md5` and 32 hex digits): enough for md5 logins, useless for others.
    Md5(String),
    /// Nothing: for nodes that trust the proxy's address.
    None,
    /// The password: fits any method.
    Password(Secret),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ClientKey(_) => "ClientKey(***)",
            Self::Md5(_) => "Md5(***)",
            Self::None => "None",
            Self::Password(_) => "Password(***)",
        })
    }
}

impl Drop for Credentials {
    fn drop(&mut self) {
        if let Self::Md5(stored) = self {
            zeroize::Zeroize::zeroize(stored);
        }
    }
}
