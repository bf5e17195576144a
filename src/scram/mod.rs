//! SCRAM-SHA-256 and md5, both sides, sans-IO.
