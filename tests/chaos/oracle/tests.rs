//! Bad histories, one for each promise: an oracle that does not complain of them guards nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::{Terms, judge};
use crate::history::{
    Attempt, Complaint, Failure, Fate, Found, History, Phase, Reign, Sight, Stray, Table, Window,
};

const OLD: u16 = 5001;
const NEW: u16 = 5002;

/// Milliseconds after the beginning.
struct Clock(Instant);

impl Clock {
    fn new() -> Self {
        Self(Instant::now())
    }

    fn at(&self, ms: u64) -> Instant {
        self.0 + Duration::from_millis(ms)
    }

    fn attempt(&self, row: u32, [sent, ended]: [u64; 2], fate: Fate) -> Attempt {
        let (sent, ended) = (self.at(sent), self.at(ended));
        Attempt { client: 0, proxy: 0, way: "simple", first: row, count: 1, sent, ended, fate }
    }

    fn sight(&self, [began, ended]: [u64; 2], found: Found) -> Sight {
        let (began, ended) = (self.at(began), self.at(ended));
        Sight { session: "reader".to_owned(), began, ended, on_standby: true, found }
    }

    fn failure(&self, phase: Phase, [began, ended]: [u64; 2], code: &str) -> Failure {
        let (began, ended) = (self.at(began), self.at(ended));
        let (who, code, message) = ("writer 0".to_owned(), code.to_owned(), String::new());
        Failure { who, proxy: 0, phase, began, ended, code, message }
    }

    fn window(&self, [from, to]: [u64; 2], primary: bool, standbys: bool) -> Window {
        let (from, to) = (self.at(from), Some(self.at(to)));
        Window { kind: "Kill".to_owned(), from, to, primary: vec![primary], standbys, moves: false }
    }

    fn reign(&self, port: u16, [asked, seen]: [u64; 2]) -> Reign {
        let (asked, seen) = (self.at(asked), self.at(seen));
        Reign { kind: "Kill".to_owned(), port, asked, writable: asked, seen: vec![seen], is_plain: true }
    }

    /// Two primaries, the second of which the proxy knew at 1000, and rows 1 to 3 of one client: acknowledged by the first,
    /// refused, acknowledged by the second.
    fn good(&self) -> (History, Table) {
        let history = History {
            attempts: vec![
                self.attempt(1, [10, 20], ACKNOWLEDGED),
                self.attempt(2, [880, 990], Fate::Refused),
                self.attempt(3, [1100, 1120], Fate::Acknowledged { port: Some(NEW) }),
            ],
            failures: vec![self.failure(Phase::Block, [880, 990], "40001")],
            sights: vec![
                self.sight([30, 40], own(1, 1)),
                self.sight([50, 60], Found::All(vec![1])),
                self.sight([1200, 1210], Found::All(vec![3])),
            ],
            windows: vec![self.window([900, 1500], true, true)],
            reigns: vec![self.reign(OLD, [0, 0]), self.reign(NEW, [950, 1000])],
            journal: vec![Complaint { at: self.at(900), text: "Kill".to_owned() }],
            ..History::default()
        };
        (history, table(&[1, 3]))
    }
}

const ACKNOWLEDGED: Fate = Fate::Acknowledged { port: Some(OLD) };

fn own(count: u32, highest: u32) -> Found {
    Found::Own { client: 0, count, highest }
}

fn table(rows: &[u32]) -> Table {
    let mut table = Table::new();
    for row in rows {
        *table.entry((0, *row)).or_default() += 1;
    }
    table
}

fn terms(resolve: bool, auto: bool) -> Terms {
    Terms {
        auto,
        resolve,
        replay: false,
        listen: false,
        stale: Duration::from_secs(5),
        hold: Duration::from_secs(30),
    }
}

/// What the oracle says first, and how much it has to say.
fn verdict(history: &History, table: &Table) -> (String, usize) {
    let found = judge(history, table, &terms(false, true));
    (found.first().map(|one| one.text.clone()).unwrap_or_default(), found.len())
}

#[track_caller]
fn complains(history: &History, table: &Table, words: &str) {
    let (text, count) = verdict(history, table);
    assert!(text.contains(words) && count == 1, "{count}: {text}");
}

#[test]
fn a_good_history_is_left_in_peace() {
    let (history, table) = Clock::new().good();
    assert_eq!(verdict(&history, &table), (String::new(), 0));
}

