//! The values as they were written, each with the line it stands on; nothing is judged but its kind.
//!
//! A [`Section`] is one block. Its readers return a value of the right type or note what is wrong and return
//! the default, so that all errors of a file come out in one run. It must not know what an option means.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Map, Value, ValueKind};

use super::problem::{Place, Problems};
use super::secret::Secret;
use super::units;

/// The file system as far as a configuration needs it; a test has its own.
pub trait Files {
    /// The content of a file with a password, and its permission bits.
    fn secret(&self, path: &Path) -> std::io::Result<(String, u32)>;
    /// Whether that file can be opened for reading.
    fn readable(&self, path: &Path) -> std::io::Result<()>;
}

/// One block of the file: `[pool]`, or one `[[listen]]`.
pub(super) struct Section<'p> {
    key: String,
    place: Place,
    values: Map<String, Value>,
    pub(super) context: &'p Context<'p>,
}

/// What all sections share.
pub(super) struct Context<'p> {
    pub(super) problems: &'p Problems,
    pub(super) files: &'p dyn Files,
    /// Folder of the configuration file; relative names start there.
    pub(super) folder: PathBuf,
}

/// A value and where it stands.
pub(super) struct Found<'s> {
    pub(super) key: String,
    pub(super) place: Place,
    pub(super) value: &'s Value,
}

fn place_of(value: &Value) -> Place {
    match value.origin().map(str::parse) {
        Some(Ok(line)) => Place::Line(line),
        Some(Err(_)) => Place::Environment,
        None => Place::File,
    }
}

impl<'p> Section<'p> {
    pub(super) fn root(values: Map<String, Value>, context: &'p Context<'p>) -> Self {
        Self { key: String::new(), place: Place::File, values, context }
    }

