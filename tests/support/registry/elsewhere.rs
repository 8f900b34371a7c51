//! A second origin that records what reaches it: the target of a redirect, a foreign address, somebody else's realm.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use super::answer::Answer;
use super::auth::Tokens;
use super::fault::{Fault, Reply, Rules, Times, When};
use super::record::{Kind, Log, Request, Requests};
use super::wire::Server;
use crate::images::{Blob, Content};

/// An origin on a free port of 127.0.0.1 that is no registry. Ends when the last clone of the `Arc` is dropped.
pub struct Elsewhere {
    server: Server,
    routes: Arc<Mutex<Routes>>,
}

#[derive(Default)]
struct Routes {
    contents: HashMap<String, Held>,
    tokens: Option<Arc<Tokens>>,
}

struct Held {
    content: Content,
    /// The query that must come, and how many GETs it is good for.
    signature: Option<(String, usize)>,
}

impl fmt::Debug for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Elsewhere({})", self.server.address)
    }
}

impl Elsewhere {
    /// Holds nothing and answers 404.
    pub fn start() -> Arc<Elsewhere> {
        let routes = Arc::new(Mutex::new(Routes::default()));
        let held = routes.clone();
        let handler =
            move |request: &Request| held.lock().expect("no test panics while it holds the routes").answer(request);
        Arc::new(Elsewhere { server: Server::start(Server::bind(), None, Arc::new(handler)), routes })
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.server.address.to_string()
    }

    /// Serves a blob without a signature and returns its address.
    pub fn add(&self, blob: &Blob) -> String {
        let path = format!("/v2/elsewhere/blobs/{}", blob.digest());
        self.routes().contents.insert(path.clone(), Held { content: blob.content.clone(), signature: None });
        format!("{}{path}", self.url())
    }

    /// Misbehaves from now on.
    pub fn rule(&self, when: When, times: Times, fault: Fault) {
        self.rules().push(when, times, fault);
    }

    /// Behaves from now on.
    pub fn behave(&self) {
        self.rules().clear();
    }

    /// The requests so far.
    pub fn requests(&self) -> Requests {
        self.log().snapshot()
    }

    /// Waits until the requests are as `condition` wants them. Panics when that does not come within a minute.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Requests) -> bool) -> Requests {
        self.log().wait(what, condition)
    }

    fn log(&self) -> &Log {
        &self.server.log
    }

    fn rules(&self) -> std::sync::MutexGuard<'_, Rules> {
        self.server.rules.lock().expect("no test panics while it holds the rules")
    }

    fn routes(&self) -> std::sync::MutexGuard<'_, Routes> {
        self.routes.lock().expect("no test panics while it holds the routes")
    }

    /// A signed address of `content` that answers `uses` GETs.
    pub(super) fn sign(&self, request: &Request, content: Content, uses: usize) -> String {
        let last = request.path.rsplit('/').next().unwrap_or_default();
        let path = format!("/v2/signed-{}/x/blobs/{last}", request.number);
        let query = format!("X-Amz-Signature=canary-signature-{}", request.number);
        let held = Held { content, signature: Some((query.clone(), uses)) };
        self.routes().contents.insert(path.clone(), held);
        format!("{}{path}?{query}", self.url())
    }

    pub(super) fn issue_for(&self, tokens: Arc<Tokens>) -> String {
        self.routes().tokens = Some(tokens);
        format!("{}/token", self.url())
    }
}

impl Routes {
    fn answer(&mut self, request: &Request) -> Answer {
        if let (Kind::Token, Some(tokens)) = (&request.kind, &self.tokens) {
            return tokens.issue(request);
        }
        let Some(held) = self.contents.get_mut(&request.path) else { return Reply::status(404).into() };
        match &mut held.signature {
            Some((query, uses)) if *query != request.query || *uses == 0 => Reply::status(403)
                .header("content-type", "application/xml")
                .body("<Error><Code>AccessDenied</Code></Error>")
                .into(),
            // Object stores sign one method, and refuse a second way of authorisation.
            Some(_) if request.header("authorization").is_some() => Reply::status(400).into(),
            Some((_, uses)) => {
                *uses -= usize::from(request.method == "GET");
                Answer::ranged(held.content.clone(), request)
            }
            None => Answer::ranged(held.content.clone(), request),
        }
    }
}
