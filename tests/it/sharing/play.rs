//! Programs of several clients, run on connections of their own and through few shared backends: every message that a
//! client gets must be the same.
//!
//! A program is a text with a step on each line:
//!
//! ```text
//! setup: CREATE TABLE t (a int)           the superuser, directly, before any client
//! a: SELECT 1                             client a; it logs in at its first step
//! a: \login application_name=x; jit=off   with these startup parameters, in place of an earlier login
//! a: \leave                               Terminate
//! a: \hear                                one message that comes without having been asked for
//! a: @ parse s $1::int: SELECT $1 | bind s 7 | execute | sync
//! ```
//!
//! The messages behind `@` are one packet: `parse NAME[(types)] TEXT`, `bind NAME VALUES`, `describe NAME`, `portal`
//! (Describe of the unnamed portal), `execute [ROWS]`, `close NAME`, `sync`, `flush`, `query TEXT`; the name `-` is the
//! unnamed statement's. Plain statements are sent in each of the ways that drivers have, one run of the program for each.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use tokio_postgres::SimpleQueryMessage;

use crate::harness::LIMIT;
use crate::harness::drivers::connect;
use crate::harness::raw::{self, Frame, Raw, bind, describe, execute, parse, query, sync, terminate};
use crate::harness::scene::{Scene, scene};

/// How a plain statement is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// A Query.
    Simple,
    /// Parse, Bind, Describe, Execute and Sync of the unnamed statement.
    Unnamed,
    /// Prepared and described by name in one batch the first time, bound and executed in a batch of its own each time.
    Named,
}

/// All of them.
pub const WAYS: [Way; 3] = [Way::Simple, Way::Unnamed, Way::Named];

/// What a session may have, asked by a client that has just come.
const NEWCOMER: [&str; 5] = [
    "SELECT name, setting FROM pg_settings ORDER BY name",
    "SELECT current_user, session_user",
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    "SELECT name FROM pg_cursors WHERE is_holdable UNION ALL SELECT pg_listening_channels()",
    "SELECT relname FROM pg_class WHERE relnamespace = pg_my_temp_schema()",
];

/// A server and a proxy in front of it in transaction mode.
pub struct Stage {
    pub scene: Scene,
    /// Backends that all clients of a program share.
    size: usize,
    plays: Cell<usize>,
}

/// A stage with so many backends.
pub async fn stage(size: usize) -> Stage {
    stage_with(size, &[]).await
}

/// The same with more settings, in TOML.
pub async fn stage_with(size: usize, settings: &[(&str, &str)]) -> Stage {
    let scene = scene(0, |spec| {
        spec.set("pool.mode", "transaction").raw("pool.size", &size.to_string());
        spec.raw("pool.max_pinned", &size.to_string());
        for (key, value) in settings {
            spec.raw(key, value);
        }
    })
    .await;
    Stage { scene, size, plays: Cell::new(0) }
}

impl Stage {
    /// The program gives the same answers through the pool as on connections of their own, however it is sent.
    pub async fn same(&self, program: &str) {
        self.same_by(&WAYS, program).await;
    }

    /// The same, sent in these ways only.
    pub async fn same_by(&self, ways: &[Way], program: &str) {
        for way in ways {
            let wanted = self.run(&self.scene.cluster.n(0).address(), *way, program).await;
            let told = self.run(&self.scene.proxy.address(), *way, program).await;
            let pairs = told.iter().zip(&wanted).filter(|(told, wanted)| told != wanted);
            let differences: Vec<_> =
                pairs.map(|(told, wanted)| format!("{}\n  got {}", brief(wanted), brief(told))).collect();
            assert!(differences.is_empty(), "{way:?}:\n{}", differences.join("\n"));
        }
    }