    /// The full name of an option of this block.
    pub(super) fn key_of(&self, name: &str) -> String {
        if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) }
    }

    pub(super) fn find(&self, name: &str) -> Option<Found<'_>> {
        let value = self.values.get(name)?;
        Some(Found { key: self.key_of(name), place: place_of(value), value })
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    /// Whether it is there and not the empty text, which stands for none.
    pub(super) fn given(&self, name: &str) -> bool {
        self.values
            .get(name)
            .is_some_and(|value| !matches!(&value.kind, ValueKind::String(text) if text.is_empty()))
    }

    /// Notes an error about an option, on its line or on that of the block.
    pub(super) fn error(&self, name: &str, text: impl Into<String>) {
        self.context.problems.error(self.place(name), &self.key_of(name), text);
    }

    /// Notes something that is odd but may be meant.
    pub(super) fn warning(&self, name: &str, text: impl Into<String>) {
        self.context.problems.warning(self.place(name), &self.key_of(name), text);
    }

    /// Where the option stands, else the block.
    fn place(&self, name: &str) -> Place {
        self.find(name).map_or_else(|| self.place.clone(), |found| found.place)
    }

    /// The block of that name inside this one; an empty one if it is not there.
    pub(super) fn block(&self, name: &str) -> Section<'p> {
        let found = self.values.get(name);
        let (place, values) = match found.map(|value| (place_of(value), &value.kind)) {
            Some((place, ValueKind::Table(table))) => (place, table.clone()),
            _ => (self.place.clone(), Map::new()),
        };
        Section { key: self.key_of(name), place, values, context: self.context }
    }

    /// The repeated blocks of that name. A plain text stands for a block that has only an address.
    pub(super) fn blocks(&self, name: &str) -> Vec<Section<'p>> {
        let Some(found) = self.find(name) else { return Vec::new() };
        let elements = match &found.value.kind {
            ValueKind::Array(elements) => elements.clone(),
            ValueKind::String(text) if found.place == Place::Environment => split(text)
                .map(|one| Value::new(found.value.origin().map(str::to_owned).as_ref(), one))
                .collect(),
            _ => Vec::new(),
        };
        let block = |(index, element): (usize, Value)| {
            let place = place_of(&element);
            let values = match element.kind {
                ValueKind::Table(table) => table,
                _ => Map::from([("address".to_owned(), element)]),
            };
            Section { key: format!("{}[{index}]", found.key), place, values, context: self.context }
        };
        elements.into_iter().enumerate().map(block).collect()
    }

    /// A text, if it is there.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let found = self.find(name)?;
        match &found.value.kind {
            ValueKind::String(text) => Some(text.clone()),
            other => {
                self.wrong_kind(name, other, "text in quotes");
                None
            }
        }
    }

    /// A text that is not empty; the empty one stands for none.
    pub(super) fn some_text(&self, name: &str) -> Option<String> {
        self.text(name).filter(|text| !text.is_empty())
    }

    pub(super) fn text_or(&self, name: &str, default: &str) -> String {
        let Some(text) = self.text(name) else { return default.to_owned() };
        if text.is_empty() {
            self.error(name, "is empty; write a value or leave the line out");
        }
        text
    }

    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        let Some(found) = self.find(name) else { return default };
        match &found.value.kind {
            ValueKind::Boolean(flag) => *flag,
            ValueKind::String(text) if found.place == Place::Environment && text.parse::<bool>().is_ok() => {
                text == "true"
            }
            other => {
                self.wrong_kind(name, other, "true or false");
                default
            }
        }
    }

    /// A whole number of that range.
    pub(super) fn number(&self, name: &str, default: usize, range: RangeInclusive<usize>) -> usize {
        let Some(found) = self.find(name) else { return default };
        let number = match &found.value.kind {
            ValueKind::I64(number) => Some(i128::from(*number)),
            ValueKind::I128(number) => Some(*number),
            ValueKind::String(text) if found.place == Place::Environment => text.trim().parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            self.wrong_kind(name, &found.value.kind, "a whole number");
            return default;
        };
        let (least, most) = (range.start(), range.end());
        match usize::try_from(number) {
            Ok(number) if range.contains(&number) => return number,
            Ok(_) | Err(_) if number == i128::MAX => {
                self.error(name, format!("is too large; write a number between {least} and {most}"));
            }
            Ok(_) | Err(_) => {
                self.error(name, format!("is {number}; write a number between {least} and {most}"));
            }
        }
        default
    }

    /// A duration of that range.
    pub(super) fn duration(
        &self,
        name: &str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let parsed = self.quantity(name, "\"30s\"", units::parse_duration);
        self.within(name, parsed, default, range, units::format_duration)
    }

    /// A size of that range in bytes.
    pub(super) fn size(&self, name: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let parsed = self.quantity(name, "\"16kB\"", units::parse_size);
        self.within(name, parsed, default, range, units::format_size)
    }

    fn quantity<T>(&self, name: &str, example: &str, parse: fn(&str) -> Result<T, String>) -> Option<T> {
        let found = self.find(name)?;
        let text = match &found.value.kind {
            ValueKind::String(text) => text,
            ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::Float(_) => {
                self.error(name, format!("is a number without a unit; write it with one, like {example}"));
                return None;
            }
            other => {
                self.wrong_kind(name, other, &format!("text like {example}"));
                return None;
            }
        };
        parse(text).map_err(|wrong| self.error(name, wrong)).ok()
    }

    fn within<T: PartialOrd + Copy>(
        &self,
        name: &str,
        value: Option<T>,
        default: T,
        range: RangeInclusive<T>,
        print: fn(T) -> String,
    ) -> T {
        let Some(value) = value else { return default };
        if range.contains(&value) {
            return value;
        }
        let (least, most) = (print(*range.start()), print(*range.end()));
        self.error(name, format!("is {}; write something between {least} and {most}", print(value)));
        default
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, name: &str, default: T, choices: &[(&str, T)]) -> T {
        let Some(text) = self.text(name) else { return default };
        if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == text) {
            return *choice;
        }
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        self.error(name, format!("is \"{text}\"; write one of {}", quoted(&words)));
        default
    }

    /// Anything with a parser of its own.
    pub(super) fn parsed<T>(&self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.text(name)?;
        parse(&text).map_err(|wrong| self.error(name, wrong)).ok()
    }

    /// A list of texts; one text alone stands for a list of one.
    pub(super) fn list(&self, name: &str) -> Option<Vec<(Place, String)>> {
        let found = self.find(name)?;
        let elements = match &found.value.kind {
            ValueKind::Array(elements) => elements,
            ValueKind::String(text) if found.place == Place::Environment => {
                return Some(split(text).map(|one| (Place::Environment, one.to_owned())).collect());
            }
            ValueKind::String(text) => return Some(vec![(found.place, text.clone())]),
            other => {
                self.wrong_kind(name, other, "a list of texts: [\"one\", \"two\"]");
                return None;
            }
        };
        let mut list = Vec::new();
        for element in elements {
            if let ValueKind::String(text) = &element.kind {
                list.push((place_of(element), text.clone()));
            } else {
                let text = format!("has {} among its elements; write all as texts", kind_name(&element.kind));
                self.context.problems.error(place_of(element), &found.key, text);
            }
        }
        Some(list)
    }

    pub(super) fn texts(&self, name: &str, default: &[String]) -> Vec<String> {
        let list = self.list(name);
        list.map_or_else(|| default.to_vec(), |list| list.into_iter().map(|(_, text)| text).collect())
    }

    /// A file name, made relative to the folder of the configuration.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.some_text(name).map(|text| self.context.folder.join(text))
    }

    /// A file that has to be there.
    pub(super) fn readable(&self, name: &str) -> Option<PathBuf> {
        let path = self.path(name)?;
        if let Err(error) = self.context.files.readable(&path) {
            let shown = path.display();
            self.error(name, format!("{shown} cannot be read: {error}; correct the name or its permissions"));
        }
        Some(path)
    }

    /// A password, written down as `name` or in the file `name_file`.
    pub(super) fn secret(&self, name: &str) -> Option<Secret> {
        let file = format!("{name}_file");
        let written = self.some_text(name).map(Secret::new);
        let Some(path) = self.path(&file) else { return written };
        if written.is_some() {
            self.error(&file, format!("and {name} are both given; keep one of them"));
            return written;
        }
        self.secret_file(&file, &path)
    }

    fn secret_file(&self, name: &str, path: &Path) -> Option<Secret> {
        let shown = path.display();
        let (text, mode) = match self.context.files.secret(path) {
            Ok(found) => found,
            Err(error) => {
                let todo = "put the password there, readable for the user that runs pgsteer";
                self.error(name, format!("{shown} cannot be read: {error}; {todo}"));
                return None;
            }
        };
        if mode & 0o007 != 0 {
            self.warning(name, format!("{shown} is open to every user of this machine; chmod 600 {shown}"));
        }
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let password = line.strip_suffix('\r').unwrap_or(line);
        if password.is_empty() || password.contains(['\n', '\0']) {
            self.error(name, format!("{shown} does not hold a password alone on one line; write just that"));
            return None;
        }
        Some(Secret::new(password))
    }

    fn wrong_kind(&self, name: &str, found: &ValueKind, wanted: &str) {
        let found = match found {
            // Secrets are texts, so a text of the wrong kind is none.
            ValueKind::String(text) => format!("the text \"{text}\""),
            other => kind_name(other).to_owned(),
        };
        self.error(name, format!("is {found}; write {wanted}"));
    }
}

fn split(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|one| !one.is_empty())
}

fn kind_name(kind: &ValueKind) -> &'static str {
    match kind {
        ValueKind::Nil => "nothing",
        ValueKind::Boolean(_) => "true or false",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a number",
        ValueKind::Float(_) => "a number with a fraction",
        ValueKind::String(_) => "a text",
        ValueKind::Table(_) => "a block",
        ValueKind::Array(_) => "a list",
    }
}

/// `"a", "b" or "c"`.
fn quoted<T: Display>(words: &[T]) -> String {
    match words {
        [] => String::new(),
        [one] => format!("\"{one}\""),
        [init @ .., last] => {
            let init: Vec<String> = init.iter().map(|word| format!("\"{word}\"")).collect();
            format!("{} or \"{last}\"", init.join(", "))
        }
    }
}
