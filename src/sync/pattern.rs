//! Patterns of tags: globs and regular expressions, both in time linear to the tag and with bounded memory.

use regex::bytes::{Regex, RegexBuilder};

/// Compiled size in bytes of one expression, and of the automaton that is built while it runs.
const MAX_COMPILED: usize = 128 * 1024;
/// Characters of one pattern.
const MAX_LENGTH: usize = 1024;

/// A pattern that a tag fits or does not.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPattern {
    /// It is no regular expression.
    #[error("{0:?} is no regular expression: {1}")]
    Expression(String, String),
    /// A `[` of a glob has no `]`.
    #[error("{0:?} is no pattern: the '[' has no ']'")]
    Glob(String),
    /// It would need too much memory.
    #[error("a pattern of at most {MAX_LENGTH} characters and {MAX_COMPILED} bytes compiled, please")]
    TooLarge,
}

impl Pattern {
    /// A regular expression, found anywhere in the tag unless it has anchors. Classes such as `\d` are ASCII, as in Go.
    ///
    /// # Errors
    /// When it is none, or too large.
    pub fn regex(text: &str) -> Result<Pattern, InvalidPattern> {
        if text.len() > MAX_LENGTH {
            return Err(InvalidPattern::TooLarge);
        }
        let mut builder = RegexBuilder::new(text);
        builder.unicode(false).size_limit(MAX_COMPILED).dfa_size_limit(MAX_COMPILED).nest_limit(64);
        builder.build().map(Pattern).map_err(|e| match e {
            regex::Error::CompiledTooBig(_) => InvalidPattern::TooLarge,
            e => {
                // The message draws the expression over several lines; the last says what is wrong.
                let why = e.to_string();
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
                InvalidPattern::Expression(text.into(), why)
            }
        })
    }

    /// A glob for the whole tag: `*` any characters, `?` one, `[a-c]` and `[!a-c]` one of a set; the rest is itself.
    ///
    /// # Errors
    /// When a set has no end, or the glob is too long.
    pub fn glob(text: &str) -> Result<Pattern, InvalidPattern> {
        let mut expression = String::from("^");
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            rest = &rest[first.len_utf8()..];
            match first {
                '*' => expression.push_str(".*"),
                '?' => expression.push('.'),
                '[' => {
                    let (set, behind) = rest.split_once(']').ok_or_else(|| InvalidPattern::Glob(text.into()))?;
                    expression.push_str(&class(set));
                    rest = behind;
                }
                other => expression.push_str(&regex::escape(other.encode_utf8(&mut [0; 4]))),
            }
        }
        expression.push('$');
        match text.len() > MAX_LENGTH / 4 {
            true => Err(InvalidPattern::TooLarge),
            false => Pattern::regex(&expression),
        }
    }

    /// Whether `tag` fits.
    pub fn matches(&self, tag: &str) -> bool {
        self.0.is_match(tag.as_bytes())
    }
}

fn class(set: &str) -> String {
    let (negation, set) = match set.strip_prefix(['!', '^']) {
        Some(set) => ("^", set),
        None => ("", set),
    };
    // A hyphen makes a span; all else stands for itself.
    let escape = |c: char| if c == '-' { "-".into() } else { regex::escape(c.encode_utf8(&mut [0; 4])) };
    let escaped: String = set.chars().map(escape).collect();
    format!("[{negation}{escaped}]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_fit_the_whole_tag() {
        let fits = |glob: &str, tag: &str| Pattern::glob(glob).unwrap().matches(tag);
        assert!(fits("8.*", "8.0.36") && !fits("8.*", "18.0") && !fits("8.*", "8x0"));
        assert!(fits("v?", "v1") && !fits("v?", "v12"));
        assert!(fits("[a-c]1", "b1") && !fits("[!a-c]1", "b1") && fits("[!a-c]1", "d1"));
        assert!(fits("a+b", "a+b") && !fits("a+b", "aab"));
        assert!(Pattern::glob("[a").is_err());
    }

    #[test]
    fn expressions_are_found_anywhere_and_have_ascii_classes() {
        let pattern = Pattern::regex(r"\.[0-9]+-alpine").unwrap();
        assert!(pattern.matches("1.13-alpine-perl"));
        assert!(!Pattern::regex(r"^\d$").unwrap().matches("٣"));
        assert!(Pattern::regex("(").unwrap_err().to_string().contains("unclosed group"));
    }

    #[test]
    fn an_expression_that_explodes_is_refused() {
        for bomb in ["((a{100}){100}){100}", "(?:x{1000}){1000}", &"(".repeat(5000), &"a".repeat(5000)] {
            assert!(Pattern::regex(bomb).is_err());
        }
        let slow = Pattern::regex("^(a+)+$").unwrap();
        assert!(!slow.matches(&format!("{}b", "a".repeat(127))));
    }
}
