//! What judging a text costs: reads or not, and how long it takes to know.
//!
//! `cargo bench --bench judge`. The goal for a SELECT of 100 bytes is a microsecond; nothing may be allocated unless a text
//! has a WITH clause.

#![allow(clippy::unwrap_used, reason = "a bench program")]

use divan::{Bencher, black_box};
use pgsteer::sql::catalogue::{Catalogue, Facts, Overrides, Relation};
use pgsteer::sql::judge::{Context, Encoding, Verdict, judge};

/// Counts allocations beside the time.
#[global_allocator]
static ALLOCATIONS: divan::AllocProfiler = divan::AllocProfiler::system();

fn main() {
    divan::main();
}

/// A database of some size, with the tables of the statements below.
fn catalogue() -> Catalogue {
    let others = (0..5000).map(|at| format!("table_{at}"));
    let names =
        ["customers", "orders", "items", "pgbench_accounts"].map(str::to_owned).into_iter().chain(others);
    let relation = |(at, name)| Relation {
        oid: 20_000 + at as u32,
        schema: "public".to_owned(),
        name,
        kind: 'r',
        is_unlogged: false,
    };
    let facts = Facts { relations: names.enumerate().map(relation).collect(), ..Facts::default() };
    Catalogue::new(&facts, Overrides::default(), 1)
}

const POINT: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = $1";
const HUNDRED: &str = "SELECT c.id, c.name, o.total FROM customers c JOIN orders o USING (id) \
                       WHERE c.id = 4711 AND o.total > 7";
const CALLS: &str = "SELECT lower(c.name), count(*), max(o.total)::numeric(10,2) FROM customers c, orders o \
                     WHERE o.id = c.id AND o.made > now() - interval '1 day' GROUP BY lower(c.name) LIMIT 10";
const CTE: &str = "WITH best AS (SELECT id, sum(total) AS s FROM orders GROUP BY id) \
                   SELECT c.name, b.s FROM customers c JOIN best b ON b.id = c.id ORDER BY b.s DESC LIMIT 5";
const UPDATE: &str = "UPDATE customers SET name = 'x', changed = now() WHERE id = 4711 AND note <> 'a;b'";

#[divan::bench(args = [POINT, HUNDRED, CALLS, CTE])]
fn read(bencher: Bencher, sql: &str) {
    let catalogue = catalogue();
    let context = Context { standard_strings: true, encoding: Encoding::Utf8 };
    let is_read = || {
        let judged = judge(black_box(sql.as_bytes()), context, &mut catalogue.seen(None));
        matches!(judged.verdict, Verdict::Read)
    };
    assert!(is_read());
    bencher.bench_local(is_read);
}

#[divan::bench(args = [UPDATE, "BEGIN", "COMMIT"])]
fn decided_by_the_first_word(bencher: Bencher, sql: &str) {
    let catalogue = catalogue();
    let context = Context { standard_strings: true, encoding: Encoding::Utf8 };
    bencher.bench_local(|| {
        let judged = judge(black_box(sql.as_bytes()), context, &mut catalogue.seen(None));
        matches!(judged.verdict, Verdict::Read)
    });
}
