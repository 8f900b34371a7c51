//! The part of Go's templates that scripts use with `--format`: fields, `index` and `json`.

use serde_json::Value;

use super::output::json_line;
use crate::error::{Error, Result};

/// Sees whether `format` is `json` or a template: a word alone would be printed as it is.
///
/// # Errors
/// `Usage`.
pub fn check(format: &str) -> Result<()> {
    match format == "json" || format.contains("{{") {
        true => Ok(()),
        false => {
            Err(Error::Usage(format!("--format {format}: expected json, or a template such as '{{{{.Digest}}}}'")))
        }
    }
}

/// Fills the actions of `text` from `value`: `{{.Digest}}`, `{{.Labels.name}}`, `{{index .Labels "a.b"}}`,
/// `{{index .Layers 0}}`, `{{json .Env}}`.
///
/// # Errors
/// `Usage` when an action is none of these, or names a field that `value` does not have.
pub fn render(text: &str, value: &Value) -> Result<String> {
    let mut rest = text;
    let mut filled = String::new();
    while let Some((before, action)) = rest.split_once("{{") {
        filled.push_str(&unescape(before));
        let Some((action, after)) = action.split_once("}}") else {
            return Err(Error::Usage(format!("template {text:?}: an action is not closed with }}}}")));
        };
        filled.push_str(&evaluate(action.trim(), value)?);
        rest = after;
    }
    filled.push_str(&unescape(rest));
    Ok(filled)
}

/// Shells hand `\n` and `\t` over as two characters.
fn unescape(text: &str) -> String {
    text.replace("\\n", "\n").replace("\\t", "\t")
}

fn evaluate(action: &str, value: &Value) -> Result<String> {
    let unknown = || Error::Usage(format!("template: {{{{{action}}}}} is not understood: use .Field, index or json"));
    let (word, argument) = action.split_once(char::is_whitespace).unwrap_or((action, ""));
    match word {
        "json" => {
            let line = json_line(field(argument.trim(), value)?).map_err(|_| unknown())?;
            Ok(line.trim_end().into())
        }
        "index" => {
            let (path, key) = argument.trim().rsplit_once(char::is_whitespace).ok_or_else(unknown)?;
            let holder = field(path.trim(), value)?;
            let found = match key.parse::<usize>() {
                Ok(at) => holder.get(at),
                Err(_) => holder.get(key.trim_matches('"')),
            };
            Ok(found.map(plain).unwrap_or_default())
        }
        path if path.starts_with('.') && argument.is_empty() => field(path, value).map(plain),
        _ => Err(unknown()),
    }
}

fn field<'a>(path: &str, value: &'a Value) -> Result<&'a Value> {
    let names = path.strip_prefix('.').ok_or_else(|| Error::Usage(format!("template: {path:?} is no field")))?;
    let mut names = names.split('.').filter(|name| !name.is_empty());
    names.try_fold(value, |holder, name| {
        holder.get(name).ok_or_else(|| Error::Usage(format!("template: there is no field {name:?} in {path}")))
    })
}

/// A value as Go prints it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => super::output::escape_lines(text),
        Value::Null => String::new(),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let fields: Vec<String> = fields.iter().map(|(name, value)| format!("{name}:{}", plain(value))).collect();
            format!("map[{}]", fields.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rendered(text: &str) -> String {
        let value = json!({"Digest": "sha256:0", "Layers": ["a", "b"], "Labels": {"a.b": "c", "d": "e"}, "Size": 7});
        render(text, &value).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn fields_index_and_json_are_filled_in() {
        assert_eq!(rendered("{{.Digest}}"), "sha256:0");
        assert_eq!(rendered("d={{ .Labels.d }}\\n{{.Size}}"), "d=e\n7");
        assert_eq!(rendered(r#"{{index .Labels "a.b"}}"#), "c");
        assert_eq!(rendered("{{index .Layers 1}}{{index .Layers 9}}"), "b");
        assert_eq!(rendered("{{json .Layers}}"), r#"["a","b"]"#);
        assert_eq!(rendered("{{.Layers}} {{.Labels}}"), "[a b] map[a.b:c d:e]");
        assert!(rendered("{{json .}}").starts_with('{'));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        assert_eq!(rendered("{{.Nope}}"), "template: there is no field \"Nope\" in .Nope");
        assert_eq!(rendered("{{.Digest"), "template \"{{.Digest\": an action is not closed with }}");
        assert!(rendered("{{range .Layers}}").contains("is not understood"));
        assert!(rendered("{{}}").contains("is not understood"));
    }
}
