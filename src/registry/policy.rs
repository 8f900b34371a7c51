//! The trust policy of this machine (containers-policy.json(5)), as far as it can be obeyed without verifying signatures.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use serde::Deserialize;

use super::environment::Environment;
use crate::content::file::read_configuration;
use crate::error::{Error, Result};
use crate::oci::Reference;

#[derive(Deserialize)]
struct Policy {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

#[derive(Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
}

/// Whether the policy of this machine allows to take `name` from its registry.
///
/// # Errors
/// `Refused`, with the file and the rule; also when the file cannot be read or understood.
pub(super) fn check(environment: &Environment, name: &Reference) -> Result<()> {
    let refused = |why: String| Error::Refused { what: name.to_string(), why };
    let Some((file, text)) = read(environment).map_err(&refused)? else { return Ok(()) };
    let policy: Policy = serde_json::from_str(&text)
        .map_err(|e| refused(format!("the trust policy {} cannot be understood: {e}", file.display())))?;
    let (rule, requirements) = policy.rule_for(name);
    judge(requirements).map_err(|why| refused(format!("{} ({rule}): {why}", file.display())))
}

fn read(environment: &Environment) -> Result<Option<(PathBuf, String)>, String> {
    let own = environment.home().map(|home| home.join(".config/containers/policy.json"));
    let system = environment.system().join("containers/policy.json");
    for file in own.into_iter().chain([system]) {
        match read_configuration(&file) {
            Ok(text) => return Ok(Some((file, text))),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(format!("the trust policy {} cannot be read: {e}", file.display())),
        }
    }
    Ok(None)
}

impl Policy {
    /// The most specific rule: the name, its namespaces, the host, `*.domain`, the transport's default, the default.
    fn rule_for(&self, name: &Reference) -> (String, &[Requirement]) {
        let Some(docker) = self.transports.get("docker") else { return ("default".into(), &self.default) };
        let found = scopes(name).into_iter().find_map(|scope| docker.get_key_value(&scope));
        match found {
            Some((scope, requirements)) => (format!("transports.docker.{scope:?}"), requirements),
            None => ("default".into(), &self.default),
        }
    }
}

fn scopes(name: &Reference) -> Vec<String> {
    let repository = name.name();
    let mut scopes = match (name.digest(), name.tag()) {
        (Some(digest), _) => vec![format!("{repository}@{digest}")],
        (None, Some(tag)) => vec![format!("{repository}:{tag}")],
        (None, None) => Vec::new(),
    };
    let mut rest = repository.as_str();
    scopes.push(rest.to_owned());
    while let Some((above, _)) = rest.rsplit_once('/') {
        scopes.push(above.to_owned());
        rest = above;
    }
    while let Some((_, domain)) = rest.split_once('.') {
        scopes.push(format!("*.{domain}"));
        rest = domain;
    }
    scopes.push(String::new());
    scopes
}

fn judge(requirements: &[Requirement]) -> Result<(), String> {
    if requirements.is_empty() {
        return Err("the rule has no requirements, which accepts nothing".into());
    }
    for requirement in requirements {
        match requirement.kind.as_str() {
            "insecureAcceptAnything" => {}
            "reject" => return Err("the trust policy rejects it".into()),
            kind @ ("signedBy" | "signedBaseLayer" | "sigstoreSigned") => {
                return Err(format!("the trust policy demands {kind:?}, and signatures cannot be verified here"));
            }
            kind => return Err(format!("the trust policy demands {kind:?}, which is unknown")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(policy: &str, name: &str) -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("containers")).unwrap();
        std::fs::write(folder.path().join("containers/policy.json"), policy).unwrap();
        let environment = Environment::empty().with_system(folder.path());
        check(&environment, &name.parse().unwrap())
    }

    const ACCEPT: &str = r#"[{"type":"insecureAcceptAnything"}]"#;
    const REJECT: &str = r#"[{"type":"reject"}]"#;

    fn rule(scope: &str) -> String {
        format!(r#"{{"default":{ACCEPT},"transports":{{"docker":{{"{scope}":{REJECT}}}}}}}"#)
    }

    #[test]
    fn no_policy_at_all_accepts() {
        let name = "h.example/a".parse().unwrap();
        assert!(check(&Environment::empty(), &name).is_ok());
    }

    #[test]
    fn a_rejected_scope_is_refused_with_file_and_rule() {
        for scope in
            ["a.h.example/n/r:1", "a.h.example/n/r", "a.h.example/n", "a.h.example", "*.h.example", "*.example", ""]
        {
            let error = checked(&rule(scope), "a.h.example/n/r:1").unwrap_err();
            let text = error.to_string();
            assert!(text.contains("policy.json") && text.contains(&format!("docker.{scope:?}")), "{text}");
        }
        for scope in ["a.h.example/n/r:2", "a.h.example/n/rr", "h.example", "*.a.h.example", "a.h.example/n/r:1/"] {
            assert!(checked(&rule(scope), "a.h.example/n/r:1").is_ok(), "{scope}");
        }
    }

    #[test]
    fn the_more_specific_rule_wins() {
        let policy = format!(r#"{{"default":{REJECT},"transports":{{"docker":{{"docker.io/library":{ACCEPT}}}}}}}"#);
        assert!(checked(&policy, "mysql:8").is_ok());
        assert!(checked(&policy, "other/mysql:8").is_err());
    }

    #[test]
    fn demanded_signatures_are_refused() {
        for kind in ["signedBy", "sigstoreSigned"] {
            let policy = format!(r#"{{"default":[{{"type":"{kind}","keyPath":"/k"}}]}}"#);
            assert!(matches!(checked(&policy, "a"), Err(Error::Refused { .. })));
        }
    }

    #[test]
    fn what_cannot_be_understood_accepts_nothing() {
        for policy in ["", "{}", "[]", r#"{"default":[]}"#, r#"{"default":[{"type":"perhaps"}]}"#] {
            assert!(matches!(checked(policy, "a"), Err(Error::Refused { .. })), "{policy}");
        }
    }
}
