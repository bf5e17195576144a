//! The console over real streams: tokio-postgres, psql and raw bytes.

use std::process::Stdio;
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, DuplexStream};
use tokio::net::TcpListener;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::*;
use crate::admin::fixture;
use crate::wire::error::ErrorView;

fn login() -> Login {
    Login {
        user: "postgres".to_owned(),
        application_name: "test".to_owned(),
        pid: 42,
        cancel_key: vec![1, 2, 3, 4],
    }
}

/// Starts a console on one end of a pipe and returns the other end.
fn open(state: &Arc<AdminState>, pipe_bytes: usize) -> DuplexStream {
    let (near, far) = tokio::io::duplex(pipe_bytes);
    state.tasks.spawn(serve(far, BytesMut::new(), login(), Arc::clone(state)));
    near
}

/// A raw connection behind its login.
struct Raw(DuplexStream);

impl Raw {
    async fn open(state: &Arc<AdminState>) -> Self {
        let mut raw = Self(open(state, 1 << 20));
        let (tag, body) = raw.until(b'Z').await.pop().unwrap();
        assert_eq!((tag, body), (b'Z', b"I".to_vec()));
        raw
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next message; `None` at the end of the connection.
    async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let tag = self.0.read_u8().await.ok()?;
        let length = self.0.read_i32().await.unwrap();
        let mut body = vec![0; length as usize - 4];
        self.0.read_exact(&mut body).await.unwrap();
        Some((tag, body))
    }

    /// All messages up to one of type `last`.
    async fn until(&mut self, last: u8) -> Vec<(u8, Vec<u8>)> {
        let mut all = Vec::new();
        loop {
            let message = self.message().await.expect("the connection ended early");
            all.push(message);
            if all.last().unwrap().0 == last {
                return all;
            }
        }
    }

    async fn tags(&mut self) -> String {
        self.until(b'Z').await.iter().map(|(tag, _)| char::from(*tag)).collect()
    }

    /// Expects one error and the end of the connection; returns code and text.
    async fn fatal(&mut self) -> (String, String) {
        let (tag, body) = self.message().await.expect("no error before the end");
        assert_eq!(tag, b'E');
        let view = ErrorView::new(&body);
        assert!(view.ends_connection());
        assert_eq!(self.message().await, None);
        (view.code().to_string(), view.message().to_owned())
    }
}

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    encode::message(&mut out, tag, |out| out.extend_from_slice(body));
    out
}

/// Parse, Bind with these result formats, Describe, Execute with that limit, Sync.
fn batch(sql: &str, formats: &[u8], rows_max: i32) -> Vec<u8> {
    let mut out = message(b'P', &[b"\0", sql.as_bytes(), b"\0\0\0"].concat());
    out.extend(message(b'B', &[b"\0\0\0\0\0\0", formats].concat()));
    out.extend(message(b'D', b"P\0"));
    out.extend(message(b'E', &[b"\0", &rows_max.to_be_bytes()[..]].concat()));
    out.extend(message(b'S', b""));
    out
}

async fn driver(state: &Arc<AdminState>) -> Client {
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let inner = Arc::clone(state);
    state.tasks.spawn(async move {
        let length = far.read_i32().await.unwrap();
        far.read_exact(&mut vec![0; length as usize - 4]).await.unwrap();
        serve(far, BytesMut::new(), login(), inner).await;
    });
    let mut config = tokio_postgres::Config::new();
    let (client, connection) = config.user("postgres").connect_raw(near, NoTls).await.unwrap();
    state.tasks.spawn(async move { drop(connection.await) });
    client
}

