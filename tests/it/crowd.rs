//! Nineteen clients of all kinds when the primary is lost: who of them notices, without and with the options of `[retry]`.

use pgsteer::demo::node::Promote;

use crate::harness::loss::Loss;
use crate::harness::proxy::{ProxySpec, TestProxy};
use crate::harness::raw::{Frame, Raw, bind, describe, execute, parse, query, sync};
use crate::harness::scene::linked_scene;

/// What a client has done before, and does afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Reads from standbys.
    Reader,
    /// Has settings and a prepared statement, and does nothing.
    Idle,
    /// Writes outside transactions.
    Writer,
    /// Has written in a transaction that is open.
    InTransaction,
}

const CROWD: [(Kind, usize); 4] =
    [(Kind::Reader, 6), (Kind::Idle, 6), (Kind::Writer, 5), (Kind::InTransaction, 2)];

struct Client {
    kind: Kind,
    number: usize,
    raw: Raw,
}

impl Client {
    async fn arrive(proxy: &TestProxy, kind: Kind, number: usize) -> Self {
        let port = if kind == Kind::Reader { proxy.standby_port() } else { proxy.port() };
        let mut raw = Raw::login(&format!("127.0.0.1:{port}"), "app", "app-secret", "app").await;
        match kind {
            Kind::Reader => drop(raw.query("SELECT count(*) FROM t").await),
            Kind::Idle => {
                raw.query(&format!("SET work_mem = '{number}MB'")).await;
                raw.send(&[parse("mine", "SHOW work_mem"), sync()].concat()).await;
                raw.expect("1Z").await;
            }
            Kind::Writer => drop(raw.query(&format!("INSERT INTO t VALUES ({number}, 'before')")).await),
            Kind::InTransaction => {
                raw.query("BEGIN").await;
                raw.query(&format!("INSERT INTO t VALUES ({number}, 'before')")).await;
            }
        }
        Self { kind, number, raw }
    }

    /// What it says when the primary has been lost.
    fn asks(&self) -> Vec<u8> {
        let insert = query(&format!("INSERT INTO t VALUES ({}, 'after')", self.number));
        match self.kind {
            Kind::Reader => query("SELECT count(*) FROM t"),
            Kind::Idle => [bind("", "mine", &[]), describe(b'P', ""), execute("", 0), sync()].concat(),
            Kind::Writer => insert,
            Kind::InTransaction => [insert, query("COMMIT")].concat(),
        }
    }

    /// True when it hears what it would have heard without a loss.
    async fn notices_nothing(&mut self) -> bool {
        let mut frames = self.raw.until(b'Z').await;
        if self.kind == Kind::InTransaction {
            frames.extend(self.raw.until(b'Z').await);
        }
        let told = |wanted: &str| frames.iter().any(|frame| frame.to_string() == wanted);
        let as_wanted = match self.kind {
            Kind::Reader => frames.iter().any(|frame| frame.tag == b'D'),
            Kind::Idle => told(&format!("D {}MB", self.number)),
            Kind::Writer => told("C INSERT 0 1\\x00"),
            Kind::InTransaction => told("C INSERT 0 1\\x00") && told("C COMMIT\\x00"),
        };
        let error = frames.iter().find(|frame| frame.tag == b'E').map(Frame::sqlstate);
        assert_eq!(as_wanted, error.is_none(), "{:?}: {frames:?}", self.kind);
        assert!(error.is_none_or(|code| code == "40001"), "{:?}: {frames:?}", self.kind);
        assert!(self.raw.is_alive().await, "{:?}", self.kind);
        as_wanted
    }
}

async fn crowd(proxy: &TestProxy, first: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for (kind, count) in CROWD {
        for _ in 0..count {
            let number = first + clients.len();
            clients.push(Client::arrive(proxy, kind, number).await);
        }
    }
    clients
}

/// How many of the crowd of each proxy notice nothing: of the one as it is, and of the one with the options.
async fn who_notices(loss: Loss) {
    let scene = linked_scene(2, |_| {}).await;
    let mut spec = ProxySpec::behind(&scene.links, &scene.cluster);
    spec.raw("retry.transactions", "true").raw("retry.resolve_commit", "true");
    let retrying = spec.start().await;
    scene.raw().await.query("CREATE TABLE t (client int, told text)").await;
    for standby in [1, 2] {
        scene.cluster.wait_caught_up(scene.cluster.n(standby), scene.cluster.n(0)).await.unwrap();
    }
    scene.cluster.set_synchronous(scene.cluster.n(0), Some("ANY 2 (*)")).await.unwrap();
    let mut crowds = [crowd(&scene.proxy, 1).await, crowd(&retrying, 101).await];

    loss.strike(&scene);
    let new = scene.cluster.n(1);
    new.promote_and_wait(Promote::PgCtl).await.unwrap();
    // Who waits for standbys would wait for those of the lost one.
    scene.cluster.set_synchronous(new, None).await.unwrap();
    scene.cluster.repoint(scene.cluster.n(2), new).await.unwrap();
    for proxy in [&scene.proxy, &retrying] {
        // Until then it is the lost one that is asked, and nobody would know what became of that.
        proxy.wait_primary("node2").await;
    }
    for client in crowds.iter_mut().flatten() {
        let asks = client.asks();
        client.raw.send(&asks).await;
    }
    let mut untouched = [0, 0];
    for (clients, untouched) in crowds.iter_mut().zip(&mut untouched) {
        for client in clients {
            *untouched += usize::from(client.notices_nothing().await);
        }
    }
    assert_eq!(untouched, [17, 19], "{loss:?}");
    // Five writers twice each at both proxies; the transactions of one.
    assert_eq!(new.sql_in("app").await.unwrap().one("SELECT count(*) FROM t").await.unwrap(), "24");
    drop(crowds);
    retrying.stop().await;
    scene.finish().await;
}

#[tokio::test]
async fn of_nineteen_clients_when_the_primary_is_killed() {
    who_notices(Loss::Kill).await;
}

#[tokio::test]
async fn of_nineteen_clients_when_the_primary_is_stopped() {
    who_notices(Loss::StopFast).await;
}

#[tokio::test]
async fn of_nineteen_clients_when_the_primary_freezes() {
    who_notices(Loss::Freeze).await;
}

#[tokio::test]
async fn of_nineteen_clients_when_the_primary_is_cut_off() {
    who_notices(Loss::Cut).await;
}
