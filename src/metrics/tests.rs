//! The exposition is read back by a strict parser of the text format; sums over shards; independence.

use std::collections::{HashMap, HashSet};

use super::*;

fn nodes() -> Vec<String> {
    vec!["db1:5432".to_owned(), "we\"ird\\na\nme".to_owned()]
}

/// A sample: its name, its labels, its value.
type Sample = (String, Vec<(String, String)>, f64);

/// Reads the text format 0.0.4 strictly: HELP, then TYPE, then the samples of one family, each family once,
/// no sample twice.
fn parse(text: &str) -> HashMap<String, (String, Vec<Sample>)> {
    let mut families: HashMap<String, (String, Vec<Sample>)> = HashMap::new();
    let (mut current, mut helped) = (None, None);
    let mut seen = HashSet::new();
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(!help.is_empty() && !families.contains_key(name), "{name} twice");
            helped = Some(name);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert_eq!(helped, Some(name));
            assert!(["counter", "gauge", "summary"].contains(&kind));
            families.insert(name.to_owned(), (kind.to_owned(), Vec::new()));
            current = Some(name);
        } else {
            assert!(seen.insert(line.rsplit_once(' ').unwrap().0.to_owned()), "{line} twice");
            let sample = parse_sample(line);
            let (kind, samples) = families.get_mut(current.unwrap()).unwrap();
            let base = sample.0.strip_suffix("_sum").or_else(|| sample.0.strip_suffix("_count"));
            let name = if kind == "summary" { base.unwrap_or(&sample.0) } else { &sample.0 };
            assert_eq!(Some(name), current, "{line}");
            samples.push(sample);
        }
    }
    families
}

fn parse_sample(line: &str) -> Sample {
    let word = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    assert!(word(name), "{line}");
    let mut labels = Vec::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, after) = rest.split_once("=\"").unwrap();
            assert!(word(label), "{line}");
            let (value, after) = unescape(after);
            labels.push((label.to_owned(), value));
            if let Some(after) = after.strip_prefix(',') {
                rest = after;
                continue;
            }
            rest = after.strip_prefix('}').unwrap();
            break;
        }
    }
    (name.to_owned(), labels, rest.strip_prefix(' ').unwrap().parse().unwrap())
}

/// The text up to the closing quote, and what is behind it.
fn unescape(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, one)) = chars.next() {
        match one {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next().unwrap().1 {
                'n' => '\n',
                other @ ('\\' | '"') => other,
                other => panic!("bad escape {other}"),
            }),
            _ => value.push(one),
        }
    }
    panic!("no closing quote in {text}")
}

fn value(
    families: &HashMap<String, (String, Vec<Sample>)>,
    name: &str,
    wanted: &[(&str, &str)],
) -> Option<f64> {
    let family = name.strip_suffix("_sum").or(name.strip_suffix("_count")).unwrap_or(name);
    let labels: Vec<_> = wanted.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    families[family].1.iter().find(|one| one.0 == name && one.1 == labels).map(|one| one.2)
}

#[test]
fn the_exposition_is_valid_when_empty_and_when_full() {
    parse(&Metrics::new(0, &[]).render());
    let metrics = Metrics::new(2, &nodes());
    parse(&metrics.render());
    let worker = metrics.worker(0);
    for one in COUNTERS {
        worker.count(one.0);
    }
    for one in GAUGES {
        worker.raise(one.0);
    }
    for one in LATENCIES {
        worker.record(one.0, Duration::from_millis(3));
    }
    for code in SQLSTATES {
        worker.count_error(code);
    }
    let lag = Some(Duration::from_millis(1500));
    let figures =
        NodeFigures { up: true, role: "standby", serves_reads: true, lag, ..NodeFigures::default() };
    metrics.set_node(1, NodeFigures { lag_bytes: Some(77), timeline: Some(4), ..figures });
    let load = LoadFigures { in_flight: 3, latency: Some(Duration::from_micros(1500)), read_share: 0.25 };
    metrics.set_load(1, load);
    let families = parse(&metrics.render());
    let odd = nodes().remove(1);
    assert_eq!(value(&families, "pgsteer_node_in_flight", &[("node", &odd)]), Some(3.0));
    assert_eq!(value(&families, "pgsteer_node_latency_seconds", &[("node", &odd)]), Some(0.0015));
    assert_eq!(value(&families, "pgsteer_node_latency_seconds", &[("node", "db1:5432")]), None);
    assert_eq!(value(&families, "pgsteer_node_read_share", &[("node", &odd)]), Some(0.25));
    assert_eq!(value(&families, "pgsteer_node_lag_seconds", &[("node", &odd)]), Some(1.5));
    assert_eq!(value(&families, "pgsteer_node_lag_seconds", &[("node", "db1:5432")]), None);
    assert_eq!(value(&families, "pgsteer_node_role", &[("node", &odd), ("role", "standby")]), Some(1.0));
    assert_eq!(
        value(&families, "pgsteer_node_role", &[("node", "db1:5432"), ("role", "unknown")]),
        Some(1.0)
    );
    let median = value(&families, "pgsteer_checkout_wait_seconds", &[("quantile", "0.5")]).unwrap();
    assert!((0.00299..0.00301).contains(&median), "{median}");
    assert_eq!(value(&families, "pgsteer_checkout_wait_seconds_count", &[]), Some(1.0));
    let idle = value(&families, "pgsteer_hold_seconds", &[("quantile", "0.999")]);
    assert!(idle.is_some_and(|value| value > 0.0));
}

