//! Tests of the console over real streams.
