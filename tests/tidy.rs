//! House rules that are cheap to check and easy to forget: sizes, headings, banned words, documented options.
//!
//! Each rule is a function from a source to what is wrong with it, tried below on bad samples: a rule that cannot
//! fail guards nothing.

#![allow(clippy::unwrap_used, reason = "a test program")]

mod source;

use std::fs;

use pgsteer::config::options::OPTIONS;
use source::{Source, files, functions, root, tokens};

/// A function fits one screen.
const FUNCTION_LINES: usize = 70;
/// A file without its tests can be read in one sitting.
const FILE_LINES: usize = 500;
/// Characters of a line of shipped code.
const LINE_LENGTH: usize = 120;
/// No blob belongs into the repository.
const FILE_BYTES: u64 = 1 << 20;

/// A finding: line and what is wrong.
type Finding = (usize, String);

fn long_functions(source: &Source) -> Vec<Finding> {
    // Lines inside a text, such as a snapshot, are data.
    let is_data = |(text, code): (&str, &str)| !text.trim().is_empty() && code.trim().is_empty();
    let data: Vec<bool> = source.text.lines().zip(source.commented.lines()).map(is_data).collect();
    let measured = functions(&source.code).into_iter().map(|(name, line, lines)| {
        let inside = data.iter().skip(line - 1).take(lines).filter(|one| **one).count();
        (name, line, lines - inside)
    });
    let long = measured.filter(|(_, _, lines)| *lines > FUNCTION_LINES);
    long.map(|(name, line, lines)| (line, format!("fn {name} has {lines} lines"))).collect()
}

fn long_file(source: &Source) -> Vec<Finding> {
    let lines = if source.name.starts_with("src/") { shipped_lines(source) } else { 0 };
    let wrong = format!("has {lines} lines without tests; split it");
    if lines > FILE_LINES { vec![(1, wrong)] } else { Vec::new() }
}

/// Lines up to the tests at the end; a file of tests has none.
fn shipped_lines(source: &Source) -> usize {
    if source.shipped.trim().is_empty() {
        return 0;
    }
    let tests = source.code.lines().position(|line| line.trim() == "#[cfg(test)]" && !line.starts_with(' '));
    let mod_of_own_file =
        |at: &usize| source.code.lines().nth(at + 1).is_some_and(|next| next.trim_end().ends_with(';'));
    tests.filter(|at| !mod_of_own_file(at)).unwrap_or_else(|| source.text.lines().count())
}

fn heading(source: &Source) -> Vec<Finding> {
    let is_there = source.text.starts_with("//! ");
    if is_there { Vec::new() } else { vec![(1, "does not begin with a //! that tells its role".to_owned())] }
}

/// Snapshots and samples in tests may be as long as what they show.
fn long_lines(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().zip(source.shipped.lines()).enumerate();
    let long =
        lines.filter(|(_, (line, shipped))| line.chars().count() > LINE_LENGTH && !shipped.trim().is_empty());
    long.map(|(index, (line, _))| (index + 1, format!("has {} characters", line.chars().count()))).collect()
}

/// Words that mean "not finished", in comments or code.
fn unfinished(source: &Source) -> Vec<Finding> {
    let is_bad = |word: &&str| ["TODO", "FIXME", "XXX", "HACK"].contains(word);
    let words = |line: &str| {
        let words =
            line.split(|one: char| !one.is_alphanumeric()).filter(|word| is_bad(word)).map(str::to_owned);
        words.collect::<Vec<_>>()
    };
    let lines = source.commented.lines().enumerate();
    lines
        .flat_map(|(index, line)| {
            words(line).into_iter().map(move |word| (index + 1, format!("says {word}")))
        })
        .collect()
}

