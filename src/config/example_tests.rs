//! `proxy.toml` at the top of the repository: it loads, and it documents every option with its real default.

use std::collections::HashMap;
use std::path::Path;

use super::options::{OPTIONS, find};
use super::{Files, Secret, parse};

const EXAMPLE: &str = include_str!("../../proxy.toml");

/// The example names files that are on no machine yet.
struct AllThere;

impl Files for AllThere {
    fn secret(&self, _: &Path) -> std::io::Result<(String, u32)> {
        Ok(("secret\n".to_owned(), 0o100_600))
    }

    fn readable(&self, _: &Path) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_example_loads_without_a_warning() {
    let loaded = parse(EXAMPLE, Some(Path::new("proxy.toml")), [], &AllThere)
        .unwrap_or_else(|wrong| panic!("{wrong}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    assert_eq!(loaded.settings.cluster.nodes.len(), 2);
    assert_eq!(loaded.settings.cluster.monitor.password, Some(Secret::new("secret")));
}

/// Options of the example with their values. `#name = value` is an option that is commented out, `# text` is
/// prose.
fn documented() -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut block = String::new();
    for line in EXAMPLE.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(name) = line.strip_prefix("[[").and_then(|rest| rest.strip_suffix("]]")) {
            block = format!("{name}[].");
        } else if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            block = format!("{}.", name.replace("listen.", "listen[]."));
        } else if let Some((name, value)) = line.split_once(" = ")
            && !line.starts_with([' ', '#'])
        {
            let value = value.split("  #").next().unwrap().trim();
            found.insert(format!("{block}{name}"), value.to_owned());
        }
    }
    found
}

#[test]
fn every_option_is_documented_and_nothing_else() {
    let found = documented();
    for option in OPTIONS {
        assert!(found.contains_key(option.key), "proxy.toml does not mention {}", option.key);
    }
    for key in found.keys() {
        assert!(find(key).is_some(), "proxy.toml mentions {key}, which is no option");
    }
}

#[test]
fn what_is_commented_out_shows_the_default() {
    let commented: Vec<&str> = EXAMPLE.lines().filter_map(|line| line.strip_prefix('#')).collect();
    for (key, value) in documented() {
        let name = key.rsplit('.').next().unwrap();
        let option = find(&key).unwrap();
        let is_commented = commented.iter().any(|line| line.starts_with(&format!("{name} = {value}")));
        // An empty default says less than an example.
        if is_commented && !["", "\"\"", "[]"].contains(&option.default) && !key.contains("[]") {
            assert_eq!(value, option.default, "{key}");
        }
    }
}
