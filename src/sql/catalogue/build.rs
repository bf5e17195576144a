//! From the facts of a database to what is safe in it: whatever uses something unsafe is unsafe.
//!
//! In: rows of the catalogue queries. Out: a [`Catalogue`]. Must not know who asks.

use std::collections::HashMap;

use super::{Catalogue, Entry, Table, builtin};
use crate::sql::names::{Known, Name};
use crate::sql::reason::Reason;

/// The first OID of what is not PostgreSQL's own (FirstNormalObjectId).
const FIRST_OWN_OID: u32 = 16_384;

/// What is said about a function of one schema, or of any.
type Said = (Option<Box<[u8]>>, Known);

/// What the configuration says about functions, against the catalogue: `route.read_functions` and `route.write_functions`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    named: HashMap<Box<[u8]>, Vec<Said>>,
}

impl Overrides {
    /// From names as they are configured, `name` or `schema.name`, as the catalogue has them. What is in both lists writes.
    pub fn new<'s>(
        read: impl IntoIterator<Item = &'s str>,
        write: impl IntoIterator<Item = &'s str>,
    ) -> Self {
        let mut overrides = Self::default();
        for name in write {
            overrides.add(name, Known::Unsafe(Reason::DeclaredWrite));
        }
        for name in read {
            overrides.add(name, Known::Safe);
        }
        overrides
    }

    fn add(&mut self, path: &str, known: Known) {
        let (schema, name) = match path.split_once('.') {
            Some((schema, name)) => (Some(schema.as_bytes().into()), name),
            None => (None, path),
        };
        self.named.entry(name.as_bytes().into()).or_default().push((schema, known));
    }

    /// What is said about a call as it is written. An override with a schema says nothing about a call without one: what that
    /// may mean is for the catalogue's entries, which have it.
    pub(super) fn of(&self, schema: Option<&Name<'_>>, name: &[u8]) -> Option<Known> {
        if self.named.is_empty() {
            return None;
        }
        let is_meant = |of: &Option<Box<[u8]>>| match (of, schema) {
            (None, _) => true,
            (Some(of), Some(schema)) => schema.same(&Name { text: of, quoted: true }),
            (Some(_), None) => false,
        };
        let found = self.named.get(name)?.iter().find(|(of, _)| is_meant(of));
        found.map(|(_, known)| *known)
    }

    /// What is said about the function that there is.
    fn about(&self, schema: &str, name: &str) -> Option<Known> {
        self.of(Some(&Name { text: schema.as_bytes(), quoted: true }), name.as_bytes())
    }
}

/// What something in the catalogue is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Node {
    /// A function or aggregate.
    Function(u32),
    /// An operator.
    Operator(u32),
    /// A table, view, sequence.
    Relation(u32),
    /// A type.
    Type(u32),
}

impl Node {
    /// From the letter and the OID that [`super::queries::USES`] gives.
    pub fn of(letter: &str, oid: u32) -> Option<Self> {
        match letter {
            "f" => Some(Self::Function(oid)),
            "o" => Some(Self::Operator(oid)),
            "r" => Some(Self::Relation(oid)),
            "t" => Some(Self::Type(oid)),
            _ => None,
        }
    }

    /// Why this is unsafe when what it uses is unsafe for `reason`.
    fn because(self, reason: Reason) -> Reason {
        match (self, reason) {
            (_, Reason::NodeLocal | Reason::Unlogged | Reason::ForeignTable | Reason::Sequence) => reason,
            (Self::Function(_), _) => Reason::VolatileFunction,
            (Self::Operator(_), _) => Reason::VolatileOperator,
            (Self::Relation(_), _) => Reason::VolatileRelation,
            (Self::Type(_), _) => Reason::VolatileType,
        }
    }
}

/// A row of [`super::queries::FUNCTIONS`].
#[derive(Clone, Debug)]
pub struct Function {
    /// Its OID.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `provolatile = 'v'`.
    pub is_volatile: bool,
    /// Whether one row may be its only argument: then it may be called as if it were a column.
    pub takes_row: bool,
}

/// A row of [`super::queries::RELATIONS`].
#[derive(Clone, Debug)]
pub struct Relation {
    /// Its OID.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// `relkind`.
    pub kind: char,
    /// Whether `relpersistence` is `u`.
    pub is_unlogged: bool,
}

/// A row of [`super::queries::TYPES`].
#[derive(Clone, Debug)]
pub struct Type {
    /// Its OID.
    pub oid: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
}

/// A row of [`super::queries::OPERATORS`].
#[derive(Clone, Debug)]
pub struct Operator {
    /// Its OID.
    pub oid: u32,
    /// Its name.
    pub name: String,
}

/// A row of [`super::queries::USES`]: evaluating one thing may run or read another.
#[derive(Clone, Debug)]
pub struct Use {
    /// What uses something.
    pub user: Node,
    /// What it uses.
    pub used: Used,
}

/// What is used.
#[derive(Clone, Debug)]
pub enum Used {
    /// Something that has a row of its own, or is PostgreSQL's own and safe.
    Node(Node),
    /// A function of PostgreSQL's own.
    Builtin {
        /// Its name.
        name: String,
        /// `provolatile = 'v'`.
        is_volatile: bool,
    },
}

