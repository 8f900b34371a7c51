//! Tokens: asking a token service (distribution's `auth/token` and `auth/oauth`), and whether it is trusted with secrets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::time::Instant;

use super::{Authorization, Peer, basic, sensitive};
use crate::error::{Error, Fault, Result};
use crate::registry::answer::Answer;
use crate::registry::credentials::Credential;
use crate::registry::http::{Http, Request};
use crate::registry::proxy::is_loopback;
use crate::registry::session::same_origin;

const MAX_REPLY: usize = 1024 * 1024;
const MAX_TOKEN: usize = 64 * 1024;
const MAX_HOPS: usize = 5;
/// How long a token service may take for everything.
const TIME: Duration = Duration::from_secs(30);
/// What a token lasts at least and by default, as every client assumes.
const SHORTEST_LIFE: u64 = 60;
const LONGEST_LIFE: u64 = 24 * 60 * 60;
const CLIENT_ID: &str = "layerpull";

/// A bearer token.
#[derive(Debug, Clone)]
pub(super) struct Token {
    /// The header, marked sensitive.
    pub(super) header: HeaderValue,
    renew_at: Instant,
}

impl Token {
    /// Whether it should be used: a tenth of its life before its end it is renewed.
    pub(super) fn is_fresh(&self) -> bool {
        Instant::now() < self.renew_at
    }
}

/// What is asked of a token service.
pub(super) struct Grant {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    pub(super) scopes: BTreeSet<String>,
    pub(super) credential: Option<Credential>,
    pub(super) peer: Peer,
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<serde_json::Number>,
}

impl Grant {
    /// Asks for the token. One attempt, bounded in time and size.
    ///
    /// # Errors
    /// `Refused` when the service is not to be trusted, `Unauthorized` when it refuses, or transient ones.
    pub(super) async fn fetch(&self, http: &Http) -> Result<Token> {
        if let Some(Credential::RegistryToken(token)) = &self.credential {
            return self.token(token.expose(), LONGEST_LIFE, Instant::now());
        }
        match tokio::time::timeout(TIME, self.exchange(http)).await {
            Ok(done) => done,
            Err(_) => Err(Error::network(self.place(), self.what(), Fault::Stalled(TIME))),
        }
    }

    async fn exchange(&self, http: &Http) -> Result<Token> {
        let asked = Instant::now();
        let answer = self.answer(http).await?;
        if !answer.status().is_success() {
            return Err(self.refusal(answer).await);
        }
        let protocol = |why: &str| Error::network(self.place(), self.what(), Fault::Protocol(why.into()));
        let body = answer.bytes(MAX_REPLY).await?;
        let reply: Reply = serde_json::from_slice(&body).map_err(|_| protocol("the answer holds no token"))?;
        let text = reply.token.filter(|t| !t.is_empty()).or(reply.access_token);
        let text = text.filter(|t| !t.is_empty()).ok_or_else(|| protocol("the answer holds no token"))?;
        let life = reply.expires_in.and_then(|n| n.as_u64()).unwrap_or(SHORTEST_LIFE);
        self.token(&text, life.clamp(SHORTEST_LIFE, LONGEST_LIFE), asked)
    }

    fn token(&self, text: &str, life: u64, asked: Instant) -> Result<Token> {
        let header = (text.len() <= MAX_TOKEN).then(|| sensitive(format!("Bearer {text}"))).flatten();
        let unusable = || Fault::Protocol("the token holds characters that no header may hold, or is too long".into());
        let header = header.ok_or_else(|| Error::network(self.place(), self.what(), unusable()))?;
        Ok(Token { header, renew_at: asked + Duration::from_secs(life) * 9 / 10 })
    }

    /// Sends the request and follows redirects, judging every address anew.
    async fn answer(&self, http: &Http) -> Result<Answer> {
        let mut request = self.request()?;
        let first = request.url.clone();
        for _ in 0..=MAX_HOPS {
            let url = request.url.clone();
            judge(&url, &self.peer, self.credential.is_some())
                .map_err(|why| Error::Refused { what: format!("the token service {}", place(&url)), why })?;
            let answer = http.send(request.clone()).await?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let location = answer.header(LOCATION.as_str()).and_then(|text| url.join(text).ok());
            request.url = location.ok_or_else(|| answer.protocol("a redirect without a usable address"))?;
            if !same_origin(&first, &request.url) {
                request.headers.remove(AUTHORIZATION);
                if request.body.is_some() {
                    return Err(answer.protocol("the token service redirects a login to another host"));
                }
            }
        }
        Err(Error::network(self.place(), self.what(), Fault::Protocol(format!("more than {MAX_HOPS} redirects"))))
    }

    /// GET with a password or with nothing, POST with a refresh token.
    fn request(&self) -> Result<Request> {
        let mut request = Request {
            method: Method::GET,
            url: self.realm.clone(),
            headers: HeaderMap::new(),
            body: None,
            what: self.what(),
        };
        request.headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(Credential::IdentityToken(refresh)) = &self.credential {
            let mut form = url::form_urlencoded::Serializer::new(String::new());
            form.append_pair("grant_type", "refresh_token").append_pair("refresh_token", refresh.expose());
            form.append_pair("client_id", CLIENT_ID);
            form.extend_pairs(self.service.iter().map(|service| ("service", service)));
            let scopes: Vec<&str> = self.scopes.iter().map(String::as_str).collect();
            form.append_pair("scope", &scopes.join(" "));
            request.method = Method::POST;
            request.body = Some(Bytes::from(form.finish()));
            request.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
            return Ok(request);
        }
        let mut query = request.url.query_pairs_mut();
        query.extend_pairs(self.service.iter().map(|service| ("service", service)));
        query.extend_pairs(self.scopes.iter().map(|scope| ("scope", scope)));
        if let Some(Credential::Password { user, password }) = &self.credential {
            query.append_pair("account", user);
            let authorization = Authorization::Basic(basic(user, password.expose())?);
            request.headers.insert(AUTHORIZATION, authorization.header().clone());
        }
        drop(query);
        Ok(request)
    }

