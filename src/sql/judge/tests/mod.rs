//! The judge against a table of statements, and against texts put together at random.

mod random;
mod table;

use super::*;
use crate::sql::catalogue::{
    Catalogue, Facts, Function, Node, Operator, Overrides, Relation, Type, Use, Used,
};

pub(super) const UTF8: Context = Context { standard_strings: true, encoding: Encoding::Utf8 };

fn function(oid: u32, path: &str, is_volatile: bool) -> Function {
    let (schema, name) = path.split_once('.').unwrap();
    let takes_row = name.contains("row");
    Function { oid, schema: schema.into(), name: name.into(), is_volatile, takes_row }
}

fn relation(oid: u32, path: &str, kind: char) -> Relation {
    let (schema, name) = path.split_once('.').unwrap();
    Relation { oid, schema: schema.into(), name: name.into(), kind, is_unlogged: name.contains("unlogged") }
}

const FUNCTIONS: &[(&str, bool)] = &[
    ("public.safe_fn", false),
    ("public.writes", true),
    ("public.mixed", false),
    ("app.mixed", true),
    ("app.f", false),
    ("app.g", true),
    ("public.writes_row", true),
    ("public.reads_row", false),
    ("public.Quoted", true),
    ("public.quoted", false),
    ("public.allowed", true),
    ("public.denied", false),
];

const RELATIONS: &[(&str, char)] = &[
    ("public.t", 'r'),
    ("public.u", 'r'),
    ("public.orders", 'p'),
    ("public.customers", 'r'),
    ("app.items", 'r'),
    ("app.größe", 'r'),
    ("public.Upper", 'r'),
    ("public.summary", 'm'),
    ("public.good_view", 'v'),
    ("public.bad_view", 'v'),
    ("public.view_of_bad_view", 'v'),
    ("public.s", 'S'),
    ("public.unlogged_t", 'r'),
    ("public.foreign_t", 'f'),
    ("app.twice", 'r'),
    ("other.twice", 'f'),
    ("pg_catalog.pg_class", 'r'),
    ("pg_catalog.pg_stat_activity", 'v'),
    ("pg_catalog.pg_locks", 'v'),
    ("information_schema.tables", 'v'),
];

/// A database with something of each kind.
pub(super) fn facts() -> Facts {
    let types = ["public.mood", "public.bad_domain", "app.pair", "public.t"];
    let numbered = |at: usize| 20_000 + at as u32;
    let made: Vec<_> =
        RELATIONS.iter().enumerate().map(|(at, (path, kind))| relation(numbered(at), path, *kind)).collect();
    let place = |name: &str| Node::Relation(made.iter().find(|one| one.name == name).unwrap().oid);
    let uses = |user: Node, what: Node| Use { user, used: Used::Node(what) };
    let builtin =
        |user: Node, name: &str| Use { user, used: Used::Builtin { name: name.into(), is_volatile: false } };
    Facts {
        functions: FUNCTIONS
            .iter()
            .enumerate()
            .map(|(at, (path, bad))| function(numbered(at), path, *bad))
            .collect(),
        types: types
            .iter()
            .enumerate()
            .map(|(at, path)| {
                let (schema, name) = path.split_once('.').unwrap();
                Type { oid: numbered(at), schema: schema.into(), name: name.into() }
            })
            .collect(),
        operators: vec![
            Operator { oid: 1, name: "===".into() },
            Operator { oid: 2, name: "###".into() },
            Operator { oid: 3, name: "+".into() },
        ],
        uses: vec![
            uses(place("bad_view"), Node::Function(numbered(1))),
            uses(place("view_of_bad_view"), place("bad_view")),
            uses(place("good_view"), Node::Function(numbered(0))),
            uses(Node::Type(numbered(1)), Node::Function(numbered(1))),
            uses(Node::Operator(2), Node::Function(numbered(1))),
            builtin(place("pg_stat_activity"), "pg_stat_get_activity"),
            builtin(place("pg_locks"), "pg_lock_status"),
            builtin(place("tables"), "has_table_privilege"),
        ],
        relations: made,
    }
}

