//! The judge: a pure function of what has happened and of the table as it is at the end. It knows what DESIGN promises, and
//! nothing of time but order: it compares moments that the clients and the stage have noted, with one limit for staleness.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::history::{Attempt, Failure, Fate, Found, History, Phase, Sight, Table, Window};

#[cfg(test)]
mod tests;

/// What was promised in this episode.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "options as they are set")]
pub struct Terms {
    /// `route.split = "auto"`
    pub auto: bool,
    /// `retry.resolve_commit`
    pub resolve: bool,
    /// `retry.transactions`
    pub replay: bool,
    /// `retry.listen`
    pub listen: bool,
    /// What nobody may be behind: `cluster.max_lag` and ample time to notice.
    pub stale: Duration,
    /// `cluster.hold_timeout`
    pub hold: Duration,
}

/// A promise that was broken.
#[derive(Debug, Clone)]
pub struct Violation {
    pub at: Instant,
    pub text: String,
}

fn violation(at: Instant, text: String) -> Violation {
    Violation { at, text }
}

/// All broken promises, in the order of time.
pub fn judge(history: &History, table: &Table, terms: &Terms) -> Vec<Violation> {
    let mut found: Vec<Violation> =
        history.complaints.iter().map(|one| violation(one.at, one.text.clone())).collect();
    found.extend(writes(history, table));
    found.extend(branches(history));
    let told = Told::of(history);
    found.extend(history.sights.iter().filter_map(|sight| own_writes(sight, &told)));
    found.extend(history.sights.iter().filter_map(|sight| staleness(sight, &told, terms)));
    found.extend(monotonic(history, table, &told, terms));
    found.extend(history.failures.iter().filter_map(|failure| excuse(failure, history, terms)));
    found.sort_by_key(|one| one.at);
    found
}

/// P5: what was acknowledged is there once, what was refused is not, and what belongs together is there together.
fn writes(history: &History, table: &Table) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut tried = BTreeMap::new();
    for attempt in &history.attempts {
        let Attempt { client, way, first, count, ended, fate, .. } = attempt;
        let rows = *first..first + count;
        let there = rows.clone().filter(|row| table.contains_key(&(*client, *row))).count() as u32;
        let mut wrong = |what: &str| {
            found.push(violation(*ended, format!("{what}: client {client}, rows {rows:?} ({way})")));
        };
        match fate {
            Fate::Acknowledged { .. } if there < *count => wrong("acknowledged and lost"),
            Fate::Refused if there > 0 => wrong("refused and there nevertheless"),
            Fate::Unknown if there > 0 && there < *count => {
                wrong("torn: only a part of a transaction is there");
            }
            _ => {}
        }
        tried.extend(rows.map(|row| ((*client, row), *ended)));
    }
    for ((client, row), count) in table {
        match tried.get(&(*client, *row)) {
            Some(ended) if *count > 1 => {
                found.push(violation(*ended, format!("{count} times there: client {client}, row {row}")));
            }
            Some(_) => {}
            None => {
                let end = history.journal.last().map_or_else(Instant::now, |last| last.at);
                found.push(violation(end, format!("nobody has written it: client {client}, row {row}")));
            }
        }
    }
    found
}

/// P2: what was sent after its proxy had named a primary was done by no other.
fn branches(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    for attempt in &history.attempts {
        let Fate::Acknowledged { port: Some(port) } = attempt.fate else { continue };
        for (index, reign) in history.reigns.iter().enumerate() {
            let over = history.reigns.get(index + 1).is_some_and(|next| attempt.ended >= next.asked);
            let seen = reign.seen.get(attempt.proxy);
            if seen.is_some_and(|seen| attempt.sent > *seen) && !over && port != reign.port {
                found.push(violation(
                    attempt.ended,
                    format!("port {port} acknowledged while {} was the primary: {attempt:?}", reign.port),
                ));
            }
        }
    }
    let at: HashMap<(usize, u32), &Attempt> = history
        .attempts
        .iter()
        .flat_map(|attempt| {
            (attempt.first..attempt.first + attempt.count).map(move |row| ((attempt.client, row), attempt))
        })
        .collect();
    for stray in &history.strays {
        let Some(attempt) = at.get(&(stray.client, stray.row)) else { continue };
        let seen = history.reigns.get(stray.reign).and_then(|reign| reign.seen.get(attempt.proxy));
        if seen.is_some_and(|seen| attempt.sent > *seen) {
            found.push(violation(attempt.ended, format!("written at an old primary: {attempt:?}")));
        }
        if matches!(attempt.fate, Fate::Acknowledged { .. }) {
            found.push(violation(attempt.ended, format!("acknowledged by an old primary: {attempt:?}")));
        }
    }
    found
}

/// What each client had been told by when: entries (moment, rows surely there, rows possibly there, highest surely there).
struct Told(HashMap<usize, Vec<(Instant, u32, u32, u32)>>);

impl Told {
    fn of(history: &History) -> Self {
        let mut told: HashMap<usize, Vec<_>> = HashMap::new();
        for attempt in &history.attempts {
            let entries = told.entry(attempt.client).or_default();
            let (_, mut sure, mut maybe, mut highest) =
                entries.last().copied().unwrap_or((attempt.ended, 0, 0, 0));
            match attempt.fate {
                Fate::Acknowledged { .. } => {
                    sure += attempt.count;
                    maybe += attempt.count;
                    highest = attempt.first + attempt.count - 1;
                }
                Fate::Unknown => maybe += attempt.count,
                Fate::Refused => {}
            }
            entries.push((attempt.ended, sure, maybe, highest));
        }
        Self(told)
    }

