//! Asks a database for the facts that decide what a standby may be asked for.
//!
//! In: a connection, in a transaction that sees one state of the database. Out: [`Facts`]. Must not know who wants them.

use tokio_postgres::{Client, Error, Row};

use crate::sql::catalogue::{Facts, Function, Node, Operator, Relation, Type, Use, Used, queries};

/// Runs the five queries.
pub async fn facts(client: &Client) -> Result<Facts, Error> {
    Ok(Facts {
        functions: rows(client, queries::FUNCTIONS, function).await?,
        relations: rows(client, queries::RELATIONS, relation).await?,
        types: rows(client, queries::TYPES, kind).await?,
        operators: rows(client, queries::OPERATORS, operator).await?,
        uses: rows(client, queries::USES, of_use).await?.into_iter().flatten().collect(),
    })
}

async fn rows<T>(
    client: &Client,
    sql: &str,
    read: impl Fn(&Row) -> Result<T, Error>,
) -> Result<Vec<T>, Error> {
    client.query(sql, &[]).await?.iter().map(read).collect()
}

fn function(row: &Row) -> Result<Function, Error> {
    Ok(Function {
        oid: row.try_get(0)?,
        schema: row.try_get(1)?,
        name: row.try_get(2)?,
        is_volatile: row.try_get(3)?,
        takes_row: row.try_get(4)?,
    })
}

fn relation(row: &Row) -> Result<Relation, Error> {
    let kind: &str = row.try_get(3)?;
    Ok(Relation {
        oid: row.try_get(0)?,
        schema: row.try_get(1)?,
        name: row.try_get(2)?,
        kind: kind.chars().next().unwrap_or_default(),
        is_unlogged: row.try_get(4)?,
    })
}

fn kind(row: &Row) -> Result<Type, Error> {
    Ok(Type { oid: row.try_get(0)?, schema: row.try_get(1)?, name: row.try_get(2)? })
}

fn operator(row: &Row) -> Result<Operator, Error> {
    Ok(Operator { oid: row.try_get(0)?, name: row.try_get(1)? })
}

/// `None` for letters that the query never gives.
fn of_use(row: &Row) -> Result<Option<Use>, Error> {
    let what = match row.try_get::<_, Option<String>>(4)? {
        Some(name) => Some(Used::Builtin { name, is_volatile: row.try_get(5)? }),
        None => Node::of(row.try_get(2)?, row.try_get(3)?).map(Used::Node),
    };
    let user = Node::of(row.try_get(0)?, row.try_get(1)?);
    Ok(user.zip(what).map(|(user, used)| Use { user, used }))
}
