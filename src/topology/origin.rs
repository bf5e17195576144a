//! How the present life of a primary began, and what that says of transactions of the life before.
//!
//! In: positions and start times as servers tell them. Out: whether a transaction that was lost unanswered is part of the
//! primary's history. Plain values and one pure rule; who asks the server is `session`.

use super::position::{Lsn, Timeline};

/// The beginning of a primary's present life: its promotion, its restart or its recovery from a crash.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Origin {
    /// The timeline it writes.
    pub timeline: Timeline,
    /// The timeline before: of its old primary when it was promoted, the same after a restart. `None`: nobody watched.
    pub parent: Option<Timeline>,
    /// Its postmaster's start time.
    pub start_time: i64,
    /// The postmaster's start time in the life before; `None` when nobody watched.
    pub previous_start: Option<i64>,
    /// The end of recovery: everything beyond it in the life before is lost. `None`: there was no recovery.
    pub fork: Option<Lsn>,
    /// The first transaction id that was not in use when it was first asked: `pg_snapshot_xmax`.
    pub next_xid: Option<u64>,
}

impl Origin {
    /// Is this how the life began in which the server says `here`? A recovery from a crash begins another one under the same
    /// postmaster.
    pub fn is_of(&self, here: &Here) -> bool {
        self.timeline == here.timeline
            && self.start_time == here.start_time
            && is_same(self.fork, here.replayed)
    }
}

/// What a server said of a transaction before its COMMIT was sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Facts {
    /// `pg_current_xact_id_if_assigned()`; `None`: it has written nothing.
    pub xid: Option<u64>,
    /// The insert position: the commit record lies behind it.
    pub lsn: Lsn,
    /// The timeline that was written.
    pub timeline: Timeline,
    /// The postmaster's start time.
    pub start_time: i64,
    /// Where the server's own recovery had ended.
    pub replayed: Option<Lsn>,
}

/// What the primary says of itself when it is asked for the transaction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Here {
    /// The timeline it writes.
    pub timeline: Timeline,
    /// Its postmaster's start time.
    pub start_time: i64,
    /// Where its recovery ended.
    pub replayed: Option<Lsn>,
}

/// Whether the transaction can be part of the primary's history.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Line {
    /// What the primary says of the transaction's id is about this transaction.
    Ours,
    /// It is not: the server has rolled it back. Why, in words.
    Lost(String),
    /// Nobody can know. Why, in words.
    Unknown(&'static str),
}

/// Page headers that one of two spellings of the same position may count.
const HEADERS: [u64; 2] = [0x18, 0x28];

/// Whether both are the same position; the topology's are [`Lsn::rounded`].
fn is_same(rounded: Option<Lsn>, told: Option<Lsn>) -> bool {
    rounded == told
        || rounded.zip(told).is_some_and(|(rounded, told)| HEADERS.contains(&told.bytes_since(rounded)))
}

/// The rule. `origin` is the topology's view of the primary that said `here`.
pub fn line(facts: &Facts, here: &Here, origin: Option<&Origin>) -> Line {
    let same_timeline = here.timeline == facts.timeline;
    if same_timeline && here.start_time == facts.start_time && here.replayed == facts.replayed {
        return Line::Ours;
    }
    let Some(origin) = origin.filter(|origin| origin.is_of(here)) else {
        return Line::Unknown("How the present primary became one was not seen.");
    };
    let next = u64::from(here.timeline.0) == u64::from(facts.timeline.0) + 1;
    if !same_timeline && !next {
        return Line::Unknown(
            "More than one promotion lies between the transaction and the present primary.",
        );
    }
    if origin.parent != Some(facts.timeline) {
        return Line::Unknown("The present primary's timeline is not known to continue the transaction's.");
    }
    if same_timeline && origin.previous_start != Some(facts.start_time) {
        return Line::Unknown("The server was restarted more than once.");
    }
    match here.replayed {
        // A server that was shut down in good order has all it ever wrote.
        None if same_timeline => Line::Ours,
        None => Line::Unknown("Where the present primary's timeline began is not known."),
        Some(fork) => behind(facts, fork, origin),
    }
}

