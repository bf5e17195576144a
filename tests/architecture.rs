//! One direction of imports, and cores without clocks and sockets: asserted, since convention alone keeps neither.
//!
//! The table below is the architecture (docs/architecture.md draws it). A module may name another one only if
//! the table says so; tests are free.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod source;

use std::collections::{BTreeMap, BTreeSet};

use source::{Source, tokens};

/// What each top-level module may name: whole modules, or one part of them. Lower layers come first.
const ALLOWED: &[(&str, &[&str])] = &[
    // 0: nothing of ours.
    ("drain", &[]),
    ("metrics", &[]),
    ("scram", &[]),
    ("sql", &[]),
    ("wire", &[]),
    ("config", &["scram::verifier"]),
    // 1
    ("net", &["config", "metrics", "scram::binding", "scram::der", "wire"]),
    ("topology", &["config", "metrics"]),
    // 2: never each other.
    ("health", &["config", "drain", "metrics", "net", "topology"]),
    ("pool", &["config", "drain", "metrics", "net", "scram", "topology", "wire"]),
    ("route", &["config", "metrics", "sql", "topology"]),
    // 3
    ("session", &["config", "drain", "metrics", "net", "pool", "route", "scram", "sql", "topology", "wire"]),
    // 4
    (
        "admin",
        &[
            "config",
            "control::order",
            "drain",
            "metrics",
            "net",
            "pool",
            "route",
            "session::catalogues",
            "session::directory",
            "sql",
            "topology",
            "wire",
        ],
    ),
    ("control", &["config", "drain", "health", "metrics", "net", "pool", "session::directory", "topology"]),
    ("demo", &["config", "drain", "net", "wire"]),
    // 5
    ("reload", BELOW_TOP),
    ("serve", BELOW_TOP),
    (
        "app",
        &[
            "admin", "config", "control", "drain", "health", "metrics", "net", "pool", "reload", "route",
            "scram", "serve", "session", "sql", "topology", "wire",
        ],
    ),
    (
        "cli",
        &[
            "admin",
            "app",
            "config",
            "demo",
            "drain",
            "metrics",
            "net",
            "scram",
            "session::catalogues",
            "sql",
            "topology",
        ],
    ),
    ("main", &["app", "cli", "config", "demo"]),
    ("lib", &[]),
];

const BELOW_TOP: &[&str] = &[
    "admin", "config", "drain", "health", "metrics", "net", "pool", "route", "scram", "session", "sql",
    "topology", "wire",
];

/// Files and folders that must name no runtime, no socket and no clock: bytes or observations and `now` in,
/// decisions out.
const SANS_IO: &[&str] = &[
    "src/scram/",
    "src/sql/",
    "src/wire/",
    "src/route/",
    "src/topology/decide.rs",
    "src/topology/lag.rs",
    "src/session/name.rs",
    "src/session/params.rs",
    "src/session/pipeline.rs",
    "src/session/prepared.rs",
    "src/session/replay/journal.rs",
    "src/session/resolve/ask.rs",
    "src/session/resolve/track.rs",
    "src/session/sharing.rs",
    "src/session/sharing/names.rs",
    "src/session/state.rs",
];

/// A path that a file names: the line, and the modules from the root of the crate.
type Named = (usize, Vec<String>);

/// The module that a file is: `src/net/dial.rs` is `net::dial`.
fn module(name: &str) -> Vec<String> {
    let path = name.trim_start_matches("src/").trim_end_matches(".rs");
    let parts = path.split('/').map(str::to_owned);
    parts.filter(|part| part != "mod").collect()
}

/// All paths of this crate in the shipped code of a file, from its root.
fn named(source: &Source) -> Vec<Named> {
    let tokens = tokens(&source.shipped);
    let here = module(&source.name);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let inside_path = at > 0 && tokens[at - 1].1 == "::";
        let word = tokens[at].1.as_str();
        let followed = tokens.get(at + 1).is_some_and(|(_, sign)| sign == "::");
        at += 1;
        if inside_path || !followed {
            continue;
        }
        let mut base = match word {
            "crate" | "pgsteer" => Vec::new(),
            "super" => here[..here.len().saturating_sub(1)].to_vec(),
            _ => continue,
        };
        at += 1;
        while word == "super" && tokens.get(at).is_some_and(|(_, sign)| sign == "super") {
            base.pop();
            at += 2;
        }
        at = tree(&tokens, at, &base, &mut found);
    }
    found
}

