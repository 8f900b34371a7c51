//! Deleting manifests and tags (distribution-spec, "Content Management").

use reqwest::Method;

use super::auth::Access;
use super::session::{Ask, Session};
use crate::error::Result;
use crate::oci::Reference;

/// What became of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// It is gone.
    Done,
    /// The registry cannot do that: by tag, or at all.
    Unsupported,
}

pub(super) async fn delete(session: &Session, name: &Reference) -> Result<Deletion> {
    let path = format!("/v2/{}/manifests/{}", name.repository(), name.selector());
    let ask = Ask::get(path, Access::delete(name.repository()), format!("deletion of {name}")).by(Method::DELETE);
    let answer = session.send(&ask).await?;
    match answer.status().as_u16() {
        200..=299 => Ok(Deletion::Done),
        400 | 405 | 501 => Ok(Deletion::Unsupported),
        _ => Err(session.failure(answer).await),
    }
}