#[test]
fn an_acknowledged_write_is_lost() {
    let (history, _) = Clock::new().good();
    complains(&history, &table(&[1]), "acknowledged and lost");
}

#[test]
fn a_write_was_done_twice() {
    let (history, _) = Clock::new().good();
    complains(&history, &table(&[1, 3, 3]), "2 times there");
}

#[test]
fn a_refused_write_is_there() {
    let (history, _) = Clock::new().good();
    complains(&history, &table(&[1, 2, 3]), "refused and there nevertheless");
}

#[test]
fn a_write_came_from_nobody() {
    let (history, _) = Clock::new().good();
    complains(&history, &table(&[1, 3, 4]), "nobody has written it");
}

#[test]
fn an_unknown_write_may_be_there_or_not_but_as_a_whole() {
    let clock = Clock::new();
    let (mut history, _) = clock.good();
    history.attempts[1] = Attempt { count: 1, ..clock.attempt(2, [880, 990], Fate::Unknown) };
    assert_eq!(verdict(&history, &table(&[1, 3])).1, 0);
    assert_eq!(verdict(&history, &table(&[1, 2, 3])).1, 0);
    history.attempts[2] = Attempt { count: 2, ..clock.attempt(3, [1100, 1120], Fate::Unknown) };
    complains(&history, &table(&[1, 3]), "torn");
}

#[test]
fn an_old_primary_acknowledges() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    history.attempts[2] = clock.attempt(3, [1100, 1120], ACKNOWLEDGED);
    complains(&history, &table, "acknowledged while 5002 was the primary");
    // Sent before the proxy knew: nobody has promised anything.
    history.attempts[2] = clock.attempt(3, [999, 1120], ACKNOWLEDGED);
    assert_eq!(verdict(&history, &table).1, 0);
}

#[test]
fn an_old_primary_was_written_to() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    history.strays.push(Stray { client: 0, row: 2, reign: 1 });
    assert_eq!(verdict(&history, &table).1, 0, "it was under way when the new one was seen");
    history.attempts[1] = clock.attempt(2, [1001, 1010], Fate::Refused);
    complains(&history, &table, "written at an old primary");
    history.attempts[1] = clock.attempt(2, [890, 899], ACKNOWLEDGED);
    let (text, count) = verdict(&history, &table);
    assert!(count == 2 && text.contains("lost"), "it is lost, and said by the wrong server: {text}");
}

#[test]
fn an_own_write_is_not_seen() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    history.sights[0] = clock.sight([30, 40], own(0, 0));
    complains(&history, &table, "was promised 1 to 1 rows up to 1");
    // It was not acknowledged yet when the read was sent.
    history.sights[0] = clock.sight([15, 40], own(0, 0));
    assert_eq!(verdict(&history, &table).1, 0);
}

#[test]
fn a_refused_write_is_seen() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    history.sights[0] = clock.sight([995, 996], own(2, 2));
    complains(&history, &table, "was promised 1 to 1 rows");
}

#[test]
fn a_session_goes_back_in_time() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    history.sights.push(clock.sight([1220, 1230], Found::All(vec![1])));
    complains(&history, &table, "was seen before");
    // Another session has not seen it.
    history.sights[3].session = "somebody else".to_owned();
    assert_eq!(verdict(&history, &table).1, 0);
}

#[test]
fn a_primary_may_show_later_what_it_still_waits_for() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    // Seen on a standby at 1110, while the client waits for its acknowledgement until 1120.
    history.sights[2] = clock.sight([1105, 1110], Found::All(vec![3]));
    let early = Sight { on_standby: false, ..clock.sight([1112, 1114], Found::All(vec![1])) };
    history.sights.push(early.clone());
    assert_eq!(verdict(&history, &table).1, 0);
    history.sights[3].on_standby = true;
    complains(&history, &table, "was seen before");
    history.sights[3] = Sight { began: clock.at(1130), ended: clock.at(1135), ..early };
    complains(&history, &table, "was seen before");
}

#[test]
fn a_row_that_was_lost_by_all_binds_nobody() {
    let clock = Clock::new();
    let (mut history, _) = clock.good();
    history.attempts[2].fate = Fate::Unknown;
    history.sights.push(clock.sight([1220, 1230], Found::All(vec![1])));
    assert_eq!(verdict(&history, &table(&[1])).1, 0);
}

