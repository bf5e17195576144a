//! What a database's own catalogue says about its functions, relations, types and operators: which of them a standby may be
//! asked for.
//!
//! In: [`Facts`] as the queries of [`queries`] give them, and what the configuration overrides. Out: answers to the judge
//! ([`View`]). Must not know how facts are fetched, nor sessions. Plain data: built once, then only read.

mod build;
pub mod queries;

use std::collections::HashMap;

pub use build::{Facts, Function, Node, Operator, Overrides, Relation, Type, Use, Used};

use super::builtins::{self, Class};
use super::names::{Known, NAME_BYTES, Name, Names, Qualified};
use super::reason::Reason;

/// Things of one name, in all schemas.
type Table = HashMap<Box<[u8]>, Vec<Entry>>;

/// One thing of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// Its schema's place in the list of schemas.
    schema: u16,
    known: Known,
}

/// The answers of one database, as it was at one time.
#[derive(Debug, Default)]
pub struct Catalogue {
    generation: u64,
    schemas: Vec<Box<[u8]>>,
    functions: Table,
    relations: Table,
    kinds: Table,
    /// Operators that are not PostgreSQL's own, and its own that are also others'.
    operators: HashMap<Box<[u8]>, Known>,
    /// Functions of one row, which may be written as if they were columns, that are unsafe.
    attributes: HashMap<Box<[u8]>, Reason>,
    overrides: Overrides,
    /// Some cast between types of PostgreSQL's own runs a volatile function: no expression can be trusted.
    tainted: bool,
    doubts_types: bool,
}

impl Catalogue {
    /// Nothing is known but PostgreSQL's own functions, types and operators, and what the configuration says.
    pub fn unknown(overrides: Overrides) -> Self {
        Self { overrides, ..Self::default() }
    }

    /// Whether it has been loaded: every database has relations.
    pub fn is_known(&self) -> bool {
        !self.relations.is_empty()
    }

    /// Grows with every catalogue of a database: a verdict is good for one generation. That of one not loaded is 0.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether another one gives the same answers, whatever its generation: then verdicts stay good.
    pub fn answers_as(&self, other: &Self) -> bool {
        self.schemas == other.schemas
            && self.functions == other.functions
            && self.relations == other.relations
            && self.kinds == other.kinds
            && self.operators == other.operators
            && self.attributes == other.attributes
            && self.overrides == other.overrides
            && (self.tainted, self.doubts_types) == (other.tainted, other.doubts_types)
    }

    /// Whether some type of the database itself is unsafe. Then a parameter of such a type makes a statement unsafe which does
    /// not name it.
    pub fn doubts_types(&self) -> bool {
        self.doubts_types || self.tainted
    }

    /// The schemas of a `search_path`, for [`Catalogue::seen`]: those that there are, and `pg_catalog`.
    pub fn path<'s>(&self, schemas: impl IntoIterator<Item = &'s str>) -> Path {
        let place = |name: &str| self.schemas.iter().position(|schema| **schema == *name.as_bytes());
        let listed = schemas.into_iter().chain(["pg_catalog"]);
        Path(listed.filter_map(place).map(|place| place as u16).collect())
    }

    /// The answers for a session. Without a path, names without schema are looked for in all schemas: what is unsafe in any is
    /// unsafe.
    pub fn seen<'c>(&'c self, path: Option<&'c Path>) -> View<'c> {
        View { catalogue: self, path }
    }

    fn place(&self, name: &[u8]) -> Option<u16> {
        self.schemas.iter().position(|schema| **schema == *name).map(|place| place as u16)
    }
}

/// The schemas in which a session finds names without schema; of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path(Vec<u16>);

/// A catalogue as one session sees it.
#[derive(Clone, Copy, Debug)]
pub struct View<'c> {
    catalogue: &'c Catalogue,
    path: Option<&'c Path>,
}

impl View<'_> {
    /// What all entries of that name say together: one that is unsafe decides.
    fn entries(&self, table: &Table, path: &Qualified<'_>, name: &[u8]) -> Known {
        let Some(entries) = table.get(name) else { return Known::Unknown };
        let schema = match &path.schema {
            None => None,
            Some(schema) => {
                let mut room = [0; NAME_BYTES];
                match schema.fold(&mut room).and_then(|folded| self.catalogue.place(folded)) {
                    None => return Known::Unknown,
                    place => place,
                }
            }
        };
        let seen = |entry: &&Entry| match (schema, self.path) {
            (Some(schema), _) => entry.schema == schema,
            (None, Some(path)) => path.0.contains(&entry.schema),
            (None, None) => true,
        };
        let mut all = Known::Unknown;
        for entry in entries.iter().filter(seen) {
            all = entry.known;
            if matches!(all, Known::Unsafe(_)) {
                break;
            }
        }
        all
    }
}

/// Whether PostgreSQL's own things are meant too.
fn may_be_builtin(path: &Qualified<'_>) -> bool {
    path.schema.is_none_or(|schema| schema.is("pg_catalog"))
}

fn builtin(name: &[u8]) -> Known {
    match builtins::function(name) {
        Some(Class::Read) => Known::Safe,
        Some(Class::Local) => Known::Unsafe(Reason::NodeLocal),
        Some(Class::Acts) => Known::Unsafe(Reason::Acts),
        None => Known::Unknown,
    }
}

impl Names for View<'_> {
    fn function(&mut self, called: Qualified<'_>) -> Known {
        let mut room = [0; NAME_BYTES];
        let Some(name) = called.name.fold(&mut room) else { return Known::Unknown };
        if self.catalogue.tainted {
            return Known::Unsafe(Reason::VolatileType);
        }
        if let Some(known) = self.catalogue.overrides.of(called.schema.as_ref(), name) {
            return known;
        }
        let own = self.entries(&self.catalogue.functions, &called, name);
        if matches!(own, Known::Unsafe(_)) || !may_be_builtin(&called) {
            return own;
        }
        match builtin(name) {
            Known::Unknown => own,
            known => known,
        }
    }

    fn attribute(&mut self, name: Name<'_>) -> Known {
        if self.catalogue.attributes.is_empty() {
            return Known::Unknown;
        }
        let mut room = [0; NAME_BYTES];
        let folded = name.fold(&mut room);
        let found = folded.and_then(|folded| self.catalogue.attributes.get(folded));
        found.map_or(Known::Unknown, |reason| Known::Unsafe(*reason))
    }

    fn relation(&mut self, read: Qualified<'_>) -> Known {
        if self.catalogue.tainted {
            return Known::Unsafe(Reason::VolatileType);
        }
        let mut room = [0; NAME_BYTES];
        let Some(name) = read.name.fold(&mut room) else { return Known::Unknown };
        self.entries(&self.catalogue.relations, &read, name)
    }

    fn kind(&mut self, cast: Qualified<'_>) -> Known {
        let mut room = [0; NAME_BYTES];
        let Some(name) = cast.name.fold(&mut room) else { return Known::Unknown };
        if self.catalogue.tainted {
            return Known::Unsafe(Reason::VolatileType);
        }
        let own = self.entries(&self.catalogue.kinds, &cast, name);
        if own == Known::Unknown && may_be_builtin(&cast) && builtins::is_type(name) {
            return Known::Safe;
        }
        own
    }

    fn operator(&mut self, sign: &[u8]) -> Known {
        // The scanner takes them for the same.
        let sign = if sign == b"!=" { b"<>" } else { sign };
        if let Some(known) = self.catalogue.operators.get(sign) {
            return *known;
        }
        if builtins::is_operator(sign) { Known::Safe } else { Known::Unknown }
    }
}

#[cfg(test)]
mod tests;
