//! The configuration file: TOML, flat, every key known.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::content::file::read_configuration;
use crate::error::{Error, Result};

/// The values of a configuration file, with the lines that they stand on.
#[derive(Debug, Default)]
pub struct File {
    path: PathBuf,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    key: String,
    texts: Vec<String>,
    line: usize,
}

impl File {
    /// Reads `path`. `None` when there is no such file.
    ///
    /// # Errors
    /// `Usage` when it is no TOML, or has a key that is not among `known`.
    pub fn read(path: &Path, known: &[&str]) -> Result<Option<File>> {
        match read_configuration(path) {
            Ok(text) => File::parse(path, &text, known).map(Some),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) if e.kind() == ErrorKind::FileTooLarge => Err(Error::Usage(format!("{}: {e}", path.display()))),
            Err(e) => Err(Error::store("read the configuration", path)(e)),
        }
    }

    /// Reads `text`, which stands in `path`.
    ///
    /// # Errors
    /// As [`File::read`].
    pub fn parse(path: &Path, text: &str, known: &[&str]) -> Result<File> {
        let table = DeTable::parse(text).map_err(|e| {
            let line = e.span().map_or(1, |span| line_of(text, span.start));
            Error::Usage(format!("{}:{line}: {}", path.display(), e.message()))
        })?;
        let entry = |(key, value): (&toml::Spanned<_>, &toml::Spanned<DeValue<'_>>)| {
            let line = line_of(text, key.span().start);
            let key: &std::borrow::Cow<'_, str> = key.get_ref();
            let at = |why: String| Error::Usage(format!("{}:{line}: {why}", path.display()));
            if !known.contains(&&**key) {
                return Err(at(unknown(key, known)));
            }
            let texts = texts(value.get_ref()).map_err(|why| at(format!("`{key}`: {why}")))?;
            Ok(Entry { key: key.to_string(), texts, line })
        };
        let entries = table.get_ref().iter().map(entry).collect::<Result<_>>()?;
        Ok(File { path: path.into(), entries })
    }

    /// Where it was read.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The texts of `key` and its line, counted from 1.
    pub fn get(&self, key: &str) -> Option<(&[String], usize)> {
        self.entries.iter().find(|entry| entry.key == key).map(|entry| (entry.texts.as_slice(), entry.line))
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|&&b| b == b'\n').count()
}

fn unknown(key: &str, known: &[&str]) -> String {
    match super::nearest(key, known.iter().copied()) {
        Some(near) => format!("unknown key `{key}`: did you mean `{near}`?"),
        None => format!("unknown key `{key}`: `layerpull config` lists the known ones"),
    }
}

fn texts(value: &DeValue<'_>) -> Result<Vec<String>, String> {
    match value {
        DeValue::Array(values) => values.iter().map(|value| text(value.get_ref())).collect(),
        one => Ok(vec![text(one)?]),
    }
}

fn text(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Ok(number.as_str().into()),
        DeValue::Boolean(on) => Ok(on.to_string()),
        other => Err(format!("a {} is no value for a setting", other.type_str())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, String> {
        File::parse(Path::new("/c.toml"), text, &["jobs", "store", "platform"]).map_err(|e| e.to_string())
    }

    #[test]
    fn values_know_their_lines() {
        let file =
            parse("# mine\nstore = \"/s\"\n\nplatform = [\"linux/amd64\",\n  \"linux/arm64\"]\njobs = 3\n").unwrap();
        assert_eq!(file.get("store").unwrap(), (&["/s".to_string()][..], 2));
        assert_eq!(file.get("platform").unwrap().0.len(), 2);
        assert_eq!(file.get("jobs").unwrap(), (&["3".to_string()][..], 6));
        assert!(file.get("streams").is_none());
    }

    #[test]
    fn an_unknown_key_names_file_line_and_neighbour() {
        assert_eq!(parse("\njosb = 3").unwrap_err(), "/c.toml:2: unknown key `josb`: did you mean `jobs`?");
        assert!(parse("colour = 1").unwrap_err().starts_with("/c.toml:1: unknown key `colour`: `layerpull config`"));
    }

    #[test]
    fn what_is_no_toml_names_its_line() {
        assert!(parse("jobs = 3\nstore = \n").unwrap_err().starts_with("/c.toml:2: "));
    }

    #[test]
    fn tables_and_dates_are_no_values() {
        assert_eq!(parse("[jobs]\na = 1").unwrap_err(), "/c.toml:1: `jobs`: a table is no value for a setting");
        assert!(parse("store = 1979-05-27").is_err());
    }
}
