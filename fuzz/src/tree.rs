//! The judge held against PostgreSQL's own grammar: what it calls a read must be one in the tree, and every name in the tree
//! that may stand for code or data must have been asked for.
//!
//! In: a text. Out: what is wrong with the verdict, if anything. Needs the feature `oracle`: libpg_query is C, and its
//! bindings are made with libclang.

use std::collections::HashSet;
use std::ops::ControlFlow;

use pg_raw_parse::list::NodeList;
use pg_raw_parse::nodes::{A_Expr_Kind, FuncCall, TypeName};
use pg_raw_parse::walk::{Recurse, walk_manual};
use pg_raw_parse::{Node, parse};
use pgsteer::sql::judge::{Context, Encoding, Verdict, judge};
use pgsteer::sql::names::{Known, NAME_BYTES, Name, Names, Qualified};

/// What was made of a text.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server would refuse it: nothing runs.
    Refused,
    /// Both call it a read.
    Read,
    /// The judge calls it a write, for this reason; the tree is not looked at.
    Write(&'static str),
    /// The judge is wrong.
    Wrong(String),
}

/// Writes down whatever it is asked for.
#[derive(Default)]
struct Asked {
    functions: HashSet<String>,
    attributes: HashSet<String>,
    relations: HashSet<String>,
    kinds: HashSet<String>,
    operators: HashSet<String>,
}

fn folded(name: Name<'_>) -> String {
    let mut room = [0; NAME_BYTES];
    String::from_utf8_lossy(name.fold(&mut room).unwrap_or_default()).into_owned()
}

impl Names for Asked {
    fn function(&mut self, called: Qualified<'_>) -> Known {
        self.functions.insert(folded(called.name));
        Known::Safe
    }

    fn attribute(&mut self, name: Name<'_>) -> Known {
        self.attributes.insert(folded(name));
        Known::Unknown
    }

    fn relation(&mut self, read: Qualified<'_>) -> Known {
        self.relations.insert(folded(read.name));
        Known::Safe
    }

    fn kind(&mut self, cast: Qualified<'_>) -> Known {
        self.kinds.insert(folded(cast.name));
        Known::Safe
    }

    fn operator(&mut self, sign: &[u8]) -> Known {
        let sign = String::from_utf8_lossy(sign);
        // The scanner takes them for the same.
        self.operators.insert(if sign == "!=" { "<>".to_owned() } else { sign.into_owned() });
        Known::Safe
    }
}

/// Judges a text with everything it may ask for allowed, and looks at the tree of what it calls a read.
pub fn check(sql: &str) -> Outcome {
    let mut asked = Asked::default();
    let context = Context { standard_strings: true, encoding: Encoding::Utf8 };
    match judge(sql.as_bytes(), context, &mut asked).verdict {
        Verdict::Read => {}
        Verdict::Empty => return Outcome::Write("empty"),
        Verdict::Declare(_) => return Outcome::Write("declaration"),
        Verdict::Execute(_) => return Outcome::Write("execute"),
        Verdict::Write(stop) => return Outcome::Write(stop.reason.as_str()),
    }
    let Ok(tree) = parse(sql) else { return Outcome::Refused };
    for statement in tree.into_inner().iter() {
        if let Err(wrong) = pure(statement.stmt(), &asked) {
            return Outcome::Wrong(wrong);
        }
    }
    Outcome::Read
}

fn pure(statement: Node<'_>, asked: &Asked) -> Result<(), String> {
    match statement {
        Node::SelectStmt(_) => pure_query(statement, asked),
        Node::ExplainStmt(explain) => pure(explain.query(), asked),
        Node::VariableShowStmt(_) => Ok(()),
        Node::CopyStmt(copy) => {
            if copy.is_from || copy.is_program || copy.filename().is_some() {
                return Err("copies to or from somewhere else than the client".to_owned());
            }
            match copy.relation() {
                Some(relation) => was_asked(relation.relname(), &asked.relations, "relation"),
                None => pure(copy.query(), asked),
            }
        }
        other => Err(format!("is no read: {}", kind_of(other))),
    }
}