/// What the catalogue queries found in one database.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Functions that are not PostgreSQL's own.
    pub functions: Vec<Function>,
    /// All relations.
    pub relations: Vec<Relation>,
    /// Types that are not PostgreSQL's own.
    pub types: Vec<Type>,
    /// Operators that are not PostgreSQL's own.
    pub operators: Vec<Operator>,
    /// Who uses what.
    pub uses: Vec<Use>,
}

impl Catalogue {
    /// The answers that follow from `facts`. `generation` is greater than that of the one before.
    pub fn new(facts: &Facts, overrides: Overrides, generation: u64) -> Self {
        let doubts = doubts(facts, &overrides);
        let known = |node: Node| doubts.get(&node).map_or(Known::Safe, |reason| Known::Unsafe(*reason));
        let mut made = Self { generation, overrides, ..Self::default() };
        let mut schemas = Schemas::default();
        for function in &facts.functions {
            let known = known(Node::Function(function.oid));
            enter(&mut made.functions, &mut schemas, &function.schema, &function.name, known);
            if let (true, Known::Unsafe(reason)) = (function.takes_row, known) {
                made.attributes.insert(function.name.as_bytes().into(), reason);
            }
        }
        for relation in &facts.relations {
            let known = known(Node::Relation(relation.oid));
            enter(&mut made.relations, &mut schemas, &relation.schema, &relation.name, known);
        }
        for kind in &facts.types {
            let known = known(Node::Type(kind.oid));
            enter(&mut made.kinds, &mut schemas, &kind.schema, &kind.name, known);
        }
        for operator in &facts.operators {
            let entry = made.operators.entry(operator.name.as_bytes().into()).or_insert(Known::Safe);
            if *entry == Known::Safe {
                *entry = known(Node::Operator(operator.oid));
            }
        }
        let is_builtin_type = |node: &Node| matches!(node, Node::Type(oid) if *oid < FIRST_OWN_OID);
        made.tainted = doubts.keys().any(is_builtin_type);
        made.doubts_types = doubts.keys().any(|node| matches!(node, Node::Type(_)));
        made.schemas = schemas.names;
        made
    }
}

/// Schemas by their names, numbered as they come.
#[derive(Default)]
struct Schemas {
    names: Vec<Box<[u8]>>,
    places: HashMap<Box<[u8]>, u16>,
}

impl Schemas {
    /// The number of a schema. Databases have fewer than 65,535 of them; those beyond share the last number, which makes their
    /// names ambiguous and thus no safer.
    fn place(&mut self, name: &str) -> u16 {
        if let Some(place) = self.places.get(name.as_bytes()) {
            return *place;
        }
        let place = u16::try_from(self.names.len()).unwrap_or(u16::MAX);
        self.names.push(name.as_bytes().into());
        self.places.insert(name.as_bytes().into(), place);
        place
    }
}

fn enter(table: &mut Table, schemas: &mut Schemas, schema: &str, name: &str, known: Known) {
    let entry = Entry { schema: schemas.place(schema), known };
    let entries = table.entry(name.as_bytes().into()).or_default();
    // Overloads that say the same are one.
    if !entries.contains(&entry) {
        entries.push(entry);
    }
}

/// All that is unsafe, and why: first what is so by itself, then whoever uses it.
fn doubts(facts: &Facts, overrides: &Overrides) -> HashMap<Node, Reason> {
    let mut doubts = HashMap::new();
    // What the configuration calls a read stays one, whatever it uses.
    let mut trusted = std::collections::HashSet::new();
    for function in &facts.functions {
        let node = Node::Function(function.oid);
        match overrides.about(&function.schema, &function.name) {
            Some(Known::Safe) => {
                trusted.insert(node);
            }
            Some(Known::Unsafe(reason)) => {
                doubts.insert(node, reason);
            }
            _ if function.is_volatile => {
                doubts.insert(node, Reason::VolatileFunction);
            }
            _ => {}
        }
    }
    for relation in &facts.relations {
        let reason = match relation.kind {
            'S' => Reason::Sequence,
            'f' => Reason::ForeignTable,
            _ if relation.is_unlogged => Reason::Unlogged,
            _ => continue,
        };
        doubts.insert(Node::Relation(relation.oid), reason);
    }
    let mut users: HashMap<Node, Vec<Node>> = HashMap::new();
    for one in &facts.uses {
        match &one.used {
            Used::Node(used) => users.entry(*used).or_default().push(one.user),
            Used::Builtin { name, is_volatile } => {
                let said = overrides.about("pg_catalog", name).unwrap_or_else(|| builtin(name.as_bytes()));
                let reason = match said {
                    Known::Unsafe(reason) => reason,
                    Known::Unknown if *is_volatile => Reason::VolatileFunction,
                    Known::Safe | Known::Unknown => continue,
                };
                if !trusted.contains(&one.user) {
                    doubts.entry(one.user).or_insert_with(|| one.user.because(reason));
                }
            }
        }
    }
    let mut waiting: Vec<Node> = doubts.keys().copied().collect();
    while let Some(used) = waiting.pop() {
        let Some(reason) = doubts.get(&used).copied() else { continue };
        for user in users.get(&used).into_iter().flatten() {
            if trusted.contains(user) || doubts.contains_key(user) {
                continue;
            }
            doubts.insert(*user, user.because(reason));
            waiting.push(*user);
        }
    }
    doubts
}
