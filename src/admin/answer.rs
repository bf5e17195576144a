//! Console statements answered through pgwire: simple and extended query.
//!
//! In: statements of one connection. Out: rows, tags and errors. It must not read or write the socket itself
//! (`console`). pgwire's defaults trust their client in places (any number of names, result formats that do
//! not fit the columns, row limits that are allocated for); those are checked here first.

mod orders;

use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use futures_util::{Sink, SinkExt, stream};
use pgwire::api::portal::{Format, Portal};
use pgwire::api::query::{ExtendedQueryHandler, SimpleQueryHandler};
use pgwire::api::results::{FieldFormat, FieldInfo, QueryResponse, Response, Tag};
use pgwire::api::stmt::{QueryParser, StoredStatement};
use pgwire::api::store::{Entry, PortalStore};
use pgwire::api::{ClientInfo, ClientPortalStore, DEFAULT_NAME, Type};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::PgWireBackendMessage;
use pgwire::messages::data::DataRow;
use pgwire::messages::extendedquery::{
    Bind, BindComplete, Close, CloseComplete, Execute, Parse, ParseComplete, Sync as SyncMessage,
    TARGET_TYPE_BYTE_PORTAL, TARGET_TYPE_BYTE_STATEMENT,
};
use pgwire::messages::response::{ReadyForQuery, TransactionStatus};

pub use self::orders::CHANGED;
use self::orders::{ACCEPTED, PROMOTED};
use super::AdminState;
use super::command::{self, Constant, SERVER_VERSION, Statement};
use super::console::Login;
use super::explain::{self, EXPLAINED};
use super::show;
use super::table::{self, Cell, Column, Kind, Table};
use crate::wire::error::{PgError, SqlState};

/// A statement kept by Parse; empty texts are kept by pgwire itself.
pub type Prepared = Statement;

/// Named statements and portals one connection may keep.
const NAMES_MAX: usize = 256;
/// Longest such name in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Most rows that one Execute returns: pgwire allocates for the number the client states.
const EXECUTE_ROWS_MAX: i32 = 65_536;
/// Limit exceeded (`program_limit_exceeded`).
const LIMIT_EXCEEDED: SqlState = SqlState(*b"54000");
/// No such parameter (`undefined_parameter`).
const UNDEFINED_PARAMETER: SqlState = SqlState(*b"42P02");

impl From<PgError> for PgWireError {
    fn from(error: PgError) -> Self {
        PgWireError::UserError(Box::new(info(error)))
    }
}

fn info(error: PgError) -> ErrorInfo {
    let severity = error.severity.as_str().to_owned();
    let mut info = ErrorInfo::new(severity.clone(), error.code.to_string(), error.message);
    info.severity_nonlocalized = Some(severity);
    info.detail = error.detail;
    info.hint = error.hint;
    info
}

/// Answers the statements of one connection.
pub struct Answerer {
    login: Login,
    state: Arc<AdminState>,
    /// Names in use, each with the type byte of a Close message.
    names: Mutex<HashSet<(u8, String)>>,
}

impl Answerer {
    /// For the connection that logged in as that.
    pub fn new(login: Login, state: Arc<AdminState>) -> Self {
        Self { login, state, names: Mutex::default() }
    }