    /// What the client had been told before that moment.
    fn before(&self, client: usize, moment: Instant) -> (u32, u32, u32) {
        let Some(entries) = self.0.get(&client) else { return (0, 0, 0) };
        let count = entries.partition_point(|(ended, ..)| *ended < moment);
        let last = count.checked_sub(1).and_then(|last| entries.get(last));
        last.map_or((0, 0, 0), |(_, sure, maybe, highest)| (*sure, *maybe, *highest))
    }
}

/// P3: who has written sees it, and never what it was told did not happen.
fn own_writes(sight: &Sight, told: &Told) -> Option<Violation> {
    let Found::Own { client, count, highest } = sight.found else { return None };
    let (sure, maybe, last) = told.before(client, sight.began);
    let fits = highest >= last && (sure..=maybe).contains(&count);
    let promised = format!("{sure} to {maybe} rows up to {last} or more");
    (!fits).then(|| violation(sight.ended, format!("client {client} was promised {promised}: {sight:?}")))
}

/// P3: nobody is served by a node that is behind the limit.
fn staleness(sight: &Sight, told: &Told, terms: &Terms) -> Option<Violation> {
    let Found::All(seen) = &sight.found else { return None };
    let moment = sight.began.checked_sub(terms.stale)?;
    let missed = |(client, highest): (usize, &u32)| {
        let (.., last) = told.before(client, moment);
        (*highest < last).then(|| format!("row {last} of client {client}"))
    };
    let missed = seen.iter().enumerate().find_map(missed)?;
    let text = format!("{missed} was acknowledged {:?} before, and not seen: {sight:?}", terms.stale);
    Some(violation(sight.ended, text))
}

/// P3: what a session has seen it sees again. Rows that are not there at the end count for nothing: whether they were ever
/// committed is not the proxy's business. A standby may show a commit for whose acknowledgement the primary still waits.
fn monotonic(history: &History, table: &Table, told: &Told, terms: &Terms) -> Vec<Violation> {
    let mut floors: HashMap<(&str, usize), u32> = HashMap::new();
    let mut found = Vec::new();
    for sight in &history.sights {
        let seen: Vec<(usize, u32)> = match &sight.found {
            Found::Own { client, highest, .. } => vec![(*client, *highest)],
            Found::All(all) => all.iter().copied().enumerate().collect(),
        };
        for (client, highest) in seen {
            let floor = floors.entry((&sight.session, client)).or_default();
            let (.., acknowledged) = told.before(client, sight.began);
            // What is run again has the same number: it may have been seen on a branch that is lost.
            let is_sure = sight.on_standby && !terms.replay;
            let binding = if is_sure { *floor } else { acknowledged.min(*floor) };
            if highest < binding {
                let text = format!("row {floor} of client {client} was seen before, and now: {sight:?}");
                found.push(violation(sight.ended, text));
            } else if highest > *floor && table.contains_key(&(client, highest)) {
                *floor = highest;
            }
        }
    }
    found
}

/// Is this an error that may come, in this state, at this time?
fn excuse(failure: &Failure, history: &History, terms: &Terms) -> Option<Violation> {
    let windows: Vec<&Window> =
        history.windows.iter().filter(|window| window.overlaps(failure.began, failure.ended)).collect();
    let primary = windows.iter().any(|window| window.primary[failure.proxy]);
    let any = primary || windows.iter().any(|window| window.standbys);
    let moves = windows.iter().any(|window| window.moves);
    let code = failure.code.as_str();
    let allowed = match (failure.phase, code) {
        // Nobody waits for less than that in vain.
        (_, "57P03") => primary && failure.ended - failure.began >= terms.hold,
        (Phase::Read | Phase::HintedRead | Phase::ReadOnlyBlock, "40001") => any,
        // A read that was not proven to be one, on the primary.
        (Phase::Read, "08007") => primary && !terms.auto,
        // Without having asked which transaction it was, nobody can say that a lost one was rolled back; and who has asked
        // is told, or need not be told because it is run again.
        (Phase::Single, "40001") => primary && terms.resolve && !terms.replay,
        (Phase::Beat, "40001") => primary && terms.resolve,
        (Phase::Single | Phase::Beat | Phase::Commit, "08007") => primary && !terms.resolve,
        (Phase::Begin | Phase::Block, "40001") => primary && !terms.replay,
        (Phase::Commit, "40001") => primary && !(terms.replay && terms.resolve),
        (Phase::Many, "40001") | (Phase::HintedRead | Phase::ReadOnlyBlock | Phase::Many, "08007") => primary,
        (Phase::State, "57P01") if terms.listen => primary && failure.ended - failure.began >= terms.hold,
        (Phase::State, "40001" | "08007" | "57P01" | "42P01") => primary || moves,
        _ => false,
    };
    (!allowed).then(|| {
        let kinds: Vec<&str> = windows.iter().map(|window| window.kind.as_str()).collect();
        violation(failure.ended, format!("an error that may not be, during {kinds:?}: {failure:?}"))
    })
}