/// Reads a path or a group of paths from `at` on; returns where it ends.
fn tree(tokens: &[(usize, String)], mut at: usize, base: &[String], found: &mut Vec<Named>) -> usize {
    let mut path = base.to_vec();
    let line = tokens.get(at).map_or(0, |(line, _)| *line);
    while let Some((_, sign)) = tokens.get(at) {
        match sign.as_str() {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|(_, sign)| sign != "}") {
                    let end = tree(tokens, at, &path, found);
                    at = end.max(at + usize::from(end == at));
                }
                return at + 1;
            }
            "::" => at += 1,
            word if word.chars().all(|one| one.is_alphanumeric() || one == '_') => {
                path.push(word.to_owned());
                at += 1;
                if tokens.get(at).is_none_or(|(_, sign)| sign != "::") {
                    break;
                }
            }
            _ => break,
        }
    }
    if path.len() > base.len() {
        found.push((line, path));
        // `x as y` names x.
        if tokens.get(at).is_some_and(|(_, sign)| sign == "as") {
            at += 2;
        }
    }
    at
}

fn is_allowed(from: &str, path: &[String]) -> bool {
    let allowed = ALLOWED.iter().find(|(module, _)| *module == from).map(|(_, targets)| *targets);
    let path = path.join("::");
    let within = |target: &&str| path == *target || path.starts_with(&format!("{target}::"));
    allowed.is_some_and(|targets| targets.iter().any(within))
}

/// Names of other modules that the table does not allow.
fn forbidden(source: &Source) -> Vec<String> {
    let from = module(&source.name).first().cloned().unwrap_or_default();
    let is_module = |name: &String| ALLOWED.iter().any(|(module, _)| module == name);
    let others = named(source)
        .into_iter()
        .filter(|(_, path)| path.first().is_some_and(|top| *top != from && is_module(top)));
    let wrong = others.filter(|(_, path)| !is_allowed(&from, path));
    wrong.map(|(line, path)| format!("{}:{line}: {from} names {}", source.name, path.join("::"))).collect()
}

/// Runtime, sockets and clocks.
fn impure(source: &Source) -> Vec<String> {
    let tokens = tokens(&source.shipped);
    let word = |at: usize| tokens.get(at).map_or("", |(_, sign)| sign.as_str());
    let mut wrong = Vec::new();
    for (at, (line, sign)) in tokens.iter().enumerate() {
        let found = match sign.as_str() {
            "tokio" | "tokio_util" | "tokio_postgres" | "SystemTime" => sign.clone(),
            "Instant" if word(at + 1) == "::" && word(at + 2) == "now" => "Instant::now".to_owned(),
            "std" if word(at + 1) == "::" && ["net", "fs", "thread"].contains(&word(at + 2)) => {
                format!("std::{}", word(at + 2))
            }
            "std" if word(at + 1) == "::" && word(at + 2) == "{" => {
                let inside = tokens[at..].iter().take_while(|(_, sign)| sign != ";");
                match inside.into_iter().find(|(_, sign)| ["net", "fs", "thread"].contains(&sign.as_str())) {
                    Some((_, part)) => format!("std::{part}"),
                    None => continue,
                }
            }
            _ => continue,
        };
        wrong.push(format!("{}:{line}: names {found}", source.name));
    }
    wrong
}

/// A way round through the graph, if there is one.
fn cycle(edges: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit(
        from: &str,
        edges: &BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<String>,
        done: &mut BTreeSet<String>,
    ) -> bool {
        if let Some(start) = path.iter().position(|one| one == from) {
            path.drain(..start);
            return true;
        }
        if !done.insert(from.to_owned()) {
            return false;
        }
        path.push(from.to_owned());
        if edges.get(from).is_some_and(|next| next.iter().any(|to| visit(to, edges, path, done))) {
            return true;
        }
        path.pop();
        false
    }
    let (mut path, mut done) = (Vec::new(), BTreeSet::new());
    edges.keys().any(|from| visit(from, edges, &mut path, &mut done)).then_some(path)
}

fn shipped() -> Vec<Source> {
    Source::all().into_iter().filter(|source| source.name.starts_with("src/")).collect()
}

/// Which top-level module names which.
fn graph(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let from = module(&source.name)[0].clone();
        let tops = named(source).into_iter().map(|(_, path)| path[0].clone());
        let others = tops.filter(|top| *top != from && ALLOWED.iter().any(|(module, _)| module == top));
        edges.entry(from.clone()).or_default().extend(others);
    }
    edges
}

