//! New settings applied to a running proxy.
