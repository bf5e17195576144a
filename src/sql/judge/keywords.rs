//! The words of PostgreSQL's grammar that the judge must tell from names (manual, appendix C).
//!
//! In: one word. Out: what it may do to a query. A word that is not here is a name. Must not know statements.

/// What a word may be, beside a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    /// No keyword that matters: a name.
    None,
    All,
    As,
    /// `CAST` and what like it holds `AS type`.
    Cast,
    /// Begins a clause behind FROM.
    Clause,
    Cross,
    Distinct,
    Double,
    For,
    From,
    /// Reserved, or syntax: neither a function nor a type, whatever follows.
    Hard,
    Into,
    Is,
    Join,
    Lateral,
    /// `LEFT`, `RIGHT`: a join, or a function.
    Side,
    /// INSERT, UPDATE, DELETE, MERGE.
    Modify,
    Not,
    On,
    Only,
    Operator,
    /// A table made by syntax that has types in it: `XMLTABLE`, `JSON_TABLE`.
    Rare,
    Repeatable,
    Returning,
    Rows,
    Select,
    /// UNION, INTERSECT, EXCEPT.
    SetOp,
    /// Syntax before `(` or a text, but a function or type may have this name: that is asked for.
    Soft,
    Table,
    Tablesample,
    /// A built-in type that the grammar knows: never a function, never another type.
    Type,
    Uescape,
    Using,
    Values,
    With,
}

impl Keyword {
    /// Words that are names in an expression: of a column, a function or a type.
    pub(super) fn names(self) -> bool {
        use Keyword::{Cross, Double, Is, None, Operator, Repeatable, Side, Tablesample};
        matches!(self, Cross | Double | Is | None | Operator | Repeatable | Side | Tablesample)
    }

    /// Words that may name a table, or stand for one in the rest of a statement.
    pub(super) fn names_table(self) -> bool {
        use Keyword::{Double, None, Operator, Repeatable, Rows, Soft};
        matches!(self, Double | None | Operator | Repeatable | Rows | Soft)
    }
}

