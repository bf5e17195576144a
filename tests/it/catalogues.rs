//! How the catalogues of databases are loaded: when, by whom, and what counts while they cannot be.

use std::sync::Arc;

use arc_swap::ArcSwap;
use pgsteer::config::{NodeAddress, Secret, Settings, Split, TlsMode};
use pgsteer::drain::Tasks;
use pgsteer::net::tls::ServerTlsContext;
use pgsteer::session::catalogues::{Catalogues, Sources};
use pgsteer::session::directory::{Directory, Entry, Facts};
use pgsteer::sql::judge::{Context, Encoding, Verdict, judge};
use pgsteer::topology::{Epoch, Health, NodeId, Role, Store, Topology};

use crate::harness::cluster::{TestCluster, cluster};
use crate::harness::eventually;

const OBJECTS: &str = "
    CREATE TABLE t (a int);
    CREATE FUNCTION f() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION v() RETURNS int VOLATILE LANGUAGE sql AS 'SELECT 1'";

/// A loader in front of one node, and the session that makes its database one in use.
struct Bench {
    cluster: TestCluster,
    catalogues: Arc<Catalogues>,
    settings: Arc<ArcSwap<Settings>>,
    directory: Arc<Directory>,
    tasks: Tasks,
}

async fn bench(split: Split) -> Bench {
    let cluster = cluster(0).await;
    let mut settings = Settings::with_nodes([NodeAddress::new("127.0.0.1", cluster.n(0).port())]);
    settings.cluster.tls.mode = TlsMode::Off;
    "pgsteer".clone_into(&mut settings.cluster.monitor.user);
    settings.cluster.monitor.password = Some(Secret::new(cluster.logins().monitor.clone()));
    settings.route.split = split;
    let mut topology = Topology::unseen(&settings.cluster.nodes);
    (topology.epoch, topology.primary) = (Epoch(1), Some(NodeId(0)));
    (topology.nodes[0].health, topology.nodes[0].role) = (Health::Up, Role::Primary);
    let settings = Arc::new(ArcSwap::from_pointee(settings));
    let directory = Arc::new(Directory::new(10));
    let sources = Sources {
        store: Arc::new(Store::new(topology)),
        tls: Arc::new(ServerTlsContext::off()),
        directory: Arc::clone(&directory),
    };
    let (catalogues, loader) = Catalogues::new(Arc::clone(&settings), sources);
    let tasks = Tasks::new();
    tasks.spawn(loader.run(tasks.clone()));
    let bench = Bench { cluster, catalogues, settings, directory, tasks };
    bench.run("app", OBJECTS).await;
    bench
}

impl Bench {
    async fn run(&self, database: &str, sql: &str) {
        self.cluster.n(0).sql_in(database).await.unwrap().run(sql).await.unwrap();
    }

    fn session(&self) -> Arc<Entry> {
        let facts = Facts {
            user: "app".to_owned(),
            database: "app".to_owned(),
            address: None,
            application: String::new(),
            read_only: false,
            tls: false,
        };
        self.directory.enter(facts, 1, Vec::new())
    }