#[test]
fn a_read_is_too_old() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    history.sights = vec![clock.sight([6000, 6010], Found::All(vec![1]))];
    assert_eq!(verdict(&history, &table).1, 0, "so much is allowed");
    history.sights = vec![clock.sight([6200, 6210], Found::All(vec![1]))];
    complains(&history, &table, "row 3 of client 0 was acknowledged 5s before");
}

#[test]
fn a_connection_was_lost() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    history.complaints.push(Complaint { at: clock.at(1), text: "writer 0 lost its connection".to_owned() });
    complains(&history, &table, "lost its connection");
}

#[test]
fn an_error_comes_out_of_the_blue() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    history.failures[0] = clock.failure(Phase::Block, [100, 110], "40001");
    complains(&history, &table, "an error that may not be, during []");
    // A standby is lost, and a writer hears of it.
    history.windows.push(clock.window([50, 200], false, true));
    complains(&history, &table, "an error that may not be, during [\"Kill\"]");
}

/// What may be told in a failover, and what may not.
#[test]
fn an_error_says_the_wrong_thing() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    let mut is_allowed = |phase: Phase, code: &str, resolve: bool, auto: bool, ended: u64| {
        history.failures[0] = clock.failure(phase, [980, ended], code);
        judge(&history, &table, &terms(resolve, auto)).is_empty()
    };
    for phase in [Phase::Begin, Phase::Block] {
        assert!(is_allowed(phase, "40001", false, true, 990), "{phase:?}");
        assert!(!is_allowed(phase, "08007", false, true, 990), "{phase:?}: it cannot have committed");
    }
    assert!(!is_allowed(Phase::Rollback, "40001", false, true, 990), "it is rolled back");
    assert!(is_allowed(Phase::Commit, "08007", false, true, 990));
    assert!(is_allowed(Phase::Single, "08007", false, true, 990));
    assert!(!is_allowed(Phase::Single, "40001", false, true, 990), "nobody has asked");
    assert!(is_allowed(Phase::Single, "40001", true, true, 990));
    for phase in [Phase::Single, Phase::Commit] {
        assert!(!is_allowed(phase, "08007", true, true, 990), "{phase:?}: it can be known");
    }
    assert!(is_allowed(Phase::Read, "40001", false, true, 990), "a part of it was delivered");
    assert!(!is_allowed(Phase::Read, "08007", false, true, 990), "it reads");
    assert!(is_allowed(Phase::Read, "08007", false, false, 990), "nobody knows");
    assert!(is_allowed(Phase::State, "57P01", false, true, 990));
    for code in ["57P01", "25006", "25P02", "57P02", "08006", "XX000", "42704"] {
        assert!(!is_allowed(Phase::Single, code, true, true, 990), "{code}");
    }
    assert!(!is_allowed(Phase::Single, "57P03", false, true, 990), "it did not wait");
    assert!(is_allowed(Phase::Single, "57P03", false, true, 31_000));
}

#[test]
fn listeners_that_are_kept_are_not_closed() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    let terms = Terms { listen: true, ..terms(false, true) };
    history.failures[0] = clock.failure(Phase::State, [980, 990], "57P01");
    assert!(!judge(&history, &table, &terms).is_empty());
    history.failures[0] = clock.failure(Phase::State, [980, 31_000], "57P01");
    assert!(judge(&history, &table, &terms).is_empty(), "there was no primary for so long");
}

#[test]
fn what_is_run_again_is_not_refused() {
    let clock = Clock::new();
    let (mut history, table) = clock.good();
    let mut is_allowed = |phase: Phase, code: &str, resolve: bool| {
        history.failures[0] = clock.failure(phase, [980, 990], code);
        judge(&history, &table, &Terms { replay: true, ..terms(resolve, true) }).is_empty()
    };
    for phase in [Phase::Begin, Phase::Block, Phase::Commit, Phase::Single] {
        for code in ["40001", "08007"] {
            assert!(
                !is_allowed(phase, code, true),
                "{phase:?} {code}: no client sees anything of a failover"
            );
        }
    }
    assert!(is_allowed(Phase::Commit, "08007", false) && is_allowed(Phase::Commit, "40001", false));
    assert!(!is_allowed(Phase::Block, "40001", false));
    assert!(is_allowed(Phase::Many, "08007", true), "COPY is not looked after");
}