const WORDS: &[(&str, Keyword)] = &[
    ("all", Keyword::All),
    ("analyse", Keyword::Hard),
    ("analyze", Keyword::Hard),
    ("and", Keyword::Hard),
    ("any", Keyword::Hard),
    ("array", Keyword::Hard),
    ("as", Keyword::As),
    ("asc", Keyword::Hard),
    ("asymmetric", Keyword::Hard),
    ("between", Keyword::Hard),
    ("bigint", Keyword::Type),
    ("bit", Keyword::Type),
    ("boolean", Keyword::Type),
    ("both", Keyword::Hard),
    ("by", Keyword::Soft),
    ("case", Keyword::Hard),
    ("cast", Keyword::Cast),
    ("char", Keyword::Type),
    ("character", Keyword::Type),
    ("check", Keyword::Hard),
    ("coalesce", Keyword::Hard),
    ("collate", Keyword::Hard),
    ("column", Keyword::Hard),
    ("constraint", Keyword::Hard),
    ("content", Keyword::Soft),
    ("create", Keyword::Hard),
    ("cross", Keyword::Cross),
    ("cube", Keyword::Soft),
    ("dec", Keyword::Type),
    ("decimal", Keyword::Type),
    ("default", Keyword::Hard),
    ("deferrable", Keyword::Hard),
    ("delete", Keyword::Modify),
    ("desc", Keyword::Hard),
    ("distinct", Keyword::Distinct),
    ("do", Keyword::Hard),
    ("document", Keyword::Soft),
    ("double", Keyword::Double),
    ("else", Keyword::Hard),
    ("end", Keyword::Hard),
    ("escape", Keyword::Soft),
    ("except", Keyword::SetOp),
    ("exists", Keyword::Hard),
    ("false", Keyword::Hard),
    ("fetch", Keyword::Clause),
    ("filter", Keyword::Soft),
    ("first", Keyword::Soft),
    ("float", Keyword::Type),
    ("for", Keyword::For),
    ("foreign", Keyword::Hard),
    ("from", Keyword::From),
    ("full", Keyword::Cross),
    ("grant", Keyword::Hard),
    ("greatest", Keyword::Hard),
    ("group", Keyword::Clause),
    ("grouping", Keyword::Hard),
    ("groups", Keyword::Soft),
    ("having", Keyword::Clause),
    ("ilike", Keyword::Soft),
    ("in", Keyword::Hard),
    ("initially", Keyword::Hard),
    ("inner", Keyword::Cross),
    ("insert", Keyword::Modify),
    ("int", Keyword::Type),
    ("integer", Keyword::Type),
    ("intersect", Keyword::SetOp),
    ("interval", Keyword::Type),
    ("into", Keyword::Into),
    ("is", Keyword::Is),
    ("join", Keyword::Join),
    ("json", Keyword::Soft),
    ("json_array", Keyword::Soft),
    ("json_arrayagg", Keyword::Soft),
    ("json_exists", Keyword::Soft),
    ("json_object", Keyword::Soft),
    ("json_objectagg", Keyword::Soft),
    ("json_query", Keyword::Soft),
    ("json_scalar", Keyword::Soft),
    ("json_serialize", Keyword::Soft),
    ("json_table", Keyword::Rare),
    ("json_value", Keyword::Soft),
    ("key", Keyword::Soft),
    ("lateral", Keyword::Lateral),
    ("leading", Keyword::Hard),
    ("least", Keyword::Hard),
    ("left", Keyword::Side),
    ("like", Keyword::Soft),
    ("limit", Keyword::Clause),
    ("materialized", Keyword::Soft),
    ("merge", Keyword::Modify),
    ("national", Keyword::Type),
    ("natural", Keyword::Cross),
    ("nchar", Keyword::Type),
    ("next", Keyword::Soft),
    ("not", Keyword::Not),
    ("null", Keyword::Hard),
    ("nullif", Keyword::Hard),
    ("numeric", Keyword::Type),
    ("offset", Keyword::Clause),
    ("on", Keyword::On),
    ("only", Keyword::Only),
    ("operator", Keyword::Operator),
    ("or", Keyword::Hard),
    ("order", Keyword::Clause),
    ("outer", Keyword::Cross),
    ("over", Keyword::Soft),
    ("passing", Keyword::Soft),
    ("placing", Keyword::Hard),
    ("precision", Keyword::Hard),
    ("primary", Keyword::Hard),
    ("range", Keyword::Soft),
    ("real", Keyword::Type),
    ("references", Keyword::Hard),
    ("repeatable", Keyword::Repeatable),
    ("returning", Keyword::Returning),
    ("right", Keyword::Side),
    ("rollup", Keyword::Soft),
    ("row", Keyword::Hard),
    ("rows", Keyword::Rows),
    ("second", Keyword::Soft),
    ("select", Keyword::Select),
    ("sets", Keyword::Soft),
    ("smallint", Keyword::Type),
    ("some", Keyword::Hard),
    ("standalone", Keyword::Soft),
    ("symmetric", Keyword::Hard),
    ("table", Keyword::Table),
    ("tablesample", Keyword::Tablesample),
    ("then", Keyword::Hard),
    ("time", Keyword::Type),
    ("timestamp", Keyword::Type),
    ("to", Keyword::Hard),
    ("trailing", Keyword::Hard),
    ("treat", Keyword::Rare),
    ("trim", Keyword::Soft),
    ("true", Keyword::Hard),
    ("uescape", Keyword::Uescape),
    ("union", Keyword::SetOp),
    ("unique", Keyword::Hard),
    ("update", Keyword::Modify),
    ("using", Keyword::Using),
    ("value", Keyword::Soft),
    ("values", Keyword::Values),
    ("varchar", Keyword::Type),
    ("variadic", Keyword::Hard),
    ("varying", Keyword::Soft),
    ("version", Keyword::Soft),
    ("when", Keyword::Hard),
    ("where", Keyword::Clause),
    ("window", Keyword::Clause),
    ("with", Keyword::With),
    ("xmlattributes", Keyword::Hard),
    ("xmlconcat", Keyword::Hard),
    ("xmlelement", Keyword::Hard),
    ("xmlexists", Keyword::Hard),
    ("xmlforest", Keyword::Hard),
    ("xmlnamespaces", Keyword::Rare),
    ("xmlparse", Keyword::Hard),
    ("xmlpi", Keyword::Hard),
    ("xmlroot", Keyword::Hard),
    ("xmlserialize", Keyword::Cast),
    ("xmltable", Keyword::Rare),
    ("zone", Keyword::Soft),
];

