//! One client's connection: requests out, whole answers in, and nothing that a test would end at: what goes wrong is noted.

use std::time::Duration;

use tokio::time::Instant;

use crate::harness::raw::{Frame, Raw, bind, describe, execute, parse, query, sync};
use crate::history::{Books, Failure, Phase};

/// Longer than any statement may be held, and than any commit waits for the stage to bring standbys back.
const PATIENCE: Duration = Duration::from_secs(90);

/// The answer to one Query, or to one batch up to its Sync.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub tags: Vec<String>,
    /// The first column of the first row, and the second.
    pub row: Vec<Option<String>>,
    pub rows: Vec<Vec<Option<String>>>,
    pub error: Option<(String, String)>,
    pub notifications: usize,
    /// Of ReadyForQuery; `G` when the server waits for COPY data.
    pub status: u8,
}

impl Reply {
    fn take(&mut self, frame: &Frame) {
        match frame.tag {
            b'C' => self.tags.push(String::from_utf8_lossy(&frame.body).trim_end_matches('\0').to_owned()),
            b'D' => self.rows.push(frame.columns()),
            b'E' if self.error.is_none() => {
                self.error = Some((frame.sqlstate(), frame.field(b'M').unwrap_or_default()));
            }
            b'A' => self.notifications += 1,
            b'Z' => self.status = frame.body[0],
            b'G' => self.status = b'G',
            _ => {}
        }
        if frame.tag == b'D' && self.rows.len() == 1 {
            self.row.clone_from(&self.rows[0]);
        }
    }

    /// A column of the first row as a number.
    pub fn number<T: std::str::FromStr>(&self, column: usize) -> Option<T> {
        self.row.get(column)?.as_ref()?.parse().ok()
    }

    pub fn is(&self, tag: &str, status: u8) -> bool {
        self.error.is_none() && self.status == status && self.tags == [tag]
    }
}

/// The connection is gone, or silent.
#[derive(Debug)]
pub struct Gone(pub String);

/// One connection and who uses it.
pub struct Line {
    raw: Raw,
    pub who: String,
    pub proxy: usize,
    pub books: Books,
    /// When it was answered last.
    pub alive: Instant,
    /// The FATAL error that came last, which may come a moment before the end.
    last_words: String,
}

impl Line {
    /// Logs in as `app`.
    pub async fn login(address: &str, who: String, proxy: usize, books: &Books) -> Self {
        let raw = Raw::login(address, "app", "app-secret", "app").await;
        Self { raw, who, proxy, books: books.clone(), alive: Instant::now(), last_words: String::new() }
    }

    /// One Query.
    pub async fn query(&mut self, sql: &str) -> Result<Reply, Gone> {
        self.ask(&query(sql)).await
    }

    /// One batch of the extended protocol.
    pub async fn extended(&mut self, sql: &str) -> Result<Reply, Gone> {
        self.ask(&batch(sql)).await
    }

    /// One statement that was prepared before, with text parameters.
    pub async fn prepared(&mut self, name: &str, values: &[&str]) -> Result<Reply, Gone> {
        self.ask(&[bind("", name, values), describe(b'P', ""), execute("", 0), sync()].concat()).await
    }

    /// Prepares a statement; it must work.
    pub async fn prepare(&mut self, name: &str, sql: &str) -> Result<(), Gone> {
        let reply = self.ask(&[parse(name, sql), sync()].concat()).await?;
        self.expect(reply.error.is_none(), &format!("Parse of {sql}"), &reply);
        Ok(())
    }

    /// Sends, and hears what comes up to ReadyForQuery (or the request for COPY data).
    pub async fn ask(&mut self, bytes: &[u8]) -> Result<Reply, Gone> {
        self.send(bytes).await?;
        self.hear().await
    }

    pub async fn send(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        if self.raw.try_send(bytes).await {
            return Ok(());
        }
        Err(self.closed(&Reply::default()))
    }

    fn take(&mut self, reply: &mut Reply, frame: &Frame) {
        reply.take(frame);
        if frame.tag == b'E' && frame.field(b'S').as_deref() == Some("FATAL") {
            self.last_words = frame.to_string();
        }
    }

    fn closed(&self, reply: &Reply) -> Gone {
        Gone(format!("closed by the proxy with {:?}; heard {reply:?}", self.last_words))
    }

    pub async fn hear(&mut self) -> Result<Reply, Gone> {
        let mut reply = Reply::default();
        let began = Instant::now();
        loop {
            match self.raw.heard(PATIENCE.saturating_sub(began.elapsed())).await {
                Some(Some(frame)) => {
                    self.take(&mut reply, &frame);
                    if matches!(frame.tag, b'Z' | b'G') {
                        self.alive = Instant::now();
                        return Ok(reply);
                    }
                }
                Some(None) => return Err(self.closed(&reply)),
                None => return Err(Gone(format!("silent for {PATIENCE:?}; heard {reply:?}"))),
            }
        }
    }

    /// Asks nothing for a while, and hears when the connection is closed.
    pub async fn idle(&mut self, time: Duration) -> Result<(), Gone> {
        let began = Instant::now();
        let mut reply = Reply::default();
        while let Some(heard) = self.raw.heard(time.saturating_sub(began.elapsed())).await {
            match heard {
                Some(frame) => self.take(&mut reply, &frame),
                None => return Err(self.closed(&reply)),
            }
        }
        Ok(())
    }

    /// Notes an error of the server or the proxy, if there is one.
    pub fn note(&self, phase: Phase, began: Instant, reply: &Reply) -> Option<String> {
        let (code, message) = reply.error.clone()?;
        let (who, proxy, ended) = (self.who.clone(), self.proxy, Instant::now());
        self.books.fail(Failure { who, proxy, phase, began, ended, code: code.clone(), message });
        Some(code)
    }

    /// Complains about an answer that no server gives.
    pub fn expect(&self, holds: bool, what: &str, reply: &Reply) {
        if !holds {
            self.books.complain(format!("{}: {what} was answered {reply:?}", self.who));
        }
    }
}

/// Parse to Sync of a statement without parameters.
pub fn batch(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()].concat()
}
