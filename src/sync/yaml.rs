//! YAML with lines, and with bounds: a file of a few lines can otherwise stand for gigabytes.

use std::collections::{HashMap, HashSet};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, StrInput};

use super::tree::{File, Key, Node, Quoted, Text, Value};
use crate::error::{Error, Result};

/// Lists in tables in lists: the forms that are read need five.
const MAX_DEPTH: usize = 32;
/// Values in all, those that aliases repeat counted each time.
const MAX_NODES: usize = 100_000;
/// Bytes of texts in all, counted likewise.
const MAX_TEXT: usize = 4 * 1024 * 1024;

/// Reads one document.
///
/// # Errors
/// `Usage` with the line: no YAML, several documents, a bound exceeded, a key twice, a tag.
pub(super) fn parse(file: File<'_>, text: &str) -> Result<Node> {
    let mut reader = Reader { file, parser: Parser::new_from_str(text), anchors: HashMap::new(), nodes: 0, bytes: 0 };
    let mut document = None;
    while let Some((event, span)) = reader.next()? {
        match event {
            Event::DocumentStart(_) if document.is_some() => {
                return Err(file.error(span.start.line(), "a second document: not supported"));
            }
            Event::DocumentStart(_) => document = reader.document()?,
            _ => {}
        }
    }
    Ok(document.unwrap_or(Node { line: 1, value: Value::Null }))
}

