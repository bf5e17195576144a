//! Loading: what works, what every mistake says, and that no text panics.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use insta::assert_snapshot;
use proptest::prelude::*;

use super::hba::{Attempt, Method};
use super::options::{Kind, OPTIONS};
use super::*;

/// Files of a test: every password file holds `secret`, unless its name says otherwise.
struct Fake;

impl Files for Fake {
    fn secret(&self, path: &Path) -> std::io::Result<(String, u32)> {
        let name = path.to_string_lossy();
        if name.contains("missing") {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        let text = if name.contains("empty") { "\n" } else { "secret\n" };
        Ok((text.to_owned(), if name.contains("open") { 0o100_644 } else { 0o100_600 }))
    }

    fn readable(&self, path: &Path) -> std::io::Result<()> {
        let missing = path.to_string_lossy().contains("missing");
        if missing { Err(std::io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }
}

fn read_with(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigErrors> {
    let environment = environment.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
    parse(text, Some(Path::new("proxy.toml")), environment, &Fake)
}

fn good(text: &str) -> Settings {
    let loaded = read_with(text, &[]).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    loaded.settings
}

fn errors(text: &str) -> String {
    read_with(text, &[]).unwrap_err().to_string()
}

/// Errors of a file that is right up to these lines, which begin at line 3.
fn errors_in(text: &str) -> String {
    errors(&format!("[cluster]\nnodes = [\"a\", \"b\"]\n{text}"))
}

const MINIMAL: &str = r#"
[cluster]
nodes = ["192.168.1.100:5432", "192.168.1.101:5432"]

[cluster.monitor]
user = "pgsteer"
password_file = "/etc/pgsteer/monitor.pass"

[auth]
source = "query"
query_user = "postgres"
"#;

#[test]
fn three_blocks_are_a_complete_file() {
    let settings = good(MINIMAL);
    let names: Vec<_> = settings.cluster.nodes.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["192.168.1.100:5432", "192.168.1.101:5432"]);
    assert_eq!(settings.cluster.monitor.password, Some(Secret::new("secret")));
    assert_eq!(settings.listen[0].address.to_string(), "127.0.0.1:6432");
    assert_eq!((settings.auth.query_user.as_str(), &settings.auth.query_password), ("postgres", &None));
    assert_eq!(settings.source, Some(PathBuf::from("proxy.toml")));
    assert_eq!(settings.pool, Pool::default());
}

#[test]
fn nodes_alone_give_the_defaults() {
    let mut settings = good("[cluster]\nnodes = [\"127.0.0.1\"]");
    settings.source = None;
    assert_eq!(settings, Settings::default());
}

#[test]
fn the_table_of_options_tells_the_real_defaults() {
    for option in OPTIONS.iter().filter(|one| !one.default.is_empty() && !one.key.contains("[]")) {
        let (block, name) = option.key.rsplit_once('.').unwrap_or(("", option.key));
        let line = format!("{name} = {}", option.default);
        let nodes = "nodes = [\"127.0.0.1\"]";
        let text = match block {
            "" => format!("{line}\n[cluster]\n{nodes}"),
            "cluster" => format!("[cluster]\n{nodes}\n{line}"),
            _ => format!("[cluster]\n{nodes}\n[{block}]\n{line}"),
        };
        let settings = Settings { source: None, ..good(&text) };
        assert_eq!(settings, Settings::default(), "{}", option.key);
    }
    let blocks = [
        ("[[cluster.node]]\naddress = \"a\"", "cluster.node[]."),
        ("[cluster]\nnodes = [\"a\"]\n[[auth.user]]\nname = \"u\"\npassword = \"p\"", "auth.user[]."),
        ("[cluster]\nnodes = [\"a\"]\n[[auth.rule]]\nmethod = \"trust\"", "auth.rule[]."),
        ("[cluster]\nnodes = [\"a\"]\n[[listen]]\naddress = \"127.0.0.1:6432\"", "listen[]."),
    ];
    for (least, prefix) in blocks {
        for option in OPTIONS.iter().filter(|one| !one.default.is_empty() && one.key.starts_with(prefix)) {
            let name = &option.key[prefix.len()..];
            if !least.contains(&format!("{name} =")) {
                let full = format!("{least}\n{name} = {}", option.default);
                assert_eq!(good(&full), good(least), "{}", option.key);
            }
        }
    }
}

#[test]
fn every_option_can_be_written_and_is_read() {
    // A value of the wrong kind is noticed only by what reads it.
    for option in OPTIONS {
        let wrong = if option.kind == Kind::Flag { "12" } else { "true" };
        let (block, name) = option.key.rsplit_once('.').unwrap_or(("", option.key));
        let heading = match block.strip_suffix("[].tls") {
            Some(list) => format!("[[{list}]]\n[{list}.tls]\n"),
            None if block.ends_with("[]") => format!("[[{}]]\n", &block[..block.len() - 2]),
            None if block.is_empty() => String::new(),
            None => format!("[{block}]\n"),
        };
        let found = errors(&format!("{heading}{name} = {wrong}\n"));
        let key = option.key.replace("[]", "[0]");
        assert!(found.contains(&format!("{key}: is ")), "{key} is not read: {found}");
    }
}

#[test]
fn nodes_as_blocks() {
    let text = r#"
        [[cluster.node]]
        address = "10.0.0.1"
        name = "a"
        weight = 250
        replication_address = "10.1.0.1"
        [[cluster.node]]
        address = "/run/postgresql:5433"
    "#;
    let nodes = good(text).cluster.nodes;
    let first = &nodes[0];
    assert_eq!((first.name.as_str(), first.weight), ("a", 250));
    assert_eq!(first.replication_address.as_deref(), Some("10.1.0.1"));
    assert!(nodes[1].address.is_unix());
    assert_eq!(nodes[1].name, "/run/postgresql:5433");
}

#[test]
fn listeners_in_all_forms() {
    let text = r#"
        listen = ["127.0.0.1:6432", "[::1]:6433"]
        [cluster]
        nodes = ["a"]
    "#;
    let shown =
        |settings: &Settings| settings.listen.iter().map(|one| one.address.to_string()).collect::<Vec<_>>();
    assert_eq!(shown(&good(text)), ["127.0.0.1:6432", "[::1]:6433"]);
    let blocks = r#"
        [cluster]
        nodes = ["a"]
        [[listen]]
        address = "/run/pgsteer"
        port = 5432
        [[listen]]
        address = "*:7000"
        role = "standby"
        tls = { mode = "require", cert = "c.pem", key = "k.pem", client_ca = "/ca.pem" }
    "#;
    let settings = good(blocks);
    assert_eq!(shown(&settings), ["/run/pgsteer:5432", "*:7000"]);
    let second = &settings.listen[1];
    assert_eq!(second.role, ListenRole::Standby);
    assert_eq!(second.tls.mode, ClientTlsMode::Require);
    assert_eq!(second.tls.client_ca.as_deref(), Some(Path::new("/ca.pem")));
}

#[test]
fn names_of_files_start_at_the_folder_of_the_configuration() {
    let text =
        "[cluster]\nnodes = [\"a\"]\ntls = { mode = \"verify-full\", ca = \"ca.pem\" }\nstate_file = \"\"";
    let settings = parse(text, Some(Path::new("/etc/pgsteer/proxy.toml")), [], &Fake).unwrap().settings;
    assert_eq!(settings.cluster.tls.ca.as_deref(), Some(Path::new("/etc/pgsteer/ca.pem")));
    assert_eq!(settings.cluster.state_file, None);
}

#[test]
fn users_and_rules() {
    let text = r#"
        [cluster]
        nodes = ["a"]
        [auth]
        source = "static"
        [[auth.user]]
        name = "one"
        password = "p1"
        server_password_file = "upstream.pass"
        [[auth.user]]
        name = "two"
        verifier = "md5a3556571e93b0d20722ba62be61e8c2d"
        [[auth.user]]
        name = "three"
        verifier = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        [[auth.rule]]
        type = "host"
        address = "10.0.0.0/8"
        database = ["shop", "sameuser"]
        method = "md5"
        [[auth.rule]]
        user = "one"
        address = "127.0.0.1"
        method = "trust"
    "#;
    let auth = good(text).auth;
    let one = auth.user("one").unwrap();
    assert_eq!(one.secret, StaticSecret::Password(Secret::new("p1")));
    assert_eq!(one.server_password, Some(Secret::new("secret")));
    assert!(matches!(auth.user("two").unwrap().secret, StaticSecret::Md5(_)));
    assert!(matches!(auth.user("three").unwrap().secret, StaticSecret::Verifier(_)));
    assert!(auth.user("four").is_none());
    assert_eq!(format!("{:?}", auth.users).matches("***").count(), 4, "{:?}", auth.users);

    let from = |ip: &str, database, user| {
        let address: IpAddr = ip.parse().unwrap();
        auth.decide(&Attempt { address: Some(address), tls: false, database, user })
    };
    assert_eq!(from("10.9.9.9", "shop", "x"), Some(Method::Md5));
    assert_eq!(from("10.9.9.9", "x", "x"), Some(Method::Md5));
    assert_eq!(from("10.9.9.9", "y", "x"), None);
    assert_eq!(from("127.0.0.1", "y", "one"), Some(Method::Trust));
}

#[test]
fn without_rules_everybody_does_scram_or_nothing() {
    let attempt = Attempt { address: None, tls: false, database: "d", user: "u" };
    assert_eq!(Auth::default().decide(&attempt), Some(Method::ScramSha256));
    assert_eq!(Settings::for_tests().auth.decide(&attempt), Some(Method::Trust));
}

#[test]
fn the_environment_overrides_the_file() {
    let environment = [
        ("PGSTEER__POOL__SIZE", "7"),
        ("PGSTEER__CLUSTER__NODES", "db1, db2:5433"),
        ("PGSTEER__CLUSTER__TLS__MODE", "off"),
        ("PGSTEER__CLUSTER__MONITOR__PASSWORD", "from env"),
        ("PGSTEER__LISTEN", "0.0.0.0:6432,/run/pgsteer"),
        ("PGSTEER__RETRY__READS", "true"),
        ("PGSTEER__CLUSTER__SYSTEM_IDENTIFIER", "7301234567890123456"),
        ("PGSTEER_LOG", "is not ours"),
        ("HOME", "/root"),
    ];
    let file = "[[cluster.node]]\naddress = \"x\"\n[pool]\nsize = 3\nwarm = 1\n[[listen]]\naddress = \"y\"";
    let settings = read_with(file, &environment).unwrap().settings;
    assert_eq!((settings.pool.size, settings.pool.warm), (7, 1));
    let nodes: Vec<_> = settings.cluster.nodes.iter().map(|node| node.address.to_string()).collect();
    assert_eq!(nodes, ["db1:5432", "db2:5433"]);
    assert_eq!(settings.cluster.tls.mode, TlsMode::Off);
    assert_eq!(settings.cluster.monitor.password, Some(Secret::new("from env")));
    assert_eq!(settings.listen.len(), 2);
    assert!(settings.retry.reads);
    assert_eq!(settings.cluster.system_identifier, Some(7_301_234_567_890_123_456));
}

#[test]
fn the_environment_alone_is_enough() {
    let environment = [("PGSTEER__CLUSTER__NODES".to_owned(), "db1".to_owned())];
    assert_eq!(load(None, environment).unwrap().settings.cluster.nodes.len(), 1);
    assert_snapshot!(load(None, []).unwrap_err(), @r#"environment: cluster.nodes: is missing; list the servers below [cluster]: nodes = ["192.168.1.100:5432", "192.168.1.101:5432"]"#);
}

#[test]
fn mistakes_in_the_environment() {
    let environment = [
        ("PGSTEER__POOL__SIEZ", "7"),
        ("PGSTEER__POOL__SIZE", "many"),
        ("PGSTEER__POOL", "7"),
        ("PGSTEER__LISTEN__0__ADDRESS", "a:1"),
        ("PGSTEER__RETRY__READS", "false"),
        ("PGSTEER__ADMIN__HTTP", "localhost:9632"),
    ];
    let found = read_with("[cluster]\nnodes = [\"a\"]", &environment).unwrap_err();
    assert_snapshot!(found, @r#"
    environment PGSTEER__ADMIN__HTTP: admin.http: "localhost:9632" is not an IP address with a port; write it like "127.0.0.1:9632" or "[::]:9632", or "" to turn it off
    environment PGSTEER__LISTEN__0__ADDRESS: listen.0.address: blocks that may be repeated are set in the file only, but for PGSTEER__CLUSTER__NODES and PGSTEER__LISTEN, which take addresses separated by commas
    environment PGSTEER__POOL: pool: is a block; set its options one by one, each with __ and its name behind it
    environment PGSTEER__POOL__SIEZ: pool.siez: no such option; did you mean "size"?
    environment PGSTEER__POOL__SIZE: pool.size: is the text "many"; write a whole number
    "#);
}

#[test]
fn a_missing_file_is_an_error_that_names_it() {
    let found = load(Some(Path::new("/nonexistent/proxy.toml")), []).unwrap_err();
    assert_snapshot!(found, @r#"/nonexistent/proxy.toml: cannot be read: No such file or directory (os error 2); name your file with -c FILE, or start from the commented example proxy.toml"#);
    assert!(load(Some(Path::new("/")), []).is_err());
}

/// At least one mistake in each block.
const ALL_WRONG: &str = r#"
wrokers = 4
[cluster]
nodes = ["a", "a:5432", "b:x", 12]
max_lag = 1
max_lag_bytes = "16KB"
fallback = "primry"
hold_timeout = "30m"
tls = { mode = "verify" }
[cluster.monitor]
interval = "10ms"
password_file = "missing.pass"
[auth]
query = "SELECT 1"
[[listen]]
role = "standby"
[[listen]]
address = "127.0.0.1:6432"
tls = { mode = "require" }
[[listen]]
address = "*:6432"
role = "standby"
[pool]
mode = "transaction"
siez = 3
size = 200
warm = -1
max_clients = 99999999999999999999
[route]
split = "auto"
consistency = true
[retry]
listen = true
reads = "yes"
[admin]
http = "localhost:9632"
users = "postgres"
[log]
level = "loud"
[limits]
login_timeout = "0s"
max_startup_packet = "1GB"
max_clients = 3
[pools]
"#;

#[test]
fn everything_wrong_is_told_at_once_in_the_order_of_the_file() {
    assert_snapshot!(errors(ALL_WRONG), @r#"
    proxy.toml:2: wrokers: unknown option; did you mean "workers"?
    proxy.toml:4: cluster.nodes: "b:x" has no port between 0 and 65535 behind its colon; write it like "db1:5432" or "[::1]:5432"
    proxy.toml:4: cluster.nodes: a:5432 is listed twice; remove one
    proxy.toml:4: cluster.nodes: has a number among its elements; write all as texts
    proxy.toml:5: cluster.max_lag: is a number without a unit; write it with one, like "30s"
    proxy.toml:6: cluster.max_lag_bytes: "16KB" has the unknown unit "KB"; write "16kB"
    proxy.toml:7: cluster.fallback: is "primry"; write one of "primary", "least_stale" or "error"
    proxy.toml:8: cluster.hold_timeout: "30m" has the unknown unit "m"; use us, ms, s, min, h or d
    proxy.toml:9: cluster.tls.mode: is "verify"; write one of "off", "prefer", "require", "verify-ca" or "verify-full"
    proxy.toml:11: cluster.monitor.interval: is 10ms, faster than fast_interval, which is 20ms; lower that too
    proxy.toml:12: cluster.monitor.password_file: missing.pass cannot be read: entity not found; put the password there, readable for the user that runs pgsteer
    proxy.toml:14: auth.query: has no $1 for the user's name; write it like "SELECT * FROM pgsteer.get_auth($1)"
    proxy.toml:15: listen[0].address: is missing; write address = "127.0.0.1:6432"
    proxy.toml:19: listen[1].tls.mode: is "require" without a certificate; add cert = "FILE" and key = "FILE"
    proxy.toml:21: listen[2].address: *:6432 is taken by the listener 127.0.0.1:6432 of another role; give each role its own port
    proxy.toml:25: pool.siez: unknown option; did you mean "size"?
    proxy.toml:26: pool.size: is 200, but a node gets at most 90 backends (pool.max_backends_per_node); raise that or lower this
    proxy.toml:27: pool.warm: is -1; write a number between 0 and 1000
    proxy.toml:28: pool.max_clients: is too large; write a number between 1 and 1000000
    proxy.toml:31: route.consistency: is true or false; write text in quotes
    proxy.toml:34: retry.reads: is the text "yes"; write true or false
    proxy.toml:36: admin.http: "localhost:9632" is not an IP address with a port; write it like "127.0.0.1:9632" or "[::]:9632", or "" to turn it off
    proxy.toml:39: log.level: "loud" is not a level; write "error", "warn", "info", "debug", "trace" or "off", or add modules: "info,pgsteer::pool=debug"
    proxy.toml:41: limits.login_timeout: is 0s; write something between 1ms and 365d
    proxy.toml:42: limits.max_startup_packet: is 1GB; write something between 64B and 64kB
    proxy.toml:43: limits.max_clients: unknown option; there is "pool.max_clients"; move it there
    proxy.toml:44: pools: unknown option; did you mean "pool"?
    "#);
}

#[test]
fn broken_syntax_is_told_with_its_line_and_not_twice() {
    assert_snapshot!(errors("[cluster]\nnodes = [\"a\",\nmax_lag = \"1x\"\n[pool\nsize = 0\n"), @r#"
    proxy.toml:3: not TOML: unexpected `=` in array, expected value, `]`
    proxy.toml:4: not TOML: missing comma between array elements, expected `,`
    proxy.toml:5: not TOML: missing comma between array elements, expected `,`
    "#);
    assert_snapshot!(errors("[cluster]\nnodes = [\"a\"]\nmax_lag = \n[pool]\nsize = 0\n"), @r#"
    proxy.toml:3: not TOML: string values must be quoted, expected literal string
    proxy.toml:5: pool.size: is 0; write a number between 1 and 1000000
    "#);
    assert_snapshot!(errors("[cluster]\nnodes = [\"a\"]\nnodes = [\"b\"]\n"), @r#"proxy.toml:3: not TOML: duplicate key "nodes""#);
}

#[test]
fn blocks_and_values_taken_for_each_other() {
    assert_snapshot!(errors_in("pool = 3\nmonitor = \"x\"\n[listen]\naddress = \"a:1\"\n[cluster.fallback]\n[[pool]]\n\"cluster.nodes\" = 1\n"), @r#"
    proxy.toml:3: cluster.pool: unknown option; remove it
    proxy.toml:4: cluster.monitor: is a block; write [cluster.monitor] and its options below
    proxy.toml:5: listen: is a block that may be repeated; write [[listen]] with two brackets
    proxy.toml:7: cluster.fallback: is a value, not a block; write name = value
    proxy.toml:8: pool: is a block; write [pool] and its options below
    "#);
}

#[test]
fn nodes_that_contradict() {
    assert_snapshot!(errors("[cluster]\nnodes = [\"a\"]\n[[cluster.node]]\naddress = \"b\"\n"), @r#"proxy.toml:2: cluster.nodes: and [[cluster.node]] are both given; keep one of them"#);
    assert_snapshot!(errors("[[cluster.node]]\nname = \"a\"\n[[cluster.node]]\naddress = \"b\"\nname = \"x\"\nweight = 0\n[[cluster.node]]\naddress = \"c\"\nname = \"x\"\n"), @r#"
    proxy.toml:1: cluster.node[0].address: is missing; write address = "host:5432"
    proxy.toml:6: cluster.node[1].weight: is 0; write a number between 1 and 1000
    proxy.toml:8: cluster.node[2].address: the name "x" is used twice; give each node its own
    "#);
    assert_snapshot!(errors("[cluster]\nnodes = []\n"), @r#"proxy.toml:2: cluster.nodes: is missing; list the servers below [cluster]: nodes = ["192.168.1.100:5432", "192.168.1.101:5432"]"#);
}

const NOT_BUILT: &str = r#"
[[cluster.node]]
address = "a"
[auth]
source = "passthrough"
[pool]
mode = "transaction"
size = 1
[route]
split = "auto"
[retry]
reads = false
transactions = true
resolve_commit = true
listen = true
"#;

#[test]
fn what_is_not_built_is_refused() {
    assert_snapshot!(errors(NOT_BUILT), @r#"
    proxy.toml:5: auth.source: "passthrough" is not available in this version; write "query" or "static"
    "#);
    let defaults = "[route]\nconsistency = \"session\"\nread_functions = []\n[retry]\nreads = true\n[limits]\nclient_write_timeout = \"60s\"\n[pool]\nsize = 1";
    assert_eq!(
        read_with(&format!("[cluster]\nnodes = [\"a\"]\n{defaults}"), &[]).unwrap().settings.pool.warm,
        1
    );
}

#[test]
fn functions_are_named_as_the_catalogue_names_them() {
    let long = "x".repeat(64);
    assert_snapshot!(errors_in(&format!(r#"
[route]
read_functions = [
    "report(int)", "a.b.c",
    "app.", "", '"F"', "a b",
    "{long}",
    "both", 3,
]
write_functions = ["both", "app.log", "x;"]
"#)), @r#"
    proxy.toml:6: route.read_functions: "a.b.c" has more than one dot; write it like "name" or "schema.name"
    proxy.toml:6: route.read_functions: "report(int)" has arguments; write only the name, which stands for all functions of that name
    proxy.toml:7: route.read_functions: "" lacks a name; write it like "name" or "schema.name"
    proxy.toml:7: route.read_functions: ""F"" has quotes inside; write the name as pg_proc.proname shows it
    proxy.toml:7: route.read_functions: "a b" has more than a name inside; write each name as a text of its own
    proxy.toml:7: route.read_functions: "app." lacks a name; write it like "name" or "schema.name"
    proxy.toml:8: route.read_functions: "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx" is longer than a name can be on a server, which is 63 bytes; write it as pg_proc.proname shows it
    proxy.toml:9: route.read_functions: has a number among its elements; write all as texts
    proxy.toml:11: route.write_functions: "both" is in read_functions, too; keep it in one of the lists
    proxy.toml:11: route.write_functions: "x;" has more than a name inside; write each name as a text of its own
    "#);
    let text = "[cluster]\nnodes = [\"a\"]\n[route]\nread_functions = [\"f\", \"app.F\"]\nwrite_functions = \"app.g\"";
    let loaded = read_with(text, &[]).unwrap();
    assert_eq!(loaded.settings.route.read_functions, ["f", "app.F"]);
    assert_eq!(loaded.settings.route.write_functions, ["app.g"]);
    assert_eq!(loaded.warnings.len(), 1, "{:?}", loaded.warnings);
    assert!(loaded.warnings[0].text().contains("capital letters"), "{:?}", loaded.warnings);
}

#[test]
fn users_and_rules_that_contradict() {
    assert_snapshot!(errors_in(r#"
[auth]
source = "static"
"#), @r#"proxy.toml:5: auth.source: is "static", but nobody is listed; add [[auth.user]] or write "query""#);
    assert_snapshot!(errors_in(r#"
[[auth.user]]
name = "a"
password = "p"
verifier = "md5"
[[auth.user]]
password_file = "empty.pass"
[[auth.user]]
name = "b"
[[auth.user]]
name = "c"
verifier = "SCRAM-SHA-256$nonsense"
[[auth.user]]
name = "d"
password = "p"
[[auth.user]]
name = "d"
password = "p"
"#), @r#"
    proxy.toml:7: auth.user[0].verifier: is given beside a password; keep one of them
    proxy.toml:8: auth.user[1].name: is missing; write name = "ROLE"
    proxy.toml:9: auth.user[1].password_file: empty.pass does not hold a password alone on one line; write just that
    proxy.toml:10: auth.user[2].password: is missing; write password, password_file or verifier
    proxy.toml:14: auth.user[3].verifier: is neither "SCRAM-SHA-256$…" nor "md5" and 32 hex digits; take rolpassword from pg_authid
    proxy.toml:19: auth.user[5].name: "d" is listed twice; remove one
    "#);
    assert_snapshot!(errors_in(r#"
[[auth.rule]]
type = "local"
address = "10.0.0.1"
method = "trust"
[[auth.rule]]
address = "10.1.2.3/8"
user = "+staff"
database = []
[[auth.rule]]
type = "hostssl"
method = "cert"
[[auth.rule]]
method = "cert"
[[auth.rule]]
address = "example.com"
method = "ldap"
"#), @r#"
    proxy.toml:6: auth.rule[0].address: is given for type "local"; a unix socket has none, remove it
    proxy.toml:8: auth.rule[1].method: is missing; write method = "scram-sha-256"
    proxy.toml:9: auth.rule[1].address: "10.1.2.3/8" has bits set behind its mask; write "10.0.0.0/8"
    proxy.toml:10: auth.rule[1].user: "+staff" is not understood; write only "all" and plain names
    proxy.toml:11: auth.rule[1].database: is an empty list, which matches nobody; write "all" or names
    proxy.toml:14: auth.rule[2].method: "cert" needs client certificates; add client_ca to the tls of [[listen]]
    proxy.toml:16: auth.rule[3].method: "cert" needs client certificates; add client_ca to the tls of [[listen]]
    proxy.toml:16: auth.rule[3].method: "cert" works only inside TLS; write type = "hostssl"
    proxy.toml:18: auth.rule[4].address: "example.com" is not an address or network; write it like "all", "10.1.2.3" or "10.0.0.0/8"
    proxy.toml:19: auth.rule[4].method: is "ldap"; write one of "scram-sha-256", "md5", "password", "cert", "trust" or "reject"
    "#);
}

#[test]
fn tls_that_contradicts() {
    assert_snapshot!(errors_in("tls = { mode = \"require\", cert = \"missing.pem\" }\n[[listen]]\naddress = \"a:1\"\ntls = { mode = \"allow\", key = \"k.pem\" }\n[[listen]]\naddress = \"/run/x\"\ntls = { mode = \"require\", cert = \"c\", key = \"k\" }\n"), @r#"
    proxy.toml:3: cluster.tls.cert: has no key; add key = "FILE" with its private key
    proxy.toml:3: cluster.tls.cert: missing.pem cannot be read: entity not found; correct the name or its permissions
    proxy.toml:6: listen[0].tls.key: has no cert; add cert = "FILE" with its certificate
    proxy.toml:9: listen[1].tls.mode: "require" shuts every client out of a unix socket; remove it there
    "#);
}

#[test]
fn odd_but_legal_values_are_warnings() {
    let text = r#"
[cluster]
nodes = ["a"]
tls = { mode = "require", ca = "ca.pem" }
[cluster.monitor]
password_file = "open.pass"
[[auth.rule]]
method = "password"
[[listen]]
address = "a:1"
tls = { cert = "c.pem", key = "k.pem" }
[route]
zone = "west"
"#;
    let warnings = read_with(text, &[]).unwrap().warnings;
    let shown: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_snapshot!(shown.join("\n"), @r#"
    proxy.toml:4: cluster.tls.ca: is not used: the mode checks no certificate; write mode = "verify-full" or "verify-ca"
    proxy.toml:6: cluster.monitor.password_file: open.pass is open to every user of this machine; chmod 600 open.pass
    proxy.toml:8: auth.rule[0].method: "password" may be sent in clear; write type = "hostssl"
    proxy.toml:11: listen[0].tls.mode: is "off", so the certificates are not used; write "allow" or "require"
    proxy.toml:13: route.zone: is the zone of no node; give it to one in [[cluster.node]]
    "#);
}

#[test]
fn secrets_are_in_no_message_and_no_debug() {
    let text = errors_in(
        "[[auth.user]]\nname = \"a\"\npassword = \"hunter2\"\nverifier = \"hunter2\"\nserver_password = [\"hunter2\"]",
    );
    assert!(!text.contains("hunter2"), "{text}");
    let settings =
        good(&MINIMAL.replace("password_file = \"/etc/pgsteer/monitor.pass\"", "password = \"hunter2\""));
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn a_directory_is_no_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    std::fs::create_dir(folder.path().join("ca.pem")).unwrap();
    std::fs::write(folder.path().join("pass"), "x\n").unwrap();
    let text = "[cluster]\nnodes = [\"a\"]\ntls = { mode = \"verify-ca\", ca = \"ca.pem\" }\n[cluster.monitor]\npassword_file = \"pass\"";
    std::fs::write(&path, text).unwrap();
    let found = load(Some(&path), []).unwrap_err();
    assert_eq!(found.problems().len(), 1, "{found}");
    assert_eq!((found.problems()[0].line(), found.problems()[0].key()), (Some(3), Some("cluster.tls.ca")));
    std::fs::remove_dir(folder.path().join("ca.pem")).unwrap();
    std::fs::write(folder.path().join("ca.pem"), "x").unwrap();
    let loaded = load(Some(&path), []).unwrap();
    assert_eq!(loaded.settings.cluster.monitor.password, Some(Secret::new("x")));
    assert_eq!(loaded.settings.cluster.max_lag, Duration::from_secs(1));
}

/// Texts made of what a configuration is made of.
fn toml_like() -> impl Strategy<Value = String> {
    let word = prop::sample::select(vec![
        "cluster",
        "nodes",
        "node",
        "monitor",
        "auth",
        "rule",
        "user",
        "listen",
        "tls",
        "mode",
        "pool",
        "size",
        "=",
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        ".",
        ",",
        "\"",
        "\"1s\"",
        "\"a:1\"",
        "12",
        "true",
        "1e999",
        "\n",
        " ",
        "\"\"\"",
        "#",
        "address",
        "1979-05-27",
        "-",
        "0x",
        "método",
        "\\u0000",
        "'",
    ]);
    prop::collection::vec(word, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text: String) {
        let _ = read_with(&text, &[]);
    }

    #[test]
    fn no_text_that_looks_like_a_file_panics(text in toml_like()) {
        let _ = read_with(&text, &[]);
    }

    #[test]
    fn no_environment_panics(name in "PGSTEER__[A-Z_\\[\\]0-9.]{0,20}", value: String) {
        let _ = read_with("[cluster]\nnodes = [\"a\"]", &[(&name, &value)]);
    }
}
