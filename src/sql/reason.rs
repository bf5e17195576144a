//! Why a statement goes to the primary: one word for metrics, one sentence for people.
//!
//! In: nothing. Out: the reasons the judge and the catalogue give. Must not know how they are found.

/// Why a statement is not a read that a standby may answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A function that changes something: sequences, locks, large objects, replication.
    Acts,
    /// CALL or DO.
    Code,
    /// COPY from the client, or to or from a file or program of the server.
    Copy,
    /// DECLARE, FETCH, MOVE, CLOSE.
    Cursor,
    /// INSERT, UPDATE, DELETE, MERGE, TRUNCATE, also in a WITH clause.
    DataModifying,
    /// Named in `route.write_functions`.
    DeclaredWrite,
    /// CREATE, ALTER, DROP, GRANT and the like.
    Definition,
    /// Bytes that may hide a quote, in an encoding that is not safe for a lexer.
    Encoding,
    /// A foreign table, or a relation that reads one.
    ForeignTable,
    /// SELECT INTO.
    Into,
    /// FOR UPDATE, FOR SHARE and their kin.
    Locking,
    /// VACUUM, ANALYZE, CHECKPOINT and the like.
    Maintenance,
    /// Several statements of which one declares, executes or ends something.
    Mixed,
    /// A function or view whose answer belongs to one node.
    NodeLocal,
    /// A setting whose value belongs to one node.
    NodeSetting,
    /// A sequence read as a table: a standby runs ahead of it.
    Sequence,
    /// LISTEN, NOTIFY, PREPARE and what else changes the session.
    SessionState,
    /// SET, RESET, DISCARD, LOAD.
    Setting,
    /// Nothing the lexer can read with certainty.
    Syntax,
    /// More nested than is looked at.
    TooDeep,
    /// COMMIT, ROLLBACK, SAVEPOINT and the like.
    Transaction,
    /// A function that neither the catalogue nor the table of built-in ones has.
    UnknownFunction,
    /// An operator that neither the catalogue nor PostgreSQL has.
    UnknownOperator,
    /// A relation that the catalogue does not have.
    UnknownRelation,
    /// A first word that is no statement we know.
    UnknownStatement,
    /// A type that neither the catalogue nor PostgreSQL has.
    UnknownType,
    /// An unlogged table, which standbys do not have.
    Unlogged,
    /// A function that the catalogue calls volatile.
    VolatileFunction,
    /// An operator over a volatile function.
    VolatileOperator,
    /// A view, or a table with a policy or column type, that calls a volatile function.
    VolatileRelation,
    /// A type whose checks, casts or operators call a volatile function.
    VolatileType,
}

impl Reason {
    /// All reasons, for metrics that are there from the start.
    pub const ALL: [Self; 31] = [
        Self::Acts,
        Self::Code,
        Self::Copy,
        Self::Cursor,
        Self::DataModifying,
        Self::DeclaredWrite,
        Self::Definition,
        Self::Encoding,
        Self::ForeignTable,
        Self::Into,
        Self::Locking,
        Self::Maintenance,
        Self::Mixed,
        Self::NodeLocal,
        Self::NodeSetting,
        Self::Sequence,
        Self::SessionState,
        Self::Setting,
        Self::Syntax,
        Self::TooDeep,
        Self::Transaction,
        Self::UnknownFunction,
        Self::UnknownOperator,
        Self::UnknownRelation,
        Self::UnknownStatement,
        Self::UnknownType,
        Self::Unlogged,
        Self::VolatileFunction,
        Self::VolatileOperator,
        Self::VolatileRelation,
        Self::VolatileType,
    ];

    /// The word used as a metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Acts => "acting_function",
            Self::Code => "code",
            Self::Copy => "copy",
            Self::Cursor => "cursor",
            Self::DataModifying => "data_modifying",
            Self::DeclaredWrite => "declared_write",
            Self::Definition => "definition",
            Self::Encoding => "encoding",
            Self::ForeignTable => "foreign_table",
            Self::Into => "into",
            Self::Locking => "locking",
            Self::Maintenance => "maintenance",
            Self::Mixed => "mixed",
            Self::NodeLocal => "node_local",
            Self::NodeSetting => "node_setting",
            Self::Sequence => "sequence",
            Self::SessionState => "session_state",
            Self::Setting => "setting",
            Self::Syntax => "syntax",
            Self::TooDeep => "too_deep",
            Self::Transaction => "transaction",
            Self::UnknownFunction => "unknown_function",
            Self::UnknownOperator => "unknown_operator",
            Self::UnknownRelation => "unknown_relation",
            Self::UnknownStatement => "unknown_statement",
            Self::UnknownType => "unknown_type",
            Self::Unlogged => "unlogged_table",
            Self::VolatileFunction => "volatile_function",
            Self::VolatileOperator => "volatile_operator",
            Self::VolatileRelation => "volatile_relation",
            Self::VolatileType => "volatile_type",
        }
    }

    /// What it means, as the end of a sentence that begins with the word it is about.
    pub fn text(self) -> &'static str {
        match self {
            Self::Acts => "is a function that changes something on the server",
            Self::Code => "runs code that may do anything",
            Self::Copy => "copies from the client or touches files of the server",
            Self::Cursor => "belongs to a cursor, which lives in one session of one node",
            Self::DataModifying => "changes data",
            Self::DeclaredWrite => "is named in route.write_functions",
            Self::Definition => "changes definitions or rights",
            Self::Encoding => "is in an encoding in which one character may look like another's quote",
            Self::ForeignTable => "reads a foreign table",
            Self::Into => "makes a table of the result",
            Self::Locking => "locks rows",
            Self::Maintenance => "is maintenance",
            Self::Mixed => "stands among several statements that do not all read",
            Self::NodeLocal => "tells about one node, not about the data",
            Self::NodeSetting => "is a setting that may differ between nodes",
            Self::Sequence => "is a sequence, whose value a standby does not know exactly",
            Self::SessionState => "changes the state of the session",
            Self::Setting => "changes a setting",
            Self::Syntax => "cannot be read with certainty",
            Self::TooDeep => "is nested too deeply to be looked at",
            Self::Transaction => "controls a transaction",
            Self::UnknownFunction => "is a function that the catalogue does not have",
            Self::UnknownOperator => "is an operator that the catalogue does not have",
            Self::UnknownRelation => "is a relation that the catalogue does not have",
            Self::UnknownStatement => "begins no statement that is known to read",
            Self::UnknownType => "is a type that the catalogue does not have",
            Self::Unlogged => "is an unlogged table, which standbys do not have",
            Self::VolatileFunction => "is a volatile function",
            Self::VolatileOperator => "is an operator over a volatile function",
            Self::VolatileRelation => "is a view or table over a volatile function",
            Self::VolatileType => "is a type over a volatile function",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_label_of_its_own() {
        let labels: std::collections::BTreeSet<_> =
            Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(labels.len(), Reason::ALL.len());
        assert!(Reason::ALL.is_sorted() && Reason::ALL.iter().all(|reason| !reason.text().is_empty()));
        // The last one of the enum is the last of the list: none is missing.
        assert_eq!(Reason::VolatileType as usize + 1, Reason::ALL.len());
    }
}
