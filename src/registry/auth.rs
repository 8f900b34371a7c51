//! Authorization at one registry: what it demands, and the tokens that answer it (distribution's token authentication).

mod challenge;
mod token;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use challenge::{Challenge, Unusable};
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use reqwest::Url;
use reqwest::header::HeaderValue;
use token::{Grant, Token};

use super::answer::Answer;
use super::credentials::{Credential, SharedCredentials};
use super::http::Http;
use crate::error::{Error, Fault, Result};

/// Tokens kept for one registry; ended ones go first.
const MAX_TOKENS: usize = 256;
/// A challenge may widen what is asked for by this much, and no further.
const MAX_SCOPES: usize = 16;
const MAX_SCOPE_LENGTH: usize = 1024;

/// What a request needs to be allowed to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct Access {
    /// The repository, for credentials that are bound to one. Empty for the registry as a whole.
    pub repository: String,
    /// The scopes, as `repository:library/mysql:pull`.
    pub scopes: BTreeSet<String>,
}

impl Access {
    /// Reading a repository.
    pub(super) fn pull(repository: &str) -> Access {
        Access { repository: repository.into(), scopes: [format!("repository:{repository}:pull")].into() }
    }

    /// Reading and writing a repository.
    pub(super) fn push(repository: &str) -> Access {
        Access { repository: repository.into(), scopes: [format!("repository:{repository}:pull,push")].into() }
    }

    /// The same, and reading `from` for a mount.
    pub(super) fn mount(repository: &str, from: &str) -> Access {
        let mut access = Access::push(repository);
        access.scopes.insert(format!("repository:{from}:pull"));
        access
    }

    /// Deleting from a repository.
    pub(super) fn delete(repository: &str) -> Access {
        Access { repository: repository.into(), scopes: [format!("repository:{repository}:pull,delete")].into() }
    }

    /// Listing the repositories of a registry.
    pub(super) fn catalog() -> Access {
        Access { repository: String::new(), scopes: ["registry:catalog:*".to_owned()].into() }
    }
}

/// The registry that is asked, for deciding where its credentials may travel.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    /// Its address.
    pub base: Url,
    /// The user, or loopback, allows less than verified TLS.
    pub insecure: bool,
}

/// What a request carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Authorization {
    /// A password: asking for another makes no sense.
    Basic(HeaderValue),
    /// A token, which may have ended.
    Bearer(HeaderValue),
}

