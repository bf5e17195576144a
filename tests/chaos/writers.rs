//! Clients that write rows of their own, in every way there is, read them back, and keep books of what they were told.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::harness::raw::{copy_data, copy_done, query};
use crate::history::{Attempt, Beat, Books, Fate, Found, Over, Phase, Sight};
use crate::line::{Gone, Line, Reply, batch};
use crate::plan::Random;

/// Made before anybody writes; no key, so that a write that was done twice shows.
pub const TABLES_SQL: &str = "CREATE TABLE chaos (client int NOT NULL, n int NOT NULL); \
    CREATE INDEX ON chaos (client, n); CREATE TABLE beats (client int NOT NULL)";

/// How a transaction is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Simple,
    Extended,
    Prepared,
    /// Two INSERTs in one Query.
    Together,
    Copy,
    Block,
    /// Its statements in the extended protocol.
    ExtendedBlock,
    /// With time to think between its statements.
    LongBlock,
    /// BEGIN to COMMIT without waiting for an answer.
    Pipeline,
    /// Ended by ROLLBACK.
    RolledBack,
}

const WAYS: [Way; 10] = [
    Way::Simple,
    Way::Extended,
    Way::Prepared,
    Way::Together,
    Way::Copy,
    Way::Block,
    Way::ExtendedBlock,
    Way::LongBlock,
    Way::Pipeline,
    Way::RolledBack,
];

/// What a writer is given.
pub struct Writer {
    pub line: Line,
    pub client: usize,
    pub random: Random,
    /// `retry.transactions`
    pub replay: bool,
    /// The number of its next row.
    pub next: u32,
}

impl Writer {
    /// Until the episode is over or the connection is.
    pub async fn run(mut self, over: Over) {
        let ended = async {
            self.prepare().await?;
            while !over.is() {
                self.write().await?;
                if self.random.chance(4) {
                    self.look().await?;
                }
                sleep(Duration::from_millis(self.random.between(5, 60))).await;
            }
            Ok(())
        };
        if let Err(Gone(why)) = ended.await {
            lost(&self.line.books, &self.line.who, &why);
        }
    }

    /// A setting that says whose session it is, and statements under names that all writers use for their own ones.
    async fn prepare(&mut self) -> Result<(), Gone> {
        let client = self.client;
        let reply = self.line.query(&format!("SET chaos.client = '{client}'")).await?;
        self.line.expect(reply.is("SET", b'I'), "SET", &reply);
        let write = format!("INSERT INTO chaos VALUES ({client}, $1::int){}", self.returning());
        self.line.prepare("write", &write).await?;
        let look = self.question("");
        self.line.prepare("look", &look).await
    }

    fn insert(&mut self, row: u32) -> String {
        // One of them is wrong wherever the session's settings are.
        let client = match self.random.below(2) {
            0 => self.client.to_string(),
            _ => "current_setting('chaos.client')::int".to_owned(),
        };
        format!("INSERT INTO chaos VALUES ({client}, {row}){}", self.returning())
    }

