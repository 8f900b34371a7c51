//! Where a setting stands, behind the flags: the environment, then the file.

use super::{Environment, File, INSECURE, Key, Origin, PLATFORM, Setting, values, variable};
use crate::error::{Error, Result};
use crate::oci::Platform;
use crate::registry::Insecure;

/// Where settings are looked for behind the flags.
pub(super) struct Sources<'a> {
    pub environment: Environment<'a>,
    pub file: Option<File>,
}

/// The texts of a setting, before they are read.
struct Raw {
    texts: Vec<String>,
    origin: Origin,
}

/// How a variable is split.
enum Shape {
    One,
    /// At commas.
    List,
}

/// A setting that somebody may have set.
pub(super) struct Found<T>(Option<Setting<T>>);

impl<T> Found<T> {
    pub fn or(self, value: T) -> Setting<T> {
        self.0.unwrap_or(Setting { value, origin: Origin::Default })
    }

    pub fn or_try(self, value: impl FnOnce() -> Result<T>) -> Result<Setting<T>> {
        match self.0 {
            Some(setting) => Ok(setting),
            None => Ok(Setting { value: value()?, origin: Origin::Default }),
        }
    }

    pub fn optional(self) -> Setting<Option<T>> {
        match self.0 {
            Some(Setting { value, origin }) => Setting { value: Some(value), origin },
            None => Setting { value: None, origin: Origin::Default },
        }
    }
}

impl Sources<'_> {
    pub fn one<T>(&self, key: &Key, flag: Option<T>, read: fn(&str) -> Result<T, String>) -> Result<Found<T>> {
        self.pick(key, flag, Shape::One, |texts| match texts {
            [one] => read(one),
            _ => Err("expected one value".into()),
        })
    }

    pub fn many<T>(&self, key: &Key, flag: Vec<T>, read: fn(&str) -> Result<T, String>) -> Result<Found<Vec<T>>> {
        let flag = (!flag.is_empty()).then_some(flag);
        self.pick(key, flag, Shape::List, |texts| texts.iter().map(|text| read(text)).collect())
    }

    pub fn platforms(&self, flag: Vec<Platform>) -> Result<Found<Vec<Platform>>> {
        self.many(&PLATFORM, flag, |text| text.parse().map_err(|e: crate::oci::InvalidPlatform| e.to_string()))
    }

    pub fn insecure(&self, flag: bool) -> Result<Found<Insecure>> {
        self.pick(&INSECURE, flag.then_some(Insecure::All), Shape::List, values::insecure)
    }

    fn pick<T>(
        &self,
        key: &Key,
        flag: Option<T>,
        shape: Shape,
        read: impl FnOnce(&[String]) -> Result<T, String>,
    ) -> Result<Found<T>> {
        if let Some(value) = flag {
            return Ok(Found(Some(Setting { value, origin: Origin::Flag })));
        }
        let Some(Raw { texts, origin }) = self.raw(key, shape)? else { return Ok(Found(None)) };
        match read(&texts) {
            Ok(value) => Ok(Found(Some(Setting { value, origin }))),
            Err(why) => Err(Error::Usage(format!("{origin}: `{}`: {why}", key.name))),
        }
    }

    fn raw(&self, key: &Key, shape: Shape) -> Result<Option<Raw>> {
        let names = [Some(key.variable()), key.foreign.map(str::to_owned)];
        for name in names.into_iter().flatten() {
            if let Some(value) = variable(self.environment, &name) {
                let text = value.into_string().map_err(|_| Error::Usage(format!("{name}: the value is not UTF-8")))?;
                let texts = match shape {
                    Shape::One => vec![text],
                    Shape::List => text.split(',').map(|part| part.trim().to_owned()).collect(),
                };
                return Ok(Some(Raw { texts, origin: Origin::Environment(name) }));
            }
        }
        let Some(file) = &self.file else { return Ok(None) };
        let entry = file.get(key.name);
        Ok(entry.map(|(texts, line)| Raw { texts: texts.to_vec(), origin: Origin::File(file.path().into(), line) }))
    }
}
