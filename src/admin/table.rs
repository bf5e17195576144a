//! Tables as the console shows them: typed columns, rows of cells, and their bytes in a DataRow.
//!
//! In: what `show` gathers. Out: text and binary values of the five column types the console uses. It must
//! not know where the figures come from, nor anything of the connection that asks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};

/// The type of a column, as drivers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `bool`
    Bool,
    /// `float8`
    Float,
    /// `int8`
    Int,
    /// `text`
    Text,
    /// `timestamptz`, always shown in UTC
    Time,
}

/// Name and type of a column. Units come last in the name (`lag_ms`, `lag_bytes`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// The type that RowDescription announces.
    pub kind: Kind,
}

impl Column {
    /// A column of `bool`.
    pub const fn bool(name: &'static str) -> Self {
        Self { name, kind: Kind::Bool }
    }

    /// A column of `float8`.
    pub const fn float(name: &'static str) -> Self {
        Self { name, kind: Kind::Float }
    }

    /// A column of `int8`.
    pub const fn int(name: &'static str) -> Self {
        Self { name, kind: Kind::Int }
    }

    /// A column of `text`.
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: Kind::Text }
    }

    /// A column of `timestamptz`.
    pub const fn time(name: &'static str) -> Self {
        Self { name, kind: Kind::Time }
    }
}

/// One value. Its variant must be that of its column, or `Null`.
#[derive(Debug, Clone, PartialEq)]
pub enum Cell {
    /// `bool`
    Bool(bool),
    /// `float8`
    Float(f64),
    /// `int8`
    Int(i64),
    /// NULL of any type: the figure is not known.
    Null,
    /// `text`
    Text(String),
    /// `timestamptz`
    Time(SystemTime),
}

impl Cell {
    /// Text.
    pub fn text(value: impl Into<String>) -> Self {
        Self::Text(value.into())
    }

    /// A count. Counts beyond `i64::MAX` are shown as that.
    pub fn count(value: impl TryInto<i64>) -> Self {
        Self::Int(value.try_into().unwrap_or(i64::MAX))
    }

    /// Milliseconds with one digit after the point: finer is noise between two hosts.
    pub fn millis(value: Duration) -> Self {
        Self::Float((value.as_secs_f64() * 10_000.0).round() / 10.0)
    }

    /// Seconds to the millisecond.
    pub fn seconds(value: Duration) -> Self {
        Self::Float((value.as_secs_f64() * 1000.0).round() / 1000.0)
    }

    /// `Null` for `None`.
    pub fn or_null<T>(value: Option<T>, cell: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Null, cell)
    }

    /// The value in PostgreSQL's text format, `None` for NULL.
    pub fn to_text(&self) -> Option<String> {
        Some(match self {
            Self::Bool(true) => "t".to_owned(),
            Self::Bool(false) => "f".to_owned(),
            Self::Float(value) => value.to_string(),
            Self::Int(value) => value.to_string(),
            Self::Null => return None,
            Self::Text(value) => value.clone(),
            Self::Time(value) => timestamp(*value),
        })
    }

    /// Appends length and value as a DataRow has them (PostgreSQL protocol, 55.7).
    fn encode(&self, binary: bool, out: &mut BytesMut) {
        if binary {
            match self {
                Self::Bool(value) => put(out, &[u8::from(*value)]),
                Self::Float(value) => put(out, &value.to_be_bytes()),
                Self::Int(value) => put(out, &value.to_be_bytes()),
                Self::Null => out.put_i32(-1),
                // The binary form of text is its bytes.
                Self::Text(value) => put(out, value.as_bytes()),
                Self::Time(value) => put(out, &micros_since_2000(*value).to_be_bytes()),
            }
        } else {
            match self.to_text() {
                Some(text) => put(out, text.as_bytes()),
                None => out.put_i32(-1),
            }
        }
    }
}

fn put(out: &mut BytesMut, value: &[u8]) {
    out.put_i32(value.len() as i32);
    out.put_slice(value);
}

