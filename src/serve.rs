//! Accept loops and workers.