/// Code that is not finished, tests that do not run, exceptions without a reason.
fn banned_code(source: &Source) -> Vec<Finding> {
    let tokens = tokens(&source.code);
    let mut found = Vec::new();
    for (at, (line, word)) in tokens.iter().enumerate() {
        let next = |offset: usize| tokens.get(at + offset).map_or("", |(_, sign)| sign.as_str());
        let wrong = match word.as_str() {
            "todo" | "unimplemented" | "dbg" if next(1) == "!" => format!("calls {word}!"),
            "ignore" if at > 0 && tokens[at - 1].1 == "[" => "has a test that does not run".to_owned(),
            "allow" if next(1) == "(" && at > 0 && tokens[at - 1].1 == "[" => {
                let inside = tokens[at..].iter().take_while(|(_, sign)| sign != "]");
                if inside.into_iter().any(|(_, sign)| sign == "reason") {
                    continue;
                }
                "allows a lint without a reason".to_owned()
            }
            "mod" if ["utils", "util", "helpers", "common", "misc"].contains(&next(1)) => {
                format!("has a module named {}, which says nothing", next(1))
            }
            "struct" | "enum" | "trait" | "type" if next(1).ends_with("Manager") => {
                format!("has a type named {}; say what it does", next(1))
            }
            _ => continue,
        };
        found.push((*line, wrong));
    }
    found
}

/// Two proxies run in one process: what a part needs is passed to it.
fn global_state(source: &Source) -> Vec<Finding> {
    let shared = ["Mutex", "RwLock", "OnceLock", "LazyLock", "OnceCell", "ArcSwap", "Cell", "RefCell"];
    let tokens = tokens(&source.shipped);
    let mut found = Vec::new();
    for (at, (line, word)) in tokens.iter().enumerate() {
        // `'static` is a lifetime: its quote is the sign before it.
        if word != "static" || (at > 0 && tokens[at - 1].1 == "'") {
            continue;
        }
        let mut kind = tokens[at..].iter().take_while(|(_, sign)| sign != "=" && sign != ";");
        if kind
            .any(|(_, sign)| sign == "mut" || sign.starts_with("Atomic") || shared.contains(&sign.as_str()))
        {
            found.push((*line, "has a static with state".to_owned()));
        }
    }
    found
}

fn check(rule: fn(&Source) -> Vec<Finding>) {
    let mut wrong = Vec::new();
    for source in Source::all() {
        wrong.extend(rule(&source).into_iter().map(|(line, text)| format!("{}:{line}: {text}", source.name)));
    }
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn functions_fit_one_screen() {
    check(long_functions);
}

#[test]
fn files_are_short() {
    check(long_file);
}

#[test]
fn every_file_tells_its_role() {
    check(heading);
}

#[test]
fn lines_are_short() {
    check(long_lines);
}

#[test]
fn nothing_is_left_unfinished() {
    check(unfinished);
    check(banned_code);
}

#[test]
fn nothing_is_shared_behind_the_back() {
    check(global_state);
}

#[test]
fn there_are_no_blobs() {
    for path in files(root(), "") {
        let size = fs::metadata(&path).unwrap().len();
        assert!(size <= FILE_BYTES, "{} has {size} bytes", path.display());
    }
}

#[test]
fn every_option_is_documented() {
    for name in ["proxy.toml", "docs/configuration.md"] {
        let text = fs::read_to_string(root().join(name)).unwrap();
        for option in OPTIONS {
            let word = option.key.rsplit('.').next().unwrap();
            let is_there = text.contains(&format!("{word} = ")) || text.contains(&format!("{word}`"));
            assert!(is_there, "{name} does not mention {}", option.key);
        }
    }
}

#[test]
fn the_changelog_has_a_heading_for_this_version() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(has_version(&text, env!("CARGO_PKG_VERSION")), "CHANGELOG.md");
}

fn has_version(changelog: &str, version: &str) -> bool {
    let mut headings = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    headings.any(|heading| heading.contains("Unreleased") || heading.contains(version))
}

mod rules_can_fail {
    use super::*;

    const NONE: [usize; 0] = [];

    fn sample(text: &str) -> Source {
        Source::of("src/sample.rs", text)
    }

    fn lines(rule: fn(&Source) -> Vec<Finding>, text: &str) -> Vec<usize> {
        rule(&sample(text)).into_iter().map(|(line, _)| line).collect()
    }

