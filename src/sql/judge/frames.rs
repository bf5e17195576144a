//! Where in a query the judge is: open brackets, the clause of each, and the names that WITH has given.
//!
//! In: brackets opened and closed. Out: the innermost frame, and whether a name is one of WITH. Must not know tokens.

use crate::sql::names::Name;

/// More brackets than this within each other are not looked at.
const DEPTH: usize = 64;

/// What a bracket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The statement itself.
    Base,
    /// `[`.
    Bracket,
    /// Arguments of a function.
    Call,
    /// `CAST (` and what like it holds `AS type`.
    Cast,
    /// Names of columns, maybe with types.
    Columns,
    /// The query of a name of WITH.
    Cte,
    /// A bracket in FROM: a query or joined tables.
    From,
    /// A query, an expression, or a list of them.
    Group,
    /// `ROWS FROM (`.
    Rows,
    /// The size of a built-in type: `numeric (10, 2)`.
    Size,
}

/// What may come next in a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clause {
    /// A comma and another name of WITH, or its query.
    AfterCte,
    /// The name of a column.
    ColumnName,
    /// What follows a type in a list of columns.
    ColumnRest,
    /// A type, a comma or the end.
    ColumnType,
    /// An expression.
    Expr,
    /// A table.
    FromItem,
    /// What may follow a table.
    FromNext,
    /// A join's condition.
    FromOn,
    /// A table or a query, right behind a bracket in FROM.
    FromStart,
    /// The query behind UNION and its kin.
    SetOp,
    /// A query or, in brackets, an expression.
    Start,
}

/// One open bracket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) kind: Kind,
    pub(super) clause: Clause,
    /// Whether a query has begun here: then FROM, WHERE and UNION are its clauses.
    pub(super) query: bool,
    /// WITH RECURSIVE.
    pub(super) recursive: bool,
}

impl Frame {
    pub(super) const fn new(kind: Kind, clause: Clause) -> Self {
        Self { kind, clause, query: false, recursive: false }
    }
}

/// A name of WITH: it counts until the bracket that it stands in closes.
struct Cte<'a> {
    name: Name<'a>,
    depth: usize,
    /// Without RECURSIVE its own query does not see it: the same name is a table there.
    active: bool,
}

/// All open brackets, from the statement to the innermost.
pub(super) struct Frames<'a> {
    top: Frame,
    /// The frames around it: as many as `depth` says.
    around: [Frame; DEPTH],
    depth: usize,
    ctes: Vec<Cte<'a>>,
}

impl<'a> Frames<'a> {
    pub(super) fn new() -> Self {
        let top = Frame::new(Kind::Base, Clause::Start);
        // Most statements have no WITH: nothing is allocated for them.
        Self { top, around: [top; DEPTH], depth: 0, ctes: Vec::new() }
    }

    /// Forgets what was before: a statement begins.
    pub(super) fn begin(&mut self, clause: Clause) {
        self.top = Frame::new(Kind::Base, clause);
        self.depth = 0;
        self.ctes.clear();
    }

    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    #[inline]
    pub(super) fn top(&mut self) -> &mut Frame {
        &mut self.top
    }

    /// Opens a bracket; false when there are too many.
    #[must_use]
    pub(super) fn push(&mut self, kind: Kind, clause: Clause) -> bool {
        let Some(place) = self.around.get_mut(self.depth) else { return false };
        *place = std::mem::replace(&mut self.top, Frame::new(kind, clause));
        self.depth += 1;
        true
    }

    /// Closes the innermost bracket; what it was for. None when there is none.
    pub(super) fn pop(&mut self) -> Option<Kind> {
        let closed = self.depth;
        let outer = *self.around.get(closed.checked_sub(1)?)?;
        self.depth = closed - 1;
        let kind = std::mem::replace(&mut self.top, outer).kind;
        while self.ctes.last().is_some_and(|cte| cte.depth >= closed) {
            self.ctes.pop();
        }
        if kind == Kind::Cte
            && let Some(cte) = self.ctes.last_mut()
        {
            cte.active = true;
        }
        Some(kind)
    }

    /// A name of WITH, whose query follows.
    pub(super) fn name_cte(&mut self, name: Name<'a>) {
        let active = self.top.recursive;
        self.ctes.push(Cte { name, depth: self.depth, active });
    }

    /// Whether `name` is one of WITH here.
    pub(super) fn is_cte(&self, name: &Name<'_>) -> bool {
        self.ctes.iter().any(|cte| cte.active && cte.name.same(name))
    }
}
