//! Versions in tags, and ranges of them, as the tools understand them whose files are read.
//!
//! Tags are no semantic versions: `1`, `v1.2`, `8.0.36-debian`. Missing numbers count as zero, and what stands behind
//! the first hyphen is a pre-release, even if its author meant a distribution.

use std::cmp::Ordering;
use std::str::FromStr;

/// A tag has at most 128 characters, so this bounds the texts of ranges alone.
const MAX_RANGE: usize = 4096;

/// A version as it stands in a tag: numbers parted by dots, with an optional `v` before and `-pre.release` behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    numbers: Vec<u64>,
    pre: String,
}

/// Why a text is no version or no range of versions.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRange {
    /// A part of it is no comparison with a version.
    #[error("{0:?} is no range of versions: expected comparisons such as \">= 1.2\", \"~1.2\", \"^1\", \"1.2.x\"")]
    Comparison(String),
    /// It is unreasonably long.
    #[error("a range of versions has at most {MAX_RANGE} characters")]
    TooLong,
}

impl Version {
    /// The number at `place`, zero where there is none.
    fn number(&self, place: usize) -> u64 {
        self.numbers.get(place).copied().unwrap_or(0)
    }

    fn triple(&self) -> [u64; 3] {
        [self.number(0), self.number(1), self.number(2)]
    }

    fn compare(&self, other: &Version, dialect: Dialect) -> Ordering {
        let places = self.numbers.len().max(other.numbers.len());
        let numbers = (0..places).map(|place| self.number(place).cmp(&other.number(place)));
        numbers.fold(Ordering::Equal, Ordering::then).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => compare_pre(&self.pre, &other.pre, dialect),
        })
    }

    /// The order of "newest": by numbers, then pre-releases in their natural order (`rc2` before `rc10`), a version
    /// without one last.
    pub fn newness(&self, other: &Version) -> Ordering {
        self.compare(other, Dialect::Regsync)
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Version, ()> {
        let text = text.strip_prefix('v').unwrap_or(text);
        let text = text.split_once('+').map_or(text, |(version, _build)| version);
        let (numbers, pre) = match text.split_once('-') {
            Some((_, "")) => return Err(()),
            Some((numbers, pre)) => (numbers, pre),
            None => (text, ""),
        };
        let is_pre = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
        if !pre.is_empty() && (!pre.bytes().all(is_pre) || pre.split('.').any(str::is_empty)) {
            return Err(());
        }
        let numbers = numbers.split('.').map(number).collect::<Option<_>>().ok_or(())?;
        Ok(Version { numbers, pre: pre.into() })
    }
}