#[test]
fn imports_go_down_only() {
    let wrong: Vec<String> = shipped().iter().flat_map(forbidden).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn every_module_is_in_the_table() {
    for source in shipped() {
        let top = &module(&source.name)[0];
        assert!(ALLOWED.iter().any(|(name, _)| name == top), "{} is in no layer", source.name);
    }
}

#[test]
fn there_is_no_way_round() {
    assert_eq!(cycle(&graph(&shipped())), None);
    let table = ALLOWED.iter().map(|(from, targets)| {
        let tops = targets.iter().filter_map(|target| target.split("::").next()).map(str::to_owned);
        ((*from).to_owned(), tops.collect())
    });
    assert_eq!(cycle(&table.collect()), None);
}

#[test]
fn cores_know_no_runtime_no_socket_and_no_clock() {
    let sources = shipped();
    for place in SANS_IO {
        let mut files = sources.iter().filter(|source| source.name.starts_with(place)).peekable();
        assert!(files.peek().is_some(), "{place} is not there; correct the list");
        let wrong: Vec<String> = files.flat_map(impure).collect();
        assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
    }
}

mod rules_can_fail {
    use super::*;

    fn sample(name: &str, text: &str) -> Source {
        Source::of(name, text)
    }

    fn paths(name: &str, text: &str) -> Vec<String> {
        named(&sample(name, text)).into_iter().map(|(_, path)| path.join("::")).collect()
    }

    #[test]
    fn paths_are_found_in_every_form() {
        assert_eq!(paths("src/pool/mod.rs", "use crate::net::Stream;"), ["net::Stream"]);
        assert_eq!(
            paths("src/pool/mod.rs", "use crate::{wire, net::{self, dial::{dial, X as Y}}, sql::*};"),
            ["wire", "net::self", "net::dial::dial", "net::dial::X", "sql"]
        );
        assert_eq!(
            paths("src/pool/idle.rs", "use super::super::session::X; super::key::K::new()"),
            ["session::X", "pool::key::K::new"]
        );
        assert_eq!(
            paths("src/main.rs", "fn main() { pgsteer::cli::run(crate::x::y) }"),
            ["cli::run", "x::y"]
        );
        assert_eq!(
            paths("src/a.rs", "// crate::b::C\n\"crate::d::E\"; a::crate_x::f()"),
            Vec::<String>::new()
        );
        assert_eq!(paths("src/a.rs", "#[cfg(test)]\nmod tests { use crate::b::C; }"), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_direction_is_found() {
        let wrong = |name, text| !forbidden(&sample(name, text)).is_empty();
        assert!(wrong("src/wire/frame.rs", "use crate::net::Stream;"));
        assert!(wrong("src/pool/idle.rs", "fn a() { crate::session::run() }"));
        assert!(wrong("src/health/probe.rs", "use super::super::pool::Registry;"));
        assert!(wrong("src/config/load.rs", "use crate::scram::server::Server;"));
        assert!(wrong("src/admin/show.rs", "use crate::session::relay::Relay;"));
        assert!(!wrong("src/admin/show.rs", "use crate::session::directory::Directory;"));
        assert!(!wrong("src/config/load.rs", "use crate::scram::verifier::Verifier;"));
        assert!(!wrong("src/pool/idle.rs", "use super::key::Key; use crate::pool::wait;"));
    }

    #[test]
    fn a_clock_is_found() {
        let wrong = |text| impure(&sample("src/wire/frame.rs", text)).len();
        assert_eq!(wrong("use tokio::time::Instant;"), 1);
        assert_eq!(wrong("use std::net::IpAddr; let x = Instant::now();"), 2);
        assert_eq!(wrong("use std::{fmt, net::IpAddr};"), 1);
        assert_eq!(wrong("use std::time::{Duration, SystemTime};"), 1);
        assert_eq!(wrong("use std::time::Instant; fn a(now: Instant) {} // tokio"), 0);
    }

    #[test]
    fn a_way_round_is_found() {
        let graph = |edges: &[(&str, &str)]| {
            let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
            for (from, to) in edges {
                all.entry((*from).to_owned()).or_default().insert((*to).to_owned());
            }
            cycle(&all)
        };
        assert_eq!(graph(&[("a", "b"), ("b", "c"), ("a", "c")]), None);
        assert_eq!(graph(&[("x", "a"), ("a", "b"), ("b", "c"), ("c", "a")]).map(|path| path.len()), Some(3));
    }
}
