//! Durations, sizes and addresses as people write them, both ways.
//!
//! Text in, value or a sentence about what is wrong out; the sentence ends with what to write instead.

use std::time::Duration;

use super::defaults::{LISTEN_PORT, NODE_PORT};
use super::settings::{ListenAddress, NodeAddress};

/// From the smallest to the largest, so that printing can try the largest first.
const DURATION_UNITS: [(&str, u64); 6] = [
    ("us", 1),
    ("ms", 1_000),
    ("s", 1_000_000),
    ("min", 60_000_000),
    ("h", 3_600_000_000),
    ("d", 86_400_000_000),
];

/// kB is 1024 bytes, as in PostgreSQL.
const SIZE_UNITS: [(&str, u64); 5] =
    [("B", 1), ("kB", 1 << 10), ("MB", 1 << 20), ("GB", 1 << 30), ("TB", 1 << 40)];

/// A whole number and a unit: `250ms`, `30s`, `10min`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    quantity(text, &DURATION_UNITS, "us, ms, s, min, h or d", "\"250ms\" or \"30s\"")
        .map(Duration::from_micros)
}

/// A whole number and a unit: `16kB`, `1MB`.
pub fn parse_size(text: &str) -> Result<u64, String> {
    quantity(text, &SIZE_UNITS, "B, kB, MB, GB or TB", "\"16kB\" or \"1MB\"")
}

fn quantity(text: &str, units: &[(&str, u64)], names: &str, example: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = trimmed.split_at(digits);
    if number.is_empty() {
        return Err(format!("\"{text}\" is not a whole number with a unit; write it like {example}"));
    }
    let unit = unit.trim();
    if unit.is_empty() {
        return Err(format!("\"{text}\" has no unit; write one of {names}, like {example}"));
    }
    let Some((_, factor)) = units.iter().find(|(name, _)| *name == unit) else {
        let close = units.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
        let hint =
            close.map_or_else(|| format!("use {names}"), |(name, _)| format!("write \"{number}{name}\""));
        return Err(format!("\"{text}\" has the unknown unit \"{unit}\"; {hint}"));
    };
    let whole: Option<u64> = number.parse().ok();
    whole.and_then(|n| n.checked_mul(*factor)).ok_or_else(|| format!("\"{text}\" is too large"))
}

/// The shortest exact way to write it; microseconds are the finest.
pub fn format_duration(duration: Duration) -> String {
    with_unit(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX), &DURATION_UNITS, "0s")
}

/// The shortest exact way to write it.
pub fn format_size(bytes: u64) -> String {
    with_unit(bytes, &SIZE_UNITS, "0B")
}

fn with_unit(value: u64, units: &[(&str, u64)], zero: &str) -> String {
    let exact = units.iter().rev().find(|(_, factor)| value > 0 && value.is_multiple_of(*factor));
    exact.map_or_else(|| zero.to_owned(), |(name, factor)| format!("{}{name}", value / factor))
}

/// `host`, `host:5432`, `[::1]:5432`, or a socket directory, also with a port: `/run/postgresql:5433`.
pub fn parse_node_address(text: &str) -> Result<NodeAddress, String> {
    let (host, port) = split_address(text.trim(), "\"db1:5432\" or \"[::1]:5432\"")?;
    let port = port.unwrap_or(NODE_PORT);
    if port == 0 {
        return Err(format!("\"{text}\" has port 0; write the port the server listens on, mostly 5432"));
    }
    if host == "*" {
        return Err(format!("\"{text}\" names no host; write the one address of this node"));
    }
    Ok(NodeAddress::new(host, port))
}

/// As for nodes, with `*` for all addresses; port 0 lets the system choose.
pub fn parse_listen_address(text: &str) -> Result<ListenAddress, String> {
    let example = "\"127.0.0.1:6432\", \"*:6432\" or \"/run/pgsteer\"";
    let (host, port) = split_address(text.trim(), example)?;
    let port = port.unwrap_or(LISTEN_PORT);
    if host.starts_with('/') {
        return Ok(ListenAddress::Unix { dir: host.into(), port });
    }
    Ok(ListenAddress::Tcp { host: host.to_owned(), port })
}