fn number(text: &str) -> Option<u64> {
    // `parse` takes a plus sign, no version has one.
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn compare_pre(a: &str, b: &str, dialect: Dialect) -> Ordering {
    let (mut left, mut right) = (a.split('.'), b.split('.'));
    loop {
        let order = match (left.next(), right.next()) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => Ordering::Less,
            (Some(_), None) => Ordering::Greater,
            (Some(a), Some(b)) => match dialect {
                Dialect::Semver => compare_identifiers(a, b),
                Dialect::Regsync => compare_naturally(a, b),
            },
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Semantic Versioning 2.0.0, §11.4: numbers by value and before texts, texts in the order of ASCII.
fn compare_identifiers(a: &str, b: &str) -> Ordering {
    match (number(a), number(b)) {
        (Some(x), Some(y)) => x.cmp(&y),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// Digits inside of a text count as numbers: `rc2` before `rc10`.
fn compare_naturally(mut a: &str, mut b: &str) -> Ordering {
    while !a.is_empty() && !b.is_empty() {
        let (part_a, part_b) = (run(a), run(b));
        let order = match (number(part_a), number(part_b)) {
            (Some(x), Some(y)) => x.cmp(&y),
            _ => part_a.cmp(part_b),
        };
        if order.is_ne() {
            return order;
        }
        (a, b) = (&a[part_a.len()..], &b[part_b.len()..]);
    }
    a.len().cmp(&b.len())
}

/// The longest beginning of digits alone, or of none.
fn run(text: &str) -> &str {
    let digits = text.as_bytes()[0].is_ascii_digit();
    let end = text.bytes().position(|b| b.is_ascii_digit() != digits).unwrap_or(text.len());
    &text[..end]
}

/// Whose rules a range follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Masterminds/semver v3.2.0, which skopeo cites; our own files too. A comparison without a pre-release takes
    /// releases only; versions have at most three numbers.
    Semver,
    /// regclient's `internal/semver` (v0.11): no `||`, no wildcards, pre-releases are versions like others, any count
    /// of numbers; `~1` is `>=1 <1.1`.
    Regsync,
}

/// A set of versions.
#[derive(Debug, Clone)]
pub struct Range {
    dialect: Dialect,
    /// One of them must hold as a whole.
    alternatives: Vec<Vec<Bound>>,
}

#[derive(Debug, Clone)]
struct Bound {
    limit: Limit,
    /// Whether versions with a pre-release are out, whatever their numbers.
    releases_only: bool,
}

#[derive(Debug, Clone)]
enum Limit {
    Any,
    Above(Version),
    AtLeast(Version),
    Below(Version),
    AtMost(Version),
    Equal(Version),
    NotEqual(Version),
    /// The three numbers alone, from the first to before the second.
    Within([u64; 3], [u64; 3]),
    Outside([u64; 3], [u64; 3]),
}

const LAST: [u64; 3] = [u64::MAX; 3];

impl Range {
    /// Reads `text` by the rules of `dialect`.
    ///
    /// # Errors
    /// When it is none, naming the part that cannot be read.
    pub fn parse(text: &str, dialect: Dialect) -> Result<Range, InvalidRange> {
        if text.len() > MAX_RANGE {
            return Err(InvalidRange::TooLong);
        }
        let alternatives = match dialect {
            Dialect::Semver => text.split("||").map(all_of).collect::<Result<_, _>>()?,
            Dialect::Regsync => vec![regsync(text)?],
        };
        Ok(Range { dialect, alternatives })
    }

    /// Whether `tag` is a version, and one of these.
    pub fn contains(&self, tag: &str) -> bool {
        let Ok(version) = tag.parse::<Version>() else { return false };
        if self.dialect == Dialect::Semver && version.numbers.len() > 3 {
            return false;
        }
        let holds = |bound: &Bound| bound.holds(&version, self.dialect);
        self.alternatives.iter().any(|bounds| bounds.iter().all(holds))
    }
}

impl Bound {
    fn holds(&self, version: &Version, dialect: Dialect) -> bool {
        if self.releases_only && !version.pre.is_empty() {
            return false;
        }
        let to = |other: &Version| version.compare(other, dialect);
        let within = |from: &[u64; 3], before: &[u64; 3]| (*from..*before).contains(&version.triple());
        match &self.limit {
            Limit::Any => true,
            Limit::Above(v) => to(v).is_gt(),
            Limit::AtLeast(v) => to(v).is_ge(),
            Limit::Below(v) => to(v).is_lt(),
            Limit::AtMost(v) => to(v).is_le(),
            Limit::Equal(v) => to(v).is_eq(),
            Limit::NotEqual(v) => to(v).is_ne(),
            Limit::Within(from, before) => within(from, before),
            Limit::Outside(from, before) => !within(from, before),
        }
    }
}

/// An operator and the version behind it, of which the last numbers may be left out or wildcards.
struct Comparison {
    operator: &'static str,
    version: Version,
    /// How many numbers are given, 0 to 3.
    given: usize,
}

/// Longer ones first, so that the first that fits is it.
const OPERATORS: [&str; 12] = [">=", "=>", "<=", "=<", "!=", "~>", "=", ">", "<", "~", "^", ""];

/// Comparisons that must all hold, parted by blanks or commas; `a - b` is `>=a <=b`.
fn all_of(text: &str) -> Result<Vec<Bound>, InvalidRange> {
    let rest = text.trim();
    if rest.is_empty() {
        return Ok(vec![Bound { limit: Limit::Any, releases_only: true }]);
    }
    let words: Vec<&str> = rest.split([' ', '\t', ',']).filter(|word| !word.is_empty()).collect();
    let invalid = || InvalidRange::Comparison(text.trim().into());
    let mut bounds = Vec::new();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        let operator = OPERATORS.iter().find(|operator| word.starts_with(**operator)).ok_or_else(invalid)?;
        let version = match &word[operator.len()..] {
            "" => words.next().ok_or_else(invalid)?,
            version => version,
        };
        if operator.is_empty() && words.next_if_eq(&"-").is_some() {
            let upper = words.next().ok_or_else(invalid)?;
            bounds.extend(comparison(">=", version).ok_or_else(invalid)?.bounds());
            bounds.extend(comparison("<=", upper).ok_or_else(invalid)?.bounds());
        } else {
            bounds.extend(comparison(operator, version).ok_or_else(invalid)?.bounds());
        }
    }
    Ok(bounds)
}

fn comparison(operator: &'static str, text: &str) -> Option<Comparison> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (numbers, pre) = match text.find(['-', '+']) {
        Some(end) => text.split_at(end),
        None => (text, ""),
    };
    let parts: Vec<&str> = numbers.split('.').collect();
    if parts.len() > 3 {
        return None;
    }
    let is_wild = |part: &&str| matches!(*part, "x" | "X" | "*");
    let given = parts.iter().position(is_wild).unwrap_or(parts.len());
    if !parts[given..].iter().all(|part| is_wild(part) || number(part).is_some()) {
        return None;
    }
    let known = if given == 0 { "0".to_owned() } else { parts[..given].join(".") };
    let version = format!("{known}{pre}").parse().ok()?;
    Some(Comparison { operator, version, given })
}

impl Comparison {
    fn bounds(self) -> Vec<Bound> {
        let whole = self.given == 3;
        // Masterminds: `!=1.2.3` alone takes pre-releases.
        let releases_only = self.version.pre.is_empty() && !(self.operator == "!=" && whole);
        let zero = self.version.triple() == [0; 3];
        let (from, after, version) = (self.version.triple(), self.after(), self.version.clone());
        let limits = match self.operator {
            _ if self.given == 0 && matches!(self.operator, "" | "=" | "~" | "~>" | "^" | ">=" | "=>") => {
                vec![Limit::Any]
            }
            "" | "=" if whole => vec![Limit::Equal(version)],
            "~" | "~>" if whole && zero => vec![Limit::AtLeast(version)],
            "" | "=" | "~" | "~>" => vec![Limit::AtLeast(version), Limit::Within([0; 3], self.tilde_end())],
            "^" => vec![Limit::AtLeast(version), Limit::Within([0; 3], self.caret_end())],
            "!=" if whole || self.given == 0 => vec![Limit::NotEqual(version)],
            "!=" => vec![Limit::Outside(from, after)],
            ">" if whole || self.given == 0 => vec![Limit::Above(version)],
            ">" => vec![Limit::Within(after, LAST)],
            ">=" | "=>" => vec![Limit::AtLeast(version)],
            "<" => vec![Limit::Below(version)],
            "<=" | "=<" if whole => vec![Limit::AtMost(version)],
            _ => vec![Limit::Within([0; 3], after)],
        };
        limits.into_iter().map(|limit| Bound { limit, releases_only }).collect()
    }

    /// The first numbers that do not begin with those that are given.
    fn after(&self) -> [u64; 3] {
        match (self.given, self.version.triple()) {
            (1, [major, ..]) => [major.saturating_add(1), 0, 0],
            (0 | 2, [major, minor, _]) => [major, minor.saturating_add(1), 0],
            (_, [major, minor, patch]) => [major, minor, patch.saturating_add(1)],
        }
    }

    fn tilde_end(&self) -> [u64; 3] {
        match (self.given, self.version.triple()) {
            (1, [major, ..]) => [major.saturating_add(1), 0, 0],
            (_, [major, minor, _]) => [major, minor.saturating_add(1), 0],
        }
    }

    fn caret_end(&self) -> [u64; 3] {
        match (self.given, self.version.triple()) {
            (_, [major, ..]) if major > 0 || self.given == 1 => [major.saturating_add(1), 0, 0],
            (given, [_, minor, _]) if minor > 0 || given == 2 => [0, minor.saturating_add(1), 0],
            (_, [_, _, patch]) => [0, 0, patch.saturating_add(1)],
        }
    }
}

/// Blank-separated comparisons without a blank inside, all of which must hold.
fn regsync(text: &str) -> Result<Vec<Bound>, InvalidRange> {
    let mut bounds = Vec::new();
    for word in text.split_whitespace() {
        let invalid = || InvalidRange::Comparison(word.into());
        let operator = [">=", "<=", ">", "<", "=", "^", "~", ""].into_iter().find(|o| word.starts_with(o));
        let operator = operator.ok_or_else(invalid)?;
        let version: Version = word[operator.len()..].parse().map_err(|()| invalid())?;
        bounds.extend(regsync_limits(operator, version));
    }
    match bounds.is_empty() {
        true => Err(InvalidRange::Comparison(text.into())),
        false => Ok(bounds.into_iter().map(|limit| Bound { limit, releases_only: false }).collect()),
    }
}

fn regsync_limits(operator: &str, version: Version) -> Vec<Limit> {
    let below = |numbers: [u64; 3]| Limit::Below(Version { numbers: numbers.into(), pre: String::new() });
    match (operator, version.triple()) {
        ("^", [0, 0, patch]) => vec![Limit::AtLeast(version), below([0, 0, patch.saturating_add(1)])],
        ("^", [0, minor, _]) => vec![Limit::AtLeast(version), below([0, minor.saturating_add(1), 0])],
        ("^", [major, ..]) => vec![Limit::AtLeast(version), below([major.saturating_add(1), 0, 0])],
        ("~", [major, minor, _]) => vec![Limit::AtLeast(version), below([major, minor.saturating_add(1), 0])],
        (">=", _) => vec![Limit::AtLeast(version)],
        ("<=", _) => vec![Limit::AtMost(version)],
        (">", _) => vec![Limit::Above(version)],
        ("<", _) => vec![Limit::Below(version)],
        _ => vec![Limit::Equal(version)],
    }
}

#[cfg(test)]
#[path = "version_tests.rs"]
mod tests;
