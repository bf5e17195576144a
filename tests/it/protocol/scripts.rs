//! What clients say after a login, as bytes: each script is one packet whose answers are compared with the server's.

use crate::harness::raw::{
    self, bind, close, copy_data, copy_done, copy_fail, describe, execute, flush, message, parse, query, sync,
};

/// A name and the bytes.
pub type Script = (&'static str, Vec<u8>);

const ROWS: &str = "SELECT i FROM generate_series(1, 5) i";
const COPY_IN: &str = "COPY t FROM STDIN";
const COPY_OUT: &str = "COPY (SELECT generate_series(1, 3)) TO STDOUT";

fn batch(parts: &[Vec<u8>]) -> Vec<u8> {
    parts.concat()
}

/// Parse, Bind and Execute of the unnamed statement.
fn run(sql: &str) -> Vec<u8> {
    batch(&[parse("", sql), bind("", "", &[]), execute("", 0)])
}

/// All that must be answered like the server and leave the session usable.
pub fn conversations() -> Vec<Script> {
    [simple(), extended(), portals(), errors(), blocks(), copies(), extended_copies(), odd(), malformed()]
        .concat()
}

fn simple() -> Vec<Script> {
    vec![
        ("simple", query("SELECT 1; SELECT 'two'; SELECT")),
        ("empty", query("")),
        ("error in a multi-statement", query("SELECT 1; SELECT 1/0; SELECT 2")),
        ("failed block", batch(&[query("BEGIN"), query("SELECT 1/0"), query("SELECT 1"), query("COMMIT")])),
    ]
}

fn extended() -> Vec<Script> {
    let both_described = [
        parse("s", ROWS),
        describe(b'S', "s"),
        bind("p", "s", &[]),
        describe(b'P', "p"),
        execute("p", 0),
        close(b'P', "p"),
        close(b'S', "s"),
        sync(),
    ];
    let flushed = [
        parse("", "SELECT $1::int"),
        flush(),
        bind("", "", &["7"]),
        flush(),
        execute("", 0),
        flush(),
        sync(),
    ];
    vec![
        ("extended", batch(&both_described)),
        ("flush", batch(&flushed)),
        ("query in a pipeline", batch(&[run("SELECT 1"), query("SELECT 2"), sync()])),
        ("function call in a pipeline", batch(&[run("SELECT 1"), raw::function_call(1397, &["-1"]), sync()])),
        ("many batches", [run(ROWS), sync()].concat().repeat(50)),
        ("empty statement", batch(&[run(""), sync()])),
        ("describe of no rows", batch(&[parse("", "SET work_mem = '5MB'"), describe(b'S', ""), sync()])),
    ]
}

fn portals() -> Vec<Script> {
    let limited =
        [parse("", ROWS), bind("", "", &[]), execute("", 2), execute("", 2), execute("", 2), sync()];
    let two = [
        query("BEGIN"),
        parse("s", ROWS),
        bind("a", "s", &[]),
        bind("b", "s", &[]),
        execute("a", 2),
        execute("b", 1),
        execute("a", 2),
        sync(),
        execute("b", 0),
        close(b'P', "a"),
        execute("a", 1),
        sync(),
        query("COMMIT"),
    ];
    let over = [parse("s", ROWS), bind("a", "s", &[]), sync(), execute("a", 0), sync()];
    vec![
        ("row limit", batch(&limited)),
        ("portals", batch(&two)),
        ("portal after its transaction", batch(&over)),
        ("suspended and left", batch(&[parse("", ROWS), bind("", "", &[]), execute("", 1), sync()])),
        ("a portal twice", batch(&[parse("s", ROWS), bind("a", "s", &[]), bind("a", "s", &[]), sync()])),
    ]
}

fn errors() -> Vec<Script> {
    let in_the_middle = [run("SELECT 1/0"), parse("", "SELECT 1"), sync(), run("SELECT 2"), sync()];
    let every_kind = [
        parse("", "SELECT $1::int"),
        bind("", "", &["x"]),
        sync(),
        parse("", "SELECT $1::int"),
        bind("", "", &[]),
        sync(),
        execute("missing", 0),
        describe(b'P', "missing"),
        sync(),
        describe(b'P', "missing"),
        flush(),
        sync(),
    ];
    let behind = [parse("", "nonsense"), query("SELECT 1"), raw::function_call(1397, &["-1"]), sync()];
    vec![
        ("error in a pipeline", batch(&in_the_middle)),
        ("error, flush, sync", batch(&[parse("", "nonsense"), flush(), bind("", "", &[]), flush(), sync()])),
        ("errors of every kind", batch(&every_kind)),
        ("a query behind an error", batch(&behind)),
        ("missing statement", batch(&[bind("", "missing", &[]), sync(), describe(b'S', "missing"), sync()])),
        ("same name twice", batch(&[parse("s", "SELECT 1"), parse("s", "SELECT 2"), sync()])),
        (
            "close behind an error",
            batch(&[parse("", "nonsense"), close(b'S', ""), sync(), run(ROWS), sync()]),
        ),
    ]
}

fn blocks() -> Vec<Script> {
    let failed = [
        run("BEGIN"),
        run("SELECT 1/0"),
        sync(),
        parse("", "SELECT 1"),
        sync(),
        query("SELECT 1"),
        run("ROLLBACK"),
        sync(),
    ];
    let implicit = [run("INSERT INTO t VALUES (1)"), run("SELECT 1/0"), sync(), query("TABLE t")];
    let savepoint = [
        run("BEGIN"),
        run("SAVEPOINT a"),
        sync(),
        run("SELECT 1/0"),
        sync(),
        run("ROLLBACK TO a"),
        run("SELECT 2"),
        run("COMMIT"),
        sync(),
    ];
    vec![
        ("an error in a block", batch(&failed)),
        ("an implicit transaction", batch(&implicit)),
        ("back to a savepoint", batch(&savepoint)),
        (
            "blocks in one pipeline",
            batch(&[run("BEGIN"), run("COMMIT"), run("BEGIN"), run("ROLLBACK"), sync()]),
        ),
    ]
}

fn copies() -> Vec<Script> {
    let good = [query(COPY_IN), copy_data(b"1\n2\n"), copy_data(b"3\n"), copy_done()];
    let wrong = [query(COPY_IN), copy_data(b"x\n"), copy_data(b"1\n"), copy_done()];
    let synced = [query(COPY_IN), sync(), flush(), copy_data(b"1\n"), copy_done(), query("TABLE t")];
    let two = [
        query("COPY t FROM STDIN; SELECT 1; COPY t FROM STDIN"),
        copy_data(b"1\n"),
        copy_done(),
        copy_data(b"2\n"),
        copy_done(),
    ];
    vec![
        ("copy out", query(COPY_OUT)),
        ("copy in", batch(&[good.concat(), query("SELECT sum(a) FROM t")])),
        ("copy fail", batch(&[query(COPY_IN), copy_data(b"1\n"), copy_fail("enough"), query("TABLE t")])),
        ("copy error", batch(&wrong)),
        ("copy of nothing", query("COPY missing FROM STDIN")),
        ("copy data when idle", batch(&[copy_data(b"1\n"), copy_done(), query("SELECT 1")])),
        ("copy end when idle", batch(&[copy_done(), copy_fail("x"), copy_done()])),
        ("sync and flush in a copy", batch(&synced)),
        ("query in a copy", batch(&[query(COPY_IN), copy_data(b"1\n"), query("SELECT 1")])),
        ("goodbye in a copy", batch(&[query(COPY_IN), copy_data(b"1\n")])),
        ("two copies in one query", batch(&two)),
    ]
}

fn extended_copies() -> Vec<Script> {
    let out = [parse("", COPY_OUT), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()];
    let early_sync = [run(COPY_IN), sync(), copy_data(b"5\n"), copy_done(), sync(), query("TABLE t")];
    let failed = [
        run(COPY_IN),
        copy_data(b"5\n"),
        copy_fail("enough"),
        parse("", "SELECT 1"),
        sync(),
        query("TABLE t"),
    ];
    let wrong = [run(COPY_IN), copy_data(b"x\n"), copy_data(b"1\n"), copy_done(), sync()];
    vec![
        ("copy by extended", batch(&early_sync)),
        ("copy out by extended", batch(&out)),
        (
            "copy out behind a failure",
            batch(&[run("SELECT 1/0"), run(COPY_OUT), sync(), run(COPY_OUT), sync()]),
        ),
        ("copy fail by extended", batch(&failed)),
        ("copy error by extended", batch(&wrong)),
    ]
}

fn odd() -> Vec<Script> {
    vec![
        ("function call", raw::function_call(1397, &["-42"])),
        ("unknown function", raw::function_call(1, &[])),
        ("sync alone", batch(&[sync(), sync()])),
        ("flush alone", flush()),
        ("sync with a body", message(b'S', b"x")),
        ("close of nothing", batch(&[close(b'S', "none"), close(b'P', "none"), sync()])),
        ("set reports", batch(&[query("SET application_name = 'x'"), query("SET datestyle = German")])),
    ]
}

/// Messages whose type is right and whose content is not.
fn malformed() -> Vec<Script> {
    let cut_off = message(b'B', b"\0\0\0\0\0\x01\0\0\0\x09");
    vec![
        ("query without end", message(b'Q', b"SELECT 1")),
        ("query with more", message(b'Q', b"SELECT 1\0SELECT 2\0")),
        ("parse without types", batch(&[message(b'P', b"s\0SELECT 1\0"), sync()])),
        ("bind cut off", batch(&[parse("", "SELECT $1::int"), cut_off, sync()])),
        ("describe of neither", batch(&[message(b'D', b"X\0"), sync()])),
        ("close of neither", batch(&[message(b'C', b"X\0"), sync()])),
        ("execute cut off", batch(&[message(b'E', b"\0\0"), sync()])),
        (
            "empty bodies",
            batch(&[message(b'P', b""), sync(), message(b'B', b""), sync(), message(b'Q', b"")]),
        ),
        ("function call cut off", message(b'F', b"\0\0")),
        ("flush with a body", message(b'H', b"what")),
    ]
}

/// What is no message at all, or none at this place: the server ends the connection.
pub fn violations() -> Vec<Script> {
    let header = |tag: u8, length: i32| [&[tag][..], &length.to_be_bytes()].concat();
    let slow = query("SELECT pg_sleep(0.05)");
    vec![
        ("unknown type", message(b'y', b"what")),
        ("garbage", b"\x00\x01\x02\x03\x04\x05\x06\x07".to_vec()),
        ("length 0", header(b'Q', 0)),
        ("length 1", header(b'Q', 1)),
        ("length 2", header(b'S', 2)),
        ("length 3", header(b'Q', 3)),
        ("negative length", header(b'Q', -5)),
        ("2 GiB", header(b'Q', i32::MAX)),
        ("2 GiB of COPY", header(b'd', i32::MAX)),
        ("1 GiB", header(b'Q', 0x3FFF_FFFF)),
        ("password when idle", message(b'p', b"secret\0")),
        ("an HTTP request", b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("one byte", b"y".to_vec()),
        ("one zero", b"\0".to_vec()),
        ("a long Sync", message(b'S', &[0; 20_000])),
        ("a long Sync of which only the length comes", header(b'S', 20_000)),
        ("garbage behind work", batch(&[query("SELECT 1"), slow, b"\x7f\x01".to_vec()])),
        ("garbage in a batch", batch(&[parse("", "SELECT 1"), b"\xff\xff\xff\xff\xff\xff".to_vec()])),
        ("garbage in a copy", batch(&[query(COPY_IN), copy_data(b"1\n"), b"~~~~~~~~".to_vec()])),
        ("bad length in a copy", batch(&[query(COPY_IN), header(b'd', -1)])),
        (
            "bad length in a block",
            batch(&[query("BEGIN"), query("INSERT INTO t VALUES (1)"), header(b'P', 2)]),
        ),
        ("a startup packet again", raw::startup(raw::V3_0, &[("user", "app")])),
    ]
}
