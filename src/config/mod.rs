//! The configuration: file and environment in, one typed immutable [`Settings`](settings::Settings) out.