#[tokio::test]
async fn a_driver_decodes_every_column_type_in_binary() {
    let client = driver(&fixture::state()).await;
    let rows = client.query("SHOW NODES;", &[]).await.unwrap();
    assert_eq!(rows.len(), 2);
    let standby = &rows[1];
    assert_eq!(standby.get::<_, &str>("node"), "127.0.0.1:5433");
    assert_eq!(standby.get::<_, &str>("role"), "standby");
    assert_eq!(standby.get::<_, Option<f64>>("lag_ms"), Some(1.5));
    assert_eq!(standby.get::<_, i64>("lag_bytes"), 220);
    assert_eq!(standby.get::<_, Option<&str>>("zone"), None);
    assert_eq!(standby.get::<_, i64>("in_flight"), 0);
    assert_eq!(standby.get::<_, Option<f64>>("latency_ms"), Some(3.0));
    assert_eq!(rows[0].get::<_, Option<f64>>("latency_ms"), None);
    assert_eq!((rows[0].get::<_, f64>("read_share"), standby.get::<_, f64>("read_share")), (0.0, 1.0));
    assert!(standby.get::<_, SystemTime>("started_at") > SystemTime::UNIX_EPOCH);
    let topology = client.query_one("show topology", &[]).await.unwrap();
    assert!(topology.get::<_, bool>("writable"));
}

#[tokio::test]
async fn every_table_can_be_described_and_asked_for() {
    let client = driver(&fixture::state()).await;
    for (word, ..) in crate::admin::command::SHOWS {
        let statement = client.prepare(&format!("SHOW {word}")).await.unwrap();
        client.query(&statement, &[]).await.unwrap_or_else(|error| panic!("{word}: {error}"));
    }
}

#[tokio::test]
async fn statements_of_drivers_are_answered() {
    let client = driver(&fixture::state()).await;
    let one = |sql: &'static str| {
        let client = &client;
        async move { client.query_one(sql, &[]).await.unwrap() }
    };
    assert_eq!(one("SELECT 1").await.get::<_, i64>(0), 1);
    assert!(one("SELECT version()").await.get::<_, &str>(0).starts_with("PostgreSQL 15.0 (pgsteer"));
    assert_eq!(one("SELECT pg_backend_pid()").await.get::<_, i64>(0), 42);
    assert_eq!(
        one("SHOW transaction_isolation").await.get::<_, &str>("transaction_isolation"),
        "read committed"
    );
    assert_eq!(client.execute("SET extra_float_digits = 3", &[]).await.unwrap(), 0);
    client.batch_execute("BEGIN; SET a = 'b;c'; COMMIT; DISCARD ALL").await.unwrap();
    client.simple_query("").await.unwrap();
    assert!(client.query("", &[]).await.unwrap().is_empty());
}

#[tokio::test]
async fn transactions_look_like_transactions() {
    let mut client = driver(&fixture::state()).await;
    let transaction = client.transaction().await.unwrap();
    transaction.query("SHOW NODES", &[]).await.unwrap();
    transaction.commit().await.unwrap();
    let state = fixture::state();
    let mut raw = Raw::open(&state).await;
    for (sql, status) in [("BEGIN", b"T"), ("NONSENSE", b"E"), ("ROLLBACK", b"I"), ("SHOW VERSION", b"I")] {
        raw.send(&message(b'Q', format!("{sql}\0").as_bytes())).await;
        assert_eq!(raw.until(b'Z').await.pop().unwrap().1, status, "{sql}");
    }
    raw.send(&message(b'Q', b"BEGIN; SAVEPOINT a; ROLLBACK TO a\0")).await;
    assert_eq!(raw.until(b'Z').await.pop().unwrap().1, b"T");
    raw.send(&message(b'Q', b"BEGIN; KILL 1; SHOW HELP\0")).await;
    let answer = raw.until(b'Z').await;
    assert_eq!(answer.iter().map(|(tag, _)| char::from(*tag)).collect::<String>(), "CEZ");
    assert_eq!(answer.last().unwrap().1, b"E");
    raw.send(&message(b'Q', b"COMMIT\0")).await;
    assert_eq!(raw.until(b'Z').await[0].1, b"ROLLBACK\0");
}

#[tokio::test]
async fn orders_are_answered_when_done() {
    let client = driver(&fixture::state()).await;
    let changed = client.query_one("RELOAD", &[]).await.unwrap();
    assert_eq!(changed.get::<_, &str>("option"), "pool.size");
    assert_eq!(changed.get::<_, &str>("applies"), "live");
    let refused = client.query("RELOAD", &[]).await.unwrap_err();
    let refused = refused.as_db_error().unwrap();
    assert_eq!(refused.code().code(), "F0000");
    assert!(
        refused.detail().unwrap().contains("proxy.toml:3")
            && refused.detail().unwrap().contains("proxy.toml:9")
    );
    client.execute("KILL 7", &[]).await.unwrap();
    let unknown = client.execute("KILL 8", &[]).await.unwrap_err();
    assert_eq!(unknown.code().unwrap().code(), "42704");
    // An error does not end the connection.
    let shown = client.simple_query("SHOW VERSION").await.unwrap();
    assert!(shown.iter().any(|part| matches!(part, SimpleQueryMessage::Row(_))));
}

