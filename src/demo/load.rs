//! A load that keeps books: writers with unique ids, readers, a fixed number of long-lived connections.
//! In: where to connect. Out: a ledger of what was acknowledged, refused, left in doubt, by whom it was
//! served; and the verdict of `audit`, which compares the ledger with the table itself.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::{Config, SimpleQueryMessage};

use super::error::DemoError;
use super::sql::Sql;
use crate::drain::Tasks;

/// Made before the load starts; no primary key, so that a write that ran twice shows.
pub const TABLE_SQL: &str = "CREATE TABLE IF NOT EXISTS pgsteer_load (id bigint NOT NULL)";

/// Ids of one writer are neighbours.
const IDS_PER_WRITER: u64 = 1_000_000_000;

/// Between two attempts to get a lost connection back.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// What load to make.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where writers connect to.
    pub write_to: Config,
    /// Where readers connect to.
    pub read_from: Config,
    /// Connections that write.
    pub writers: usize,
    /// Connections that read.
    pub readers: usize,
    /// What a client does between two statements.
    pub pause: Duration,
}

/// What a client is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Inserts ids.
    Writer,
    /// Reads the highest id.
    Reader,
}

/// Statements by kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Served {
    /// Acknowledged writes.
    pub writes: u64,
    /// Answered reads.
    pub reads: u64,
}

/// The books.
#[derive(Debug, Default)]
struct Books {
    /// Id of each acknowledged write and when its acknowledgement came.
    acknowledged: Vec<(Instant, u64)>,
    /// Writes that may or may not have happened: 08007, or the connection died.
    in_doubt: Vec<u64>,
    /// Writes that an error said did not happen.
    refused: Vec<u64>,
    errors: BTreeMap<String, u64>,
    lost_connections: u64,
    connected: usize,
    /// Clients that were ever started.
    clients: u64,
    served: HashMap<u16, Served>,
    slowest: [Duration; 2],
    last_read: Option<Instant>,
    longest_read_gap: Duration,
}

/// A shared ledger; clones are views of the same books.
#[derive(Debug, Clone, Default)]
pub struct Ledger(Arc<Mutex<Books>>);

/// What the ledger says at one moment.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// Writes whose success was reported to a client.
    pub acknowledged: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// Writes with unknown fate.
    pub in_doubt: u64,
    /// Errors by SQLSTATE ("connection" for those without).
    pub errors: BTreeMap<String, u64>,
    /// Client connections that were closed on their clients.
    pub lost_connections: u64,
    /// Clients that were ever started.
    pub clients: u64,
    /// Clients connected now.
    pub connected: usize,
    /// Statements by the TCP port of the server that ran them.
    pub served: HashMap<u16, Served>,
    /// The longest a write took.
    pub slowest_write: Duration,
    /// The longest a read took.
    pub slowest_read: Duration,
    /// The longest time in which no read at all was answered.
    pub longest_read_gap: Duration,
}

/// The ledger compared with the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Audit {
    /// Acknowledged writes that are not there.
    pub lost: u64,
    /// Ids that are there more than once.
    pub doubled: u64,
    /// Writes that were refused and are there nevertheless.
    pub undead: u64,
    /// Writes of unknown fate that are there.
    pub doubt_applied: u64,
}

impl Audit {
    /// Nothing lost, nothing twice, nothing that was said not to be.
    pub fn is_clean(self) -> bool {
        self.lost == 0 && self.doubled == 0 && self.undead == 0
    }
}

impl Ledger {
    /// What has happened so far.
    pub fn summary(&self) -> Summary {
        let books = self.books();
        let [slowest_write, slowest_read] = books.slowest;
        Summary {
            acknowledged: books.acknowledged.len() as u64,
            reads: books.served.values().map(|served| served.reads).sum(),
            in_doubt: books.in_doubt.len() as u64,
            errors: books.errors.clone(),
            lost_connections: books.lost_connections,
            clients: books.clients,
            connected: books.connected,
            served: books.served.clone(),
            slowest_write,
            slowest_read,
            longest_read_gap: books.longest_read_gap,
        }
    }

    /// When the first write after `moment` was acknowledged.
    pub fn first_ack_after(&self, moment: Instant) -> Option<Instant> {
        let books = self.books();
        books.acknowledged.iter().map(|(at, _)| *at).find(|at| *at > moment)
    }

    /// When the last of so many writers had its first write after `moment` acknowledged.
    pub fn all_acknowledged_after(&self, moment: Instant, writers: usize) -> Option<Instant> {
        let books = self.books();
        let mut seen = HashSet::new();
        books.acknowledged.iter().filter(|(at, _)| *at > moment).find_map(|(at, id)| {
            seen.insert(id / IDS_PER_WRITER);
            (seen.len() == writers).then_some(*at)
        })
    }

    /// When the last write before `moment` was acknowledged.
    pub fn last_ack_before(&self, moment: Instant) -> Option<Instant> {
        let books = self.books();
        books.acknowledged.iter().rev().map(|(at, _)| *at).find(|at| *at <= moment)
    }

    /// Compares with the table on one server, read past the proxy.
    pub async fn audit(&self, server: &mut Sql) -> Result<Audit, DemoError> {
        let mut found: HashMap<u64, u64> = HashMap::new();
        for row in server.rows("SELECT id, count(*) FROM pgsteer_load GROUP BY id").await? {
            let number = |i: usize| row.get(i).and_then(Option::as_deref).and_then(|text| text.parse().ok());
            if let (Some(id), Some(count)) = (number(0), number(1)) {
                found.insert(id, count);
            }
        }
        let books = self.books();
        let present = |id: &u64| found.contains_key(id);
        Ok(Audit {
            lost: books.acknowledged.iter().filter(|(_, id)| !present(id)).count() as u64,
            doubled: found.values().filter(|count| **count > 1).count() as u64,
            undead: books.refused.iter().filter(|id| present(id)).count() as u64,
            doubt_applied: books.in_doubt.iter().filter(|id| present(id)).count() as u64,
        })
    }