/// Letters that a packed word has room for; no word of the table is longer.
pub(super) const PACKED: usize = 16;

/// Sets the bit that tells small letters from capitals. An underscore becomes a byte that is in no word.
const SMALL: u128 = 0x2020_2020_2020_2020_2020_2020_2020_2020;

const fn mask(len: usize) -> u128 {
    if len >= PACKED { u128::MAX } else { (1 << (8 * len)) - 1 }
}

#[expect(clippy::indexing_slicing, reason = "the loop ends before either does")]
const fn pack(word: &[u8]) -> u128 {
    let mut bytes = [0; PACKED];
    let mut at = 0;
    while at < word.len() && at < PACKED {
        bytes[at] = word[at];
        at += 1;
    }
    (u128::from_le_bytes(bytes) | SMALL) & mask(word.len())
}

/// Slots of the table of hashes: four times the words, so that few share one.
const SLOTS: usize = 512;

const fn slot(packed: u128) -> usize {
    let folded = (packed as u64) ^ ((packed >> 64) as u64).rotate_left(29);
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize
}

/// For each slot the word that is there, counted from one; a taken slot is passed to the next.
static INDEX: [u8; SLOTS] = index();
static PACKS: [(u128, Keyword); WORDS.len()] = packs();

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn packs() -> [(u128, Keyword); WORDS.len()] {
    let mut all = [(0, Keyword::None); WORDS.len()];
    let mut at = 0;
    while at < WORDS.len() {
        all[at] = (pack(WORDS[at].0.as_bytes()), WORDS[at].1);
        at += 1;
    }
    all
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn index() -> [u8; SLOTS] {
    let mut slots = [0; SLOTS];
    let mut at = 0;
    while at < WORDS.len() {
        let mut place = slot(pack(WORDS[at].0.as_bytes()));
        while slots[place] != 0 {
            place = (place + 1) % SLOTS;
        }
        slots[place] = at as u8 + 1;
        at += 1;
    }
    slots
}

/// What `word` is, which ends at `end` of `sql`: a long load instead of a loop where the text is long enough.
pub(super) fn keyword(sql: &[u8], word: &[u8], end: usize) -> Keyword {
    if word.len() > PACKED || word.len() < 2 {
        return Keyword::None;
    }
    let start = end.wrapping_sub(word.len());
    let packed = match sql.get(start..).and_then(<[u8]>::first_chunk::<PACKED>) {
        Some(bytes) => (u128::from_le_bytes(*bytes) | SMALL) & mask(word.len()),
        None => pack(word),
    };
    let mut place = slot(packed);
    loop {
        let Some(&taken @ 1..) = INDEX.get(place) else { return Keyword::None };
        match PACKS.get(usize::from(taken) - 1) {
            Some((one, keyword)) if *one == packed => return *keyword,
            _ => place = (place + 1) % SLOTS,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_found_and_no_other() {
        for (word, found) in WORDS {
            for text in [(*word).to_owned(), word.to_uppercase(), format!("{word} and some more letters")] {
                let bytes = text.as_bytes();
                assert_eq!(keyword(bytes, &bytes[..word.len()], word.len()), *found, "{text}");
            }
            let longer = format!("{word}x");
            assert_eq!(keyword(longer.as_bytes(), longer.as_bytes(), longer.len()), Keyword::None);
        }
        for other in ["", "a", "id", "selec", "current_timestamp", "xmlserialize_abcdef"] {
            assert_eq!(keyword(other.as_bytes(), other.as_bytes(), other.len()), Keyword::None, "{other}");
        }
        assert!(WORDS.is_sorted_by_key(|(word, _)| *word) && WORDS.len() < 255);
    }
}
