//! The tree of keys and values that TOML and YAML have in common, each value with its line, and the reading of it.

use std::borrow::Cow;
use std::path::Path;

use toml::de::{DeTable, DeValue};

use crate::error::{Error, Result};

/// A value and where it begins.
#[derive(Debug, Clone)]
pub(super) struct Node {
    /// Counted from 1.
    pub line: usize,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    /// `null`, `~` or nothing in YAML.
    Null,
    /// Numbers and booleans too, as they are written.
    Text(Text),
    List(Vec<Node>),
    Table(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
pub(super) struct Text {
    pub text: String,
    pub quoted: Quoted,
}

/// Whether a text could be a number, a boolean or null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quoted {
    Yes,
    No,
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub line: usize,
    pub name: String,
}

/// The file that is read: for messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct File<'a>(pub &'a Path);

impl File<'_> {
    /// An error at `line`.
    pub fn error(&self, line: usize, why: impl std::fmt::Display) -> Error {
        Error::Usage(format!("{}:{line}: {why}", self.0.display()))
    }

    /// A key that exists in the form, but asks for something that is not done.
    pub fn unsupported(&self, key: &Key, why: &str) -> Error {
        self.error(key.line, format_args!("key {:?}: not supported: {why}", key.name))
    }

    /// A key that does not exist in the form.
    pub fn unknown(&self, key: &Key, known: &[&str]) -> Error {
        self.error(key.line, format_args!("key {:?}: not supported; known are {}", key.name, known.join(", ")))
    }

    /// The keys of a table and their values.
    pub fn table<'n>(&self, node: &'n Node) -> Result<&'n [(Key, Node)]> {
        match &node.value {
            Value::Table(entries) => Ok(entries),
            Value::Null => Ok(&[]),
            _ => Err(self.error(node.line, "expected keys and values")),
        }
    }

    /// The values of a list.
    pub fn list<'n>(&self, node: &'n Node) -> Result<&'n [Node]> {
        match &node.value {
            Value::List(nodes) => Ok(nodes),
            Value::Null => Ok(&[]),
            _ => Err(self.error(node.line, "expected a list")),
        }
    }

    /// A text, or a number as it is written.
    pub fn text<'n>(&self, node: &'n Node) -> Result<&'n str> {
        match &node.value {
            Value::Text(text) => Ok(&text.text),
            _ => Err(self.error(node.line, "expected a text")),
        }
    }

    /// A list of texts.
    pub fn texts<'n>(&self, node: &'n Node) -> Result<Vec<(usize, &'n str)>> {
        self.list(node)?.iter().map(|node| Ok((node.line, self.text(node)?))).collect()
    }

    /// One text, or a list of them.
    pub fn one_or_more<'n>(&self, node: &'n Node) -> Result<Vec<(usize, &'n str)>> {
        match &node.value {
            Value::Text(text) => Ok(vec![(node.line, &text.text)]),
            _ => self.texts(node),
        }
    }

    /// A boolean; YAML 1.1 spells them in several ways, and the tools whose files are read take them.
    pub fn boolean(&self, node: &Node) -> Result<bool> {
        match &node.value {
            Value::Text(Text { text, quoted: Quoted::No }) => match text.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" => Ok(true),
                "false" | "no" | "off" => Ok(false),
                _ => Err(self.error(node.line, "expected true or false")),
            },
            _ => Err(self.error(node.line, "expected true or false")),
        }
    }

    /// Maps the failure of reading a value to its line.
    pub fn at<T, E: std::fmt::Display>(&self, line: usize, result: Result<T, E>) -> Result<T> {
        result.map_err(|e| self.error(line, e))
    }
}

/// Reads TOML.
///
/// # Errors
/// `Usage` with the line.
pub(super) fn from_toml(file: File<'_>, text: &str) -> Result<Node> {
    let table = DeTable::parse(text).map_err(|e| {
        let offset = e.span().map_or(0, |span| span.start);
        file.error(Lines::of(text).at(offset), e.message())
    })?;
    let lines = Lines::of(text);
    Ok(Node { line: 1, value: table_of(table.get_ref(), &lines) })
}

fn table_of(table: &DeTable<'_>, lines: &Lines) -> Value {
    let entry = |(key, value): (&toml::Spanned<Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
        let line = lines.at(key.span().start);
        let name = key.get_ref().to_string();
        // A table has the place of its header, but one that is only implied by others has none.
        (Key { line, name }, Node { line, value: value_of(value.get_ref(), lines) })
    };
    Value::Table(table.iter().map(entry).collect())
}

fn value_of(value: &DeValue<'_>, lines: &Lines) -> Value {
    let plain = |text: &dyn std::fmt::Display| Value::Text(Text { text: text.to_string(), quoted: Quoted::No });
    match value {
        DeValue::String(text) => Value::Text(Text { text: text.to_string(), quoted: Quoted::Yes }),
        DeValue::Integer(number) => plain(&number.as_str()),
        DeValue::Float(number) => plain(&number.as_str()),
        DeValue::Boolean(boolean) => plain(boolean),
        DeValue::Datetime(time) => plain(time),
        DeValue::Array(values) => Value::List(
            values
                .iter()
                .map(|v| Node { line: lines.at(v.span().start), value: value_of(v.get_ref(), lines) })
                .collect(),
        ),
        DeValue::Table(table) => table_of(table, lines),
    }
}

/// Where the lines of a text begin.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Lines {
        Lines(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect())
    }

    /// The line, from 1, of the byte at `offset`.
    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|&end| end < offset) + 1
    }
}
