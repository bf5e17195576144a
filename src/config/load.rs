//! File and environment in, settings or the list of everything wrong out.
//!
//! The file is read once with positions; the `config` crate layers the environment over it; `build` makes the
//! settings. Nothing here knows what an option means.

use std::collections::HashMap;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use config::{Config, ConfigError, Environment, Map, Source, Value, ValueKind};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::build;
use super::options::{self, Meaning};
use super::problem::{ConfigErrors, ENV_PREFIX, Place, Problem, Problems, variable};
use super::raw::{Context, Files, Section};
use super::settings::Settings;

/// A configuration file is never near it; what is larger is a mistaken name.
const FILE_LIMIT: u64 = 4 << 20;
/// Likewise for a password.
const SECRET_LIMIT: u64 = 64 << 10;

/// Settings, and what is odd about them.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// What was asked for.
    pub settings: Settings,
    /// To be logged; nothing of it stops the proxy.
    pub warnings: Vec<Problem>,
}

/// The variables of this process that are about pgsteer; to be given to [`load`].
pub fn environment() -> Vec<(String, String)> {
    let text = |word: std::ffi::OsString| word.to_string_lossy().into_owned();
    let mine = |(name, _): &(String, String)| name.starts_with(ENV_PREFIX);
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).filter(mine).collect()
}

/// Reads the file, if one is given, and lays the environment over it.
pub fn load(
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigErrors> {
    let text = match path {
        None => String::new(),
        Some(path) => read(path).map_err(|error| {
            let problems = Problems::new(path.display().to_string());
            let todo = "name your file with -c FILE, or start from the commented example proxy.toml";
            problems.error(Place::File, "", format!("cannot be read: {error}; {todo}"));
            ConfigErrors(problems.finish().0)
        })?,
    };
    parse(&text, path, environment, &Disk)
}

/// The same for a text that came from `path`, with the files that it names taken from `files`.
pub fn parse(
    text: &str,
    path: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    files: &dyn Files,
) -> Result<Loaded, ConfigErrors> {
    let name = path.map_or_else(|| "environment".to_owned(), |path| path.display().to_string());
    let problems = Problems::new(name);
    let folder = path.and_then(Path::parent).map(Path::to_path_buf).unwrap_or_default();
    let file = FileLayer { values: Reader { text, problems: &problems }.document() };
    let environment = known_variables(environment, &problems);
    let values = layer(file, environment, &problems);
    let context = Context { problems: &problems, files, folder };
    let settings = build::settings(&Section::root(values, &context), path.map(PathBuf::from));
    let (errors, warnings) = problems.finish();
    if errors.is_empty() { Ok(Loaded { settings, warnings }) } else { Err(ConfigErrors(errors)) }
}

/// The real file system.
struct Disk;

impl Files for Disk {
    fn secret(&self, path: &Path) -> std::io::Result<(String, u32)> {
        let file = std::fs::File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut text = String::new();
        file.take(SECRET_LIMIT).read_to_string(&mut text)?;
        Ok((text, mode))
    }

    fn readable(&self, path: &Path) -> std::io::Result<()> {
        if std::fs::File::open(path)?.metadata()?.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        Ok(())
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?.take(FILE_LIMIT).read_to_string(&mut text)?;
    if read as u64 >= FILE_LIMIT {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// Only variables that stand for an option, so that no other can disturb the layering.
fn known_variables(
    environment: impl IntoIterator<Item = (String, String)>,
    problems: &Problems,
) -> HashMap<String, String> {
    let mut known = HashMap::new();
    for (name, value) in environment {
        let lower = name.to_lowercase();
        let Some(key) = lower.strip_prefix(&format!("{}__", ENV_PREFIX.to_lowercase())) else { continue };
        let key = key.replace("__", ".");
        let whole = options::meaning(&key) == Meaning::Value || key == "listen";
        if whole && variable(&key).eq_ignore_ascii_case(&name) {
            known.insert(name, value);
            continue;
        }
        problems.error(Place::Environment, &key, no_variable(&key));
    }
    known
}

/// Why there is no such variable, and what to do.
fn no_variable(key: &str) -> String {
    if options::meaning(key) == Meaning::Block {
        return "is a block; set its options one by one, each with __ and its name behind it".to_owned();
    }
    let repeated = |(at, _): (usize, char)| options::meaning(&key[..at]) == Meaning::Blocks;
    if options::meaning(key) == Meaning::Blocks
        || key.char_indices().filter(|(_, one)| *one == '.').any(repeated)
    {
        return "blocks that may be repeated are set in the file only, but for PGSTEER__CLUSTER__NODES and \
                PGSTEER__LISTEN, which take addresses separated by commas"
            .to_owned();
    }
    let (parent, last) = key.rsplit_once('.').unwrap_or(("", key));
    let hint = options::suggestion(parent, last);
    format!("no such option; {}", hint.as_deref().unwrap_or("remove the variable"))
}

fn layer(file: FileLayer, environment: HashMap<String, String>, problems: &Problems) -> Map<String, Value> {
    let environment: Map<String, String> = environment.into_iter().collect();
    let variables = Environment::with_prefix(ENV_PREFIX).separator("__").source(Some(environment));
    let built = Config::builder().add_source(file).add_source(variables).build();
    built.and_then(|layers| layers.collect()).unwrap_or_else(|error| {
        problems.error(Place::File, "", format!("file and environment do not fit together: {error}"));
        Map::new()
    })
}

/// The file as a source for the `config` crate; the origin of each value is the number of its line.
#[derive(Clone, Debug)]
struct FileLayer {
    values: Map<String, Value>,
}

impl Source for FileLayer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.values.clone())
    }
}

/// Reads TOML with positions and keeps what the table of options knows.
struct Reader<'a> {
    text: &'a str,
    problems: &'a Problems,
}

