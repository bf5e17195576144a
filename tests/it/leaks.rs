//! Random sessions on few shared backends, beside the same on connections of their own: every answer must be equal.
//!
//! A failure prints the line that runs it again: `PGSTEER_SEED=7 PGSTEER_STEPS=400 cargo test --test it leaks`.

use std::collections::BTreeMap;

use tokio_postgres::{Config, SimpleQueryMessage, Statement};

use crate::harness::drivers::{Driver, connect};
use crate::harness::scene::{Scene, scene};
use crate::harness::soon;

const CLIENTS: usize = 5;
/// Backends for all of them; one is never held for longer than a step.
const BACKENDS: usize = 3;

/// xorshift64*: the same sequence from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % limit
    }
}

/// What one client does next.
#[derive(Clone, Debug)]
enum Step {
    Sql(String),
    Prepare(usize),
    Run(usize),
    Drop(usize),
    Reconnect,
    /// Somebody else changes the columns of a table.
    Alter(&'static str),
}

/// Statements that leave nothing which binds a session to its backend.
const FREE: [&str; 26] = [
    "show work_mem",
    "set work_mem = '5MB'",
    "set work_mem = '6MB'",
    "reset work_mem",
    "set timezone = 'Asia/Tokyo'",
    "set time zone 'UTC'",
    "select extract(hour from timestamptz '2024-01-01 00:00:00+00')",
    "set search_path = other, public",
    "reset search_path",
    "select * from t order by 1",
    "set session characteristics as transaction isolation level repeatable read",
    "set session characteristics as transaction isolation level read committed",
    "show transaction_isolation",
    "set role reader",
    "reset role",
    "select current_user",
    "insert into public.log values (1)",
    "select count(*) from public.log",
    "select 1/0",
    "select 'a' ; select 2 ; select 1/0 ; select 3",
    "set application_name = 'somebody'",
    "show application_name",
    "select set_config('lock_timeout', '7s', false)",
    "show lock_timeout",
    "reset all",
    "discard all",
];

/// Statements that may bind a session to its backend, or need what does.
const BINDING: [&str; 28] = [
    "begin",
    "begin; set local work_mem = '9MB'; show work_mem",
    "set work_mem = '8MB'",
    "savepoint s",
    "rollback to s",
    "commit",
    "rollback",
    "commit",
    "create temp table mine (a int)",
    "insert into mine values (1)",
    "select count(*) from mine",
    "drop table mine",
    "select pg_try_advisory_lock(1)",
    "select pg_try_advisory_lock(2)",
    "select pg_advisory_unlock(1)",
    "select pg_advisory_unlock_all()",
    "listen news",
    "unlisten news",
    "select count(*) from pg_listening_channels()",
    "prepare q as select 41 + 1",
    "execute q",
    "deallocate q",
    "declare c cursor with hold for select generate_series(1, 3)",
    "fetch c",
    "close c",
    "select nextval('s')",
    "select currval('s')",
    "discard sequences",
];

const ALTERS: [&str; 2] = [
    "ALTER TABLE public.t ADD COLUMN IF NOT EXISTS extra int",
    "ALTER TABLE public.t DROP COLUMN IF EXISTS extra",
];

const TEXTS: [&str; 5] = [
    "select 1 + 1",
    "select * from t order by 1",
    "select id from public.t order by 1",
    "select current_setting('work_mem')",
    "select count(*) from public.log",
];

struct Side {
    config: Config,
    owner: Driver,
    clients: Vec<Driver>,
    statements: Vec<BTreeMap<usize, Statement>>,
}

impl Side {
    /// `owner` may change the tables.
    async fn new(config: Config, owner: &Config) -> Self {
        let owner = connect(owner).await.unwrap();
        // Where a transaction of a client is in the way, it is so on both sides.
        owner.batch_execute("SET lock_timeout = '100ms'").await.unwrap();
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(connect(&config).await.unwrap());
        }
        Self { config, owner, clients, statements: vec![BTreeMap::new(); CLIENTS] }
    }

    async fn run(&mut self, who: usize, step: &Step) -> String {
        let client = &self.clients[who];
        match step {
            Step::Sql(sql) => words(soon(sql, client.simple_query(sql)).await),
            Step::Prepare(what) => match soon("prepare", client.prepare(TEXTS[*what])).await {
                Ok(statement) => {
                    let columns: Vec<_> =
                        statement.columns().iter().map(|column| column.name().to_owned()).collect();
                    self.statements[who].insert(*what, statement);
                    format!("prepared {columns:?}")
                }
                Err(error) => code(&error),
            },
            Step::Run(what) => match self.statements[who].get(what) {
                Some(statement) => match soon("query", client.query(statement, &[])).await {
                    Ok(rows) => {
                        format!("{} rows of {}", rows.len(), rows.first().map_or(0, tokio_postgres::Row::len))
                    }
                    Err(error) => code(&error),
                },
                None => "nothing".to_owned(),
            },
            Step::Alter(sql) => words(soon(sql, self.owner.simple_query(sql)).await),
            Step::Drop(what) => format!("{}", self.statements[who].remove(what).is_some()),
            Step::Reconnect => {
                self.statements[who].clear();
                self.clients[who] = connect(&self.config).await.unwrap();
                "again".to_owned()
            }
        }
    }
}