    fn books(&self) -> std::sync::MutexGuard<'_, Books> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answered(&self, kind: Kind, id: u64, port: Option<u16>, took: Duration) {
        let now = Instant::now();
        let books = &mut *self.books();
        let served = books.served.entry(port.unwrap_or(0)).or_default();
        let [slowest_write, slowest_read] = &mut books.slowest;
        if kind == Kind::Writer {
            served.writes += 1;
            books.acknowledged.push((now, id));
            *slowest_write = took.max(*slowest_write);
        } else {
            served.reads += 1;
            *slowest_read = took.max(*slowest_read);
            let gap = books.last_read.map_or(Duration::ZERO, |last| now - last);
            books.longest_read_gap = gap.max(books.longest_read_gap);
            books.last_read = Some(now);
        }
    }

    fn failed(&self, kind: Kind, id: u64, error: &tokio_postgres::Error) {
        let mut books = self.books();
        let code = error.code().map(tokio_postgres::error::SqlState::code);
        *books.errors.entry(code.unwrap_or("connection").to_owned()).or_default() += 1;
        if kind == Kind::Writer {
            // Class 08 says that nobody knows; any other SQLSTATE says that it did not happen.
            let in_doubt = code.is_none_or(|code| code.starts_with("08"));
            if in_doubt { books.in_doubt.push(id) } else { books.refused.push(id) }
        }
    }

    /// A new client has logged in; how many had before.
    fn joined(&self) -> u64 {
        let mut books = self.books();
        books.connected += 1;
        books.clients += 1;
        books.clients - 1
    }

    fn lost(&self) {
        let mut books = self.books();
        books.connected = books.connected.saturating_sub(1);
        books.lost_connections += 1;
    }

    fn reconnected(&self) {
        self.books().connected += 1;
    }
}

impl Load {
    /// Starts all clients; they run until the tasks are told to stop. Their first logins must succeed.
    pub async fn start(&self, tasks: &Tasks) -> Result<Ledger, DemoError> {
        let ledger = Ledger::default();
        for _ in 0..self.writers {
            self.add(Kind::Writer, &ledger, tasks).await?;
        }
        for _ in 0..self.readers {
            self.add(Kind::Reader, &ledger, tasks).await?;
        }
        Ok(ledger)
    }

    /// Starts one more client.
    pub async fn add(&self, kind: Kind, ledger: &Ledger, tasks: &Tasks) -> Result<(), DemoError> {
        let config = if kind == Kind::Writer { &self.write_to } else { &self.read_from };
        let connection = Sql::connect(config, "pgsteer").await?;
        let number = ledger.joined();
        let client = Client {
            kind,
            config: config.clone(),
            next_id: number * IDS_PER_WRITER,
            ledger: ledger.clone(),
            pause: self.pause,
        };
        // The handle is not needed: the tracker waits.
        drop(tasks.spawn(client.run(connection, tasks.clone())));
        Ok(())
    }
}

struct Client {
    kind: Kind,
    config: Config,
    next_id: u64,
    ledger: Ledger,
    pause: Duration,
}

impl Client {
    async fn run(mut self, mut connection: Sql, tasks: Tasks) {
        while !tasks.is_stopping() {
            if !connection.is_open() {
                self.ledger.lost();
                match self.reconnect(&tasks).await {
                    Some(again) => connection = again,
                    None => return,
                }
            }
            self.statement(&mut connection).await;
            tokio::time::sleep(self.pause).await;
        }
    }

    async fn statement(&mut self, connection: &mut Sql) {
        let id = self.next_id;
        let sql = match self.kind {
            Kind::Writer => {
                self.next_id += 1;
                format!("INSERT INTO pgsteer_load VALUES ({id}) RETURNING current_setting('port')")
            }
            Kind::Reader => "SELECT current_setting('port'), max(id) FROM (SELECT id FROM pgsteer_load \
                             LIMIT 10) AS few"
                .to_owned(),
        };
        let began = Instant::now();
        match connection.messages(&sql).await {
            Ok(messages) => {
                self.ledger.answered(self.kind, id, port_in(&messages), began.elapsed());
            }
            Err(error) => self.ledger.failed(self.kind, id, &error),
        }
    }

    async fn reconnect(&self, tasks: &Tasks) -> Option<Sql> {
        while !tasks.is_stopping() {
            if let Ok(connection) = Sql::connect(&self.config, "pgsteer").await {
                self.ledger.reconnected();
                return Some(connection);
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
        None
    }
}

/// Which server answered.
fn port_in(messages: &[SimpleQueryMessage]) -> Option<u16> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0)?.parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_between_acknowledgements() {
        let ledger = Ledger::default();
        ledger.answered(Kind::Writer, 1, Some(5432), Duration::from_millis(2));
        let between = Instant::now();
        ledger.answered(Kind::Writer, 2, Some(5433), Duration::from_millis(40));
        assert!(ledger.last_ack_before(between).unwrap() <= between);
        assert!(ledger.first_ack_after(between).unwrap() > between);
        let summary = ledger.summary();
        assert_eq!((summary.acknowledged, summary.slowest_write), (2, Duration::from_millis(40)));
        assert_eq!(summary.served[&5433], Served { writes: 1, reads: 0 });
    }
}
