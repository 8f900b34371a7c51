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
    /// What it is about.
    detail: Option<String>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Failure {
        Failure { status, code, message: message.into(), detail: None, headers: Vec::new() }
    }

    fn with(mut self, name: header::HeaderName, value: HeaderValue) -> Failure {
        self.headers.push((name, value));
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

    /// The endpoint knows other methods.
    pub(super) fn not_allowed(allowed: &'static str) -> Failure {
        Failure::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", "this method is not supported here")
            .with(header::ALLOW, HeaderValue::from_static(allowed))
    }

    /// A page in a browser asks, not a client of registries.
    pub(super) fn cross_site() -> Failure {
        Failure::new(
            StatusCode::FORBIDDEN,
            "DENIED",
            "a request with an Origin comes from a browser, which may not write",
        )
    }

    pub(super) fn upload_unknown() -> Failure {
        Failure::new(
            StatusCode::NOT_FOUND,
            "BLOB_UPLOAD_UNKNOWN",
            "no such upload: it was ended or given up, begin again",
        )
    }

    /// A chunk that belongs elsewhere than at the end of what is there, which `standing` tells.
    pub(super) fn out_of_order(standing: impl IntoIterator<Item = (header::HeaderName, HeaderValue)>) -> Failure {
        let why = "the chunk does not begin where the upload stands";
        let mut failure = Failure::new(StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID", why);
        failure.headers.extend(standing);
        failure
    }

    pub(super) fn content_range() -> Failure {
        let why = "Content-Range is no FIRST-LAST, or not of the bytes that came";
        Failure::new(StatusCode::BAD_REQUEST, "SIZE_INVALID", why)
    }

    pub(super) fn digest_missing() -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "an upload ends with ?digest=")
    }

    /// The bytes are not what their digest names.
    pub(super) fn other_bytes(why: &str) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "DIGEST_INVALID", why)
    }

    pub(super) fn manifest_invalid(why: impl ToString) -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", why.to_string())
    }

    /// A manifest came before something that it names.
    pub(super) fn child_unknown(digest: &str) -> Failure {
        let why = format!("push {digest} first: the manifest names it");
        let failure = Failure::new(StatusCode::NOT_FOUND, "MANIFEST_BLOB_UNKNOWN", why);
        Failure { detail: Some(digest.into()), ..failure }
    }

    pub(super) fn too_large(limit: u64) -> Failure {
        Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "SIZE_INVALID", format!("more than {limit} bytes"))
    }

    /// Nothing came of a body for long.
    pub(super) fn stalled() -> Failure {
        Failure::new(StatusCode::REQUEST_TIMEOUT, "BLOB_UPLOAD_INVALID", "nothing more came; what did is kept")
    }

    /// The connection broke, so that nobody reads this.
    pub(super) fn cut() -> Failure {
        Failure::new(StatusCode::BAD_REQUEST, "BLOB_UPLOAD_INVALID", "the body ended early")
    }

    pub(super) fn taken_over() -> Failure {
        Failure::new(StatusCode::CONFLICT, "BLOB_UPLOAD_INVALID", "a newer request goes on with this upload")
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
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "the store cannot be used")
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

    /// What the store says of a write; `NotFound` is about an upload.
    pub(super) fn from_write(error: Error) -> Failure {
        let full = |kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
        match error {
            Error::NotFound { .. } => Failure::upload_unknown(),
            Error::Busy { .. } => Failure::taken_over(),
            Error::Limit(_) => Failure::new(
                StatusCode::TOO_MANY_REQUESTS,
                "TOOMANYREQUESTS",
                "too many uploads are begun and not ended",
            )
            .with(header::RETRY_AFTER, HeaderValue::from_static("60")),
            Error::Store { source, .. } if full(source.kind()) => {
                Failure::new(StatusCode::INSUFFICIENT_STORAGE, "DENIED", "the disk of this registry is full")
            }
            error => {
                tracing::warn!("the store cannot be written: {error}");
                Failure::store()
            }
        }
    }

    pub(super) fn into_response(self) -> Response<Body> {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(digest) = self.detail {
            error["detail"] = json!({"digest": digest});
        }
        let envelope = json!({"errors": [error]});
        let mut response = Response::new(full(envelope.to_string()));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response.headers_mut().extend(self.headers);
        response
    }
}