    /// `read`, or the label of the reason why not.
    fn verdict(&self, sql: &str) -> &'static str {
        let catalogue = self.catalogues.get("app");
        let context = Context { standard_strings: true, encoding: Encoding::Utf8 };
        match judge(sql.as_bytes(), context, &mut catalogue.seen(None)).verdict {
            Verdict::Read => "read",
            Verdict::Write(stop) => stop.reason.as_str(),
            other => panic!("{sql}: {other:?}"),
        }
    }

    /// Waits for the first load, which a login does for a second at most: the machine may be busy.
    async fn first(&self) {
        eventually("the first load", async || {
            self.catalogues.first("app").await;
            self.verdicts() == ["read", "volatile_function", "read"]
        })
        .await;
    }

    /// The same for a change.
    async fn refresh(&self, sql: &str, wanted: &str) {
        eventually(&format!("{sql} to be {wanted}"), async || {
            self.catalogues.refresh("app").await;
            self.verdict(sql) == wanted
        })
        .await;
    }

    fn verdicts(&self) -> [&'static str; 3] {
        ["SELECT a, f() FROM t", "SELECT v()", "SELECT lower('X')"].map(|sql| self.verdict(sql))
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

#[tokio::test]
async fn a_catalogue_is_loaded_for_the_first_session_and_follows_changes() {
    let bench = bench(Split::Auto).await;
    assert_eq!(bench.verdicts(), ["unknown_function", "unknown_function", "read"]);
    let _session = bench.session();
    bench.first().await;
    // DDL that the session waits for.
    let before = bench.catalogues.version();
    bench.run("app", "CREATE FUNCTION g() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1'").await;
    assert_eq!(bench.verdict("SELECT g()"), "unknown_function");
    bench.refresh("SELECT g()", "read").await;
    let after = bench.catalogues.version();
    assert!(after > before);
    assert_eq!(bench.catalogues.get("app").generation(), after);
    // Nothing has changed: verdicts stay good.
    bench.catalogues.refresh("app").await;
    assert_eq!(bench.catalogues.version(), after);
    // A hint is enough, and so are many.
    bench.run("app", "ALTER FUNCTION g() VOLATILE").await;
    for _ in 0..1000 {
        bench.catalogues.outdated("app");
    }
    eventually("the hint to be followed", async || bench.verdict("SELECT g()") == "volatile_function").await;
    assert_eq!(bench.catalogues.version(), after + 1);
}

#[tokio::test]
async fn what_the_role_may_not_read_counts_as_a_write() {
    let bench = bench(Split::Auto).await;
    let _session = bench.session();
    bench.run("postgres", "REVOKE CONNECT ON DATABASE app FROM PUBLIC").await;
    bench.catalogues.first("app").await;
    assert_eq!(bench.verdicts(), ["unknown_function", "unknown_function", "read"]);
    bench.run("postgres", "GRANT CONNECT ON DATABASE app TO pgsteer").await;
    bench.refresh("SELECT a, f() FROM t", "read").await;
    // What was known is not trusted once it cannot be read any more.
    bench.run("postgres", "REVOKE CONNECT ON DATABASE app FROM pgsteer").await;
    bench.refresh("SELECT a, f() FROM t", "unknown_function").await;
    assert_eq!(bench.verdicts(), ["unknown_function", "unknown_function", "read"]);
    // Nor is a database that is not there any more.
    bench.run("postgres", "GRANT CONNECT ON DATABASE app TO pgsteer").await;
    bench.refresh("SELECT f()", "read").await;
    bench.run("postgres", "ALTER DATABASE app RENAME TO other").await;
    bench.refresh("SELECT f()", "unknown_function").await;
}

#[tokio::test]
async fn a_server_that_does_not_answer_changes_nothing() {
    let bench = bench(Split::Auto).await;
    let _session = bench.session();
    bench.first().await;
    let before = bench.catalogues.version();
    bench.cluster.n(0).kill_and_wait().await.unwrap();
    bench.catalogues.refresh("app").await;
    assert_eq!(bench.verdicts(), ["read", "volatile_function", "read"]);
    assert_eq!(bench.catalogues.version(), before);
}

#[tokio::test]
async fn the_configuration_has_the_last_word_after_a_reload() {
    let bench = bench(Split::Auto).await;
    let _session = bench.session();
    bench.first().await;
    let mut settings = Settings::clone(&bench.settings.load());
    settings.route.read_functions = vec!["public.v".to_owned()];
    settings.route.write_functions = vec!["lower".to_owned()];
    bench.settings.store(Arc::new(settings));
    bench.catalogues.reloaded();
    let wanted = ["read", "read", "declared_write"];
    eventually("the new lists", async || bench.verdicts() == wanted).await;
    // Also where no catalogue has been loaded.
    let unknown = bench.catalogues.get("elsewhere");
    let context = Context { standard_strings: true, encoding: Encoding::Utf8 };
    let judged = judge(b"SELECT lower('X')", context, &mut unknown.seen(None));
    assert!(matches!(judged.verdict, Verdict::Write(_)), "{judged:?}");
    assert!(unknown.generation() > 0, "a verdict of before would still count");
}

#[tokio::test]
async fn only_what_is_wanted_is_loaded_and_only_while_it_is_used() {
    let bench = bench(Split::Declared).await;
    let session = bench.session();
    bench.catalogues.first("app").await;
    assert_eq!(bench.catalogues.version(), 0, "nothing was wanted");
    eventually("it to be looked at", async || bench.catalogues.look("app").await.generation() > 0).await;
    assert_eq!(bench.verdicts()[0], "read");
    // Now that it is known it is kept up to date like any other.
    bench.run("app", "ALTER FUNCTION f() VOLATILE").await;
    bench.catalogues.outdated("app");
    eventually("the change", async || bench.verdicts()[0] == "volatile_function").await;
    bench.directory.leave(session.id);
    bench.catalogues.reloaded();
    eventually("it to be forgotten", async || bench.catalogues.get("app").generation() == 0).await;
}