#[tokio::test]
async fn an_unknown_command_is_named_with_a_hint() {
    let client = driver(&fixture::state()).await;
    let error = client.query("SHOW TABLES", &[]).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message()), ("42601", "unknown command \"SHOW TABLES\""));
    assert!(error.hint().unwrap().contains("SHOW HELP"));
}

#[tokio::test]
async fn a_batch_may_arrive_in_one_packet_or_byte_by_byte() {
    let state = fixture::state();
    let mut raw = Raw::open(&state).await;
    let bytes = batch("SHOW NODES", b"\0\0", 0);
    raw.send(&[bytes.clone(), bytes.clone()].concat()).await;
    assert_eq!(raw.tags().await, "12TDDCZ");
    assert_eq!(raw.tags().await, "12TDDCZ");
    for byte in bytes {
        raw.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.tags().await, "12TDDCZ");
}

#[tokio::test]
async fn a_row_limit_suspends_and_an_absurd_one_costs_nothing() {
    let state = fixture::state();
    let mut raw = Raw::open(&state).await;
    for (limit, tags) in [(1, "12TDsZ"), (i32::MAX, "12TDDCZ"), (-1, "12TDDCZ")] {
        raw.send(&batch("SHOW NODES", b"\0\0", limit)).await;
        assert_eq!(raw.tags().await, tags, "{limit}");
    }
}

#[tokio::test]
async fn formats_that_do_not_fit_are_refused() {
    let state = fixture::state();
    let mut raw = Raw::open(&state).await;
    for formats in [&b"\0\x02\0\0\0\x01"[..], b"\0\x01\0\x07"] {
        raw.send(&batch("SHOW NODES", formats, 0)).await;
        assert_eq!(raw.tags().await, "1EZ", "{formats:?}");
    }
    raw.send(&batch("SHOW NODES; SHOW NODES", b"\0\0", 0)).await;
    assert_eq!(raw.tags().await, "EZ");
    raw.send(&message(b'P', b"\0KILL $1\0\0\x01\0\0\0\x14")).await;
    raw.send(&message(b'S', b"")).await;
    assert_eq!(raw.tags().await, "EZ");
}

#[tokio::test]
async fn kept_statements_have_a_limit_and_closing_makes_room() {
    let state = fixture::state();
    let mut raw = Raw::open(&state).await;
    let parse = |n: usize| message(b'P', format!("s{n}\0SELECT 1\0\0\0").as_bytes());
    for n in 0..256 {
        raw.send(&parse(n)).await;
    }
    raw.send(&message(b'S', b"")).await;
    assert_eq!(raw.tags().await, "1".repeat(256) + "Z");
    raw.send(&[parse(256), message(b'S', b"")].concat()).await;
    assert_eq!(raw.tags().await, "EZ");
    raw.send(&[message(b'C', b"Ss0\0"), parse(256), message(b'S', b"")].concat()).await;
    assert_eq!(raw.tags().await, "31Z");
}

#[tokio::test]
async fn broken_messages_end_the_connection_with_a_reason() {
    let state = fixture::state();
    let long = [&b"Q"[..], &100_000_i32.to_be_bytes()].concat();
    let cases = [
        (long.as_slice(), "too long"),
        (&b"Q\0\0\0\x03"[..], "invalid message length 3"),
        (b"Q\xff\xff\xff\xff", "invalid message length -1"),
        (b"Z\0\0\0\x04", "invalid frontend message type 90"),
        (b"p\0\0\0\x04", "invalid frontend message type 112"),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", "invalid frontend message type 0"),
        (b"B\0\0\0\x06\0\0", "invalid message format"),
        (b"P\0\0\0\x05x", "invalid message format"),
    ];
    for (bytes, expected) in cases {
        let mut raw = Raw::open(&state).await;
        raw.send(bytes).await;
        let (code, text) = raw.fatal().await;
        assert_eq!(code, "08P01", "{bytes:?}");
        assert!(text.contains(expected), "{bytes:?}: {text}");
    }
}