struct Reader<'t> {
    file: File<'t>,
    parser: Parser<'t, StrInput<'t>>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    bytes: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<(Event<'t>, Span)>> {
        self.parser.next_event().transpose().map_err(|e| self.broken(&e))
    }

    fn broken(&self, error: &ScanError) -> Error {
        self.file.error(error.marker().line(), error.info())
    }

    fn document(&mut self) -> Result<Option<Node>> {
        match self.next()? {
            Some((event, span)) => self.node(event, span, 0).map(Some),
            None => Ok(None),
        }
    }

    fn node(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Node> {
        let line = span.start.line();
        if depth > MAX_DEPTH {
            return Err(self.file.error(line, format_args!("nested deeper than {MAX_DEPTH}")));
        }
        self.count(line, 1, 0)?;
        let (value, anchor) = match event {
            Event::Alias(anchor) => return self.alias(anchor, line),
            Event::Scalar(text, style, anchor, tag) => {
                self.no_tag(line, tag.is_some())?;
                self.count(line, 0, text.len())?;
                (scalar(text.into_owned(), style), anchor)
            }
            Event::SequenceStart(anchor, tag) => {
                self.no_tag(line, tag.is_some())?;
                (self.sequence(depth)?, anchor)
            }
            Event::MappingStart(anchor, tag) => {
                self.no_tag(line, tag.is_some())?;
                (self.mapping(depth)?, anchor)
            }
            _ => (Value::Null, 0),
        };
        let node = Node { line, value };
        if anchor > 0 {
            // The copy that is kept counts as much as one that is used.
            self.count_all(&node)?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, depth: usize) -> Result<Value> {
        let mut nodes = Vec::new();
        while let Some((event, span)) = self.next()? {
            match event {
                Event::SequenceEnd => break,
                event => nodes.push(self.node(event, span, depth + 1)?),
            }
        }
        Ok(Value::List(nodes))
    }

    fn mapping(&mut self, depth: usize) -> Result<Value> {
        let (mut entries, mut merged) = (Vec::new(), Vec::new());
        let mut names = HashSet::new();
        while let Some((event, span)) = self.next()? {
            if event == Event::MappingEnd {
                break;
            }
            let key = self.key(event, span, depth)?;
            let Some((event, span)) = self.next()? else { break };
            let value = self.node(event, span, depth + 1)?;
            if key.name == "<<" {
                merged.push(value);
            } else if names.insert(key.name.clone()) {
                entries.push((key, value));
            } else {
                return Err(self.file.error(key.line, format_args!("key {:?}: given twice", key.name)));
            }
        }
        for node in merged {
            self.merge(node, &mut entries, &mut names)?;
        }
        Ok(Value::Table(entries))
    }

    fn key(&mut self, event: Event<'t>, span: Span, depth: usize) -> Result<Key> {
        let node = self.node(event, span, depth + 1)?;
        match node.value {
            Value::Text(text) => Ok(Key { line: node.line, name: text.text }),
            _ => Err(self.file.error(node.line, "a key that is no text: not supported")),
        }
    }

    /// `<<: *defaults`: the keys of another mapping, or of several, where they are not given here (YAML 1.1, "merge").
    fn merge(&self, from: Node, entries: &mut Vec<(Key, Node)>, names: &mut HashSet<String>) -> Result<()> {
        let sources = match from.value {
            Value::List(nodes) => nodes,
            _ => vec![from],
        };
        for source in sources {
            let Value::Table(table) = source.value else {
                return Err(self.file.error(source.line, "key \"<<\": expected keys and values"));
            };
            entries.extend(table.into_iter().filter(|(key, _)| names.insert(key.name.clone())));
        }
        Ok(())
    }

    fn alias(&mut self, anchor: usize, line: usize) -> Result<Node> {
        // One that is still open is not there yet: a value cannot hold itself.
        let node = self.anchors.get(&anchor).cloned();
        let node = node.ok_or_else(|| self.file.error(line, "an alias for a value that is not finished"))?;
        self.count_all(&node)?;
        Ok(node)
    }

    fn count_all(&mut self, node: &Node) -> Result<()> {
        match &node.value {
            Value::Null => self.count(node.line, 1, 0),
            Value::Text(text) => self.count(node.line, 1, text.text.len()),
            Value::List(nodes) => {
                self.count(node.line, 1, 0)?;
                nodes.iter().try_for_each(|node| self.count_all(node))
            }
            Value::Table(entries) => {
                self.count(node.line, 1, 0)?;
                entries.iter().try_for_each(|(key, node)| {
                    self.count(key.line, 1, key.name.len())?;
                    self.count_all(node)
                })
            }
        }
    }

    fn count(&mut self, line: usize, nodes: usize, bytes: usize) -> Result<()> {
        self.nodes += nodes;
        self.bytes += bytes;
        match self.nodes > MAX_NODES || self.bytes > MAX_TEXT {
            true => {
                Err(self.file.error(line, format_args!("more than {MAX_NODES} values or {MAX_TEXT} bytes of them")))
            }
            false => Ok(()),
        }
    }

    fn no_tag(&self, line: usize, tagged: bool) -> Result<()> {
        match tagged {
            true => Err(self.file.error(line, "a tag (\"!\"): not supported")),
            false => Ok(()),
        }
    }
}

fn scalar(text: String, style: ScalarStyle) -> Value {
    match style {
        ScalarStyle::Plain if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") => Value::Null,
        ScalarStyle::Plain => Value::Text(Text { text, quoted: Quoted::No }),
        _ => Value::Text(Text { text, quoted: Quoted::Yes }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn read(text: &str) -> Result<Node> {
        parse(File(Path::new("f.yaml")), text)
    }

    fn refusal(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for n in 1..12 {
            let aliases = vec![format!("*a{}", n - 1); 10].join(",");
            bomb.push_str(&format!("a{n}: &a{n} [{aliases}]\n"));
        }
        assert!(refusal(&bomb).contains("more than 100000 values"), "{}", refusal(&bomb));
        let long = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), vec!["*a"; 100].join(","));
        assert!(refusal(&long).contains("bytes"));
        assert!(read("a: &a [*a]\n").is_err());
    }

    #[test]
    fn depth_is_bounded_in_every_style() {
        for deep in ["[".repeat(200), "[".repeat(100_000), "{a: ".repeat(200), "- ".repeat(10_000), "? ".repeat(500)] {
            assert!(read(&deep).is_err(), "{}", &deep[..20]);
        }
        let steps: String = (0..500).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
        assert!(refusal(&steps).contains("f.yaml:"));
    }

    #[test]
    fn faults_name_their_line() {
        assert_eq!(refusal("a: 1\nb: 2\na: 3\n"), "f.yaml:3: key \"a\": given twice");
        assert_eq!(refusal("a: !!binary x\n"), "f.yaml:1: a tag (\"!\"): not supported");
        assert_eq!(refusal("a: 1\n---\nb: 1\n"), "f.yaml:2: a second document: not supported");
        assert!(refusal("a: 1\nb: [\n").starts_with("f.yaml:"));
    }

    #[test]
    fn merged_keys_give_way_to_those_that_stand_there() {
        let node = read("x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\n").unwrap();
        let file = File(Path::new("f"));
        let y = &file.table(&node).unwrap()[1].1;
        let pairs: Vec<_> =
            file.table(y).unwrap().iter().map(|(k, v)| (k.name.as_str(), file.text(v).unwrap())).collect();
        assert_eq!(pairs, [("b", "3"), ("a", "1")]);
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a-c:\\-\\[\\]{}&*!?|>'\"# \n,]{0,80}") {
            let _ = read(&text);
        }
    }
}
