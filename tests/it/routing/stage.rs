//! The cluster whose logs tell where a statement ran, and what is in its database.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use pgsteer::demo::cluster::Spec;
use pgsteer::demo::setup::Logins;

use crate::harness::cluster::cluster_with;
use crate::harness::eventually;
use crate::harness::proxy::ProxySpec;
use crate::harness::raw::{Frame, Raw, V3_0, bind, describe, execute, parse, sync};
use crate::harness::scene::{Scene, scene_of};

/// Something of each kind that a statement may trip over. `plain` has one row and `log` has one for each write.
const OBJECTS: &str = "
    CREATE TABLE log (a int);
    CREATE TABLE plain (a int, b text);
    INSERT INTO plain VALUES (1, 'x');
    CREATE SEQUENCE s;
    CREATE FUNCTION writes() RETURNS int LANGUAGE sql AS 'INSERT INTO public.log VALUES (1) RETURNING a';
    CREATE FUNCTION writes(int) RETURNS bool LANGUAGE sql AS 'INSERT INTO public.log VALUES (1) RETURNING true';
    CREATE FUNCTION reads() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1';
    CREATE FUNCTION of_row(plain) RETURNS int LANGUAGE sql AS 'INSERT INTO public.log VALUES (1) RETURNING a';
    CREATE FUNCTION with_default(a bigint DEFAULT nextval('s')) RETURNS bigint STABLE LANGUAGE sql AS 'SELECT a';
    CREATE PROCEDURE writing() LANGUAGE sql AS 'INSERT INTO public.log VALUES (1)';
    CREATE VIEW good_view AS SELECT a, reads() FROM plain;
    CREATE VIEW bad_view AS SELECT a, writes() FROM plain;
    CREATE VIEW view_of_view AS SELECT * FROM bad_view;
    CREATE VIEW next_view AS SELECT nextval('s');
    CREATE VIEW xid_view AS SELECT txid_current();
    CREATE MATERIALIZED VIEW kept AS SELECT a, reads() FROM plain;
    CREATE TABLE guarded (a int);
    INSERT INTO guarded VALUES (1);
    ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
    ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
    CREATE POLICY p ON guarded USING (writes() > 0);
    CREATE FUNCTION pair_writes(int, int) RETURNS int LANGUAGE sql AS 'INSERT INTO public.log VALUES (1) RETURNING a';
    CREATE FUNCTION sum2(int, int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1 + $2';
    CREATE OPERATOR ### (FUNCTION = pair_writes, LEFTARG = int, RIGHTARG = int);
    CREATE OPERATOR +++| (FUNCTION = sum2, LEFTARG = int, RIGHTARG = int);
    CREATE VIEW operator_view AS SELECT 1 ### 2;
    CREATE AGGREGATE bad_sum (int) (SFUNC = pair_writes, STYPE = int);
    CREATE AGGREGATE good_sum (int) (SFUNC = sum2, STYPE = int, INITCOND = '0');
    CREATE DOMAIN checked AS int CHECK (writes(VALUE));
    CREATE DOMAIN positive AS int CHECK (VALUE > 0);
    CREATE TYPE odd AS (a int);
    CREATE FUNCTION odd_to_int(odd) RETURNS int LANGUAGE sql AS 'INSERT INTO public.log VALUES (1) RETURNING a';
    CREATE CAST (odd AS int) WITH FUNCTION odd_to_int(odd) AS IMPLICIT;
    CREATE TABLE with_odd (a odd);
    INSERT INTO with_odd VALUES (ROW(1)::odd);
    CREATE UNLOGGED TABLE quick (a int);
    CREATE TABLE parent (a int);
    CREATE UNLOGGED TABLE child () INHERITS (parent);
    CREATE SCHEMA other;
    CREATE TABLE twin (a int);
    CREATE UNLOGGED TABLE other.twin (a int);
    CREATE FUNCTION other.lower(text) RETURNS text LANGUAGE sql
        AS 'INSERT INTO public.log VALUES (1); SELECT $1';";

/// Where a statement ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// On node 0.
    Primary,
    /// On one of the others.
    Standby,
}