#[tokio::test]
async fn a_function_call_is_an_error_and_copy_data_is_ignored() {
    let state = fixture::state();
    let mut raw = Raw::open(&state).await;
    raw.send(&[message(b'd', b"data"), message(b'F', b"\0\0\0\x01\0\0\0\0\0\0")].concat()).await;
    let answer = raw.until(b'Z').await;
    assert_eq!(answer.len(), 2);
    assert_eq!(ErrorView::new(&answer[0].1).code(), SqlState::FEATURE_NOT_SUPPORTED);
}

#[tokio::test]
async fn terminate_and_shutdown_end_the_connection() {
    let state = fixture::state();
    let mut raw = Raw::open(&state).await;
    raw.send(&message(b'X', b"")).await;
    assert_eq!(raw.message().await, None);
    let mut idle = Raw::open(&state).await;
    let mut half = Raw::open(&state).await;
    half.send(b"Q\0\0").await;
    state.tasks.stop();
    assert_eq!(idle.fatal().await.0, "57P01");
    assert_eq!(half.fatal().await.0, "57P01");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut_off() {
    let state = fixture::state();
    let mut pipe = open(&state, 16 << 10);
    for _ in 0..10_000 {
        let query = message(b'Q', b"SHOW STATS\0");
        if pipe.write_all(&query).await.is_err() {
            return;
        }
    }
    panic!("ten thousand tables were asked for and none taken");
}

#[tokio::test]
async fn what_came_with_the_login_is_answered() {
    let state = fixture::state();
    let (near, far) = tokio::io::duplex(1 << 16);
    let leftover = BytesMut::from(&message(b'Q', b"SHOW VERSION\0")[..]);
    state.tasks.spawn(serve(far, leftover, login(), Arc::clone(&state)));
    let mut raw = Raw(near);
    raw.tags().await;
    assert_eq!(raw.tags().await, "TDCZ");
}

/// 2,000 idle consoles must cost at most 6 kB each, socket and task included.
#[tokio::test]
async fn an_idle_connection_is_small() {
    let state = fixture::state();
    let (_near, far) = tokio::io::duplex(64);
    let future = serve(far, BytesMut::new(), login(), state);
    assert!(size_of_val(&future) < 2500, "{} bytes", size_of_val(&future));
}

#[tokio::test]
async fn psql_shows_the_tables() {
    let state = fixture::state();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let inner = Arc::clone(&state);
    state.tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let length = stream.read_i32().await.unwrap();
        stream.read_exact(&mut vec![0; length as usize - 4]).await.unwrap();
        serve(stream, BytesMut::new(), login(), inner).await;
    });
    let mut psql = tokio::process::Command::new("psql");
    psql.args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-d", "pgsteer", "-X", "-A"])
        .env("PGSSLMODE", "disable")
        .env("PGGSSENCMODE", "disable")
        .env("PGCLIENTENCODING", "UTF8")
        .args(["-c", "SHOW NODES", "-c", "show tablez", "-c", "RELOAD"])
        .stdin(Stdio::null());
    let Ok(output) = psql.output().await else {
        eprintln!("no psql on this machine: not tried with it");
        return;
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        out.contains("127.0.0.1:5433|127.0.0.1:5433|standby|up|qualified|1.5|220|2/16B3748|3|"),
        "{out}{err}"
    );
    assert!(out.contains("2026-11-22 09:16:40.120000+00"), "{out}{err}");
    assert!(err.contains("ERROR:  unknown command \"show tablez\"\nHINT:  SHOW HELP"), "{err}");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while state.metrics.level(Gauge::ConsoleSessions) > 0 {
        assert!(tokio::time::Instant::now() < deadline, "psql has left, but is counted still");
        tokio::task::yield_now().await;
    }
    assert!(out.contains("pool.size|20|30|live"), "{out}{err}");
}
