//! The SQL that prepares a cluster for pgsteer. The guide, `check` and the demo all take it from here.
//!
//! Nothing here runs anything. Each text can be run again without harm and is run on the primary.

/// Quotes a name, as `quote_ident` does for those that need it.
pub fn identifier(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let first = name.bytes().next();
    if first.is_some_and(|byte| !byte.is_ascii_digit()) && name.bytes().all(plain) && name != "user" {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Quotes a text. Backslashes stay as they are, which is right with `standard_conforming_strings` on.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The monitoring role, with a password to be filled in.
pub fn role(role: &str) -> String {
    let name = identifier(role);
    format!("CREATE ROLE {name} LOGIN PASSWORD 'choose one';\n{}", monitor_grant(role))
}

/// What the role may see: replication's state and all settings.
pub fn monitor_grant(role: &str) -> String {
    format!("GRANT pg_monitor TO {};\n", identifier(role))
}

/// The function that gives the secret of a user who may log in now. It belongs to the superuser who runs this,
/// so that the role needs no right of its own on `pg_authid`; a fixed `search_path` keeps others out of it.
pub fn auth_function(role: &str) -> String {
    let name = identifier(role);
    format!(
        "\
CREATE SCHEMA IF NOT EXISTS pgsteer;
CREATE OR REPLACE FUNCTION pgsteer.get_auth(role text)
RETURNS TABLE (name text, secret text)
LANGUAGE sql STABLE STRICT SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $$
    SELECT rolname::text, rolpassword FROM pg_catalog.pg_authid
    WHERE rolname = $1 AND rolcanlogin AND (rolvaliduntil IS NULL OR rolvaliduntil > now())
$$;
REVOKE ALL ON SCHEMA pgsteer FROM PUBLIC;
REVOKE ALL ON FUNCTION pgsteer.get_auth(text) FROM PUBLIC;
GRANT USAGE ON SCHEMA pgsteer TO {name};
GRANT EXECUTE ON FUNCTION pgsteer.get_auth(text) TO {name};
"
    )
}

/// Gives back what PostgreSQL gives everybody: the identifier and the timeline of a node.
pub fn control_grant(role: &str) -> String {
    let name = identifier(role);
    let functions = ["pg_control_system()", "pg_control_checkpoint()", "pg_control_recovery()"];
    functions.map(|one| format!("GRANT EXECUTE ON FUNCTION pg_catalog.{one} TO {name};\n")).concat()
}

/// Lets the role into a database, to read its catalogue.
pub fn connect_grant(role: &str, database: &str) -> String {
    format!("GRANT CONNECT ON DATABASE {} TO {};\n", identifier(database), identifier(role))
}

/// Gives back what PostgreSQL gives everybody: the tables of the catalogue that say what a standby may be asked for.
pub fn catalogue_grant(role: &str) -> String {
    const TABLES: [&str; 18] = [
        "aggregate",
        "amproc",
        "attrdef",
        "attribute",
        "cast",
        "class",
        "constraint",
        "depend",
        "inherits",
        "language",
        "namespace",
        "operator",
        "policy",
        "proc",
        "range",
        "rewrite",
        "trigger",
        "type",
    ];
    let tables = TABLES.map(|name| format!("pg_catalog.pg_{name}")).join(", ");
    format!("GRANT SELECT ON {tables} TO {};\n", identifier(role))
}

/// Lets the role promote a standby, for a planned switchover.
pub fn promote_grant(role: &str) -> String {
    format!("GRANT EXECUTE ON FUNCTION pg_catalog.pg_promote(boolean, integer) TO {};\n", identifier(role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!(identifier("pgsteer"), "pgsteer");
        assert_eq!(identifier("Mon itor"), "\"Mon itor\"");
        assert_eq!(identifier("a\"b"), "\"a\"\"b\"");
        assert_eq!(identifier("9x"), "\"9x\"");
        assert_eq!(identifier(""), "\"\"");
        assert_eq!(literal("it's"), "'it''s'");
    }
}
