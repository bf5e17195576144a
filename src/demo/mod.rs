//! Local clusters for the demonstration and the tests.
