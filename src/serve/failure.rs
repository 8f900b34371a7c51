//! What goes wrong, in the envelope of the specification (distribution-spec, "Error Codes").

use std::io;

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use super::body::{Body, full};
use crate::error::Error;
use crate::oci::{Digest, InvalidDigest};

/// An answer that is an error.
#[derive(Debug)]
pub(super) struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
    header: Option<(header::HeaderName, HeaderValue)>,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Failure {
        Failure { status, code, message: message.into(), header: None }
    }

    fn with(mut self, name: header::HeaderName, value: HeaderValue) -> Failure {
        self.header = Some((name, value));
        self
    }

    #[cfg(test)]
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    #[cfg(test)]
    pub(super) fn status(&self) -> u16 {
        self.status.as_u16()
    }

    pub(super) fn not_found(why: &str) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "UNSUPPORTED", why)
    }

    pub(super) fn name_unknown(why: String) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "NAME_UNKNOWN", why)
    }

    pub(super) fn name_invalid(why: &str) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "NAME_INVALID", why)
    }

    pub(super) fn manifest_unknown(what: impl ToString) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", format!("manifest unknown: {}", what.to_string()))
    }

    pub(super) fn blob_unknown(digest: &Digest) -> Failure {
        Failure::new(StatusCode::NOT_FOUND, "BLOB_UNKNOWN", format!("blob unknown: {digest}"))
    }

    pub(super) fn digest_invalid(why: InvalidDigest) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", why.to_string())
    }

    pub(super) fn page_invalid() -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "PAGINATION_NUMBER_INVALID", "n is no number of entries")
    }

    /// The store is only read.
    pub(super) fn read_only() -> Failure {
        Failure::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this registry is read-only")
            .with(header::ALLOW, HeaderValue::from_static("GET, HEAD"))
    }

    /// The request names a host that this server is not.
    pub(super) fn misdirected() -> Failure {
        let why =
            "this registry answers to localhost and to addresses; for other names give it users, or say --no-auth";
        Failure::new(StatusCode::MISDIRECTED_REQUEST, "DENIED", why)
    }

    /// Somebody holds the store.
    pub(super) fn busy() -> Failure {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "the store is being collected; come again")
            .with(header::RETRY_AFTER, HeaderValue::from_static("5"))
    }

    pub(super) fn unauthorized() -> Failure {
        Failure::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required")
            .with(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"layerpull\", charset=\"UTF-8\""))
    }

    /// The store cannot be read. What it said is not for the client: it names files of this machine.
    pub(super) fn store() -> Failure {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the store cannot be read")
    }

    /// `missing` where the store says that it is not there.
    pub(super) fn from_store(error: Error, missing: Failure) -> Failure {
        match error {
            Error::NotFound { .. } => missing,
            Error::Store { source, .. } if source.kind() == io::ErrorKind::NotFound => missing,
            error => {
                tracing::warn!("the store cannot be read: {error}");
                Failure::store()
            }
        }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let envelope = json!({"errors": [{"code": self.code, "message": self.message}]});
        let mut response = Response::new(full(envelope.to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}