#[test]
fn shards_add_up() {
    let metrics = Metrics::new(2, &nodes());
    metrics.worker(0).record_statement(0, false, Duration::from_millis(1));
    metrics.worker(1).record_statement(0, true, Duration::from_millis(2));
    metrics.worker(1).record_statement(1, true, Duration::from_millis(3));
    metrics.worker(1).record_statement(99, true, Duration::from_millis(3));
    assert_eq!(metrics.statements(0), NodeStatements { primary: 1, standby: 1 });
    assert_eq!(metrics.statements(1), NodeStatements { primary: 0, standby: 1 });
    assert_eq!(metrics.latency(Latency::StatementStandby).count, 3);

    metrics.worker(0).raise(Gauge::Sessions);
    metrics.worker(1).raise(Gauge::Sessions);
    metrics.worker(0).lower(Gauge::Sessions);
    assert_eq!(metrics.level(Gauge::Sessions), 1);

    metrics.count(Counter::LoginOk);
    metrics.worker(1).count(Counter::LoginOk);
    assert_eq!(metrics.total(Counter::LoginOk), 2);

    metrics.worker(0).add_bytes(10, 200);
    metrics.worker(1).add_bytes(1, 2);
    assert_eq!(metrics.client_bytes(), (11, 202));

    metrics.worker(0).count_error("40001");
    metrics.worker(1).count_error("40001");
    metrics.worker(1).count_error("99999");
    assert_eq!(metrics.session_errors(), [("40001", 2), ("other", 1)]);

    metrics.probe(1, true);
    metrics.probe(1, false);
    metrics.probe(9, false);
    assert_eq!((metrics.probes(0), metrics.probes(1), metrics.probes(9)), ((0, 0), (1, 1), (0, 0)));
}

#[test]
fn two_instances_know_nothing_of_each_other() {
    let (a, b) = (Metrics::new(1, &nodes()), Metrics::new(1, &nodes()));
    let before = b.render();
    a.worker(0).count(Counter::LoginOk);
    a.worker(0).record(Latency::Connect, Duration::from_millis(1));
    a.set_epoch(7);
    a.set_node(0, NodeFigures { up: true, ..NodeFigures::default() });
    assert_eq!(b.render(), before);
    assert_ne!(a.render(), before);
}

#[test]
fn a_window_without_records_has_no_quantiles() {
    let metrics = Metrics::new(1, &[]);
    metrics.worker(0).record(Latency::Hold, Duration::from_millis(1));
    metrics.rotate();
    metrics.rotate();
    let families = parse(&metrics.render());
    assert!(value(&families, "pgsteer_hold_seconds", &[("quantile", "0.5")]).unwrap().is_nan());
    assert_eq!(value(&families, "pgsteer_hold_seconds_count", &[]), Some(1.0));
}

#[test]
fn a_worker_index_beyond_the_last_is_the_control_shard() {
    let metrics = Metrics::new(1, &[]);
    metrics.worker(55).count(Counter::ReloadOk);
    assert_eq!(metrics.control().counters[Counter::ReloadOk as usize].load(Relaxed), 1);
}
