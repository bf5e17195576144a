//! What follows from facts.

use super::*;

fn named(path: &str) -> (String, String) {
    let (schema, name) = path.split_once('.').unwrap();
    (schema.to_owned(), name.to_owned())
}

fn function(oid: u32, path: &str, is_volatile: bool) -> Function {
    let (schema, name) = named(path);
    Function { oid, schema, name, is_volatile, takes_row: false }
}

fn table(oid: u32, path: &str) -> Relation {
    let (schema, name) = named(path);
    Relation { oid, schema, name, kind: 'r', is_unlogged: false }
}

fn uses(user: Node, what: Node) -> Use {
    Use { user, used: Used::Node(what) }
}

fn path(text: &str) -> Qualified<'_> {
    let plain = |text: &'static [u8]| Name { text, quoted: true };
    let leak = |text: &str| -> &'static [u8] { text.as_bytes().to_vec().leak() };
    match text.split_once('.') {
        Some((schema, name)) => Qualified { schema: Some(plain(leak(schema))), name: plain(leak(name)) },
        None => Qualified { schema: None, name: plain(leak(text)) },
    }
}

fn facts() -> Facts {
    Facts {
        functions: vec![
            function(30_001, "public.writes", true),
            function(30_002, "public.stable_over_type", false),
            function(30_003, "public.aggregate", false),
            function(30_004, "public.reads", false),
        ],
        relations: vec![
            table(30_011, "public.plain"),
            table(30_012, "public.with_column"),
            table(30_013, "public.view"),
            table(30_014, "public.parent"),
        ],
        types: vec![Type { oid: 30_021, schema: "public".into(), name: "checked".into() }],
        operators: Vec::new(),
        uses: vec![
            uses(Node::Type(30_021), Node::Function(30_001)),
            uses(Node::Function(30_002), Node::Type(30_021)),
            uses(Node::Function(30_003), Node::Function(30_001)),
            uses(Node::Relation(30_012), Node::Type(30_021)),
            uses(Node::Relation(30_013), Node::Relation(30_012)),
            uses(Node::Relation(30_014), Node::Relation(30_015)),
        ],
    }
}

#[test]
fn whoever_uses_something_unsafe_is_unsafe() {
    let catalogue = Catalogue::new(&facts(), Overrides::default(), 7);
    let mut view = catalogue.seen(None);
    assert_eq!(catalogue.generation(), 7);
    assert_eq!(view.function(path("writes")), Known::Unsafe(Reason::VolatileFunction));
    assert_eq!(view.function(path("stable_over_type")), Known::Unsafe(Reason::VolatileFunction));
    assert_eq!(view.function(path("aggregate")), Known::Unsafe(Reason::VolatileFunction));
    assert_eq!(view.function(path("reads")), Known::Safe);
    assert_eq!(view.relation(path("plain")), Known::Safe);
    assert_eq!(view.relation(path("with_column")), Known::Unsafe(Reason::VolatileRelation));
    assert_eq!(view.relation(path("public.view")), Known::Unsafe(Reason::VolatileRelation));
    assert_eq!(view.relation(path("parent")), Known::Safe);
    assert_eq!(view.kind(path("checked")), Known::Unsafe(Reason::VolatileType));
    assert!(catalogue.doubts_types());
}

#[test]
fn the_configuration_has_the_last_word() {
    let of = |read: &[&str], write: &[&str]| {
        let overrides = Overrides::new(read.iter().copied(), write.iter().copied());
        Catalogue::new(&facts(), overrides, 1)
    };
    // What is trusted is trusted for all that use it.
    for name in ["writes", "public.writes"] {
        let catalogue = of(&[name], &[]);
        let mut view = catalogue.seen(None);
        assert_eq!(view.function(path("writes")), Known::Safe, "{name}");
        assert_eq!(view.function(path("public.writes")), Known::Safe, "{name}");
        assert_eq!(view.relation(path("view")), Known::Safe, "{name}");
        assert!(!catalogue.doubts_types());
    }
    let catalogue =
        of(&["now", "pg_backend_pid"], &["now", "public.reads", "not_there", "app.not_there_either"]);
    let mut view = catalogue.seen(None);
    let declared = Known::Unsafe(Reason::DeclaredWrite);
    assert_eq!(view.function(path("now")), declared);
    assert_eq!(view.function(path("pg_catalog.now")), declared);
    assert_eq!(view.function(path("reads")), declared);
    assert_eq!(view.function(path("not_there")), declared);
    assert_eq!(view.function(path("app.not_there_either")), declared);
    assert_eq!(view.function(path("not_there_either")), Known::Unknown);
    assert_eq!(view.function(path("pg_backend_pid")), Known::Safe);
    // Another schema's function of that name is not meant.
    let catalogue = of(&["app.writes"], &[]);
    assert_eq!(catalogue.seen(None).function(path("writes")), Known::Unsafe(Reason::VolatileFunction));
}

#[test]
fn a_function_beside_a_built_in_one_counts_with_it() {
    let mut facts = facts();
    facts.functions.push(function(30_005, "app.lower", true));
    facts.functions.push(function(30_006, "app.nextval", false));
    let catalogue = Catalogue::new(&facts, Overrides::default(), 1);
    let mut view = catalogue.seen(None);
    assert_eq!(view.function(path("lower")), Known::Unsafe(Reason::VolatileFunction));
    assert_eq!(view.function(path("pg_catalog.lower")), Known::Safe);
    assert_eq!(view.function(path("nextval")), Known::Unsafe(Reason::Acts));
    assert_eq!(view.function(path("app.nextval")), Known::Safe);
    let public = catalogue.path(["public"]);
    assert_eq!(catalogue.seen(Some(&public)).function(path("lower")), Known::Safe);
}

#[test]
fn a_cast_between_built_in_types_makes_everything_doubtful() {
    let mut facts = facts();
    facts.uses.push(uses(Node::Type(23), Node::Function(30_001)));
    let catalogue = Catalogue::new(&facts, Overrides::default(), 1);
    let mut view = catalogue.seen(None);
    let doubt = Known::Unsafe(Reason::VolatileType);
    assert_eq!(view.relation(path("plain")), doubt);
    assert_eq!(view.function(path("now")), doubt);
    assert_eq!(view.kind(path("int4")), doubt);
    assert!(catalogue.doubts_types());
}

#[test]
fn circles_end() {
    let mut facts = facts();
    facts.uses.push(uses(Node::Relation(30_012), Node::Relation(30_013)));
    facts.uses.push(uses(Node::Function(30_001), Node::Function(30_001)));
    let catalogue = Catalogue::new(&facts, Overrides::default(), 1);
    assert_eq!(catalogue.seen(None).relation(path("view")), Known::Unsafe(Reason::VolatileRelation));
}