fn code(error: &tokio_postgres::Error) -> String {
    format!("error {}", error.code().map_or("without a code", |code| code.code()))
}

fn words(result: Result<Vec<SimpleQueryMessage>, tokio_postgres::Error>) -> String {
    let messages = match result {
        Ok(messages) => messages,
        Err(error) => return code(&error),
    };
    let word = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => {
            (0..row.len()).map(|at| row.get(at).unwrap_or("null")).collect::<Vec<_>>().join(",")
        }
        SimpleQueryMessage::CommandComplete(count) => format!("done {count}"),
        _ => String::new(),
    };
    messages.iter().map(word).collect::<Vec<_>>().join(" | ")
}

/// Chooses steps so that some backend is always free: otherwise one client would have to wait for another.
struct Program {
    random: Random,
    bound: [bool; CLIENTS],
}

impl Program {
    fn next(&mut self) -> (usize, Step) {
        let who = self.random.below(CLIENTS);
        let others = (0..CLIENTS).filter(|other| *other != who && self.bound[*other]).count();
        let may_bind = others + 1 < BACKENDS;
        let step = match self.random.below(20) {
            0..9 if may_bind => Step::Sql(BINDING[self.random.below(BINDING.len())].to_owned()),
            0..14 => Step::Sql(FREE[self.random.below(FREE.len())].to_owned()),
            14 | 15 => Step::Prepare(self.random.below(TEXTS.len())),
            16..19 => Step::Run(self.random.below(TEXTS.len())),
            _ if self.random.below(3) == 0 => Step::Reconnect,
            _ if self.random.below(3) == 0 => Step::Alter(ALTERS[self.random.below(ALTERS.len())]),
            _ => Step::Drop(self.random.below(TEXTS.len())),
        };
        match &step {
            Step::Reconnect => self.bound[who] = false,
            Step::Sql(sql) if BINDING.contains(&sql.as_str()) => self.bound[who] = true,
            _ => {}
        }
        (who, step)
    }

    /// Ends what binds a client.
    fn release(&mut self) -> Option<(usize, [Step; 2])> {
        let who = self.bound.iter().position(|bound| *bound)?;
        self.bound[who] = false;
        Some((who, [Step::Sql("rollback".to_owned()), Step::Sql("discard all".to_owned())]))
    }
}

async fn ground(scene: &Scene) {
    let setup = "CREATE ROLE reader; GRANT reader TO app; CREATE SCHEMA other; CREATE SEQUENCE s; \
        CREATE TABLE t (id int); CREATE TABLE other.t (name text, more text); CREATE TABLE log (n int); \
        INSERT INTO t VALUES (1), (2); INSERT INTO other.t VALUES ('x', 'y'); \
        ALTER TABLE t OWNER TO app; GRANT ALL ON SCHEMA public, other TO app, reader; \
        GRANT ALL ON ALL TABLES IN SCHEMA public, other TO app, reader; GRANT ALL ON SEQUENCE s TO app, reader";
    let node = scene.cluster.n(0);
    node.sql_in("app").await.unwrap().run(setup).await.unwrap();
    // Each side has a database of its own, where the same happens.
    let twin = "CREATE DATABASE twin TEMPLATE app OWNER app";
    node.sql_in("postgres").await.unwrap().run(twin).await.unwrap();
}

fn direct(scene: &Scene, database: &str) -> Config {
    let mut config = Config::new();
    let port = scene.cluster.n(0).port();
    config.host("127.0.0.1").port(port).user("app").password("app-secret").dbname(database);
    config
}

fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

#[tokio::test]
async fn no_session_ever_sees_another() {
    let scene = scene(0, |spec| {
        spec.set("pool.mode", "transaction");
        spec.raw("pool.size", &BACKENDS.to_string()).raw("pool.max_prepared", "3");
        spec.raw("pool.max_pinned", &BACKENDS.to_string());
    })
    .await;
    ground(&scene).await;
    let seed = number("PGSTEER_SEED", 20_241_123);
    let steps = number("PGSTEER_STEPS", 600);
    let mut program = Program { random: Random(seed.max(1)), bound: [false; CLIENTS] };
    let mut shared = Side::new(scene.proxy.config(), &direct(&scene, "app")).await;
    let mut own = Side::new(direct(&scene, "twin"), &direct(&scene, "twin")).await;
    let mut done = Vec::new();
    for at in 0..steps {
        let mut next = vec![program.next()];
        if at % 25 == 24
            && let Some((who, ends)) = program.release()
        {
            next.extend(ends.map(|step| (who, step)));
        }
        for (who, step) in next {
            let told = shared.run(who, &step).await;
            let wanted = own.run(who, &step).await;
            done.push(format!("{who}: {step:?} -> {wanted}"));
            let last = done.len().saturating_sub(40);
            assert_eq!(
                told,
                wanted,
                "PGSTEER_SEED={seed} PGSTEER_STEPS={steps}\n{}",
                done[last..].join("\n")
            );
        }
    }
    drop((shared, own));
    scene.finish().await;
}