    /// Columns of a statement's answer; empty when it returns no rows.
    fn columns(statement: &Statement) -> &'static [Column] {
        match statement {
            Statement::Constant(constant) => heading(*constant),
            Statement::Explain { .. } => EXPLAINED,
            Statement::Accept(_) => ACCEPTED,
            Statement::Promote(_) => PROMOTED,
            Statement::Reload => CHANGED,
            Statement::Show(table) => show::columns(*table),
            _ => &[],
        }
    }

    async fn run(&self, statement: &Statement, status: TransactionStatus) -> Result<Answer, PgError> {
        Ok(match statement {
            Statement::Begin => Answer::Begin("BEGIN"),
            // Ends the failure of a block, not the block.
            Statement::RollbackTo => Answer::Begin("ROLLBACK"),
            // As a server: COMMIT of a failed block rolls it back and says so.
            Statement::Commit if status == TransactionStatus::Error => Answer::End("ROLLBACK"),
            Statement::Commit => Answer::End("COMMIT"),
            Statement::Rollback => Answer::End("ROLLBACK"),
            Statement::Quiet(tag) => Answer::Done(tag),
            Statement::Constant(constant) => Answer::Rows(self.constant(*constant)),
            Statement::Show(table) => Answer::Rows(show::table(*table, &self.state)),
            Statement::Explain { sql, database } => {
                Answer::Rows(explain::table(&self.state, sql, database.as_deref()).await)
            }
            Statement::Kill(session) => self.kill(*session).await?,
            Statement::Accept(order) => Answer::Rows(self.accept(order).await?),
            Statement::Promote(order) => Answer::Rows(self.promote(order).await?),
            Statement::Reload => Answer::Rows(self.reload().await?),
        })
    }

    fn constant(&self, constant: Constant) -> Table {
        let cell = match constant {
            Constant::BackendPid => Cell::Int(self.login.pid.into()),
            Constant::Database => Cell::text(&self.state.settings.load().admin.database),
            Constant::InRecovery => Cell::Bool(false),
            Constant::Number(number) => Cell::Int(number),
            Constant::Parameter("application_name", _) => Cell::text(&self.login.application_name),
            Constant::Parameter(_, value) => Cell::text(value),
            Constant::Schema => Cell::text("public"),
            Constant::UnlockAll => Cell::text(""),
            Constant::User => Cell::text(&self.login.user),
            Constant::Version => Cell::Text(format!("PostgreSQL {SERVER_VERSION}")),
        };
        Table::new(heading(constant), vec![vec![cell]])
    }

    fn keep_name(&self, kind: u8, name: Option<&String>) -> Result<(), PgError> {
        let Some(name) = name else { return Ok(()) };
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if name.len() > NAME_BYTES_MAX {
            return Err(PgError::error(LIMIT_EXCEEDED, "the name is too long for the console")
                .with_detail(format!("The limit is {NAME_BYTES_MAX} bytes.")));
        }
        names.insert((kind, name.clone()));
        if names.len() > NAMES_MAX {
            names.remove(&(kind, name.clone()));
            return Err(PgError::error(LIMIT_EXCEEDED, "too many prepared statements for the console")
                .with_detail(format!("The limit is {NAMES_MAX} statements and portals.")));
        }
        Ok(())
    }

    fn drop_name(&self, kind: u8, name: &str) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(&(kind, name.to_owned()));
    }

    fn drop_portals(&self) {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.retain(|(kind, _)| *kind != TARGET_TYPE_BYTE_PORTAL);
    }
}

/// What a statement came to.
enum Answer {
    /// In a block from now on, with this tag.
    Begin(&'static str),
    Done(&'static str),
    End(&'static str),
    Rows(Table),
}

impl Answer {
    fn into_response(self, format: &Format) -> Response {
        match self {
            Self::Begin(tag) => Response::TransactionStart(Tag::new(tag)),
            Self::Done(tag) => Response::Execution(Tag::new(tag)),
            Self::End(tag) => Response::TransactionEnd(Tag::new(tag)),
            Self::Rows(table) => Response::Query(rows(table, format)),
        }
    }
}

fn rows(table: Table, format: &Format) -> QueryResponse {
    let fields = fields(table.columns, format);
    let binary: Vec<bool> = fields.iter().map(|field| field.format() == FieldFormat::Binary).collect();
    let width = table.columns.len() as i16;
    let rows = table.rows.into_iter().map(move |row| {
        let body = table::encode_row(&row, |column| binary.get(column).copied().unwrap_or(false));
        Ok(DataRow::new(body, width))
    });
    QueryResponse::new(Arc::new(fields), stream::iter(rows))
}

/// The RowDescription of these columns. `format` has been checked to fit them (`on_bind`).
fn fields(columns: &[Column], format: &Format) -> Vec<FieldInfo> {
    columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let (data_type, size) = match column.kind {
                Kind::Bool => (Type::BOOL, 1),
                Kind::Float => (Type::FLOAT8, 8),
                Kind::Int => (Type::INT8, 8),
                Kind::Text => (Type::TEXT, -1),
                Kind::Time => (Type::TIMESTAMPTZ, 8),
            };
            FieldInfo::new(column.name.to_owned(), None, None, data_type, format.format_for(index))
                .with_type_size(size)
        })
        .collect()
}

/// The heading of a constant, named as a server names it.
fn heading(constant: Constant) -> &'static [Column] {
    macro_rules! column {
        ($kind:ident, $name:expr) => {
            const { &[Column::$kind($name)] }
        };
    }
    match constant {
        Constant::BackendPid => column!(int, "pg_backend_pid"),
        Constant::Database => column!(text, "current_database"),
        Constant::InRecovery => column!(bool, "pg_is_in_recovery"),
        Constant::Number(_) => column!(int, "?column?"),
        Constant::Parameter(name, _) => parameter_heading(name),
        Constant::Schema => column!(text, "current_schema"),
        Constant::UnlockAll => column!(text, "pg_advisory_unlock_all"),
        Constant::User => column!(text, "current_user"),
        Constant::Version => column!(text, "version"),
    }
}

