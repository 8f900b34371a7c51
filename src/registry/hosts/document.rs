//! A TOML file whose values know the lines that they stand on.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Configured;
use crate::content::file::read_configuration;
use crate::error::{Error, Result};

/// The text of a file, before it is understood.
pub(super) struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    /// Reads `path`. `None` when there is no such file.
    ///
    /// # Errors
    /// `Store` or `Usage` when there is one that cannot be read.
    pub(super) fn read(path: &Path) -> Result<Option<Document>> {
        match read_configuration(path) {
            Ok(text) => Ok(Some(Document { path: path.into(), text })),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(e) if e.kind() == ErrorKind::FileTooLarge => Err(Error::Usage(format!("{}: {e}", path.display()))),
            Err(e) => Err(Error::store("read the configuration", path)(e)),
        }
    }

    /// Its tables.
    ///
    /// # Errors
    /// `Usage`, with the line, when it is no TOML.
    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'_>>> {
        DeTable::parse(&self.text).map_err(|e| self.wrong(e.span().map_or(0, |span| span.start), e.message()))
    }

    /// The outermost of `parsed`.
    pub(super) fn root<'t>(&'t self, parsed: &'t Spanned<DeTable<'t>>) -> Values<'t> {
        Values { document: self, table: parsed.get_ref(), start: 0 }
    }

    /// An error about what stands at `offset`.
    fn wrong(&self, offset: usize, why: &str) -> Error {
        Error::Usage(format!("{}: {why}", self.at(offset)))
    }

    fn at(&self, offset: usize) -> Configured {
        let before = self.text.as_bytes().iter().take(offset);
        Configured::File(self.path.clone(), 1 + before.filter(|&&byte| byte == b'\n').count())
    }
}

/// One table of a document.
#[derive(Clone, Copy)]
pub(super) struct Values<'t> {
    document: &'t Document,
    table: &'t DeTable<'t>,
    start: usize,
}

/// A value of a table.
#[derive(Clone, Copy)]
pub(super) struct Value<'t> {
    document: &'t Document,
    key: &'t Spanned<Cow<'t, str>>,
    value: &'t DeValue<'t>,
}

impl<'t> Values<'t> {
    /// The value of `key`.
    pub(super) fn get(self, key: &str) -> Option<Value<'t>> {
        self.all().find(|value| value.key() == key)
    }

    /// Every value, in the order of the file.
    pub(super) fn in_order(self) -> Vec<Value<'t>> {
        let mut all: Vec<Value<'t>> = self.all().collect();
        all.sort_by_key(|value| value.key.span().start);
        all
    }

    fn all(self) -> impl Iterator<Item = Value<'t>> {
        let document = self.document;
        self.table.iter().map(move |(key, value)| Value { document, key, value: value.get_ref() })
    }

    /// The text of `key`.
    pub(super) fn text(self, key: &str) -> Result<Option<&'t str>> {
        self.get(key).map(Value::text).transpose()
    }

    /// The folder that relative paths begin at: the file's own.
    pub(super) fn folder(self) -> PathBuf {
        self.document.path.parent().map(Path::to_owned).unwrap_or_default()
    }

    /// Whether `key` is true. What is not there is not.
    pub(super) fn is_on(self, key: &str) -> Result<bool> {
        let read = |value: Value<'t>| match value.value {
            DeValue::Boolean(on) => Ok(*on),
            other => Err(value.wrong(&format!("expected true or false, not a {}", other.type_str()))),
        };
        self.get(key).map_or(Ok(false), read)
    }

    /// The tables of the list `key`.
    pub(super) fn tables(self, key: &str) -> Result<Vec<Values<'t>>> {
        let Some(list) = self.get(key) else { return Ok(Vec::new()) };
        let DeValue::Array(elements) = list.value else { return Err(list.wrong("expected a list of tables")) };
        let table = |element: &'t Spanned<DeValue<'t>>| match element.get_ref() {
            DeValue::Table(table) => Ok(Values { document: self.document, table, start: element.span().start }),
            _ => Err(list.wrong("expected a list of tables")),
        };
        elements.iter().map(table).collect()
    }

    /// Where it stands: where `key` does, if it has that.
    pub(super) fn configured(self, key: &str) -> Configured {
        let start = self.get(key).map_or(self.start, |value| value.key.span().start);
        self.document.at(start)
    }

    /// An error about the table.
    pub(super) fn wrong(self, why: &str) -> Error {
        self.document.wrong(self.start, why)
    }
}

impl<'t> Value<'t> {
    /// Its key.
    pub(super) fn key(self) -> &'t str {
        self.key.get_ref()
    }

    /// A text.
    pub(super) fn text(self) -> Result<&'t str> {
        let wrong = || self.wrong(&format!("expected a text, not a {}", self.value.type_str()));
        self.value.as_str().ok_or_else(wrong)
    }

    /// A text, or a list of texts.
    pub(super) fn texts(self) -> Result<Vec<&'t str>> {
        match self.value {
            DeValue::Array(elements) => elements.iter().map(|element| self.with(element).text()).collect(),
            _ => Ok(vec![self.text()?]),
        }
    }

    /// The elements of a list; what is none counts as its only element.
    pub(super) fn elements(self) -> Vec<Value<'t>> {
        match self.value {
            DeValue::Array(elements) => elements.iter().map(|element| self.with(element)).collect(),
            _ => vec![self],
        }
    }

    fn with(self, element: &'t Spanned<DeValue<'t>>) -> Value<'t> {
        Value { value: element.get_ref(), ..self }
    }

    /// A table.
    pub(super) fn table(self) -> Result<Values<'t>> {
        match self.value {
            DeValue::Table(table) => Ok(Values { document: self.document, table, start: self.key.span().start }),
            other => Err(self.wrong(&format!("expected a table, not a {}", other.type_str()))),
        }
    }

    /// Where it stands.
    pub(super) fn configured(self) -> Configured {
        self.document.at(self.key.span().start)
    }

    /// An error about it.
    pub(super) fn wrong(self, why: &str) -> Error {
        self.document.wrong(self.key.span().start, &format!("`{}`: {why}", self.key()))
    }
}