    /// Runs a program in a database of its own.
    async fn run(&self, address: &str, way: Way, program: &str) -> Vec<String> {
        let number = self.plays.replace(self.plays.get() + 1);
        let database = format!("play{number}");
        let node = self.scene.cluster.n(0);
        let create = format!("CREATE DATABASE {database} OWNER app");
        node.sql_in("postgres").await.unwrap().run(&create).await.unwrap();
        let mut admin = node.sql_in(&database).await.unwrap();
        let mut cast = Cast { address, database, way, clients: BTreeMap::new() };
        let mut told = Vec::new();
        for line in program.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (who, what) = line.split_once(": ").expect("who: what");
            if who == "setup" {
                admin.run(what).await.unwrap();
            } else {
                let step = tokio::time::timeout(LIMIT / 2, cast.step(who, what)).await;
                let Ok(answer) = step else {
                    panic!("{way:?} at {address}: no answer to {}\n{}", brief(line), self.clients().await);
                };
                told.push(format!("{line} -> {}", answer.replace(&cast.database, "play")));
            }
        }
        // Whoever comes next finds nothing of theirs.
        for question in NEWCOMER {
            told.push(format!("newcomer: {question} -> {}", cast.step("newcomer", question).await));
        }
        if address == self.scene.proxy.address() {
            let backends = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                            AND usename = 'app'";
            let backends: usize = admin.one(backends).await.unwrap().parse().unwrap();
            assert!((1..=self.size).contains(&backends), "{backends} backends for {}", cast.clients.len());
        }
        told
    }

    /// Who keeps a backend, for people.
    async fn clients(&self) -> String {
        let console = connect(&self.scene.proxy.console_config()).await.unwrap();
        let messages = console.simple_query("SHOW CLIENTS").await.unwrap();
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).filter_map(|at| row.get(at)).collect::<Vec<_>>().join(" | "))
            }
            _ => None,
        });
        rows.collect::<Vec<_>>().join("\n")
    }

    /// See [`Scene::finish`].
    pub async fn finish(self) {
        self.scene.finish().await;
    }
}

/// The clients of one run.
struct Cast<'a> {
    address: &'a str,
    database: String,
    way: Way,
    clients: BTreeMap<String, Actor>,
}

struct Actor {
    raw: Raw,
    /// Names of the statements prepared by their texts.
    named: HashMap<String, String>,
    last_name: u32,
}

impl Cast<'_> {
    async fn step(&mut self, who: &str, what: &str) -> String {
        if let Some(options) = what.strip_prefix("\\login") {
            return self.login(who, options).await;
        }
        if !self.clients.contains_key(who) {
            self.login(who, "").await;
        }
        let actor = self.clients.get_mut(who).expect("logged in");
        match what {
            "\\leave" => {
                actor.raw.send(&terminate()).await;
                let end = actor.raw.end().await;
                self.clients.remove(who);
                words(&end)
            }
            "\\hear" => words(&[actor.raw.frame().await]),
            _ => match what.strip_prefix("@ ") {
                Some(batch) => actor.batch(batch).await,
                None => actor.plain(self.way, what).await,
            },
        }
    }

    async fn login(&mut self, who: &str, options: &str) -> String {
        self.clients.remove(who);
        let options = options.split(';').map(str::trim).filter(|option| !option.is_empty());
        let mut params = vec![("user", "app"), ("database", &self.database)];
        params.extend(options.map(|option| option.split_once('=').expect("name=value")));
        let mut raw = Raw::tcp(self.address).await;
        let frames = raw.start(raw::V3_0, &params, "app-secret").await;
        let last = frames.last().expect("an answer");
        let answer = if last.tag == b'Z' { format!("{:?}", raw.params) } else { last.to_string() };
        self.clients.insert(who.to_owned(), Actor { raw, named: HashMap::new(), last_name: 0 });
        answer
    }
}

