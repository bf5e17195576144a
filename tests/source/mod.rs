//! Reading Rust source well enough to check it: files, text without comments and strings, tokens.
//!
//! Shared by `tidy` and `architecture`. It is no parser: it knows comments, literals and brackets, which is what
//! the rules need.

#![allow(dead_code, unreachable_pub, reason = "each of the two test programs uses its part")]

use std::fs;
use std::path::{Path, PathBuf};

/// The folder of the package.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder` whose name ends so, in order; what the build makes is left out.
pub fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else { return found };
    for entry in entries.map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() && !["target", ".git", "corpus", "artifacts"].iter().any(|skip| name == *skip) {
            found.extend(files(&path, ending));
        } else if kind.is_file() && name.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// A Rust file with the views of it that the rules look at. All views have the same lines.
pub struct Source {
    /// Relative to the package.
    pub name: String,
    /// As it is.
    pub text: String,
    /// Without the content of literals.
    pub commented: String,
    /// Without literals and comments.
    pub code: String,
    /// Likewise, and without what only tests see; empty for a file of tests.
    pub shipped: String,
}

impl Source {
    pub fn read(path: &Path) -> Self {
        let name = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        Self::of(name, fs::read_to_string(path).unwrap())
    }

    pub fn of(name: impl Into<String>, text: impl Into<String>) -> Self {
        let (name, text) = (name.into(), text.into());
        let commented = blank(&text, false);
        let code = blank(&text, true);
        let shipped = if is_test_file(&name) { String::new() } else { without_tests(&code) };
        Self { name, text, commented, code, shipped }
    }

    /// All Rust files of the package.
    pub fn all() -> Vec<Self> {
        let mut all: Vec<Self> = files(root(), ".rs").iter().map(|path| Self::read(path)).collect();
        let tests: Vec<String> = all.iter().flat_map(Self::test_modules).collect();
        for source in &mut all {
            let module = source.name.trim_end_matches(".rs").trim_end_matches("/mod");
            if tests.iter().any(|test| module == test || module.starts_with(&format!("{test}/"))) {
                source.shipped.clear();
            }
        }
        all
    }

    /// Modules in files of their own that only tests see, as paths without `.rs`.
    pub fn test_modules(&self) -> Vec<String> {
        let path = self.name.trim_end_matches(".rs");
        let folder = ["/mod", "/lib", "/main"].iter().find_map(|own| path.strip_suffix(own)).unwrap_or(path);
        let after = self.code.split("#[cfg(test)]").skip(1).map(str::trim_start);
        let name = |item: &str| Some(item.strip_prefix("mod ")?.split_once(';')?.0.to_owned());
        let is_word = |name: &String| name.chars().all(|one| one.is_alphanumeric() || one == '_');
        after.filter_map(name).filter(is_word).map(|name| format!("{folder}/{name}")).collect()
    }
}

fn is_test_file(name: &str) -> bool {
    name.ends_with("/tests.rs")
        || name.ends_with("_tests.rs")
        || name.contains("/tests/")
        || name.starts_with("tests/")
}

/// The text with literals, and on request comments, replaced by blanks.
pub fn blank(text: &str, comments: bool) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(&one) = chars.get(at) {
        let next = chars.get(at + 1).copied().unwrap_or(' ');
        let (end, is_comment) = match one {
            '/' if next == '/' => (line_end(&chars, at), true),
            '/' if next == '*' => (comment_end(&chars, at), true),
            '"' => (string_end(&chars, at + 1), false),
            'r' | 'b' | 'c' if !after_word(&chars, at) && prefixed(&chars, at).is_some() => {
                (prefixed(&chars, at).unwrap(), false)
            }
            '\'' => (char_end(&chars, at), false),
            _ => (at + 1, true),
        };
        let keep = end == at + 1 || (is_comment && !comments);
        for one in &chars[at..end.min(chars.len())] {
            out.push(if keep || *one == '\n' { *one } else { ' ' });
        }
        at = end;
    }
    out
}