impl Authorization {
    /// The header, marked sensitive.
    pub(super) fn header(&self) -> &HeaderValue {
        match self {
            Authorization::Basic(header) | Authorization::Bearer(header) => header,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    realm: Url,
    service: Option<String>,
    scopes: BTreeSet<String>,
    repository: String,
}

type Flight = Shared<BoxFuture<'static, Result<Token, Arc<Error>>>>;

enum Slot {
    Ready(Token),
    Flying(Flight),
}

#[derive(Default)]
struct State {
    challenge: Option<Challenge>,
    /// Scopes that a challenge asked for beyond those that we did.
    wider: HashMap<Access, BTreeSet<String>>,
    tokens: HashMap<Key, Slot>,
    /// What a token has opened before.
    opened: HashSet<Access>,
}

/// Answers the challenges of one registry.
pub(super) struct Authenticator {
    registry: String,
    http: Arc<Http>,
    credentials: SharedCredentials,
    state: Mutex<State>,
}

impl Authenticator {
    pub(super) fn new(registry: &str, http: Arc<Http>, credentials: SharedCredentials) -> Authenticator {
        Authenticator { registry: registry.into(), http, credentials, state: Mutex::default() }
    }

    /// What a request should carry. Nothing until the registry has asked for something.
    ///
    /// # Errors
    /// `Unauthorized`, `Refused` for an untrusted realm, or what the token service failed with.
    pub(super) async fn authorization(self: &Arc<Self>, access: &Access, peer: &Peer) -> Result<Option<Authorization>> {
        let Some(challenge) = self.state().challenge.clone() else { return Ok(None) };
        match challenge {
            Challenge::Basic => match self.credential(access).await {
                Some(Credential::Password { user, password }) => {
                    Ok(Some(Authorization::Basic(basic(&user, password.expose())?)))
                }
                _ => Ok(None),
            },
            Challenge::Bearer { realm, service, .. } => {
                let scopes = self.scopes(access);
                let key = Key { realm, service, scopes, repository: access.repository.clone() };
                let token = self.token(key, access, peer).await?;
                Ok(Some(Authorization::Bearer(token.header)))
            }
        }
    }

    /// Learns from a 401. Afterwards [`Authenticator::authorization`] has another answer.
    ///
    /// # Errors
    /// `Unauthorized` when nothing can be learned: a password was refused, or the challenge is none we can answer.
    pub(super) async fn learn(&self, access: &Access, used: Option<&Authorization>, answer: Answer) -> Result<()> {
        let challenge = match challenge::choose(answer.response.headers()) {
            Ok(challenge) => challenge,
            Err(Unusable(why)) => {
                return Err(Error::Unauthorized { what: answer.what, place: answer.place, why });
            }
        };
        if let (Some(Authorization::Basic(_)), Challenge::Basic) = (used, &challenge) {
            return Err(self.refused(answer).await);
        }
        let mut state = self.state();
        if let Some(Authorization::Bearer(sent)) = used {
            state.tokens.retain(|_, slot| !matches!(slot, Slot::Ready(token) if token.header == *sent));
        }
        if let Challenge::Bearer { scopes, .. } = &challenge {
            state.widen(access, scopes);
        }
        state.challenge = Some(challenge);
        Ok(())
    }

    /// A request that carried `used` was let pass.
    pub(super) fn opened(&self, access: &Access, used: Option<&Authorization>) {
        let mut state = self.state();
        if matches!(used, Some(Authorization::Bearer(_))) && state.opened.len() < MAX_TOKENS {
            state.opened.insert(access.clone());
        }
    }

    /// A token that no other request gets, for what tokens have opened before: there a refusal says more about the
    /// token than about the access.
    ///
    /// # Errors
    /// Those of the token service.
    pub(super) async fn unshared(&self, access: &Access, peer: &Peer) -> Result<Option<Authorization>> {
        let challenge =
            Some(self.state()).filter(|state| state.opened.contains(access)).and_then(|s| s.challenge.clone());
        let Some(Challenge::Bearer { realm, service, .. }) = challenge else { return Ok(None) };
        let key = Key { realm, service, scopes: self.scopes(access), repository: access.repository.clone() };
        let token = self.grant(&key, access, peer.clone()).await.fetch(&self.http).await?;
        Ok(Some(Authorization::Bearer(token.header)))
    }

    async fn grant(&self, key: &Key, access: &Access, peer: Peer) -> Grant {
        Grant {
            realm: key.realm.clone(),
            service: key.service.clone(),
            scopes: key.scopes.clone(),
            credential: self.credential(access).await,
            peer,
        }
    }

    /// A final 401 or 403, with advice.
    pub(super) async fn refused(&self, answer: Answer) -> Error {
        match answer.into_error().await {
            Error::Unauthorized { what, place, why } => {
                let advice =
                    format!("it does not exist, or access needs another login (layerpull login {})", self.registry);
                let why = if why.is_empty() { advice } else { format!("{why}: {advice}") };
                Error::Unauthorized { what, place, why }
            }
            other => other,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scopes(&self, access: &Access) -> BTreeSet<String> {
        self.state().wider.get(access).unwrap_or(&access.scopes).clone()
    }

    async fn credential(&self, access: &Access) -> Option<Credential> {
        self.credentials.find(&self.registry, &access.repository, self.http.notices()).await
    }

    /// A token that has not ended; one request for it however many ask at once.
    async fn token(self: &Arc<Self>, key: Key, access: &Access, peer: &Peer) -> Result<Token> {
        let flight = {
            let mut state = self.state();
            match state.tokens.get(&key) {
                Some(Slot::Ready(token)) if token.is_fresh() => return Ok(token.clone()),
                Some(Slot::Flying(flight)) => flight.clone(),
                _ => {
                    let flight = self.clone().take_off(key.clone(), access.clone(), peer.clone());
                    state.make_room();
                    state.tokens.insert(key, Slot::Flying(flight.clone()));
                    flight
                }
            }
        };
        flight.await.map_err(|e| again(&e))
    }

    /// Starts a request for a token that ends also when everybody who waited for it has gone.
    fn take_off(self: Arc<Self>, key: Key, access: Access, peer: Peer) -> Flight {
        let place = self.registry.clone();
        let task = tokio::spawn(async move {
            let fetched = self.grant(&key, &access, peer).await.fetch(&self.http).await;
            let mut state = self.state();
            match &fetched {
                Ok(token) => state.tokens.insert(key, Slot::Ready(token.clone())),
                Err(_) => state.tokens.remove(&key),
            };
            fetched.map_err(Arc::new)
        });
        let landed = task.map(move |done| match done {
            Ok(fetched) => fetched,
            Err(e) => Err(Arc::new(Error::network(place, "a token", Fault::Broken(e.to_string())))),
        });
        landed.boxed().shared()
    }
}

impl State {
    fn widen(&mut self, access: &Access, asked: &BTreeSet<String>) {
        let known = self.wider.get(access).unwrap_or(&access.scopes);
        let usable = asked.iter().filter(|scope| scope.len() <= MAX_SCOPE_LENGTH);
        let wider: BTreeSet<String> = known.iter().chain(usable).take(MAX_SCOPES).cloned().collect();
        if wider != *known && (self.wider.len() < MAX_TOKENS || self.wider.contains_key(access)) {
            self.wider.insert(access.clone(), wider);
        }
    }

    fn make_room(&mut self) {
        if self.tokens.len() >= MAX_TOKENS {
            self.tokens.retain(|_, slot| matches!(slot, Slot::Flying(_)));
        }
    }
}

/// A `Basic` header, marked sensitive.
fn basic(user: &str, password: &str) -> Result<HeaderValue> {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    sensitive(format!("Basic {pair}")).ok_or_else(|| Error::Usage("the password cannot be sent".into()))
}

fn sensitive(text: String) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(text).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The same error for another waiter.
fn again(error: &Error) -> Error {
    match error {
        Error::Unauthorized { what, place, why } => {
            Error::Unauthorized { what: what.clone(), place: place.clone(), why: why.clone() }
        }
        Error::Refused { what, why } => Error::Refused { what: what.clone(), why: why.clone() },
        Error::Invalid { what, place, why } => {
            Error::Invalid { what: what.clone(), place: place.clone(), why: why.clone() }
        }
        Error::Busy { what, place, status, retry_after, why } => Error::Busy {
            what: what.clone(),
            place: place.clone(),
            status: *status,
            retry_after: *retry_after,
            why: why.clone(),
        },
        Error::Network { what, place, fault } => {
            let fault = match fault {
                Fault::Connect(why) => Fault::Connect(why.clone()),
                Fault::Tls(why) => Fault::Tls(why.clone()),
                Fault::Stalled(time) => Fault::Stalled(*time),
                Fault::Broken(why) => Fault::Broken(why.clone()),
                other => Fault::Protocol(other.to_string()),
            };
            Error::network(place, what, fault)
        }
        other => Error::Usage(other.to_string()),
    }
}
