//! Challenges: what a registry demands in `WWW-Authenticate` (RFC 9110, 11.6.1).

use std::collections::BTreeSet;

use http_auth::{ChallengeParser, ChallengeRef};
use reqwest::Url;
use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

const MAX_CHALLENGES: usize = 16;

/// A demand that we can answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A user and a password.
    Basic,
    /// A token from a token service.
    Bearer {
        /// The address of the service; not yet trusted.
        realm: Url,
        /// What the service calls the registry.
        service: Option<String>,
        /// What the token should allow.
        scopes: BTreeSet<String>,
    },
}

/// Why no challenge can be answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Unusable(pub(super) String);

/// The best challenge of an answer: Bearer before Basic.
pub(super) fn choose(headers: &HeaderMap) -> Result<Challenge, Unusable> {
    let mut schemes: Vec<String> = Vec::new();
    let mut reasons: Vec<String> = Vec::new();
    let mut basic = None;
    let texts: Vec<&str> = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|h| h.to_str().ok()).collect();
    // What the parser does not understand ends that header, not the others.
    let parsed = texts.iter().flat_map(|text| ChallengeParser::new(text).map_while(Result::ok));
    for challenge in parsed.take(MAX_CHALLENGES) {
        schemes.push(challenge.scheme.to_owned());
        match challenge.scheme.to_ascii_lowercase().as_str() {
            "bearer" => match bearer(&challenge) {
                Ok(bearer) => return Ok(bearer),
                Err(why) => reasons.push(why),
            },
            "basic" => basic = Some(Challenge::Basic),
            _ => {}
        }
    }
    basic.ok_or_else(|| {
        Unusable(match (reasons.pop(), schemes.is_empty()) {
            (Some(why), _) => why,
            (None, true) => "the registry asks for a login but does not say which kind".into(),
            (None, false) => {
                let schemes = schemes.join(", ");
                format!("the registry asks for a login of kind {schemes:?}; Basic and Bearer are supported")
            }
        })
    })
}

fn bearer(challenge: &ChallengeRef<'_>) -> Result<Challenge, String> {
    let param = |name: &str| {
        let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    let realm = param("realm").ok_or("the registry asks for a token but does not say where to get one")?;
    let realm = Url::parse(&realm).map_err(|e| format!("the registry names {realm:?} for tokens: {e}"))?;
    let scopes = param("scope").unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    Ok(Challenge::Bearer { realm, service: param("service"), scopes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(values: &[&str]) -> Result<Challenge, Unusable> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, value.parse().unwrap());
        }
        choose(&headers)
    }

    fn expected(scopes: &[&str]) -> Result<Challenge, Unusable> {
        Ok(Challenge::Bearer {
            realm: "https://auth.example/token".parse().unwrap(),
            service: Some("reg".into()),
            scopes: scopes.iter().map(|s| (*s).into()).collect(),
        })
    }

    #[test]
    fn commas_inside_quotes_do_not_part_challenges() {
        let text = r#"Bearer realm="https://auth.example/token",service="reg",scope="repository:a:pull,push repository:b:pull""#;
        assert_eq!(chosen(&[text]), expected(&["repository:a:pull,push", "repository:b:pull"]));
    }

    #[test]
    fn bearer_is_preferred_wherever_it_stands() {
        let one = r#"Basic realm="x", bEaReR REALM="https://auth.example/token", Service="reg""#;
        assert_eq!(chosen(&[one]), expected(&[]));
        let basic = r#"Basic realm="x""#;
        let bearer = r#"Bearer realm="https://auth.example/token",service=reg"#;
        assert_eq!(chosen(&["Negotiate YIIabc==", basic, bearer]), expected(&[]));
        assert_eq!(chosen(&[basic]), Ok(Challenge::Basic));
    }

    #[test]
    fn odd_challenges_are_named() {
        assert!(chosen(&[]).unwrap_err().0.contains("does not say which kind"));
        assert!(chosen(&["Negotiate"]).unwrap_err().0.contains("Negotiate"));
        assert!(chosen(&[r#"Bearer service="x""#]).unwrap_err().0.contains("where to get one"));
        assert!(chosen(&[r#"Bearer realm="not a url""#]).unwrap_err().0.contains("not a url"));
        assert!(chosen(&["=,=\"\""]).is_err());
    }
}