fn split_address<'a>(text: &'a str, example: &str) -> Result<(&'a str, Option<u16>), String> {
    let wrong = |what: &str| Err(format!("\"{text}\" {what}; write it like {example}"));
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else { return wrong("has no closing bracket") };
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return wrong("has no IPv6 address in its brackets");
        }
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return wrong("has something else than a port behind its bracket"),
        }
    } else {
        match text.rsplit_once(':') {
            Some((host, _)) if host.contains(':') && !host.starts_with('/') => {
                return wrong("is an IPv6 address without brackets");
            }
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    if host.is_empty() || host.chars().any(|one| one.is_whitespace() || one.is_control()) {
        return wrong("has no usable host");
    }
    match port.map(str::parse::<u16>) {
        Some(Err(_)) => wrong("has no port between 0 and 65535 behind its colon"),
        Some(Ok(port)) => Ok((host, Some(port))),
        None => Ok((host, None)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration(" 10 min "), Ok(Duration::from_mins(10)));
        assert_eq!(parse_duration("0s"), Ok(Duration::ZERO));
        insta::assert_snapshot!(parse_duration("30").unwrap_err(), @r#""30" has no unit; write one of us, ms, s, min, h or d, like "250ms" or "30s""#);
        insta::assert_snapshot!(parse_duration("soon").unwrap_err(), @r#""soon" is not a whole number with a unit; write it like "250ms" or "30s""#);
        insta::assert_snapshot!(parse_duration("5m").unwrap_err(), @r#""5m" has the unknown unit "m"; use us, ms, s, min, h or d"#);
        insta::assert_snapshot!(parse_duration("99999999999999999999d").unwrap_err(), @r#""99999999999999999999d" is too large"#);
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        assert_eq!(parse_size("16kB"), Ok(16_384));
        assert_eq!(parse_size("16MB"), Ok(16 << 20));
        insta::assert_snapshot!(parse_size("16KB").unwrap_err(), @r#""16KB" has the unknown unit "KB"; write "16kB""#);
        insta::assert_snapshot!(parse_size("17179869184TB").unwrap_err(), @r#""17179869184TB" is too large"#);
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_node_address("db1"), Ok(NodeAddress::new("db1", 5432)));
        assert_eq!(parse_node_address("[::1]:5433"), Ok(NodeAddress::new("::1", 5433)));
        assert_eq!(parse_node_address("[::1]"), Ok(NodeAddress::new("::1", 5432)));
        assert_eq!(parse_node_address("/run/pg:5433"), Ok(NodeAddress::new("/run/pg", 5433)));
        assert_eq!(parse_listen_address("*:0").unwrap().to_string(), "*:0");
        assert_eq!(parse_listen_address("/run/pgsteer").unwrap().to_string(), "/run/pgsteer:6432");
        insta::assert_snapshot!(parse_node_address("::1").unwrap_err(), @r#""::1" is an IPv6 address without brackets; write it like "db1:5432" or "[::1]:5432""#);
        insta::assert_snapshot!(parse_node_address("db1:none").unwrap_err(), @r#""db1:none" has no port between 0 and 65535 behind its colon; write it like "db1:5432" or "[::1]:5432""#);
        insta::assert_snapshot!(parse_node_address(":5432").unwrap_err(), @r#"":5432" has no usable host; write it like "db1:5432" or "[::1]:5432""#);
        insta::assert_snapshot!(parse_node_address("db1:0").unwrap_err(), @r#""db1:0" has port 0; write the port the server listens on, mostly 5432"#);
        for odd in ["[::1", "[::1]x", "[nonsense]:1", "*", "", " ", "a b:1"] {
            assert!(parse_node_address(odd).is_err(), "{odd}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(micros: u64, port in 1_u16.., v6: std::net::Ipv6Addr) {
            prop_assert_eq!(parse_duration(&format_duration(Duration::from_micros(micros))), Ok(Duration::from_micros(micros)));
            prop_assert_eq!(parse_size(&format_size(micros)), Ok(micros));
            for host in ["db1".to_owned(), v6.to_string(), "/run/pg".to_owned()] {
                let address = NodeAddress::new(host, port);
                prop_assert_eq!(parse_node_address(&address.to_string()), Ok(address));
            }
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = (parse_duration(&text), parse_size(&text), parse_node_address(&text), parse_listen_address(&text));
        }
    }
}
