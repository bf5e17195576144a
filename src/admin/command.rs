//! What was typed at the console, parsed: text -> statements.
//!
//! In: the text of a Query or Parse message. Out: a list of `Statement`, or the error a person can act on.
//! It must not run anything nor know the state of the proxy. Beside the console's own commands it knows the
//! few statements that drivers and pools send unasked (SET, BEGIN, `SELECT version()`, ...), so that any
//! PostgreSQL client can be pointed at the console.

use crate::config::parse_duration;
use crate::control::order::{Accept, Order};
use crate::sql::lexer::{Lexer, Token};
use crate::topology::Timeline;
use crate::wire::error::{PgError, SqlState};

/// A table of the console.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// Backends, one a row.
    Backends,
    /// Sessions of clients.
    Clients,
    /// Every option in force.
    Config,
    /// The last events of the topology.
    Events,
    /// The commands.
    Help,
    /// Nodes as the probers see them.
    Nodes,
    /// Times without a primary that takes writes.
    Outages,
    /// Pools of backends.
    Pools,
    /// Where batches went and why.
    Routes,
    /// Counters and latencies since the start.
    Stats,
    /// The topology in one row.
    Topology,
    /// The version of pgsteer.
    Version,
}

/// The words after SHOW, what they mean, and the line in SHOW HELP.
pub const SHOWS: &[(&str, Show, &str)] = &[
    ("NODES", Show::Nodes, "each node: role, health, why it is read from or not, lag, what runs on it"),
    ("TOPOLOGY", Show::Topology, "which node is the primary, since which epoch, on which timeline"),
    ("POOLS", Show::Pools, "backends of each node, database and user: idle, leased, waited for"),
    ("CLIENTS", Show::Clients, "the sessions: who, from where, in which state, on which node"),
    ("BACKENDS", Show::Backends, "the server connections: pid, node, age, state"),
    ("ROUTES", Show::Routes, "how much went to the primary and to standbys, by reason"),
    ("STATS", Show::Stats, "counters and latencies since the start"),
    ("EVENTS", Show::Events, "what changed in the topology, when and why; newest last"),
    (
        "OUTAGES",
        Show::Outages,
        "each failover: when the loss was noticed and by what, how long writes stood still, what it cost",
    ),
    ("CONFIG", Show::Config, "every option: its value, its default, what a reload does with it"),
    ("VERSION", Show::Version, "the version of pgsteer"),
    ("HELP", Show::Help, "this list"),
];

/// One statement, ready to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement {
    /// Says who the primary is, or which timeline is the highest.
    Accept(Accept),
    /// Opens a transaction block, which means nothing here but is answered as a server would.
    Begin,
    /// Ends the block.
    Commit,
    /// One row, one column: what drivers ask (`SELECT version()`, `SHOW transaction_isolation`).
    Constant(Constant),
    /// Where a statement would go and why.
    Explain {
        /// The statement, with the comments before it.
        sql: String,
        /// The database it is for, if named.
        database: Option<String>,
    },
    /// Ends the session of this number (SHOW CLIENTS).
    Kill(u64),
    /// Makes a standby the primary.
    Promote(Order),
    /// Accepted without effect; the text is the command tag.
    Quiet(&'static str),
    /// Reads the configuration file again.
    Reload,
    /// Ends the block.
    Rollback,
    /// ROLLBACK TO a savepoint.
    RollbackTo,
    /// A table.
    Show(Show),
}

/// A value that a driver asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Constant {
    /// `SELECT pg_backend_pid()`
    BackendPid,
    /// `SELECT current_database()`
    Database,
    /// `SELECT pg_is_in_recovery()`
    InRecovery,
    /// `SELECT 1` and other whole numbers
    Number(i64),
    /// `SHOW name` of a parameter: heading and value
    Parameter(&'static str, &'static str),
    /// `SELECT current_schema()`
    Schema,
    /// `SELECT pg_advisory_unlock_all()`, which connection pools send at hand-back
    UnlockAll,
    /// `SELECT current_user`
    User,
    /// `SELECT version()`
    Version,
}

/// The version of PostgreSQL whose behaviour the console shows to clients that adapt to it. psql compares
/// the major version with its own and warns when the server's is newer, so it is not the newest.
pub const SERVER_VERSION: &str = concat!("15.0 (pgsteer ", env!("CARGO_PKG_VERSION"), ")");

