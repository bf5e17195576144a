//! What is wrong with a configuration, where, and what to do; collected, so that all of it is told at once.

use std::cell::RefCell;
use std::fmt;

/// The prefix of environment variables that override the file: `PGSTEER__POOL__SIZE` is `pool.size`.
pub const ENV_PREFIX: &str = "PGSTEER";

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// On that line of the file, counted from 1.
    Line(usize),
    /// Nowhere in particular.
    File,
    /// In the environment.
    Environment,
}

/// One thing that is wrong, or odd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub(super) place: Place,
    key: String,
    text: String,
    file: String,
}

impl Problem {
    /// The line of the file, counted from 1, if it is about one.
    pub fn line(&self) -> Option<usize> {
        if let Place::Line(line) = self.place { Some(line) } else { None }
    }

    /// The option it is about, if it is about one.
    pub fn key(&self) -> Option<&str> {
        Some(self.key.as_str()).filter(|key| !key.is_empty())
    }

    /// What is wrong and what to do.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Line(line) => write!(f, "{}:{line}: ", self.file)?,
            Place::File => write!(f, "{}: ", self.file)?,
            Place::Environment => write!(f, "environment {}: ", variable(&self.key))?,
        }
        match self.key() {
            Some(key) => write!(f, "{key}: {}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// The environment variable of an option.
pub(super) fn variable(key: &str) -> String {
    format!("{ENV_PREFIX}__{}", key.replace('.', "__").to_uppercase())
}

/// All that is wrong; nothing was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub(super) Vec<Problem>);

impl ConfigErrors {
    /// In the order of the file. Never empty.
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let before = if index == 0 { "" } else { "\n" };
            write!(f, "{before}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects errors and warnings while the file is read.
#[derive(Debug)]
pub(super) struct Problems {
    file: String,
    errors: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl Problems {
    pub(super) fn new(file: String) -> Self {
        Self { file, errors: RefCell::default(), warnings: RefCell::default() }
    }

    pub(super) fn error(&self, place: Place, key: &str, text: impl Into<String>) {
        self.errors.borrow_mut().push(self.problem(place, key, text.into()));
    }

    pub(super) fn warning(&self, place: Place, key: &str, text: impl Into<String>) {
        self.warnings.borrow_mut().push(self.problem(place, key, text.into()));
    }

    fn problem(&self, place: Place, key: &str, text: String) -> Problem {
        Problem { place, key: key.to_owned(), text, file: self.file.clone() }
    }

    /// Errors and warnings in the order of the file. What a line with broken syntax says is not judged twice,
    /// and what may be missing only because it could not be read is not told.
    pub(super) fn finish(self) -> (Vec<Problem>, Vec<Problem>) {
        let mut errors = self.errors.into_inner();
        let broken: Vec<Place> =
            errors.iter().filter(|one| one.key.is_empty()).map(|one| one.place.clone()).collect();
        errors.retain(|one| {
            one.key.is_empty()
                || broken.is_empty()
                || (one.place != Place::File && !broken.contains(&one.place))
        });
        (ordered(errors), ordered(self.warnings.into_inner()))
    }
}

/// In the order of the file, and each only once: a value may be read more than once.
fn ordered(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by(|a, b| (&a.place, &a.key, &a.text).cmp(&(&b.place, &b.key, &b.text)));
    problems.dedup();
    problems
}