impl Reader<'_> {
    fn document(&self) -> Map<String, Value> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        let mut broken = Vec::new();
        for error in errors {
            let span = error.span().unwrap_or_default();
            let line = self.line(span.start);
            // One slip breaks the rest of its line, which is not worth telling.
            if !broken.contains(&line) {
                let name = self.text.get(span).filter(|text| is_bare_key(text));
                let name = name.map(|name| format!(" \"{name}\"")).unwrap_or_default();
                self.problems.error(Place::Line(line), "", format!("not TOML: {}{name}", error.message()));
            }
            broken.push(line);
        }
        self.table(table.get_ref(), "")
    }

    fn table(&self, table: &DeTable<'_>, shape: &str) -> Map<String, Value> {
        let mut known = Map::new();
        for (name, value) in table {
            let line = self.line(name.span().start);
            let name: &str = name.get_ref();
            let key = if shape.is_empty() { name.to_owned() } else { format!("{shape}.{name}") };
            if let Some(kind) = self.entry(&key, name, shape, value, line) {
                known.insert(name.to_owned(), Value::new(Some(&line.to_string()), kind));
            }
        }
        known
    }

    /// One line of a block, if its name is known and it is of that shape.
    fn entry(
        &self,
        key: &str,
        name: &str,
        parent: &str,
        value: &Spanned<DeValue<'_>>,
        line: usize,
    ) -> Option<ValueKind> {
        let wrong = |text: String| {
            self.problems.error(Place::Line(line), key, text);
            None
        };
        // A quoted name may hold what means something in our own names.
        let meaning = if name.contains(['.', '[', ']']) { Meaning::Nothing } else { options::meaning(key) };
        match (meaning, value.get_ref()) {
            (Meaning::Nothing, _) => {
                let hint = options::suggestion(parent, name);
                wrong(format!("unknown option; {}", hint.as_deref().unwrap_or("remove it")))
            }
            (Meaning::Block, DeValue::Table(table)) => Some(ValueKind::Table(self.table(table, key))),
            (Meaning::Block, _) => wrong(format!("is a block; write [{key}] and its options below")),
            (Meaning::Blocks, DeValue::Array(elements)) => {
                let blocks = elements.iter().map(|element| self.block(key, element));
                Some(ValueKind::Array(blocks.collect()))
            }
            (Meaning::Blocks, _) => {
                wrong(format!("is a block that may be repeated; write [[{key}]] with two brackets"))
            }
            (Meaning::Value, DeValue::Table(_)) => {
                wrong("is a value, not a block; write name = value".to_owned())
            }
            (Meaning::Value, _) => Some(self.value(value).kind),
        }
    }

    /// One element of a repeated block.
    fn block(&self, key: &str, element: &Spanned<DeValue<'_>>) -> Value {
        let line = self.line(element.span().start).to_string();
        match element.get_ref() {
            DeValue::Table(table) => Value::new(Some(&line), self.table(table, &format!("{key}[]"))),
            _ => self.value(element),
        }
    }

    fn value(&self, value: &Spanned<DeValue<'_>>) -> Value {
        let line = self.line(value.span().start).to_string();
        let kind = match value.get_ref() {
            DeValue::String(text) => ValueKind::String(text.to_string()),
            DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
                // Beyond any option's range, whatever the number is.
                .map_or(ValueKind::I128(i128::MAX), ValueKind::I64),
            DeValue::Float(number) => ValueKind::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => ValueKind::Boolean(*flag),
            DeValue::Datetime(when) => ValueKind::String(when.to_string()),
            DeValue::Array(elements) => {
                ValueKind::Array(elements.iter().map(|one| self.value(one)).collect())
            }
            DeValue::Table(_) => ValueKind::Table(Map::new()),
        };
        Value::new(Some(&line), kind)
    }

    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }
}

/// Text that can be repeated in a message, since it cannot be part of a password in quotes.
fn is_bare_key(text: &str) -> bool {
    !text.is_empty()
        && options::OPTIONS.iter().any(|option| option.key.split(['.', '[', ']']).any(|word| word == text))
}