pub(super) fn catalogue() -> &'static Catalogue {
    static MADE: std::sync::OnceLock<Catalogue> = std::sync::OnceLock::new();
    MADE.get_or_init(|| Catalogue::new(&facts(), Overrides::new(["allowed"], ["public.denied", "lower"]), 1))
}

/// The verdict in one word: `read`, or the label of the reason why not.
pub(super) fn verdict(sql: &str, context: Context, catalogue: &Catalogue) -> String {
    match judge(sql.as_bytes(), context, &mut catalogue.seen(None)).verdict {
        Verdict::Empty => "empty".to_owned(),
        Verdict::Read => "read".to_owned(),
        Verdict::Declare(Declaration { scope, access, isolation }) => {
            let words = [
                Some(format!("{scope:?}")),
                access.map(|one| format!("{one:?}")),
                isolation.map(|one| format!("{one:?}")),
            ];
            words.into_iter().flatten().collect::<Vec<_>>().join(" ")
        }
        Verdict::Execute(name) => format!("execute {}", String::from_utf8_lossy(name.text)),
        Verdict::Write(stop) => stop.reason.as_str().to_owned(),
    }
}

#[test]
fn words_of_the_grammar_may_be_functions_too() {
    let mut facts = facts();
    for (at, path) in ["public.over", "public.filter", "public.join", "public.cube"].iter().enumerate() {
        facts.functions.push(function(30_000 + at as u32, path, true));
    }
    let catalogue = Catalogue::new(&facts, Overrides::default(), 1);
    for sql in [
        "select distinct on (a) over(1) from t",
        "select filter(1)",
        "select join(1)",
        "select a from t where cube(a) = 1",
        "select a from t join u on join(1)",
    ] {
        assert_ne!(verdict(sql, UTF8, &catalogue), "read", "{sql}");
    }
    assert_eq!(verdict("select rank() over w, t.filter from t join u on true", UTF8, &catalogue), "read");
}

#[test]
fn strings_that_are_not_standard() {
    let catalogue = catalogue();
    let off = Context { standard_strings: false, ..UTF8 };
    assert_eq!(verdict("select 'a', 1 from t", off, catalogue), "read");
    assert_eq!(verdict(r"select '\', writes('", off, catalogue), "syntax");
    assert_eq!(verdict(r"select E'\''", off, catalogue), "syntax");
}

#[test]
fn encodings() {
    let catalogue = catalogue();
    let as_in = |encoding| Context { encoding, ..UTF8 };
    let (safe, wild) = (as_in(Encoding::AsciiSafe), as_in(Encoding::Unsafe));
    assert_eq!(verdict("select 'ö' from app.größe", UTF8, catalogue), "read");
    assert_eq!(verdict("select 'ö' from t", safe, catalogue), "read");
    assert_eq!(verdict("select 1 from app.größe", safe, catalogue), "syntax");
    assert_eq!(verdict("select 'ö' from t", wild, catalogue), "encoding");
    assert_eq!(verdict("select 'o' from t", wild, catalogue), "read");
    for name in ["SJIS", "BIG5", "GBK", "GB18030", "UHC", "JOHAB", "SHIFT_JIS_2004", "", "of tomorrow"] {
        assert_eq!(Encoding::of(name), Encoding::Unsafe, "{name}");
    }
    for name in
        ["LATIN1", "WIN1252", "ISO_8859_5", "KOI8R", "EUC_JP", "EUC_JIS_2004", "SQL_ASCII", "MULE_INTERNAL"]
    {
        assert_eq!(Encoding::of(name), Encoding::AsciiSafe, "{name}");
    }
    assert_eq!(Encoding::of("UTF8"), Encoding::Utf8);
    // The second byte of a character in SJIS may be a backslash, that of one in GBK a letter.
    for bytes in [&b"select '\x95\x5c', writes('"[..], b"select '\x81\x27', 1"] {
        let judged = judge(bytes, wild, &mut catalogue.seen(None));
        assert!(matches!(judged.verdict, Verdict::Write(Stop { reason: Reason::Encoding, .. })));
    }
}