    async fn refusal(&self, answer: Answer) -> Error {
        let status = answer.status().as_u16();
        match answer.into_error().await {
            busy @ Error::Busy { .. } => busy,
            Error::Unauthorized { what, place, why } => {
                let login = if self.credential.is_some() { "it refuses the login" } else { "it wants a login" };
                let why = if why.is_empty() { login.to_owned() } else { format!("{login}: {why}") };
                Error::Unauthorized { what, place, why }
            }
            other => Error::Unauthorized {
                what: self.what(),
                place: self.place(),
                why: format!("the token service answered with HTTP {status}: {other}"),
            },
        }
    }

    fn what(&self) -> String {
        let scopes: Vec<&str> = self.scopes.iter().map(String::as_str).collect();
        if scopes.is_empty() { "a token".into() } else { format!("a token for {}", scopes.join(" ")) }
    }

    fn place(&self) -> String {
        place(&self.realm)
    }
}

fn place(url: &Url) -> String {
    crate::registry::http::authority(url)
}

/// Whether a token service may be asked for the sake of `peer`.
///
/// It speaks TLS unless the registry itself does not; it is no machine of a private network unless it is the
/// registry's own; a registry on loopback may name one on loopback.
fn judge(realm: &Url, peer: &Peer, secret: bool) -> Result<(), String> {
    let host = realm.host_str().unwrap_or_default();
    if !realm.username().is_empty() || realm.password().is_some() {
        return Err("its address holds a user or a password".into());
    }
    match realm.scheme() {
        "https" => {}
        "http" if peer.base.scheme() == "http" => {}
        "http" if peer.insecure && !secret => {}
        "http" => return Err("it speaks plain HTTP, while the registry speaks TLS".into()),
        other => return Err(format!("its address has the scheme {other:?}")),
    }
    let own = peer.base.host_str().unwrap_or_default();
    let (bare, own_bare) = (host.trim_matches(['[', ']']), own.trim_matches(['[', ']']));
    let both_here = is_loopback(bare) && is_loopback(own_bare);
    if is_private(bare) && host != own && !both_here {
        return Err("its address is in a private network, and not the registry's own".into());
    }
    Ok(())
}

/// An address that a registry outside must not make us talk to.
fn is_private(host: &str) -> bool {
    let Ok(address) = host.parse::<IpAddr>() else { return is_loopback(host) || host.ends_with(".localhost") };
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_private() || v4.is_loopback() || v4.is_link_local() || v4.is_unspecified(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(realm: &str, registry: &str, secret: bool) -> Result<(), String> {
        let base: Url = registry.parse().unwrap();
        judge(&realm.parse().unwrap(), &Peer { base, insecure: false }, secret)
    }

    #[test]
    fn a_realm_must_speak_tls_when_the_registry_does() {
        assert!(verdict("https://auth.example/t", "https://h.example", true).is_ok());
        assert!(verdict("http://auth.example/t", "https://h.example", false).is_err());
        assert!(verdict("http://auth.example/t", "http://h.example", true).is_ok());
        assert!(verdict("file:///etc/passwd", "https://h.example", false).is_err());
        assert!(verdict("https://u:p@auth.example/t", "https://h.example", false).is_err());
        let insecure = Peer { base: "https://h.example".parse().unwrap(), insecure: true };
        let realm = "http://auth.example/t".parse().unwrap();
        assert!(judge(&realm, &insecure, false).is_ok());
        assert!(judge(&realm, &insecure, true).is_err());
    }

    #[test]
    fn a_realm_in_a_private_network_must_be_the_registrys_own() {
        for private in ["10.0.0.1", "192.168.1.1", "169.254.169.254", "127.0.0.1", "localhost", "[::1]", "[fe80::1]"] {
            assert!(verdict(&format!("https://{private}/t"), "https://h.example", false).is_err(), "{private}");
            assert!(verdict(&format!("https://{private}:5001/t"), &format!("https://{private}:5000"), true).is_ok());
        }
        assert!(verdict("http://127.0.0.1:5001/t", "http://localhost:5000", true).is_ok());
        assert!(verdict("https://[::ffff:10.0.0.1]/t", "https://h.example", false).is_err());
    }

    #[test]
    fn every_scope_is_a_parameter_of_its_own() {
        let grant = Grant {
            realm: "https://auth.example/t?x=1".parse().unwrap(),
            service: Some("reg".into()),
            scopes: ["repository:a:pull".to_owned(), "repository:b:pull".into()].into(),
            credential: Some(Credential::password("ann", "pw")),
            peer: Peer { base: "https://h.example".parse().unwrap(), insecure: false },
        };
        let request = grant.request().unwrap();
        let query = request.url.query().unwrap();
        assert_eq!(query, "x=1&service=reg&scope=repository%3Aa%3Apull&scope=repository%3Ab%3Apull&account=ann");
        assert_eq!(request.headers[AUTHORIZATION], "Basic YW5uOnB3");
        assert!(request.headers[AUTHORIZATION].is_sensitive());
    }
}