fn parameter_heading(name: &str) -> &'static [Column] {
    static HEADINGS: [Column; command::PARAMETERS.len()] = {
        let mut headings = [Column::text(""); command::PARAMETERS.len()];
        let mut index = 0;
        while index < headings.len() {
            headings[index] = Column::text(command::PARAMETERS[index].0);
            index += 1;
        }
        headings
    };
    HEADINGS.iter().find(|column| column.name == name).map_or(&[], std::slice::from_ref)
}

#[async_trait]
impl SimpleQueryHandler for Answerer {
    async fn do_query<C>(&self, client: &mut C, query: &str) -> PgWireResult<Vec<Response>>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let statements = command::parse(query)?;
        if statements.is_empty() {
            return Ok(vec![Response::EmptyQuery]);
        }
        let mut status = client.transaction_status();
        let mut responses = Vec::with_capacity(statements.len());
        for statement in &statements {
            match self.run(statement, status).await {
                Ok(answer) => {
                    status = match &answer {
                        Answer::Begin(_) => status.to_in_transaction_state(),
                        Answer::End(_) => status.to_idle_state(),
                        _ => status,
                    };
                    responses.push(answer.into_response(&Format::UnifiedText));
                }
                // What came before has been done and is reported; what follows is not.
                Err(error) => {
                    responses.push(Response::Error(Box::new(info(error))));
                    break;
                }
            }
        }
        Ok(responses)
    }
}

/// Parses for the extended protocol.
#[derive(Debug)]
pub struct Parser;

#[async_trait]
impl QueryParser for Parser {
    type Statement = Prepared;

    async fn parse_sql<C>(&self, _: &C, sql: &str, types: &[Option<Type>]) -> PgWireResult<Option<Prepared>>
    where
        C: ClientInfo + Unpin + Send + Sync,
    {
        if !types.is_empty() {
            return Err(no_parameters().into());
        }
        let mut statements = command::parse(sql)?;
        if statements.len() > 1 {
            let text = "cannot insert multiple commands into a prepared statement";
            return Err(PgError::error(SqlState::SYNTAX_ERROR, text).into());
        }
        Ok(statements.pop())
    }

    fn get_parameter_types(&self, _: &Prepared) -> PgWireResult<Vec<Type>> {
        Ok(Vec::new())
    }

    fn get_result_schema(
        &self,
        statement: &Prepared,
        format: Option<&Format>,
    ) -> PgWireResult<Vec<FieldInfo>> {
        Ok(fields(Answerer::columns(statement), format.unwrap_or(&Format::UnifiedText)))
    }
}

fn no_parameters() -> PgError {
    PgError::error(UNDEFINED_PARAMETER, "console commands take no parameters")
        .with_hint("Write the value into the command, as KILL 12.")
}

/// Result formats that fit the columns: pgwire would look up a code for each column unasked.
fn check_formats(codes: &[i16], columns: usize) -> Result<(), PgError> {
    if let Some(code) = codes.iter().find(|code| !matches!(code, 0 | 1)) {
        let text = format!("unsupported format code: {code}");
        return Err(PgError::error(SqlState::INVALID_PARAMETER_VALUE, text));
    }
    if codes.len() > 1 && codes.len() != columns {
        let text = format!("bind message has {} result formats but query has {columns} columns", codes.len());
        return Err(PgError::error(SqlState::PROTOCOL_VIOLATION, text));
    }
    Ok(())
}

