//! Texts that must not be shown.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, HeaderMap};

/// A password or a token. It cannot be printed; [`Secret::expose`] marks every place that uses it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the header, body or file that it is meant for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Secret {
        Secret(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// What one request told a server. Servers repeat in their errors what they were told, and errors are shown.
#[derive(Debug, Default)]
pub(super) struct Told(Vec<Secret>);

impl Told {
    /// The secrets of a request.
    pub(super) fn by(headers: &HeaderMap, body: Option<&[u8]>) -> Told {
        let mut secrets = Vec::new();
        let authorization = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some((_, credentials)) = authorization.and_then(|text| text.split_once(' ')) {
            secrets.extend(password(credentials));
            secrets.push(credentials.to_owned());
        }
        let form = url::form_urlencoded::parse(body.unwrap_or_default());
        secrets.extend(form.filter(|(name, _)| name == "refresh_token").map(|(_, value)| value.into_owned()));
        secrets.retain(|secret| !secret.is_empty());
        Told(secrets.into_iter().map(Secret::from).collect())
    }

    /// `text` without them.
    pub(super) fn hidden_in(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret.expose(), "…"))
    }
}

/// The password inside the credentials of Basic authentication.
fn password(credentials: &str) -> Option<String> {
    let pair = String::from_utf8(STANDARD.decode(credentials).ok()?).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn hidden(authorization: &'static str, body: &[u8], text: &str) -> String {
        let headers = HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(authorization))]);
        Told::by(&headers, Some(body)).hidden_in(text)
    }

    #[test]
    fn what_a_server_repeats_of_a_secret_is_hidden() {
        // ann:pass:word
        let basic = "Basic YW5uOnBhc3M6d29yZA==";
        assert_eq!(hidden(basic, b"", "no pass:word or YW5uOnBhc3M6d29yZA==, ann"), "no … or …, ann");
        assert_eq!(hidden("Bearer abc", b"", "token abc is old"), "token … is old");
        assert_eq!(hidden("Bearer abc", b"refresh_token=a%2Bb&x=y", "a+b y"), "… y");
        assert_eq!(hidden("Basic Og==", b"", "nothing"), "nothing");
    }
}
