//! Who may read, and where it is allowed, write.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST};
use http::uri::Authority;
use http::{HeaderMap, Uri};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::{Error, Result};

/// Who may read.
#[derive(Debug, Clone, Default)]
pub enum Access {
    /// Whoever can reach a loopback address; any other address is refused.
    #[default]
    Loopback,
    /// Whoever can reach the address: it was said that no credentials are wanted.
    NoAuth,
    /// These users.
    Users(Users),
}

/// Users and the hashes of their passwords.
#[derive(Clone, Default)]
pub struct Users(HashMap<String, [u8; 32]>);

impl std::fmt::Debug for Users {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Access {
    /// Refuses to show the store to a network without being told to.
    ///
    /// # Errors
    /// `Usage` when `address` is no loopback address and nothing was said about credentials.
    pub(super) fn check(&self, address: SocketAddr) -> Result<()> {
        match self {
            Access::Loopback if !address.ip().is_loopback() => Err(Error::Usage(format!(
                "{address} can be reached from other machines: give credentials, or say --no-auth"
            ))),
            _ => Ok(()),
        }
    }

    /// Refuses to be written by whoever comes along, also on loopback: other users and browsers of this machine reach that.
    ///
    /// # Errors
    /// `Usage` when nothing was said about credentials.
    pub(super) fn check_writes(&self) -> Result<()> {
        match self {
            Access::Loopback => Err(Error::Usage(
                "a registry that can be written wants credentials: give them, or say --no-auth".into(),
            )),
            _ => Ok(()),
        }
    }

    /// Whether a request names this server. On loopback without credentials it must be by `localhost` or an address: a
    /// page in a browser reaches loopback by a name of its own that resolves to it (DNS rebinding), and would read all.
    pub(super) fn is_meant_by(&self, uri: &Uri, headers: &HeaderMap) -> bool {
        let Access::Loopback = self else { return true };
        let is_ours = |authority: &str| authority.parse().is_ok_and(|authority: Authority| is_local(authority.host()));
        let hosts = headers.get_all(HOST).iter().map(|value| value.to_str().unwrap_or_default());
        // Browsers always say whom they mean; HTTP/1.0 need not.
        hosts.chain(uri.authority().map(Authority::as_str)).all(is_ours)
    }

    /// Whether a request with these headers may read.
    pub(super) fn admits(&self, headers: &HeaderMap) -> bool {
        match self {
            Access::Loopback | Access::NoAuth => true,
            Access::Users(users) => basic(headers).is_some_and(|(user, password)| users.admit(&user, &password)),
        }
    }
}

impl Users {
    /// One user.
    pub fn one(user: &str, password: &str) -> Users {
        Users(HashMap::from([(user.into(), hash(password))]))
    }

    /// Reads lines of `user:password`; empty lines and those that begin with `#` are skipped.
    ///
    /// # Errors
    /// `Usage` when a line has no colon, a password is empty or bcrypt-hashed, or there is no line at all.
    pub fn parse(text: &str) -> Result<Users> {
        let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let users: HashMap<_, _> = lines.map(user).collect::<Result<_>>()?;
        match users.is_empty() {
            true => Err(Error::Usage("there are no credentials: expected lines of USER:PASSWORD".into())),
            false => Ok(Users(users)),
        }
    }

    /// Takes the same time for a wrong user as for a wrong password.
    fn admit(&self, user: &str, password: &str) -> bool {
        let given = hash(password);
        let known = self.0.get(user);
        let expected = known.copied().unwrap_or_else(|| hash(""));
        bool::from(given.ct_eq(&expected)) && known.is_some()
    }
}

/// Whether a host is `localhost`, below it (RFC 6761, 6.3), or an address.
fn is_local(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.ends_with(".localhost") || address.parse::<IpAddr>().is_ok()
}

fn user(line: &str) -> Result<(String, [u8; 32])> {
    match line.split_once(':') {
        Some((user, password)) if password.starts_with("$2") => Err(Error::Usage(format!(
            "the password of {user:?} is hashed by bcrypt, which is not supported: expected USER:PASSWORD"
        ))),
        Some((user, password)) if !user.is_empty() && !password.is_empty() => Ok((user.into(), hash(password))),
        // The line may be a password: it is not repeated.
        _ => Err(Error::Usage("credentials are no USER:PASSWORD".into())),
    }
}

/// Of equal length for all passwords, so that comparing tells nothing about theirs.
fn hash(password: &str) -> [u8; 32] {
    Sha256::digest(password.as_bytes()).into()
}

fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    text.split_once(':').map(|(user, password)| (user.into(), password.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(user: &str, password: &str) -> HeaderMap {
        let value = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())])
    }

    #[test]
    fn only_the_right_password_of_a_known_user_opens() {
        let access = Access::Users(Users::parse("# people\n\nme:pass:word\nyou:other\n").unwrap());
        assert!(access.admits(&headers("me", "pass:word")));
        assert!(access.admits(&headers("you", "other")));
        for (user, password) in [("me", "other"), ("me", ""), ("nobody", ""), ("nobody", "other"), ("", "")] {
            assert!(!access.admits(&headers(user, password)), "{user}:{password}");
        }
        assert!(!access.admits(&HeaderMap::new()));
    }

    #[test]
    fn credentials_that_cannot_work_are_refused_and_not_repeated() {
        for text in ["", "# nobody", "secret", "me:", ":secret", "me:$2y$05$secret"] {
            let error = Users::parse(text).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(!format!("{:?}", Users::one("me", "secret")).contains("secret"));
    }

    #[test]
    fn on_loopback_only_a_request_that_means_this_machine_is_answered() {
        let named = |host: &str| HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
        let (root, open) = (Uri::from_static("/v2/"), Access::Loopback);
        for host in ["localhost", "LOCALHOST:5000", "a.localhost:1", "127.0.0.1:5000", "[::1]:5000", "10.0.0.1"] {
            assert!(open.is_meant_by(&root, &named(host)), "{host}");
        }
        for host in ["evil.example", "evil.example:5000", "localhost.evil.example", "127.0.0.1.evil.example", "", "@"] {
            assert!(!open.is_meant_by(&root, &named(host)), "{host}");
            assert!(Access::NoAuth.is_meant_by(&root, &named(host)));
            assert!(Access::Users(Users::one("a", "b")).is_meant_by(&root, &named(host)));
        }
        assert!(open.is_meant_by(&root, &HeaderMap::new()));
        assert!(!open.is_meant_by(&Uri::from_static("http://evil.example/v2/"), &named("localhost")));
        let mut two = named("localhost");
        two.append(HOST, "evil.example".parse().unwrap());
        assert!(!open.is_meant_by(&root, &two));
    }

    #[test]
    fn the_network_sees_the_store_only_when_it_was_said() {
        let (near, far) = ("127.0.0.1:1".parse().unwrap(), "0.0.0.0:1".parse().unwrap());
        assert!(Access::Loopback.check(near).is_ok() && Access::Loopback.check("[::1]:1".parse().unwrap()).is_ok());
        assert!(Access::Loopback.check(far).unwrap_err().to_string().contains("--no-auth"));
        assert!(Access::NoAuth.check(far).is_ok() && Access::Users(Users::one("a", "b")).check(far).is_ok());
        assert!(Access::Loopback.check_writes().unwrap_err().to_string().contains("--no-auth"));
        assert!(Access::NoAuth.check_writes().is_ok());
    }
}
