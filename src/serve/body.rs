//! Bodies of answers.

use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;

use crate::error::{Error, Result};

pub(super) type Body = UnsyncBoxBody<Bytes, Error>;

/// A body that is in memory.
pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Pieces of a blob as they come. When they end with an error, so does the connection, and the client has a body that
/// is too short.
pub(super) fn pieces(bytes: BoxStream<'static, Result<Bytes>>) -> Body {
    let bytes = bytes.inspect_err(|error| tracing::error!("a blob cannot be sent: {error}"));
    StreamBody::new(bytes.map_ok(Frame::data)).boxed_unsync()
}