/// The node's type, for messages.
fn kind_of(node: Node<'_>) -> String {
    let text = format!("{node:?}");
    text.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

fn was_asked(name: Option<&str>, asked: &HashSet<String>, what: &str) -> Result<(), String> {
    let name = name.unwrap_or_default();
    if asked.contains(name) { Ok(()) } else { Err(format!("{what} {name} was not asked for")) }
}

fn pure_query(query: Node<'_>, asked: &Asked) -> Result<(), String> {
    let mut ctes = HashSet::new();
    walk_manual::<()>(query, |node| {
        if let Node::CommonTableExpr(cte) = node {
            ctes.insert(cte.ctename().unwrap_or_default().to_owned());
        }
        Recurse::yes()
    });
    let wrong = walk_manual(query, |node| match look(node, asked, &ctes) {
        Ok(()) => Recurse::recurse_if(!stands_for_text(node)),
        Err(wrong) => ControlFlow::Break(wrong),
    });
    // The walk begins below the query itself, which has its clauses in lists that are walked.
    wrong.map_or(Ok(()), Err)
}

/// libpg_query also takes `type $1`, for `type 'text'` in statistics; no server does.
fn stands_for_text(node: Node<'_>) -> bool {
    let Node::TypeCast(cast) = node else { return false };
    let (Node::ParamRef(parameter), Some(kind)) = (cast.arg(), cast.type_name()) else { return false };
    kind.location < parameter.location
}

fn look(node: Node<'_>, asked: &Asked, ctes: &HashSet<String>) -> Result<(), String> {
    match node {
        Node::InsertStmt(_) | Node::UpdateStmt(_) | Node::DeleteStmt(_) | Node::MergeStmt(_) => {
            Err(format!("holds a {}", kind_of(node)))
        }
        Node::IntoClause(_) => Err("has INTO".to_owned()),
        Node::LockingClause(_) => Err("locks rows".to_owned()),
        Node::FuncCall(call) => function(call, asked),
        Node::RangeVar(table) => {
            let name = table.relname().unwrap_or_default();
            let is_cte = table.schemaname().is_none() && ctes.contains(name);
            if is_cte { Ok(()) } else { was_asked(Some(name), &asked.relations, "relation") }
        }
        Node::TypeName(kind) => type_name(kind, asked),
        Node::ColumnRef(column) => fields(column.fields(), 1, asked),
        Node::A_Indirection(of) => fields(of.indirection(), 0, asked),
        Node::A_Expr(expression) => {
            let shown = [A_Expr_Kind::AEXPR_OP, A_Expr_Kind::AEXPR_OP_ANY, A_Expr_Kind::AEXPR_OP_ALL];
            if shown.contains(&expression.kind) { operator(expression.name(), asked) } else { Ok(()) }
        }
        Node::SubLink(link) if !link.oper_name().is_empty() => operator(link.oper_name(), asked),
        Node::RangeTableSample(sample) => match sample.method().iter().last().and_then(Node::as_str) {
            Some("bernoulli" | "system") => Ok(()),
            other => Err(format!("samples by {other:?}")),
        },
        _ => Ok(()),
    }
}

/// Functions that the grammar itself puts into the tree.
const GRAMMAR: &[&str] = &[
    "btrim",
    "extract",
    "is_normalized",
    "like_escape",
    "ltrim",
    "normalize",
    "overlaps",
    "overlay",
    "pg_collation_for",
    "position",
    "rtrim",
    "similar_to_escape",
    "substring",
    "timezone",
    "xmlexists",
];

fn function(call: &FuncCall, asked: &Asked) -> Result<(), String> {
    let names: Vec<_> = call.funcname().iter().filter_map(Node::as_str).collect();
    let name = names.last().copied().unwrap_or_default();
    let by_grammar = names.first() == Some(&"pg_catalog") && GRAMMAR.contains(&name);
    if by_grammar { Ok(()) } else { was_asked(Some(name), &asked.functions, "function") }
}

fn type_name(kind: &TypeName, asked: &Asked) -> Result<(), String> {
    let names: Vec<_> = kind.names().iter().filter_map(|name| name.sval()).collect();
    if names.first() == Some(&"pg_catalog") {
        return Ok(());
    }
    was_asked(names.last().copied(), &asked.kinds, "type")
}

fn fields(path: &NodeList, skip: usize, asked: &Asked) -> Result<(), String> {
    let mut names = path.iter().skip(skip).filter_map(Node::as_str);
    names.try_for_each(|name| was_asked(Some(name), &asked.attributes, "attribute"))
}

/// Operators by which the tree says LIKE, ILIKE and their opposites.
const LIKE: &[&str] = &["~~", "!~~", "~~*", "!~~*"];

fn operator(name: &NodeList, asked: &Asked) -> Result<(), String> {
    let sign = name.iter().last().and_then(Node::as_str);
    // Without the sign in the text only those of unsafe types could be meant, and such types are asked for.
    if name.len() == 1 && sign.is_some_and(|sign| LIKE.contains(&sign)) {
        return Ok(());
    }
    was_asked(sign, &asked.operators, "operator")
}
