//! Asks a database what its functions leave in the session of their caller.
//!
//! In: a connection. Out: [`Risks`], read from the sources of functions. Must not know who wants them.

use std::collections::HashMap;

use tokio_postgres::{Client, Error};

use crate::sql::hidden::{Risks, Source};

/// Functions whose source holds a word of something that outlives a transaction. Those of PostgreSQL itself are known;
/// what those in C do cannot be read.
const SOURCES: &str = "SELECT p.oid, p.proname::text, concat(p.prosrc, ' ', pg_catalog.pg_get_function_sqlbody(p.oid)) \
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
    WHERE p.pronamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) \
    AND l.lanname NOT IN ('internal', 'c') AND concat(p.prosrc, ' ', pg_catalog.pg_get_function_sqlbody(p.oid)) \
    ~* '(advisory|set_config|setseed|\\mset\\M|\\mtemp|\\mlisten\\M|\\mhold\\M|\\mload\\M|\\mprepare\\M)'";

/// Functions that call one of those named.
const CALLERS: &str = "SELECT p.oid, p.proname::text, concat(p.prosrc, ' ', pg_catalog.pg_get_function_sqlbody(p.oid)) \
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang \
    WHERE p.pronamespace <> 'pg_catalog'::regnamespace AND l.lanname NOT IN ('internal', 'c') \
    AND EXISTS (SELECT FROM unnest($1::text[]) name WHERE pg_catalog.strpos( \
    lower(concat(p.prosrc, ' ', pg_catalog.pg_get_function_sqlbody(p.oid))), lower(name)) > 0)";

/// Tables with triggers, views and column defaults that call a function of those named, and which.
const RELATIONS: &str = "SELECT c.relname::text, p.proname::text FROM pg_catalog.pg_proc p JOIN ( \
    SELECT tgfoid AS function, tgrelid AS relation FROM pg_catalog.pg_trigger WHERE NOT tgisinternal \
    UNION SELECT d.refobjid, r.ev_class FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_rewrite r ON r.oid = d.objid \
    WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.refclassid = 'pg_catalog.pg_proc'::regclass \
    UNION SELECT d.refobjid, a.adrelid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_attrdef a ON a.oid = d.objid \
    WHERE d.classid = 'pg_catalog.pg_attrdef'::regclass AND d.refclassid = 'pg_catalog.pg_proc'::regclass \
    ) use ON use.function = p.oid JOIN pg_catalog.pg_class c ON c.oid = use.relation \
    WHERE p.proname = ANY ($1::text[])";

/// Rounds in which callers of callers are looked for.
const ROUNDS: usize = 8;

/// All functions and relations that may be of interest.
pub(super) async fn sources(client: &Client) -> Result<Vec<Source>, Error> {
    let mut all: HashMap<u32, Source> = HashMap::new();
    let mut rows = client.query(SOURCES, &[]).await?;
    for _ in 0..ROUNDS {
        let before = all.len();
        for row in rows {
            all.insert(row.get(0), Source { name: row.get(1), text: row.get(2), calls: Vec::new() });
        }
        if all.len() == before {
            break;
        }
        rows = client.query(CALLERS, &[&risky(all.values())]).await?;
    }
    let mut sources: Vec<Source> = all.into_values().collect();
    let names = risky(&sources);
    if !names.is_empty() {
        for row in client.query(RELATIONS, &[&names]).await? {
            sources.push(Source { name: row.get(0), text: String::new(), calls: vec![row.get(1)] });
        }
    }
    Ok(sources)
}

/// The names of those that leave something; the others only hold a word that might have.
fn risky<'a>(sources: impl IntoIterator<Item = &'a Source>) -> Vec<String> {
    Risks::new(sources).names().map(str::to_owned).collect()
}