    #[test]
    fn function_length() {
        let body = "    call();\n";
        let function = |count: usize| format!("//! x\nfn a() {{\n{}}}\n", body.repeat(count));
        assert_eq!(lines(long_functions, &function(FUNCTION_LINES - 2)), NONE);
        assert_eq!(lines(long_functions, &function(FUNCTION_LINES - 1)), [2]);
        let brace_in_text = format!("fn a() {{ f(\"}}\"); f('}}'); /* }} */\n{}}}\n", body.repeat(80));
        assert_eq!(lines(long_functions, &brace_in_text), [1]);
        let snapshot = format!("fn a() {{\n    show(r#\"\n{}\"#);\n}}\n", "    text\n".repeat(90));
        assert_eq!(lines(long_functions, &snapshot), NONE);
        let declared = format!("trait T {{ fn a(); fn b(x: [u8; 2]) -> u8; }}\n{}", body.repeat(90));
        assert_eq!(lines(long_functions, &declared), NONE);
    }

    #[test]
    fn file_length() {
        let code = "fn a() {}\n".repeat(FILE_LINES);
        assert_eq!(lines(long_file, &code), NONE);
        assert_eq!(lines(long_file, &format!("{code}fn b() {{}}\n")), [1]);
        assert_eq!(lines(long_file, &format!("{code}#[cfg(test)]\nmod tests {{\n{code}}}\n")), NONE);
        assert_eq!(lines(long_file, &format!("#[cfg(test)]\nmod tests;\n{code}")), [1]);
        assert!(long_file(&Source::of("src/x/tests.rs", code.repeat(2))).is_empty());
    }

    #[test]
    fn headings_and_line_length() {
        assert_eq!(lines(heading, "use x;\n//! late"), [1]);
        assert_eq!(lines(heading, "//! Role."), NONE);
        let long = "x".repeat(LINE_LENGTH);
        assert_eq!(lines(long_lines, &format!("a;\n{long};\n{long}\n")), [2]);
        assert_eq!(lines(long_lines, &format!("#[cfg(test)]\nmod tests {{\n{long};\n}}\n")), NONE);
    }

    #[test]
    fn files_of_tests_are_known_by_their_declaration() {
        let text = "#[cfg(test)]\nmod simulation;\nmod idle;\n#[cfg(test)]\nmod tests { mod inner; }\n";
        assert_eq!(Source::of("src/pool/mod.rs", text).test_modules(), ["src/pool/simulation"]);
        assert_eq!(
            Source::of("src/topology/decide.rs", text).test_modules(),
            ["src/topology/decide/simulation"]
        );
    }

    #[test]
    fn unfinished_work() {
        assert_eq!(lines(unfinished, "a; // TODO: b\n/* FIXME */ \"TODO\"; XX000\n/// XXX"), [1, 2, 3]);
        assert_eq!(lines(banned_code, "todo!()"), [1]);
        assert_eq!(lines(banned_code, "a\nunimplemented!(\"x\"); dbg!(1)"), [2, 2]);
        assert_eq!(lines(banned_code, "\"todo!()\" // dbg!(1)"), NONE);
        assert_eq!(lines(banned_code, "#[test]\n#[ignore]\nfn a() {}\n#[ignore = \"x\"]"), [2, 4]);
        assert_eq!(
            lines(banned_code, "#[allow(dead_code)]\n#[allow(x, reason = \"y\")]\n#![allow(z)]"),
            [1, 3]
        );
        assert_eq!(lines(banned_code, "mod utils;\nstruct PoolManager;\nstruct Manager2;"), [1, 2]);
    }

    #[test]
    fn state_in_statics() {
        assert_eq!(
            lines(global_state, "static A: AtomicU64 = x;\nstatic mut B: u8 = 1;\nstatic C: &str = \"\";"),
            [1, 2]
        );
        assert_eq!(lines(global_state, "fn a(x: &'static Mutex<u8>) {}\nstatic D: LazyLock<u8> = y;"), [2]);
        assert_eq!(lines(global_state, "#[cfg(test)]\nmod tests { static A: Mutex<u8> = x; }"), NONE);
    }

    #[test]
    fn changelog() {
        assert!(has_version("# Changelog\n## Unreleased\n", "0.1.0"));
        assert!(has_version("## 0.1.0 - 2026\n", "0.1.0"));
        assert!(!has_version("# 0.1.0\n## 0.0.9\n", "0.1.0"));
    }
}
