//! Sockets: listening, dialling, TLS, and one stream type over all of them.