    /// Tells which server does it; but what is run again must say the same wherever that is.
    fn returning(&self) -> &'static str {
        if self.replay { "" } else { " RETURNING current_setting('port')" }
    }

    async fn write(&mut self) -> Result<(), Gone> {
        let way = self.random.pick(&WAYS);
        match way {
            Way::Simple | Way::Extended | Way::Prepared => self.single(way).await,
            Way::Together => self.together().await,
            Way::Copy => self.copy().await,
            Way::Pipeline => self.pipeline().await,
            Way::Block | Way::ExtendedBlock | Way::LongBlock | Way::RolledBack => self.block(way).await,
        }
    }

    /// Takes so many row numbers.
    fn take(&mut self, count: u32) -> u32 {
        let first = self.next;
        self.next += count;
        first
    }

    fn record(&self, way: Way, first: u32, count: u32, sent: Instant, fate: Fate) {
        let way = match way {
            Way::Simple => "simple",
            Way::Extended => "extended",
            Way::Prepared => "prepared",
            Way::Together => "several in one Query",
            Way::Copy => "COPY",
            Way::Block => "block",
            Way::ExtendedBlock => "block, extended",
            Way::LongBlock => "long block",
            Way::Pipeline => "pipeline",
            Way::RolledBack => "rolled back",
        };
        let (client, proxy, ended) = (self.client, self.line.proxy, Instant::now());
        let attempt = Attempt { client, proxy, way, first, count, sent, ended, fate };
        self.line.books.open().attempts.push(attempt);
    }

    /// Passes the end of a connection on, when it is noted what that leaves unknown.
    fn or_unknown<T>(
        &self,
        heard: Result<T, Gone>,
        way: Way,
        first: u32,
        count: u32,
        sent: Instant,
    ) -> Result<T, Gone> {
        heard.inspect_err(|_| self.record(way, first, count, sent, Fate::Unknown))
    }

    async fn single(&mut self, way: Way) -> Result<(), Gone> {
        let first = self.take(1);
        let sql = self.insert(first);
        let sent = Instant::now();
        let heard = match way {
            Way::Simple => self.line.query(&sql).await,
            Way::Extended => self.line.extended(&sql).await,
            _ => self.line.prepared("write", &[&first.to_string()]).await,
        };
        let reply = self.or_unknown(heard, way, first, 1, sent)?;
        let error = self.line.note(Phase::Single, sent, &reply);
        self.line.expect(error.is_some() || reply.is("INSERT 0 1", b'I'), "INSERT", &reply);
        self.line.expect(reply.status == b'I', "a statement outside a transaction", &reply);
        self.record(way, first, 1, sent, fate(error.as_deref(), port(&reply)));
        Ok(())
    }

    async fn together(&mut self) -> Result<(), Gone> {
        let first = self.take(2);
        let sql = format!("{}; {}", self.insert(first), self.insert(first + 1));
        let sent = Instant::now();
        let heard = self.line.query(&sql).await;
        let reply = self.or_unknown(heard, Way::Together, first, 2, sent)?;
        let error = self.line.note(Phase::Many, sent, &reply);
        self.line.expect(error.is_some() || reply.tags == ["INSERT 0 1"; 2], "two INSERTs", &reply);
        self.line.expect(reply.status == b'I', "a Query outside a transaction", &reply);
        self.record(Way::Together, first, 2, sent, fate(error.as_deref(), port(&reply)));
        Ok(())
    }

    async fn copy(&mut self) -> Result<(), Gone> {
        let count = self.random.between(1, 5) as u32;
        let first = self.take(count);
        let began = Instant::now();
        let mut reply = self.line.query("COPY chaos FROM STDIN").await?;
        let mut sent = began;
        if reply.status == b'G' {
            let data: Vec<u8> = (first..first + count)
                .flat_map(|row| copy_data(format!("{}\t{row}\n", self.client).as_bytes()))
                .collect();
            self.line.send(&data).await?;
            sleep(Duration::from_millis(self.random.below(200))).await;
            sent = Instant::now();
            let heard = self.line.ask(&copy_done()).await;
            reply = self.or_unknown(heard, Way::Copy, first, count, sent)?;
        }
        let error = self.line.note(Phase::Many, began, &reply);
        let tag = format!("COPY {count}");
        self.line.expect(error.is_some() || reply.is(&tag, b'I'), "COPY", &reply);
        self.line.expect(reply.status == b'I', "a COPY outside a transaction", &reply);
        // The server does not say which it is; where the next statement runs says nothing about this one.
        self.record(Way::Copy, first, count, sent, fate(error.as_deref(), None));
        Ok(())
    }

    async fn pipeline(&mut self) -> Result<(), Gone> {
        let first = self.take(1);
        let sql = self.insert(first);
        let sent = Instant::now();
        let all = [batch("BEGIN"), batch(&sql), batch("COMMIT")].concat();
        let mut replies = Vec::new();
        let heard = self.line.ask(&all).await;
        replies.push(self.or_unknown(heard, Way::Pipeline, first, 1, sent)?);
        for _ in 0..2 {
            let heard = self.line.hear().await;
            replies.push(self.or_unknown(heard, Way::Pipeline, first, 1, sent)?);
        }
        let [begin, insert, commit] = &replies[..] else { return Ok(()) };
        let mut in_doubt = false;
        for reply in [begin, insert, commit] {
            // What follows in a block that has failed is told just that.
            let is_told = reply.error.as_ref().is_some_and(|(code, _)| code == "25P02");
            // With the COMMIT under way behind it, none of them is certain.
            let code = if is_told { None } else { self.line.note(Phase::Many, sent, reply) };
            in_doubt |= code.is_some_and(|code| code == "08007");
        }
        // Without its BEGIN the INSERT is a transaction of its own.
        let committed = commit.tags == ["COMMIT"] && insert.error.is_none() && insert.status == b'T'
            || insert.tags == ["INSERT 0 1"] && insert.status == b'I';
        self.line.expect(commit.status == b'I', "the end of a pipeline", commit);
        let fate = if committed {
            Fate::Acknowledged { port: port(insert) }
        } else if in_doubt {
            Fate::Unknown
        } else {
            Fate::Refused
        };
        self.record(Way::Pipeline, first, 1, sent, fate);
        Ok(())
    }

    async fn statement(&mut self, way: Way, sql: &str) -> Result<Reply, Gone> {
        if way == Way::ExtendedBlock { self.line.extended(sql).await } else { self.line.query(sql).await }
    }

    async fn block(&mut self, way: Way) -> Result<(), Gone> {
        let began = Instant::now();
        let reply = self.statement(way, "BEGIN").await?;
        if self.line.note(Phase::Begin, began, &reply).is_some() {
            self.line.expect(reply.status == b'I', "a BEGIN that failed", &reply);
            return Ok(());
        }
        self.line.expect(reply.is("BEGIN", b'T'), "BEGIN", &reply);
        let count = self.random.between(1, 4) as u32;
        let first = self.take(count);
        let mut port_of_rows = None;
        for row in first..first + count {
            let sql = self.insert(row);
            let sent = Instant::now();
            let reply = self.statement(way, &sql).await?;
            if self.line.note(Phase::Block, began, &reply).is_some() {
                self.record(way, first, count, sent, Fate::Refused);
                return self.leave_failed(way, &reply).await;
            }
            self.line.expect(reply.is("INSERT 0 1", b'T'), "INSERT in a block", &reply);
            port_of_rows = port(&reply);
            if way == Way::LongBlock {
                sleep(Duration::from_millis(self.random.between(50, 700))).await;
            }
        }
        self.end_block(way, began, first, count, port_of_rows).await
    }

    async fn end_block(
        &mut self,
        way: Way,
        began: Instant,
        first: u32,
        count: u32,
        port: Option<u16>,
    ) -> Result<(), Gone> {
        let sent = Instant::now();
        if way == Way::RolledBack {
            let heard = self.line.query("ROLLBACK").await;
            self.record(way, first, count, sent, Fate::Refused);
            let reply = heard?;
            self.line.note(Phase::Rollback, began, &reply);
            self.line.expect(reply.is("ROLLBACK", b'I'), "ROLLBACK", &reply);
            return Ok(());
        }
        let heard = self.statement(way, "COMMIT").await;
        let reply = self.or_unknown(heard, way, first, count, sent)?;
        let error = self.line.note(Phase::Commit, began, &reply);
        // A bare ROLLBACK tag would be a transaction lost without a word.
        self.line.expect(error.is_some() || reply.is("COMMIT", b'I'), "COMMIT", &reply);
        self.line.expect(reply.status == b'I', "the end of a transaction", &reply);
        self.record(way, first, count, sent, fate(error.as_deref(), port));
        Ok(())
    }

    /// The block has failed: as on a server nothing works there but its end.
    async fn leave_failed(&mut self, way: Way, told: &Reply) -> Result<(), Gone> {
        self.line.expect(told.status == b'E', "an error in a block", told);
        if self.random.chance(4) {
            let reply = self.statement(way, "SELECT 1").await?;
            let is_refused = reply.error.as_ref().is_some_and(|(code, _)| code == "25P02");
            self.line.expect(is_refused && reply.status == b'E', "a statement in a failed block", &reply);
        }
        let end = self.random.pick(&["ROLLBACK", "COMMIT", "END"]);
        let reply = self.statement(way, end).await?;
        self.line.expect(reply.is("ROLLBACK", b'I'), &format!("{end} of a failed block"), &reply);
        Ok(())
    }

    fn question(&self, hint: &str) -> String {
        let client = self.client;
        format!(
            "{hint}SELECT count(*), coalesce(max(n), 0), pg_is_in_recovery() FROM chaos WHERE client = {client}"
        )
    }

    /// Reads its own rows, by a standby where one may serve.
    async fn look(&mut self) -> Result<(), Gone> {
        let began = Instant::now();
        let hinted = self.question("/* pgsteer: standby */ ");
        let (phase, reply) = match self.random.below(4) {
            0 => return self.look_in_block().await,
            1 => (Phase::HintedRead, self.line.query(&hinted).await?),
            2 => (Phase::Read, self.line.prepared("look", &[]).await?),
            _ => (Phase::Read, self.line.query(&self.question("")).await?),
        };
        if self.line.note(phase, began, &reply).is_none() {
            self.seen(began, &reply);
        }
        Ok(())
    }

    async fn look_in_block(&mut self) -> Result<(), Gone> {
        let began = Instant::now();
        let question = self.question("");
        let reply = self.line.query("BEGIN READ ONLY").await?;
        if self.line.note(Phase::ReadOnlyBlock, began, &reply).is_some() {
            return Ok(());
        }
        let reply = self.line.query(&question).await?;
        let failed = self.line.note(Phase::ReadOnlyBlock, began, &reply).is_some();
        if !failed {
            self.seen(began, &reply);
        }
        let end = self.line.query("COMMIT").await?;
        self.line.note(Phase::ReadOnlyBlock, began, &end);
        self.line.expect(end.status == b'I', "the end of a READ ONLY transaction", &end);
        Ok(())
    }

    fn seen(&self, began: Instant, reply: &Reply) {
        let (Some(count), Some(highest)) = (reply.number(0), reply.number(1)) else {
            return self.line.expect(false, "a read of own rows", reply);
        };
        let found = Found::Own { client: self.client, count, highest };
        sight(&self.line, began, reply.row.get(2), found);
    }
}