/// Parameters that SHOW answers, because drivers and pools ask for them. Those reported at login are among
/// them.
pub const PARAMETERS: &[(&str, &str)] = &[
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("DateStyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("extra_float_digits", "1"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("IntervalStyle", "postgres"),
    ("is_superuser", "off"),
    ("max_identifier_length", "63"),
    ("search_path", "\"$user\", public"),
    ("server_encoding", "UTF8"),
    ("server_version", SERVER_VERSION),
    ("server_version_num", "150000"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("TimeZone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
];

/// Parses all statements of `text`. Nothing is run when any of them is wrong, as on a server.
pub fn parse(text: &str) -> Result<Vec<Statement>, PgError> {
    let mut statements = Vec::new();
    let mut tokens = Vec::new();
    let mut lexer = Lexer::new(text.as_bytes(), true);
    let mut start = 0;
    loop {
        match lexer.next() {
            Some(Token::Odd) => {
                let rest = shorten(text.get(start..).unwrap_or(text));
                let message = format!("unterminated text or comment in \"{rest}\"");
                return Err(PgError::error(SqlState::SYNTAX_ERROR, message));
            }
            Some(Token::Semicolon) | None if !tokens.is_empty() => {
                let typed = text.get(start..lexer.position()).unwrap_or(text);
                statements.push(statement(&tokens, typed)?);
                tokens.clear();
                start = lexer.position();
            }
            Some(Token::Semicolon) => start = lexer.position(),
            None => return Ok(statements),
            Some(token) => tokens.push(token),
        }
    }
}

/// What a client typed, shortened for an error: one line, at most 80 characters.
fn shorten(typed: &str) -> String {
    const CHARS_MAX: usize = 80;
    let line = typed.trim().trim_end_matches(';').split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= CHARS_MAX {
        return line;
    }
    let cut: String = line.chars().take(CHARS_MAX).collect();
    format!("{cut}...")
}

fn unknown(typed: &str) -> PgError {
    PgError::error(SqlState::SYNTAX_ERROR, format!("unknown command \"{}\"", shorten(typed)))
        .with_hint("SHOW HELP lists the commands of this console.")
}

/// The text of a word, quoted name or number, which is what the console's commands are made of.
fn word<'a>(token: &Token<'a>) -> Option<&'a str> {
    match token {
        Token::Number(text) | Token::QuotedName(text) | Token::Word(text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

fn statement(tokens: &[Token<'_>], typed: &str) -> Result<Statement, PgError> {
    let (Some(first), rest) = (tokens.first().and_then(word), tokens.get(1..).unwrap_or_default()) else {
        return Err(unknown(typed));
    };
    match first.to_ascii_uppercase().as_str() {
        "SHOW" => show(rest),
        "RELOAD" if rest.is_empty() => Some(Statement::Reload),
        "KILL" => return kill(rest, typed),
        "PROMOTE" => return promote(rest),
        "ACCEPT" => return accept(rest).map(Statement::Accept).ok_or_else(accept_form),
        "EXPLAIN" => return explain(typed),
        "SELECT" => constant(rest).map(Statement::Constant),
        "BEGIN" | "START" => Some(Statement::Begin),
        "COMMIT" | "END" => Some(Statement::Commit),
        "ROLLBACK" if rest.iter().any(|token| token.is("to")) => Some(Statement::RollbackTo),
        "ROLLBACK" | "ABORT" => Some(Statement::Rollback),
        "SAVEPOINT" => Some(Statement::Quiet("SAVEPOINT")),
        "RELEASE" => Some(Statement::Quiet("RELEASE")),
        "SET" => Some(Statement::Quiet("SET")),
        "RESET" => Some(Statement::Quiet("RESET")),
        "DISCARD" => Some(Statement::Quiet("DISCARD ALL")),
        "DEALLOCATE" => Some(Statement::Quiet("DEALLOCATE")),
        "CLOSE" => Some(Statement::Quiet("CLOSE CURSOR")),
        "UNLISTEN" => Some(Statement::Quiet("UNLISTEN")),
        _ => None,
    }
    .ok_or_else(|| unknown(typed))
}

fn show(rest: &[Token<'_>]) -> Option<Statement> {
    let name = rest.iter().map(word).collect::<Option<Vec<_>>>()?.join(" ");
    if let Some((_, table, _)) = SHOWS.iter().find(|(word, ..)| word.eq_ignore_ascii_case(&name)) {
        return Some(Statement::Show(*table));
    }
    // The SQL standard's spellings of two parameters, as PostgreSQL's grammar has them.
    let parameter = match name.to_ascii_lowercase().as_str() {
        "transaction isolation level" => "transaction_isolation",
        "time zone" => "TimeZone",
        _ => name.as_str(),
    };
    let (name, value) = PARAMETERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(parameter))?;
    Some(Statement::Constant(Constant::Parameter(name, value)))
}

fn kill(rest: &[Token<'_>], typed: &str) -> Result<Statement, PgError> {
    if let [number] = rest
        && let Some(Ok(session)) = word(number).map(str::parse)
    {
        return Ok(Statement::Kill(session));
    }
    Err(PgError::error(
        SqlState::SYNTAX_ERROR,
        format!("KILL needs the number of one session, not \"{}\"", shorten(typed)),
    )
    .with_hint("SHOW CLIENTS lists the sessions and their numbers."))
}

/// `PROMOTE node [(TIMEOUT '10s', SOLE ENTRY)]`. A name that is no word is written in quotes, as an address.
fn promote(rest: &[Token<'_>]) -> Result<Statement, PgError> {
    let form = || {
        PgError::error(SqlState::SYNTAX_ERROR, "PROMOTE needs the name of a node")
            .with_hint("Write PROMOTE node, or PROMOTE \"10.0.0.2:5432\" (TIMEOUT '10s', SOLE ENTRY).")
    };
    let (name, options) = rest.split_first().ok_or_else(form)?;
    let mut order = Order { node: node(name).ok_or_else(form)?, timeout: None, sole_entry: false };
    let options = match options {
        [] => return Ok(Statement::Promote(order)),
        [Token::Mark(b'('), options @ .., Token::Mark(b')')] => options,
        _ => return Err(form()),
    };
    for option in options.split(|token| *token == Token::Mark(b',')) {
        match option {
            [sole, entry] if sole.is("sole") && entry.is("entry") => order.sole_entry = true,
            [timeout, text] if timeout.is("timeout") => {
                let text = constant_text(text).ok_or_else(form)?;
                let parsed = parse_duration(&text);
                let wrong = |why| PgError::error(SqlState::SYNTAX_ERROR, format!("TIMEOUT {why}"));
                order.timeout = Some(parsed.map_err(wrong)?);
            }
            _ => return Err(form()),
        }
    }
    Ok(Statement::Promote(order))
}

/// `ACCEPT node` or `ACCEPT TIMELINE n`.
fn accept(rest: &[Token<'_>]) -> Option<Accept> {
    match rest {
        [name] => node(name).map(Accept::Node),
        [keyword, number] if keyword.is("timeline") => {
            let number = word(number)?.parse().ok()?;
            Some(Accept::Timeline(Timeline(number)))
        }
        _ => None,
    }
}

fn accept_form() -> PgError {
    PgError::error(SqlState::SYNTAX_ERROR, "ACCEPT needs the name of a node, or a timeline")
        .with_hint("Write ACCEPT node, ACCEPT \"10.0.0.2:5432\", or ACCEPT TIMELINE 3.")
}

/// The name or address of a node. One that is no word is written in quotes.
fn node(token: &Token<'_>) -> Option<String> {
    match token {
        Token::QuotedName(_) => word(token).map(|name| name.replace("\"\"", "\"")),
        Token::Text(_) => constant_text(token),
        token => word(token).map(str::to_owned),
    }
}

/// What a plain string constant says.
fn constant_text(token: &Token<'_>) -> Option<String> {
    let Token::Text(text) = token else { return None };
    let inner = std::str::from_utf8(text).ok()?.strip_prefix('\'')?.strip_suffix('\'')?;
    Some(inner.replace("''", "'"))
}

/// `EXPLAIN ROUTE [(DATABASE name)] statement`. The statement is taken as it was typed: its comments may count.
fn explain(typed: &str) -> Result<Statement, PgError> {
    let mut lexer = Lexer::new(typed.as_bytes(), true);
    let is_route = lexer.next().is_some() && lexer.next().is_some_and(|token| token.is("route"));
    let mut begin = lexer.position();
    let mut database = None;
    if let [Some(Token::Mark(b'(')), Some(option), Some(name), Some(Token::Mark(b')'))] =
        std::array::from_fn(|_| lexer.next())
        && option.is("database")
    {
        database = match name {
            // As a server folds names.
            Token::Word(_) => word(&name).map(str::to_ascii_lowercase),
            Token::QuotedName(_) => word(&name).map(|name| name.replace("\"\"", "\"")),
            _ => return Err(explain_form()),
        };
        begin = lexer.position();
    }
    let sql = typed.get(begin..).unwrap_or_default().trim().to_owned();
    if !is_route || sql.trim_end_matches(';').is_empty() {
        return Err(explain_form());
    }
    Ok(Statement::Explain { sql, database })
}

fn explain_form() -> PgError {
    PgError::error(SqlState::SYNTAX_ERROR, "EXPLAIN ROUTE needs a statement")
        .with_hint("Write EXPLAIN ROUTE SELECT ..., or EXPLAIN ROUTE (DATABASE name) SELECT ...")
}

/// `SELECT what [AS name]`, where `what` is a whole number or a function drivers call.
fn constant(rest: &[Token<'_>]) -> Option<Constant> {
    let rest = match rest {
        [schema, Token::Mark(b'.'), rest @ ..] if schema.is("pg_catalog") => rest,
        _ => rest,
    };
    let (what, rest) = rest.split_first()?;
    let what = word(what)?;
    let (call, rest) = match rest {
        [Token::Mark(b'('), Token::Mark(b')'), rest @ ..] => (true, rest),
        _ => (false, rest),
    };
    match rest {
        [] => {}
        [as_word, name] if word(name).is_some() && as_word.is("as") => {}
        _ => return None,
    }
    if !call && let Ok(number) = what.parse() {
        return Some(Constant::Number(number));
    }
    match (what.to_ascii_lowercase().as_str(), call) {
        ("current_database", true) | ("current_catalog", false) => Some(Constant::Database),
        ("current_schema", _) => Some(Constant::Schema),
        ("current_user" | "session_user" | "user", false) => Some(Constant::User),
        ("pg_advisory_unlock_all", true) => Some(Constant::UnlockAll),
        ("pg_backend_pid", true) => Some(Constant::BackendPid),
        ("pg_is_in_recovery", true) => Some(Constant::InRecovery),
        ("version", true) => Some(Constant::Version),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Statement {
        let mut all = parse(text).unwrap_or_else(|error| panic!("{text}: {}", error.message));
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    fn refused(text: &str) -> PgError {
        match parse(text) {
            Ok(statements) => panic!("{text} was taken as {statements:?}"),
            Err(error) => error,
        }
    }

    #[test]
    fn every_table_is_found_in_any_case_with_or_without_semicolon() {
        for (word, table, _) in SHOWS {
            for text in [format!("SHOW {word}"), format!("  show\n{};", word.to_lowercase())] {
                assert_eq!(one(&text), Statement::Show(*table), "{text}");
            }
        }
    }

    #[test]
    fn several_statements_in_one_string() {
        assert_eq!(
            parse(";; SHOW NODES; -- first\n RELOAD /* now; /* really */ */ ; kill 12;").unwrap(),
            [Statement::Show(Show::Nodes), Statement::Reload, Statement::Kill(12)]
        );
        assert_eq!(parse(" ; -- nothing").unwrap(), []);
    }

    #[test]
    fn a_semicolon_in_quotes_ends_nothing() {
        assert_eq!(one("SET application_name = 'a;''b;'"), Statement::Quiet("SET"));
        assert_eq!(one("SET \"a;b\" TO 1"), Statement::Quiet("SET"));
    }

    #[test]
    fn what_drivers_send_is_understood() {
        for (text, expected) in [
            ("SET extra_float_digits = 3", Statement::Quiet("SET")),
            ("BEGIN READ ONLY", Statement::Begin),
            ("START TRANSACTION", Statement::Begin),
            ("END", Statement::Commit),
            ("ROLLBACK", Statement::Rollback),
            ("SAVEPOINT \"a b\"", Statement::Quiet("SAVEPOINT")),
            ("ROLLBACK WORK TO \"a b\"", Statement::RollbackTo),
            ("RELEASE a", Statement::Quiet("RELEASE")),
            ("DISCARD ALL", Statement::Quiet("DISCARD ALL")),
            ("DEALLOCATE ALL", Statement::Quiet("DEALLOCATE")),
            ("select pg_catalog.version()", Statement::Constant(Constant::Version)),
            ("SELECT 1", Statement::Constant(Constant::Number(1))),
            ("SELECT 1 AS alive", Statement::Constant(Constant::Number(1))),
            ("SELECT current_schema()", Statement::Constant(Constant::Schema)),
            (
                "show transaction isolation level",
                Statement::Constant(Constant::Parameter("transaction_isolation", "read committed")),
            ),
            ("SHOW datestyle", Statement::Constant(Constant::Parameter("DateStyle", "ISO, MDY"))),
        ] {
            assert_eq!(one(text), expected, "{text}");
        }
        // asyncpg at hand-back, in one string.
        let reset = "SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;";
        assert_eq!(parse(reset).unwrap().len(), 4);
    }

    #[test]
    fn a_statement_to_explain_is_taken_as_it_was_typed() {
        let explain = |sql: &str, database: Option<&str>| Statement::Explain {
            sql: sql.to_owned(),
            database: database.map(str::to_owned),
        };
        for (text, expected) in [
            ("EXPLAIN ROUTE SELECT 1;", explain("SELECT 1;", None)),
            (
                "explain route /* pgsteer: standby */ SELECT ';'",
                explain("/* pgsteer: standby */ SELECT ';'", None),
            ),
            ("EXPLAIN ROUTE (SELECT 1)", explain("(SELECT 1)", None)),
            ("EXPLAIN ROUTE (DATABASE App) SELECT 1", explain("SELECT 1", Some("app"))),
            ("EXPLAIN ROUTE (database \"My App\")\nVALUES (1)", explain("VALUES (1)", Some("My App"))),
        ] {
            assert_eq!(one(text), expected, "{text}");
        }
        assert_eq!(parse("EXPLAIN ROUTE SELECT 1; SHOW NODES").unwrap().len(), 2);
        for text in
            ["EXPLAIN", "EXPLAIN SELECT 1", "EXPLAIN ROUTE", "EXPLAIN ROUTE;", "EXPLAIN ROUTE (DATABASE 1) x"]
        {
            assert!(refused(text).hint.unwrap().contains("EXPLAIN ROUTE (DATABASE name)"), "{text}");
        }
    }

    #[test]
    fn a_node_to_promote_is_named_and_has_options() {
        let order = |node: &str, timeout: Option<u64>, sole_entry| {
            let timeout = timeout.map(std::time::Duration::from_millis);
            Statement::Promote(Order { node: node.to_owned(), timeout, sole_entry })
        };
        for (text, expected) in [
            ("PROMOTE node2", order("node2", None, false)),
            ("promote \"10.0.0.2:5432\";", order("10.0.0.2:5432", None, false)),
            ("PROMOTE '/run/a' (TIMEOUT '1500ms')", order("/run/a", Some(1500), false)),
            ("PROMOTE n (sole entry, timeout '2s')", order("n", Some(2000), true)),
        ] {
            assert_eq!(one(text), expected, "{text}");
        }
        for text in [
            "PROMOTE",
            "PROMOTE a b",
            "PROMOTE db-2",
            "PROMOTE a ()",
            "PROMOTE a (SOLE)",
            "PROMOTE a (TIMEOUT 5)",
        ] {
            assert!(refused(text).hint.unwrap().contains("PROMOTE node"), "{text}");
        }
        assert!(refused("PROMOTE a (TIMEOUT 'soon')").message.contains("TIMEOUT"));
    }

    #[test]
    fn a_node_or_a_timeline_is_accepted() {
        for (text, expected) in [
            ("ACCEPT node2", Accept::Node("node2".to_owned())),
            ("accept \"10.0.0.2:5432\";", Accept::Node("10.0.0.2:5432".to_owned())),
            ("ACCEPT timeline", Accept::Node("timeline".to_owned())),
            ("ACCEPT Timeline 3", Accept::Timeline(Timeline(3))),
        ] {
            assert_eq!(one(text), Statement::Accept(expected), "{text}");
        }
        for text in ["ACCEPT", "ACCEPT a b", "ACCEPT TIMELINE x", "ACCEPT TIMELINE -1", "ACCEPT TIMELINE 1 2"]
        {
            assert!(refused(text).hint.unwrap().contains("ACCEPT TIMELINE 3"), "{text}");
        }
    }

    #[test]
    fn an_unknown_command_is_named_with_a_hint() {
        for text in [
            "FOO BAR;",
            "SHOW",
            "SHOW NODES NOW",
            "SHOW 'nodes'",
            "SELECT * FROM t",
            "RELOAD NOW",
            "42",
            "(",
            "é",
        ] {
            let error = refused(text);
            assert_eq!(error.code, SqlState::SYNTAX_ERROR, "{text}");
            assert!(error.message.contains(text.trim_end_matches(';')), "{text}: {}", error.message);
            assert!(error.hint.as_deref().unwrap().contains("SHOW HELP"));
        }
        assert!(refused("KILL everybody").hint.unwrap().contains("SHOW CLIENTS"));
        assert!(refused("KILL -1").message.contains("KILL -1"));
    }

    #[test]
    fn an_error_anywhere_means_that_nothing_is_run() {
        refused("RELOAD; SHOW NODEZ");
    }

    #[test]
    fn long_or_broken_text_is_shortened_in_the_error() {
        let error = refused(&"é\n ".repeat(5000));
        assert!(error.message.len() < 300, "{}", error.message);
        for open in ["SET a = 'open", "SHOW \"NODES", "SHOW NODES /* open"] {
            assert!(refused(open).message.starts_with("unterminated"), "{open}");
        }
    }
}