impl Actor {
    async fn plain(&mut self, way: Way, sql: &str) -> String {
        if way == Way::Simple {
            return words(&self.raw.query(sql).await);
        }
        let mut name = String::new();
        let mut told = Vec::new();
        let mut batch = Vec::new();
        if way == Way::Unnamed {
            batch.extend(parse("", sql));
        } else if let Some(known) = self.named.get(sql) {
            name.clone_from(known);
        } else {
            self.last_name += 1;
            name = format!("s{}", self.last_name);
            self.raw.send(&[parse(&name, sql), describe(b'S', &name), sync()].concat()).await;
            told = self.raw.until(b'Z').await;
            if told.iter().any(|frame| frame.tag == b'E') {
                return words(&told);
            }
            self.named.insert(sql.to_owned(), name.clone());
        }
        batch.extend([bind("", &name, &[]), describe(b'P', ""), execute("", 0), sync()].concat());
        self.raw.send(&batch).await;
        told.extend(self.raw.until(b'Z').await);
        if told.iter().any(|frame| frame.tag == b'E' && frame.sqlstate() == "26000") {
            // As drivers do: prepared again when it is used the next time.
            self.named.remove(sql);
        }
        words(&told)
    }

    async fn batch(&mut self, text: &str) -> String {
        let mut bytes = Vec::new();
        let mut asked = String::new();
        for part in text.split(" | ") {
            let (tag, message) = message(part);
            asked.push(tag);
            bytes.extend(message);
        }
        self.raw.send(&bytes).await;
        words(&self.answers(&asked).await)
    }

    /// The answers to messages of these types; behind the last Sync as far as a Flush has them sent.
    async fn answers(&mut self, asked: &str) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut failed = false;
        for tag in asked.chars() {
            let ends: &[u8] = match tag {
                'P' => b"1",
                'B' => b"2",
                'S' => b"tT",
                'D' => b"Tn",
                'E' => b"CIs",
                'C' => b"3",
                'H' => continue,
                _ => b"Z",
            };
            if failed && ends != b"Z" {
                continue;
            }
            failed = false;
            loop {
                let frame = self.raw.frame().await;
                let last = ends.contains(&frame.tag);
                failed |= frame.tag == b'E';
                let over = last || (failed && ends != b"Z");
                // ParameterDescription goes before the columns.
                let more = frame.tag == b't';
                frames.push(frame);
                if more {
                    let columns = self.raw.frame().await;
                    frames.push(columns);
                }
                if over {
                    break;
                }
            }
        }
        frames
    }
}

/// As much as people read.
fn brief(text: &str) -> String {
    text.chars().take(400).collect()
}

/// What the client is told, in words. The process id in a notification is its sender's, whoever that is.
fn words(frames: &[Frame]) -> String {
    let word = |frame: &Frame| match frame.tag {
        b'A' => format!("A {}", frame.body[4..].escape_ascii()),
        _ => frame.to_string(),
    };
    frames.iter().map(word).collect::<Vec<_>>().join(", ")
}

/// One message by its words, and a letter for the kind of its answer.
fn message(part: &str) -> (char, Vec<u8>) {
    let (verb, rest) = part.trim().split_once(' ').unwrap_or((part.trim(), ""));
    let (name, rest_behind_name) = rest.split_once(' ').unwrap_or((rest, ""));
    let name = if name == "-" { "" } else { name };
    match verb {
        "parse" => ('P', parse_typed(name, rest_behind_name)),
        "bind" => ('B', bind("", name, &rest_behind_name.split_whitespace().collect::<Vec<_>>())),
        "describe" => ('S', describe(b'S', name)),
        "portal" => ('D', describe(b'P', "")),
        "execute" => ('E', execute("", rest.parse().unwrap_or(0))),
        "close" => ('C', raw::close(b'S', name)),
        "sync" => ('Z', sync()),
        "flush" => ('H', raw::flush()),
        "query" => ('Z', query(rest)),
        _ => panic!("no such message: {part}"),
    }
}

/// Parse; the name may be followed by object ids of parameter types in parentheses.
fn parse_typed(name: &str, sql: &str) -> Vec<u8> {
    let Some((name, types)) = name.strip_suffix(')').and_then(|name| name.split_once('(')) else {
        return parse(name, sql);
    };
    let name = if name == "-" { "" } else { name };
    let types: Vec<u32> = types.split(',').map(|oid| oid.parse().unwrap()).collect();
    let mut body = [raw::cstr(name), raw::cstr(sql)].concat();
    body.extend(u16::try_from(types.len()).unwrap().to_be_bytes());
    body.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
    raw::message(b'P', &body)
}