#[async_trait]
impl ExtendedQueryHandler for Answerer {
    type Statement = Prepared;
    type QueryParser = Parser;

    fn query_parser(&self) -> Arc<Parser> {
        Arc::new(Parser)
    }

    async fn on_parse<C>(&self, client: &mut C, message: Parse) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        self.keep_name(TARGET_TYPE_BYTE_STATEMENT, message.name.as_ref())?;
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        match StoredStatement::parse(client, &message, self.query_parser()).await? {
            Some(statement) => client.portal_store().put_statement(Arc::new(statement)),
            None => client.portal_store().put_empty_statement(name),
        }
        client.feed(PgWireBackendMessage::ParseComplete(ParseComplete::new())).await?;
        Ok(())
    }

    async fn on_bind<C>(&self, client: &mut C, message: Bind) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        if !message.parameters.is_empty() {
            return Err(no_parameters().into());
        }
        self.keep_name(TARGET_TYPE_BYTE_PORTAL, message.portal_name.as_ref())?;
        let name = message.statement_name.as_deref().unwrap_or(DEFAULT_NAME);
        match client.portal_store().get_statement(name) {
            Some(Entry::Value(statement)) => {
                let columns = Answerer::columns(&statement.statement).len();
                check_formats(&message.result_column_format_codes, columns)?;
                client.portal_store().put_portal(Arc::new(Portal::try_new(&message, statement)?));
            }
            Some(Entry::Empty) => {
                let portal = message.portal_name.as_deref().unwrap_or(DEFAULT_NAME);
                client.portal_store().put_empty_portal(portal);
            }
            None => {
                let shown = message.statement_name.as_deref().unwrap_or("");
                return Err(PgWireError::StatementNotFound(shown.to_owned()));
            }
        }
        client.feed(PgWireBackendMessage::BindComplete(BindComplete::new())).await?;
        Ok(())
    }

    async fn on_execute<C>(&self, client: &mut C, mut message: Execute) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        // Zero and below mean all rows (PostgreSQL protocol, 55.7).
        message.max_rows = message.max_rows.clamp(0, EXECUTE_ROWS_MAX);
        self._on_execute(client, message).await
    }

    async fn on_close<C>(&self, client: &mut C, message: Close) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let name = message.name.as_deref().unwrap_or(DEFAULT_NAME);
        match message.target_type {
            TARGET_TYPE_BYTE_STATEMENT => client.portal_store().rm_statement(name),
            TARGET_TYPE_BYTE_PORTAL => client.portal_store().rm_portal(name),
            other => return Err(PgWireError::InvalidTargetType(other)),
        }
        self.drop_name(message.target_type, name);
        client.feed(PgWireBackendMessage::CloseComplete(CloseComplete::new())).await?;
        Ok(())
    }

    async fn on_sync<C>(&self, client: &mut C, _: SyncMessage) -> PgWireResult<()>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let status = client.transaction_status();
        // Portals end with their transaction, which outside a block is the Sync; rows not fetched go with them.
        if status == TransactionStatus::Transaction {
            client.portal_store().rm_portal(DEFAULT_NAME);
        } else {
            client.portal_store().clear_portals();
            self.drop_portals();
        }
        client.send(PgWireBackendMessage::ReadyForQuery(ReadyForQuery::new(status))).await?;
        Ok(())
    }

    async fn do_query<C>(&self, client: &mut C, portal: &Portal<Prepared>, _: usize) -> PgWireResult<Response>
    where
        C: ClientInfo + ClientPortalStore + Sink<PgWireBackendMessage> + Unpin + Send + Sync,
        C::PortalStore: PortalStore<Statement = Prepared>,
        C::Error: Debug,
        PgWireError: From<<C as Sink<PgWireBackendMessage>>::Error>,
    {
        let answer = self.run(&portal.statement.statement, client.transaction_status()).await?;
        Ok(answer.into_response(&portal.result_column_format))
    }
}