/// How a statement is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// In a Query message.
    Simple,
    /// In Parse, Bind, Describe, Execute and Sync at once, as the unnamed statement.
    Extended,
}

/// Both ways.
pub const BOTH: [Protocol; 2] = [Protocol::Simple, Protocol::Extended];

/// A comment that no other statement has.
pub struct Mark {
    text: String,
    /// How long the servers' logs were before it was used.
    from: Vec<u64>,
}

impl Mark {
    /// The statement with the mark behind it.
    pub fn on(&self, sql: &str) -> String {
        format!("{sql} {}", self.text)
    }
}

/// What became of a statement.
#[derive(Debug)]
pub struct Outcome {
    /// Where it ran, the primary first; once for each time.
    pub places: Vec<Place>,
    /// The answer.
    pub frames: Vec<Frame>,
}

impl Outcome {
    /// The SQLSTATE of the error in the answer.
    pub fn error(&self) -> Option<String> {
        failure(&self.frames)
    }

    /// The first column of the first row; panics when there is none.
    #[track_caller]
    pub fn value(&self) -> String {
        let row = self.frames.iter().find(|frame| frame.tag == b'D');
        let row = row.unwrap_or_else(|| panic!("no row: {self:?}"));
        row.columns()[0].clone().unwrap_or_default()
    }

    /// Asserts that it ran there, once, and did not fail.
    #[track_caller]
    pub fn ran_on(&self, place: Place, sql: &str) {
        assert_eq!(self.error(), None, "{sql}: {self:?}");
        assert_eq!(self.places, [place], "{sql}");
    }

    /// Asserts that it ran there, once, and failed so.
    #[track_caller]
    pub fn failed_on(&self, place: Place, sqlstate: &str, sql: &str) {
        assert_eq!(self.error().as_deref(), Some(sqlstate), "{sql}: {self:?}");
        assert_eq!(self.places, [place], "{sql}");
    }
}

/// The SQLSTATE of the first error among these messages.
pub fn failure(frames: &[Frame]) -> Option<String> {
    frames.iter().find(|frame| frame.tag == b'E').map(Frame::sqlstate)
}

/// A proxy that tells reads from writes, in front of three nodes that log every statement.
pub struct Stage {
    pub scene: Scene,
    marks: AtomicU32,
    /// The last statement but those of `settle`, for messages.
    last: Mutex<String>,
}

/// A stage on which `route.split` is `auto`.
pub async fn stage(adapt: impl FnOnce(&mut ProxySpec)) -> Stage {
    stage_with(&[], adapt).await
}

/// The same with settings of the servers.
pub async fn stage_with(settings: &[(&str, &str)], adapt: impl FnOnce(&mut ProxySpec)) -> Stage {
    let mut spec = Spec::new(2, Logins::fixed());
    let own = [("log_statement", "all")];
    let all = own.iter().chain(settings).map(|&(name, value)| (name.to_owned(), value.to_owned()));
    spec.settings.extend(all);
    let scene = scene_of(cluster_with(spec).await, |spec| {
        spec.set("route.split", "auto");
        adapt(spec);
    })
    .await;
    let stage = Stage { scene, marks: AtomicU32::new(0), last: Mutex::default() };
    stage.on_primary(&format!("ALTER ROLE app REPLICATION; SET ROLE app; {OBJECTS}")).await;
    stage
}

impl Stage {
    /// Runs SQL as the superuser on the primary itself, and waits until the standbys have it.
    pub async fn on_primary(&self, sql: &str) {
        let cluster = &self.scene.cluster;
        cluster.n(0).sql_in("app").await.unwrap().run(sql).await.unwrap();
        for standby in &cluster.nodes()[1..] {
            cluster.wait_caught_up(standby, cluster.n(0)).await.unwrap();
        }
    }

    /// What the superuser is told by the primary itself.
    pub async fn primary_value(&self, sql: &str) -> String {
        self.scene.cluster.n(0).sql_in("app").await.unwrap().one(sql).await.unwrap()
    }

