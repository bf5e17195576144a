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
    let alone = [simple(), extended(), portals(), errors(), odd(), malformed()].concat();
    let copies = [copies(), extended_copies(), copies_in_blocks()].concat();
    [alone, blocks(), copies, borders(), statements(), settings(), cursors()].concat()
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

/// Borders of transactions at every place of a pipeline.
fn borders() -> Vec<Script> {
    let insert = |number: u32| run(&format!("INSERT INTO t VALUES ({number})"));
    let between = [
        batch(&[insert(1), sync(), run("BEGIN"), insert(2), sync(), run("TABLE t"), sync()]),
        batch(&[run("COMMIT"), sync(), run("TABLE t"), sync()]),
    ];
    let inside = [insert(1), run("BEGIN"), insert(2), sync(), query("ROLLBACK"), query("TABLE t")];
    let ends_inside = [query("BEGIN"), insert(1), run("COMMIT"), insert(2), run("SELECT 1/0"), sync()];
    let implicit = [insert(1), sync(), run("SELECT 1/0"), insert(2), sync(), insert(3), sync()];
    let failed = [run("BEGIN"), insert(1), run("SELECT 1/0"), run("COMMIT"), sync(), sync(), query("COMMIT")];
    let chained = [
        query("BEGIN ISOLATION LEVEL SERIALIZABLE"),
        insert(1),
        run("COMMIT AND CHAIN"),
        sync(),
        query("SHOW transaction_isolation"),
        query("ROLLBACK AND CHAIN; SHOW transaction_isolation"),
        query("COMMIT"),
        query("SHOW transaction_isolation"),
    ];
    let left_open = [
        query("INSERT INTO t VALUES (1); BEGIN; INSERT INTO t VALUES (2)"),
        run("TABLE t"),
        sync(),
        query("SELECT 1/0; SELECT 2"),
        query("ROLLBACK; TABLE t"),
    ];
    let again =
        [query("BEGIN; SELECT 1; COMMIT; BEGIN; SELECT 2"), query("COMMIT; SELECT 3; BEGIN"), query("END")];
    let flushed =
        [run("BEGIN"), flush(), insert(1), flush(), run("COMMIT"), flush(), sync(), query("TABLE t")];
    let alone = [insert(1), run("VACUUM t"), sync(), query("TABLE t"), run("VACUUM t"), sync()];
    vec![
        ("a block between implicit transactions", between.concat()),
        ("a block begins in a batch", batch(&inside)),
        ("a block ends in a batch", batch(&[batch(&ends_inside), query("TABLE t")])),
        ("implicit transactions in one packet", batch(&[batch(&implicit), query("TABLE t")])),
        ("a block fails in a batch", batch(&failed)),
        ("chained blocks", batch(&chained)),
        ("a text that leaves a block open", batch(&left_open)),
        ("blocks in one text", batch(&again)),
        ("a block step by step", batch(&flushed)),
        ("what must stand alone", batch(&alone)),
        (
            "a transaction in two phases",
            batch(&[query("BEGIN"), query("PREPARE TRANSACTION 'x'"), query("END")]),
        ),
        ("the end of no block", batch(&[run("COMMIT"), sync(), query("ROLLBACK"), run("END"), sync()])),
        (
            "a block in a block",
            batch(&[query("BEGIN"), run("BEGIN"), sync(), query("BEGIN"), query("COMMIT")]),
        ),
    ]
}

/// Uses the statement of that name.
fn use_of(name: &str) -> Vec<u8> {
    batch(&[bind("", name, &[]), describe(b'P', ""), execute("", 0), sync()])
}

