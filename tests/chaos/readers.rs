//! Clients that only read what all have written, and clients whose sessions have state that no other server has: a channel
//! listened on, an advisory lock, a temporary table.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::history::{Books, Found, Over, Phase};
use crate::line::{Gone, Line, Reply};
use crate::plan::Random;
use crate::writers::{lost, sight};

/// How a reader's statements come to standbys.
#[derive(Debug, Clone, Copy)]
pub enum Reading {
    /// As the proxy judges them, or by a comment.
    Hinted,
    /// In READ ONLY transactions.
    Blocks,
    /// By the listener for standbys.
    Endpoint,
}

const QUESTION: &str = "SELECT client, max(n), pg_is_in_recovery() FROM chaos GROUP BY client";

/// Reads until the episode is over.
pub async fn read(mut line: Line, how: Reading, clients: usize, mut random: Random, over: Over) {
    let ended = async {
        line.prepare("all", QUESTION).await?;
        while !over.is() {
            let began = Instant::now();
            let reply = match how {
                Reading::Blocks => block(&mut line, began).await?,
                Reading::Hinted => {
                    let (phase, reply) = if random.chance(5) {
                        let hinted = format!("/* pgsteer: standby */ {QUESTION}");
                        (Phase::HintedRead, line.query(&hinted).await?)
                    } else {
                        (Phase::Read, line.prepared("all", &[]).await?)
                    };
                    line.note(phase, began, &reply).is_none().then_some(reply)
                }
                Reading::Endpoint => {
                    let reply = if random.chance(5) {
                        line.query(QUESTION).await?
                    } else {
                        line.prepared("all", &[]).await?
                    };
                    // Whatever such a session does only reads.
                    line.note(Phase::ReadOnlyBlock, began, &reply).is_none().then_some(reply)
                }
            };
            if let Some(reply) = reply {
                seen(&line, began, &reply, clients);
            }
            sleep(Duration::from_millis(random.between(5, 40))).await;
        }
        Ok::<(), Gone>(())
    };
    if let Err(Gone(why)) = ended.await {
        lost(&line.books, &line.who, &why);
    }
}

async fn block(line: &mut Line, began: Instant) -> Result<Option<Reply>, Gone> {
    let reply = line.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    if line.note(Phase::ReadOnlyBlock, began, &reply).is_some() {
        return Ok(None);
    }
    let reply = line.query(QUESTION).await?;
    let failed = line.note(Phase::ReadOnlyBlock, began, &reply).is_some();
    let end = line.query("COMMIT").await?;
    line.note(Phase::ReadOnlyBlock, began, &end);
    line.expect(end.status == b'I', "the end of a READ ONLY transaction", &end);
    Ok((!failed).then_some(reply))
}

fn seen(line: &Line, began: Instant, reply: &Reply, clients: usize) {
    let mut all = vec![0; clients];
    for row in &reply.rows {
        let number = |at: usize| row.get(at)?.as_deref()?.parse::<usize>().ok();
        if let (Some(client), Some(highest)) = (number(0), number(1))
            && let Some(entry) = all.get_mut(client)
        {
            *entry = highest as u32;
        }
    }
    sight(line, began, reply.row.get(2), Found::All(all));
}

/// Listens, and hears each of its own notifications: a channel is never lost without a word. May end with the server, as a
/// session that listens does, and comes back.
pub async fn listen(address: String, proxy: usize, books: Books, over: Over) {
    while !over.is() {
        let who = format!("listener at proxy {}", proxy + 1);
        let mut line = Line::login(&address, who, proxy, &books).await;
        if let Err(Gone(why)) = hear(&mut line, &over).await {
            // A server says 57P01 before it closes; so must the proxy.
            if why.contains("57P01") {
                let reply = Reply { error: Some(("57P01".to_owned(), why)), ..Reply::default() };
                line.note(Phase::State, line.alive, &reply);
            } else {
                lost(&books, &line.who, &why);
            }
        }
    }
}

async fn hear(line: &mut Line, over: &Over) -> Result<(), Gone> {
    let began = Instant::now();
    let reply = line.query(&format!("LISTEN news_{}", line.proxy)).await?;
    if line.note(Phase::Many, began, &reply).is_some() {
        return Ok(());
    }
    while !over.is() {
        let began = Instant::now();
        let reply = line.query(&format!("NOTIFY news_{}", line.proxy)).await?;
        let failed = line.note(Phase::Many, began, &reply).is_some();
        line.expect(failed || reply.notifications == 1, "NOTIFY to itself", &reply);
        line.idle(Duration::from_millis(100)).await?;
    }
    Ok(())
}

/// Holds an advisory lock and looks whether it does: it is never lost without a word.
pub async fn lock(mut line: Line, key: usize, over: Over) {
    let held = format!(
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {key} AND pid = pg_backend_pid()"
    );
    let ended = async {
        while !over.is() {
            let began = Instant::now();
            let reply = line.query(&format!("SELECT pg_advisory_lock({key})")).await?;
            if line.note(Phase::State, began, &reply).is_some() {
                // It may have been taken; nothing is known of such a session but that it goes on.
                line.query("SELECT pg_advisory_unlock_all()").await?;
                continue;
            }
            loop {
                let began = Instant::now();
                let reply = line.query(&held).await?;
                if line.note(Phase::State, began, &reply).is_some() || over.is() {
                    break;
                }
                line.expect(reply.number(0) == Some(1), "the question for its own lock", &reply);
                sleep(Duration::from_millis(80)).await;
            }
        }
        Ok::<(), Gone>(())
    };
    if let Err(Gone(why)) = ended.await {
        lost(&line.books, &line.who, &why);
    }
}

/// Counts rows of its temporary table: they are all there, or the table is missed with an error.
pub async fn keep(mut line: Line, over: Over) {
    let ended = async {
        while !over.is() {
            let began = Instant::now();
            let reply = line.query("CREATE TEMP TABLE mine (n int)").await?;
            if line.note(Phase::State, began, &reply).is_some() {
                line.query("DROP TABLE IF EXISTS mine").await?;
                continue;
            }
            let mut rows = 0;
            loop {
                let began = Instant::now();
                let reply = line.query("INSERT INTO mine VALUES (1)").await?;
                if line.note(Phase::State, began, &reply).is_some() || over.is() {
                    break;
                }
                rows += 1;
                let reply = line.query("SELECT count(*) FROM mine").await?;
                if line.note(Phase::State, began, &reply).is_some() {
                    break;
                }
                line.expect(reply.number(0) == Some(rows), &format!("a count of {rows} own rows"), &reply);
                sleep(Duration::from_millis(80)).await;
            }
            // What was told may have been about the statement only.
            line.query("DROP TABLE IF EXISTS mine").await?;
        }
        Ok::<(), Gone>(())
    };
    if let Err(Gone(why)) = ended.await {
        lost(&line.books, &line.who, &why);
    }
}
