//! Who may read: tokens with a life, Basic, odd challenges.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;

use super::Answer;
use super::fault::Reply;
use super::record::Request;

/// What the registry asks for.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Nothing.
    Open,
    /// User and password with every request.
    Basic { user: String, password: String },
    /// A token from a realm.
    Bearer(Bearer),
}

/// How long a token is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    Endless,
    /// This is stated as `expires_in`; its end comes when the test revokes it.
    Stated(Duration),
    /// For so many requests, whatever `expires_in` says. Needs no clock.
    Requests(usize),
}

/// How tokens are issued.
#[derive(Debug, Clone)]
pub struct Bearer {
    /// Where; `None`: `/token` of the registry itself.
    pub realm: Option<String>,
    /// User and password that the realm wants; `None`: anonymous.
    pub credentials: Option<(String, String)>,
    /// A refresh token that is good at the realm, by POST.
    pub refresh_token: Option<String>,
    pub lifetime: Lifetime,
    /// The whole `WWW-Authenticate` instead of the usual one.
    pub challenge: Option<String>,
}

impl Default for Bearer {
    fn default() -> Bearer {
        Bearer { realm: None, credentials: None, refresh_token: None, lifetime: Lifetime::Endless, challenge: None }
    }
}

impl Auth {
    /// A token for anybody.
    pub fn anonymous() -> Auth {
        Auth::Bearer(Bearer::default())
    }

    /// A token for one user.
    pub fn token(user: &str, password: &str) -> Auth {
        Auth::Bearer(Bearer { credentials: Some((user.into(), password.into())), ..Bearer::default() })
    }

    /// Basic for one user.
    pub fn basic(user: &str, password: &str) -> Auth {
        Auth::Basic { user: user.into(), password: password.into() }
    }
}

const SERVICE: &str = "faulty registry";

pub(super) struct Tokens {
    own_realm: String,
    port: u16,
    state: Mutex<State>,
}

struct State {
    auth: Auth,
    issued: usize,
    live: HashMap<String, Token>,
}

struct Token {
    scopes: Vec<String>,
    requests: Option<usize>,
}

impl Tokens {
    pub(super) fn new(own_realm: String, port: u16) -> Tokens {
        Tokens { own_realm, port, state: Mutex::new(State { auth: Auth::Open, issued: 0, live: HashMap::new() }) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the tokens")
    }

    pub(super) fn require(&self, auth: Auth) {
        self.state().auth = auth;
    }

    pub(super) fn revoke(&self) {
        self.state().live.clear();
    }

    /// Lets a request pass, or gives the refusal.
    pub(super) fn check(&self, request: &Request) -> Result<(), Box<Answer>> {
        let mut state = self.state();
        let challenge = match &state.auth {
            Auth::Open => return Ok(()),
            Auth::Basic { user, password } if request.basic() == Some((user.clone(), password.clone())) => {
                return Ok(());
            }
            Auth::Basic { .. } => "Basic realm=\"faulty registry\"".to_string(),
            Auth::Bearer(bearer) => self.challenge(bearer, request),
        };
        if let Some(token) = request.bearer()
            && state.use_token(token, request.kind.repository())
        {
            return Ok(());
        }
        let refusal = Reply::error(401, "UNAUTHORIZED", "authentication required");
        Err(Box::new(refusal.header("www-authenticate", challenge).into()))
    }

    fn challenge(&self, bearer: &Bearer, request: &Request) -> String {
        if let Some(challenge) = &bearer.challenge {
            return challenge.clone();
        }
        let realm = bearer.realm.as_ref().unwrap_or(&self.own_realm);
        let scope =
            request.kind.repository().map(|name| format!(",scope=\"repository:{name}:pull\"")).unwrap_or_default();
        format!("Bearer realm=\"{realm}\",service=\"{SERVICE}\"{scope}")
    }

    pub(super) fn issue(&self, request: &Request) -> Answer {
        let mut state = self.state();
        let Auth::Bearer(bearer) = state.auth.clone() else {
            return Reply::error(404, "UNSUPPORTED", "there are no tokens").into();
        };
        if !bearer.admits(request) {
            return Reply::error(401, "UNAUTHORIZED", "incorrect username or password").into();
        }
        let requests = match bearer.lifetime {
            Lifetime::Requests(count) => Some(count),
            _ => None,
        };
        let token = format!("canary-bearer-{}-{}", self.port, state.issued);
        state.issued += 1;
        state.live.insert(token.clone(), Token { scopes: scopes(request), requests });
        let mut body = json!({"token": token, "access_token": token});
        if let Lifetime::Stated(life) = bearer.lifetime {
            body["expires_in"] = json!(life.as_secs());
        }
        Reply::status(200).header("content-type", "application/json").body(body.to_string()).into()
    }
}

impl Bearer {
    fn admits(&self, request: &Request) -> bool {
        let form = form(request);
        let field = |name: &str| form.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        if let Some(refresh) = field("refresh_token") {
            return self.refresh_token.as_ref() == Some(&refresh);
        }
        let given = request.basic().or_else(|| field("username").zip(field("password")));
        self.credentials.as_ref().is_none_or(|wanted| given.as_ref() == Some(wanted))
    }
}

fn form(request: &Request) -> Vec<(String, String)> {
    url::form_urlencoded::parse(&request.body).map(|(n, v)| (n.into_owned(), v.into_owned())).collect()
}

fn scopes(request: &Request) -> Vec<String> {
    let query = url::form_urlencoded::parse(request.query.as_bytes()).map(|(n, v)| (n.into_owned(), v.into_owned()));
    let all = query.chain(form(request)).filter(|(name, _)| name == "scope");
    all.flat_map(|(_, value)| value.split(' ').map(str::to_owned).collect::<Vec<_>>()).collect()
}

impl State {
    fn use_token(&mut self, token: &str, repository: Option<&str>) -> bool {
        let Some(token) = self.live.get_mut(token) else { return false };
        let opens = |name: &str| token.scopes.iter().any(|s| s.starts_with(&format!("repository:{name}:")));
        if !repository.is_none_or(opens) {
            return false;
        }
        match &mut token.requests {
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }
}
