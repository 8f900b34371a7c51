//! Who may read.

use std::collections::HashMap;
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
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
    fn the_network_sees_the_store_only_when_it_was_said() {
        let (near, far) = ("127.0.0.1:1".parse().unwrap(), "0.0.0.0:1".parse().unwrap());
        assert!(Access::Loopback.check(near).is_ok() && Access::Loopback.check("[::1]:1".parse().unwrap()).is_ok());
        assert!(Access::Loopback.check(far).unwrap_err().to_string().contains("--no-auth"));
        assert!(Access::NoAuth.check(far).is_ok() && Access::Users(Users::one("a", "b")).check(far).is_ok());
    }
}