fn after_word(chars: &[char], at: usize) -> bool {
    at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_')
}

fn line_end(chars: &[char], at: usize) -> usize {
    (at..chars.len()).find(|i| chars[*i] == '\n').unwrap_or(chars.len())
}

fn comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                i += 1;
                continue;
            }
        }
        i += 2;
        if depth == 0 {
            return i;
        }
    }
    chars.len()
}

/// Behind the closing quote of a string whose first character is at `at`.
fn string_end(chars: &[char], at: usize) -> usize {
    let mut i = at;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

/// The end of `r"…"`, `r#"…"#`, `b"…"`, `br#"…"#`, `c"…"` or `b'…'` that begins at `at`, if one does.
fn prefixed(chars: &[char], at: usize) -> Option<usize> {
    let mut i = at;
    while matches!(chars.get(i), Some('r' | 'b' | 'c')) && i < at + 2 {
        i += 1;
    }
    let is_raw = chars[at..i].contains(&'r');
    let hashes = chars[i..].iter().take_while(|one| **one == '#').count();
    match chars.get(i + hashes) {
        Some('"') if is_raw => {
            let mut close = vec!['"'];
            close.extend(std::iter::repeat_n('#', hashes));
            let start = i + hashes + 1;
            let end = (start..chars.len()).find(|from| chars[*from..].starts_with(&close));
            Some(end.map_or(chars.len(), |end| end + close.len()))
        }
        Some('"') if hashes == 0 => Some(string_end(chars, i + 1)),
        Some('\'') if hashes == 0 && chars[at] == 'b' => Some(char_end(chars, i)),
        _ => None,
    }
}

/// The end of a character literal; just behind the quote for a lifetime.
fn char_end(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => {
            // An escaped quote does not close it.
            (at + 3..chars.len()).find(|i| chars[*i] == '\'').map_or(chars.len(), |end| end + 1)
        }
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}

/// The code with every item behind `#[cfg(test)]` replaced by blanks.
pub fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let end = item_end(&out, start);
        let blanked: String =
            out[start..end].chars().map(|one| if one == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blanked);
    }
    out
}

/// Behind the item that begins at `start`: at its `;`, or at the brace that closes its first one.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0;
    for (at, one) in code[start..].char_indices() {
        match one {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth -= 1;
                if depth == 0 && one == '}' {
                    return start + at + 1;
                }
            }
            ';' if depth == 0 => return start + at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Words and signs of code without comments and literals, each with its line. `::` is one sign.
pub fn tokens(code: &str) -> Vec<(usize, String)> {
    let mut found: Vec<(usize, String)> = Vec::new();
    let (mut line, mut word_goes_on) = (1, false);
    for one in code.chars() {
        let is_word = one.is_alphanumeric() || one == '_';
        match found.last_mut() {
            Some((_, last)) if is_word && word_goes_on => last.push(one),
            Some((_, last)) if one == ':' && last == ":" => last.push(one),
            _ if !one.is_whitespace() => found.push((line, one.to_string())),
            _ => {}
        }
        word_goes_on = is_word;
        line += usize::from(one == '\n');
    }
    found
}

/// Functions of the code: name, first line, number of lines up to the closing brace.
pub fn functions(code: &str) -> Vec<(String, usize, usize)> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    for (at, (line, word)) in tokens.iter().enumerate() {
        let Some((_, name)) = tokens.get(at + 1).filter(|(_, name)| word == "fn" && name != "(") else {
            continue;
        };
        let mut depth = 0;
        for (end, sign) in &tokens[at..] {
            match sign.as_str() {
                "{" | "(" | "[" => depth += 1,
                ")" | "]" => depth -= 1,
                ";" if depth == 0 => break,
                "}" => {
                    depth -= 1;
                    if depth == 0 {
                        found.push((name.clone(), *line, end - line + 1));
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    found
}
