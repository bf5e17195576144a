//! Backends of one node, database, user and startup set; who may have one and when.