/// Notes what a read has found.
pub fn sight(line: &Line, began: Instant, in_recovery: Option<&Option<String>>, found: Found) {
    let on_standby = in_recovery.and_then(Option::as_deref) == Some("t");
    let (session, ended) = (line.who.clone(), Instant::now());
    line.books.open().sights.push(Sight { session, began, ended, on_standby, found });
}

/// The server that has written a row, as that said.
fn port(reply: &Reply) -> Option<u16> {
    reply.number(0)
}

/// What a client may take from its answer.
fn fate(error: Option<&str>, port: Option<u16>) -> Fate {
    match error {
        None => Fate::Acknowledged { port },
        Some("08007") => Fate::Unknown,
        Some(_) => Fate::Refused,
    }
}

/// Who writes all the time and waits for no standby: shows when writes go on, and where.
pub async fn beat(mut line: Line, client: usize, over: Over) {
    let insert = format!("INSERT INTO beats VALUES ({client}) RETURNING current_setting('port')");
    let ended = async {
        line.query("SET synchronous_commit = local").await?;
        while !over.is() {
            let sent = Instant::now();
            let reply = line.ask(&query(&insert)).await?;
            let (proxy, at) = (line.proxy, Instant::now());
            if line.note(Phase::Beat, sent, &reply).is_none()
                && let Some(port) = port(&reply)
            {
                line.books.open().beats.push(Beat { proxy, at, port });
            }
            sleep(Duration::from_millis(5)).await;
        }
        Ok::<(), Gone>(())
    };
    if let Err(Gone(why)) = ended.await {
        lost(&line.books, &line.who, &why);
    }
}

/// P4 is broken.
pub fn lost(books: &Books, who: &str, why: &str) {
    books.complain(format!("{who} lost its connection: {why}"));
}
