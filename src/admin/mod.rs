//! Console, HTTP and status: what people and scrapers look at.