    /// How many rows were written to `log`.
    pub async fn written(&self) -> u64 {
        self.primary_value("SELECT count(*) FROM log").await.parse().unwrap()
    }

    /// A session of `app` with more startup parameters.
    pub async fn login(&self, more: &[(&str, &str)]) -> Raw {
        let mut raw = Raw::tcp(&self.scene.proxy.address()).await;
        let params = [&[("user", "app"), ("database", "app")], more].concat();
        let frames = raw.start(V3_0, &params, "app-secret").await;
        assert_eq!(frames.last().map(|last| last.tag), Some(b'Z'), "{frames:?}");
        raw
    }

    /// A new mark.
    pub fn mark(&self) -> Mark {
        let number = self.marks.fetch_add(1, Ordering::Relaxed);
        let length = |path| std::fs::metadata(path).map_or(0, |file| file.len());
        let from = self.scene.cluster.nodes().iter().map(|node| length(node.log())).collect();
        Mark { text: format!("/* mark {number} */"), from }
    }

    /// The indexes of the nodes that ran a statement with this mark, in order and once for each time. A server writes
    /// its log before it runs the statement: after the answer there is nothing to wait for.
    pub fn nodes(&self, mark: &Mark) -> Vec<usize> {
        let mut found = Vec::new();
        for (index, (node, from)) in self.scene.cluster.nodes().iter().zip(&mark.from).enumerate() {
            let mut file = std::fs::File::open(node.log()).unwrap();
            file.seek(SeekFrom::Start(*from)).unwrap();
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            let mut is_statement = false;
            for line in text.lines() {
                // Lines behind the first one of an entry are indented.
                if !line.starts_with('\t') {
                    is_statement =
                        ["LOG:  statement: ", "LOG:  execute "].iter().any(|kind| line.contains(kind));
                }
                if is_statement && line.contains(&mark.text) {
                    found.push(index);
                }
            }
        }
        found
    }

    /// Where a statement with this mark ran.
    pub fn places(&self, mark: &Mark) -> Vec<Place> {
        let place = |index| if index == 0 { Place::Primary } else { Place::Standby };
        self.nodes(mark).into_iter().map(place).collect()
    }

    /// Runs a statement and says where it ran and what came of it.
    pub async fn run(&self, raw: &mut Raw, protocol: Protocol, sql: &str) -> Outcome {
        sql.clone_into(&mut self.last.lock().unwrap());
        self.run_unnoted(raw, protocol, sql).await
    }

    async fn run_unnoted(&self, raw: &mut Raw, protocol: Protocol, sql: &str) -> Outcome {
        let mark = self.mark();
        let sql = mark.on(sql);
        let frames = match protocol {
            Protocol::Simple => raw.query(&sql).await,
            Protocol::Extended => {
                let all = [parse("", &sql), bind("", "", &[]), describe(b'P', ""), execute("", 0), sync()];
                raw.send(&all.concat()).await;
                raw.until(b'Z').await
            }
        };
        Outcome { places: self.places(&mark), frames }
    }

    /// The same as a Query.
    pub async fn query(&self, raw: &mut Raw, sql: &str) -> Outcome {
        self.run(raw, Protocol::Simple, sql).await
    }

    /// Waits until standbys answer the session's plain reads: they have what it has written, so whatever goes to the
    /// primary afterwards does so for its own sake.
    pub async fn settle(&self, raw: &mut Raw) {
        let what = format!("reads to be answered by a standby after {}", self.last.lock().unwrap());
        eventually(&what, async || {
            let outcome = self.run_unnoted(raw, Protocol::Simple, "SELECT count(*) FROM public.plain").await;
            outcome.places == [Place::Standby]
        })
        .await;
    }

    /// How many batches were run again on the primary, since a standby could not do them.
    pub async fn reruns(&self) -> u32 {
        let count = self.scene.proxy.metric("pgsteer_rerouted_total").await;
        (0..1000).find(|whole| f64::from(*whole) >= count).unwrap()
    }

    /// The proxy ends cleanly.
    pub async fn finish(self) {
        self.scene.finish().await;
    }
}