/// PostgreSQL counts timestamps in microseconds from the start of 2000, Unix from 1970.
const POSTGRES_EPOCH: Duration = Duration::from_hours(24 * 10_957);

fn micros_since_2000(time: SystemTime) -> i64 {
    let micros = |span: Duration| i64::try_from(span.as_micros()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH + POSTGRES_EPOCH) {
        Ok(after) => micros(after),
        Err(before) => -micros(before.duration()),
    }
}

/// `2026-11-22 09:15:00.123456+00`: what a server with DateStyle ISO and TimeZone UTC prints.
fn timestamp(time: SystemTime) -> String {
    // humantime refuses years before 1970 and after 9999; no clock of ours shows such a time.
    let known = time.max(UNIX_EPOCH).min(UNIX_EPOCH + Duration::from_secs(253_402_300_799));
    let text = humantime::format_rfc3339_micros(known).to_string();
    text.replace('T', " ").replace('Z', "+00")
}

/// A row: one cell for each column.
pub type Row = Vec<Cell>;

/// A table ready to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Headings, left to right.
    pub columns: &'static [Column],
    /// Rows, top to bottom.
    pub rows: Vec<Row>,
}

impl Table {
    /// A table of `rows`; each has as many cells as there are columns.
    pub fn new(columns: &'static [Column], rows: Vec<Row>) -> Self {
        debug_assert!(rows.iter().all(|row| row.len() == columns.len()), "ragged rows in {columns:?}");
        Self { columns, rows }
    }
}

/// The body of a DataRow without its count of fields. `binary(i)` says whether column i was asked for in
/// binary.
pub fn encode_row(row: &[Cell], binary: impl Fn(usize) -> bool) -> BytesMut {
    let mut out = BytesMut::with_capacity(16 * row.len());
    for (index, cell) in row.iter().enumerate() {
        cell.encode(binary(index), &mut out);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64, micros: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(secs, micros * 1000)
    }

    #[test]
    fn text_values_look_as_a_server_prints_them() {
        assert_eq!(Cell::Bool(true).to_text().as_deref(), Some("t"));
        assert_eq!(Cell::Int(-7).to_text().as_deref(), Some("-7"));
        assert_eq!(Cell::millis(Duration::from_micros(1_260)).to_text().as_deref(), Some("1.3"));
        assert_eq!(Cell::millis(Duration::ZERO).to_text().as_deref(), Some("0"));
        assert_eq!(Cell::Null.to_text(), None);
        assert_eq!(
            Cell::Time(at(1_795_339_000, 120_000)).to_text().as_deref(),
            Some("2026-11-22 09:16:40.120000+00")
        );
    }

    #[test]
    fn counts_beyond_int8_are_capped_not_wrapped() {
        assert_eq!(Cell::count(u64::MAX), Cell::Int(i64::MAX));
        assert_eq!(Cell::count(3_usize), Cell::Int(3));
    }

    #[test]
    fn binary_values_have_the_servers_bytes() {
        let row = [
            Cell::Int(1),
            Cell::Float(0.5),
            Cell::Bool(true),
            Cell::Null,
            Cell::text("né"),
            Cell::Time(UNIX_EPOCH + POSTGRES_EPOCH + Duration::from_micros(1)),
        ];
        let bytes = encode_row(&row, |_| true);
        let mut expected = Vec::new();
        expected.extend_from_slice(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]);
        expected.extend_from_slice(&[0, 0, 0, 8, 0x3f, 0xe0, 0, 0, 0, 0, 0, 0]);
        expected.extend_from_slice(&[0, 0, 0, 1, 1]);
        expected.extend_from_slice(&[0xff, 0xff, 0xff, 0xff]);
        expected.extend_from_slice(&[0, 0, 0, 3, b'n', 0xc3, 0xa9]);
        expected.extend_from_slice(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(bytes.as_ref(), expected);
    }

    #[test]
    fn times_before_2000_are_negative() {
        assert_eq!(micros_since_2000(UNIX_EPOCH), -946_684_800_000_000);
    }
}