/// `fork`: the end of the history that the transaction and the primary share.
fn behind(facts: &Facts, fork: Lsn, origin: &Origin) -> Line {
    if fork <= facts.lsn {
        let lsn = facts.lsn;
        return Line::Lost(format!(
            "The present primary's history ends the old one's at {fork}; the transaction would have committed behind {lsn}."
        ));
    }
    match (facts.xid, origin.next_xid) {
        (Some(xid), Some(next)) if xid >= next => {
            Line::Lost(format!("The present primary has never heard of transaction {xid}."))
        }
        (_, None) => Line::Unknown("Which transactions the present primary began with is not known."),
        _ => Line::Ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACTS: Facts =
        Facts { xid: Some(700), lsn: Lsn(5000), timeline: Timeline(1), start_time: 10, replayed: None };

    fn promoted(fork: u64) -> (Here, Origin) {
        let (timeline, start_time, replayed) = (Timeline(2), 20, Some(Lsn(fork)));
        let origin = Origin {
            timeline,
            parent: Some(Timeline(1)),
            start_time,
            previous_start: Some(20),
            fork: replayed,
            next_xid: Some(710),
        };
        (Here { timeline, start_time, replayed }, origin)
    }

    fn is_unknown(line: &Line) -> bool {
        matches!(line, Line::Unknown(_))
    }

    #[test]
    fn the_same_life_of_the_same_server_answers_for_itself() {
        let here = Here { timeline: Timeline(1), start_time: 10, replayed: None };
        assert_eq!(line(&FACTS, &here, None), Line::Ours);
    }

    #[test]
    fn what_lies_behind_the_fork_is_lost_whatever_the_id_says() {
        for fork in [4000, 5000] {
            let (here, origin) = promoted(fork);
            assert!(matches!(line(&FACTS, &here, Some(&origin)), Line::Lost(_)), "{fork}");
        }
        let (here, origin) = promoted(5001);
        assert_eq!(line(&FACTS, &here, Some(&origin)), Line::Ours);
    }

    #[test]
    fn an_id_that_the_new_primary_has_yet_to_give_is_not_ours() {
        let (here, mut origin) = promoted(9000);
        origin.next_xid = Some(700);
        assert!(matches!(line(&FACTS, &here, Some(&origin)), Line::Lost(_)));
        origin.next_xid = None;
        assert!(is_unknown(&line(&FACTS, &here, Some(&origin))));
    }

    #[test]
    fn two_steps_or_an_unseen_one_are_unknown() {
        let (here, origin) = promoted(9000);
        assert!(is_unknown(&line(&FACTS, &here, None)));
        assert!(is_unknown(&line(&FACTS, &Here { timeline: Timeline(3), ..here }, Some(&origin))));
        let two = Origin { timeline: Timeline(3), parent: Some(Timeline(2)), ..origin };
        assert!(is_unknown(&line(&FACTS, &Here { timeline: Timeline(3), ..here }, Some(&two))));
        assert!(is_unknown(&line(&FACTS, &here, Some(&Origin { parent: None, ..origin }))));
        let moved = Here { replayed: Some(Lsn(9100)), ..here };
        assert!(is_unknown(&line(&FACTS, &moved, Some(&origin))), "not the life that was seen");
        let rounded = Here { replayed: Some(Lsn(9000 + 0x18)), ..here };
        assert_eq!(line(&FACTS, &rounded, Some(&origin)), Line::Ours);
    }

    #[test]
    fn a_restart_in_place_is_judged_by_the_same_rule() {
        let here = Here { timeline: Timeline(1), start_time: 11, replayed: None };
        let mut origin = Origin {
            timeline: Timeline(1),
            parent: Some(Timeline(1)),
            start_time: 11,
            previous_start: Some(10),
            fork: None,
            next_xid: Some(701),
        };
        assert_eq!(line(&FACTS, &here, Some(&origin)), Line::Ours, "shut down in good order");
        let twice = Origin { previous_start: Some(9), ..origin };
        assert!(is_unknown(&line(&FACTS, &here, Some(&twice))));
        for (end, ours) in [(4000, false), (6000, true)] {
            let here = Here { replayed: Some(Lsn(end)), ..here };
            origin.fork = here.replayed;
            assert_eq!(line(&FACTS, &here, Some(&origin)) == Line::Ours, ours, "{end}");
            // One server process crashed: the postmaster lives on.
            let here = Here { start_time: 10, ..here };
            let origin = Origin { start_time: 10, ..origin };
            assert_eq!(line(&FACTS, &here, Some(&origin)) == Line::Ours, ours, "{end}");
        }
    }
}