/// Statements that outlive a transaction, or do not.
fn statements() -> Vec<Script> {
    let kept = [
        parse("s", ROWS),
        sync(),
        query("BEGIN"),
        use_of("s"),
        query("ROLLBACK"),
        use_of("s"),
        close(b'S', "s"),
        sync(),
        use_of("s"),
    ];
    let unnamed = [parse("", ROWS), sync(), use_of(""), query("SELECT 1"), use_of("")];
    let discarded = [parse("s", ROWS), sync(), query("DISCARD ALL"), use_of("s")];
    let deallocated =
        [parse("s", ROWS), run("DEALLOCATE ALL"), use_of("s"), parse("s", ROWS), sync(), use_of("s")];
    let failed =
        [parse("", "nonsense"), parse("s", "SELECT 1"), sync(), parse("s", "SELECT 2"), sync(), use_of("s")];
    let rolled_back = [query("BEGIN"), parse("s", "SELECT 1"), sync(), query("ROLLBACK"), use_of("s")];
    vec![
        ("a statement in several transactions", batch(&kept)),
        ("the unnamed statement in several batches", batch(&unnamed)),
        ("a statement behind DISCARD", batch(&discarded)),
        ("a statement behind DEALLOCATE", batch(&deallocated)),
        ("a statement whose Parse was passed over", batch(&failed)),
        ("a statement of a block that failed", batch(&rolled_back)),
    ]
}

/// Settings of a session and of a transaction.
fn settings() -> Vec<Script> {
    let set = [run("SET work_mem = '5MB'"), sync(), run("SHOW work_mem"), sync(), query("SHOW work_mem")];
    let undone = [run("SET work_mem = '5MB'"), run("SELECT 1/0"), sync(), query("SHOW work_mem")];
    let local = [
        query("BEGIN"),
        run("SET LOCAL work_mem = '5MB'"),
        run("SHOW work_mem"),
        sync(),
        query("COMMIT; SHOW work_mem"),
    ];
    vec![
        ("a setting by extended", batch(&set)),
        ("a setting that an error takes back", batch(&undone)),
        ("a setting of a block", batch(&local)),
    ]
}

/// What ends with its transaction, and what does not.
fn cursors() -> Vec<Script> {
    let portal = [
        query("BEGIN"),
        parse("s", ROWS),
        bind("p", "s", &[]),
        execute("p", 2),
        sync(),
        query("SELECT 1"),
        execute("p", 2),
        sync(),
        query("COMMIT"),
        execute("p", 1),
        sync(),
    ];
    let cursor = [
        query("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 3)"),
        run("FETCH 2 FROM c"),
        sync(),
        query("FETCH c"),
        query("COMMIT"),
        query("FETCH c"),
    ];
    let temporary = [
        query("CREATE TEMP TABLE own (a int)"),
        run("TABLE own"),
        sync(),
        query("DROP TABLE own"),
        run(ROWS),
        sync(),
    ];
    vec![
        ("a portal in several batches", batch(&portal)),
        ("a cursor in several batches", batch(&cursor)),
        ("a temporary table", batch(&temporary)),
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

fn copies_in_blocks() -> Vec<Script> {
    let inside = [
        run("BEGIN"),
        sync(),
        run(COPY_IN),
        copy_data(b"1\n"),
        copy_done(),
        run("TABLE t"),
        sync(),
        run(COPY_OUT),
        sync(),
        query("COMMIT"),
        query("TABLE t"),
    ];
    let begun =
        [run("BEGIN"), run(COPY_IN), copy_data(b"1\n"), copy_done(), run("COMMIT"), sync(), query("TABLE t")];
    let failed = [query("BEGIN"), query(COPY_IN), copy_data(b"1\n"), copy_fail("enough"), query("COMMIT")];
    let wrong = [
        query("BEGIN"),
        run(COPY_IN),
        copy_data(b"x\n"),
        copy_done(),
        sync(),
        query("END"),
        query("TABLE t"),
    ];
    let texts = [
        query("BEGIN; COPY t FROM STDIN; COMMIT; SELECT 1"),
        copy_data(b"1\n"),
        copy_done(),
        query("COPY t TO STDOUT; BEGIN; COPY t TO STDOUT"),
        query("ROLLBACK"),
    ];
    let several = [run(COPY_IN), copy_data(b"1\n"), copy_done(), sync()].concat().repeat(3);
    vec![
        ("copies in a block", batch(&inside)),
        ("a copy in a block of its batch", batch(&begun)),
        ("a copy that fails in a block", batch(&[batch(&failed), query("TABLE t")])),
        ("a copy with an error in a block", batch(&wrong)),
        ("copies in texts with blocks", batch(&texts)),
        ("copies in a row", batch(&[several, query("TABLE t")])),
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
