//! The walls between the modules hold: who may import whom.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A module and those that it may import. A module may always import itself.
const TABLE: &[(&str, &[&str])] = &[
    ("oci", &[]),
    ("error", &["oci"]),
    ("content", &["oci", "error"]),
    ("event", &["oci", "error", "content"]),
    ("state", &["oci", "error"]),
    ("limit", &[]),
    ("transfer", &["oci", "error", "content", "event", "state", "limit"]),
    ("registry", &["oci", "error", "content", "event", "state", "limit"]),
    ("store", &["oci", "error", "content", "event", "state"]),
    ("archive", &["oci", "error", "content", "event", "state"]),
    ("engines", &["oci", "error", "content", "event", "state"]),
    ("local", &["oci", "error", "content", "event", "state"]),
    ("sync", &["oci", "error", "content", "event", "state", "transfer"]),
    ("serve", &["oci", "error", "content", "event", "state", "store"]),
    ("cli", &["*"]),
    ("main", &["*"]),
    ("lib", &["*"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The top-level module that a file belongs to.
fn module(root: &Path, file: &Path) -> String {
    let first = file.strip_prefix(root).unwrap().components().next().unwrap();
    first.as_os_str().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// The top-level modules that a line names after `crate::`.
fn imports(line: &str) -> Vec<String> {
    let code = line.split("//").next().unwrap();
    let name = |rest: &str| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap().to_owned();
    code.split("crate::").skip(1).map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_module_imports_only_what_the_table_allows() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let table: BTreeMap<&str, &[&str]> = TABLE.iter().copied().collect();
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 20, "the sources were not found");
    let mut breaches = Vec::new();
    for file in files {
        let from = module(&root, &file);
        let allowed = table.get(from.as_str()).unwrap_or_else(|| panic!("{from} is not in the table"));
        let text = std::fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            for to in imports(line) {
                if to != from && table.contains_key(to.as_str()) && !allowed.contains(&to.as_str()) && *allowed != ["*"]
                {
                    breaches.push(format!("{}:{}: {from} imports {to}", file.display(), number + 1));
                }
            }
            assert!(!line.contains("use crate::{"), "{}: one module an import, please", file.display());
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}
