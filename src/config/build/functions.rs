//! Lists of functions: `route.read_functions` and `route.write_functions`.
//!
//! In: names as they are written. Out: the names, or what is wrong with each, on its line. Whether there are such functions
//! is not known here: each database has its own.

use super::super::raw::Section;

/// The longest name a server keeps apart from others (NAMEDATALEN - 1).
const NAME_BYTES: usize = 63;

/// The functions that read, and those that write.
pub(super) fn functions(route: &Section<'_>) -> (Vec<String>, Vec<String>) {
    let read = list(route, "read_functions", &[]);
    let write = list(route, "write_functions", &read);
    (read, write)
}

/// The names in one list, none of which may be in the `other` one.
fn list(route: &Section<'_>, option: &str, other: &[String]) -> Vec<String> {
    let problems = route.context.problems;
    let key = route.key_of(option);
    let mut names = Vec::new();
    for (place, name) in route.list(option).unwrap_or_default() {
        if let Some(wrong) = wrong(&name) {
            problems.error(place, &key, format!("\"{name}\" {wrong}"));
            continue;
        }
        if other.contains(&name) {
            problems.error(
                place,
                &key,
                format!("\"{name}\" is in read_functions, too; keep it in one of the lists"),
            );
        } else if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            let text = format!("\"{name}\" has capital letters, which only names made in quotes keep");
            problems.warning(place, &key, format!("{text}; write it as pg_proc.proname shows it"));
        }
        names.push(name);
    }
    names
}

/// Why it is no `name` or `schema.name`, and what to do.
fn wrong(name: &str) -> Option<&'static str> {
    let parts: Vec<&str> = name.split('.').collect();
    if name.contains(['(', ')']) {
        Some("has arguments; write only the name, which stands for all functions of that name")
    } else if name.contains('"') {
        Some("has quotes inside; write the name as pg_proc.proname shows it")
    } else if parts.len() > 2 {
        Some("has more than one dot; write it like \"name\" or \"schema.name\"")
    } else if parts.iter().any(|part| part.is_empty()) {
        Some("lacks a name; write it like \"name\" or \"schema.name\"")
    } else if name.contains(|one: char| one.is_whitespace() || one.is_control() || ",;".contains(one)) {
        Some("has more than a name inside; write each name as a text of its own")
    } else if parts.iter().any(|part| part.len() > NAME_BYTES) {
        Some(
            "is longer than a name can be on a server, which is 63 bytes; write it as pg_proc.proname shows it",
        )
    } else {
        None
    }
}