#[test]
fn bytes_that_no_text_has() {
    let catalogue = catalogue();
    for bytes in [&b"select 1\0"[..], b"select \x01 1", b"select 1 \\ 2", b"select {1}"] {
        let judged = judge(bytes, UTF8, &mut catalogue.seen(None));
        assert!(matches!(judged.verdict, Verdict::Write(Stop { reason: Reason::Syntax, .. })), "{bytes:?}");
    }
}

#[test]
fn without_a_catalogue_only_what_is_built_in_is_known() {
    let unknown = Catalogue::unknown(Overrides::default());
    for (sql, expected) in [
        ("select 1, now(), 'x'::text || $1", "read"),
        ("select count(*) from generate_series(1, 10) g(i) where i > 3", "read"),
        ("with x as (select 1) select * from x", "read"),
        ("select * from t", "unknown_relation"),
        ("select safe_fn()", "unknown_function"),
        ("select 'x'::mood", "unknown_type"),
        ("select 1 === 2", "unknown_operator"),
        ("select * from pg_class", "unknown_relation"),
        ("select nextval('s')", "acting_function"),
    ] {
        assert_eq!(verdict(sql, UTF8, &unknown), expected, "{sql}");
    }
}

#[test]
fn a_search_path_tells_which_of_a_name_is_meant() {
    let catalogue = catalogue();
    let path = catalogue.path(["app", "nowhere"]);
    let read = |sql: &str, path| {
        let judged = judge(sql.as_bytes(), UTF8, &mut catalogue.seen(path));
        matches!(judged.verdict, Verdict::Read)
    };
    assert!(!read("select * from twice", None) && read("select * from twice", Some(&path)));
    assert!(!read("select * from t", Some(&path)) && read("select * from public.t", Some(&path)));
    assert!(!read("select mixed()", None) && !read("select mixed()", Some(&path)));
    let public = catalogue.path(["public"]);
    assert!(
        read("select mixed()", Some(&public))
            && read("select now(), pg_class.* from pg_class", Some(&public))
    );
}

#[test]
fn statements_prepared_by_sql() {
    let catalogue = catalogue();
    let verdict = |sql: &'static str| match judge_prepared(sql.as_bytes(), UTF8, &mut catalogue.seen(None)) {
        Verdict::Read => "read",
        Verdict::Write(stop) => stop.reason.as_str(),
        other => panic!("{sql}: {other:?}"),
    };
    for (sql, expected) in [
        ("prepare q as select * from t", "read"),
        ("PREPARE q (int, numeric(10, 2), text[]) AS SELECT * FROM t WHERE a = $1;", "read"),
        ("prepare \"q\" (bad_domain) as select $1", "volatile_type"),
        ("prepare q as insert into t values (1)", "data_modifying"),
        ("prepare q as select nextval('s')", "acting_function"),
        ("prepare q as select 1; delete from t", "syntax"),
        ("prepare transaction 'x'", "syntax"),
        ("select 1", "syntax"),
    ] {
        assert_eq!(verdict(sql), expected, "{sql}");
    }
}

#[test]
fn reasons_are_told_in_words() {
    let catalogue = catalogue();
    let told = |sql: &str| match judge(sql.as_bytes(), UTF8, &mut catalogue.seen(None)).verdict {
        Verdict::Write(stop) => stop.to_string(),
        other => panic!("{sql}: {other:?}"),
    };
    assert_eq!(told("insert into t values (1)"), "insert changes data");
    assert_eq!(told("select NextVal('s')"), "NextVal is a function that changes something on the server");
    assert_eq!(told("select * from bad_view"), "bad_view is a view or table over a volatile function");
    assert_eq!(told("select 1; begin"), "the statement stands among several statements that do not all read");
    assert_eq!(told("select 1 for update"), "for locks rows");
    assert!(told("select 'x").contains("cannot be read with certainty"));
}

#[test]
fn hints_come_with_any_verdict() {
    let catalogue = catalogue();
    let judged = judge(b"/* pgsteer: standby */ insert into t values (1)", UTF8, &mut catalogue.seen(None));
    assert_eq!(judged.hint, Some(Hint::Standby));
    assert!(matches!(judged.verdict, Verdict::Write(_)));
    let judged = judge(b"select 1 /* pgsteer: standby */", UTF8, &mut catalogue.seen(None));
    assert_eq!(judged.hint, None);
}
