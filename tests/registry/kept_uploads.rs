//! Uploads that another process goes on with, and mounts that it remembers.

use std::path::Path;

use futures::FutureExt;
use layerpull::content::{Begun, Holding, Root, Sink};
use layerpull::oci::{Digest, Reference};
use layerpull::registry::{Environment, Options};

use super::keeper::{Fault, Keeper, Kept};
use super::scripted::registry;
use super::uploads::{MIB, PIECE, begin, bytes, chunked, described, finish, is_there, repository, write};

fn keeping(folder: &Path) -> Options {
    let environment = Environment::empty().with("XDG_STATE_HOME", folder.to_str().unwrap());
    Options { environment, ..chunked() }
}

#[tokio::test]
async fn a_write_that_is_given_up_half_way_loses_and_repeats_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(|_| {}).await;
    let blob = bytes(9 * MIB);
    let first = repository(&keeper, keeping(folder.path()));
    let upload = begin(&first, &blob, &[]).await;
    // One look: the queue is full long before all of it is taken.
    write(&*upload, &blob, PIECE).await.unwrap();
    assert!(upload.write(blob.slice(PIECE..5 * MIB)).now_or_never().is_none());
    let at = upload.offset();
    assert!(at > PIECE as u64 && at < 4 * MIB as u64, "{at}");
    upload.save().await.unwrap();
    drop((upload, first));
    let upload = begin(&repository(&keeper, keeping(folder.path())), &blob, &[]).await;
    assert_eq!(upload.offset(), at);
    finish(&*upload, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
    assert_eq!(keeper.received(), blob.len());
}

#[tokio::test]
async fn another_process_goes_on_with_what_arrived_and_hashes_all_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(|_| {}).await;
    let blob = bytes(9 * MIB);
    let first = repository(&keeper, keeping(folder.path()));
    let upload = begin(&first, &blob, &[]).await;
    write(&*upload, &blob, 4 * MIB).await.unwrap();
    drop((upload, first));
    let sink = repository(&keeper, keeping(folder.path()));
    assert_eq!(sink.holds(&described(&blob)).await.unwrap(), Holding::Partial(3 * MIB as u64));
    let before = keeper.received();
    let upload = begin(&sink, &blob, &[]).await;
    assert_eq!(upload.offset(), 3 * MIB as u64);
    finish(&*upload, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
    assert!(keeper.received() - before <= 6 * MIB && keeper.received() - before >= 5 * MIB);
    assert_eq!(sink.holds(&described(&blob)).await.unwrap(), Holding::Whole);
}

#[tokio::test]
async fn an_interrupt_in_mid_chunk_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(|_| {}).await;
    let blob = bytes(9 * MIB);
    let first = repository(&keeper, keeping(folder.path()));
    let upload = begin(&first, &blob, &[]).await;
    write(&*upload, &blob, 4 * MIB + 5).await.unwrap();
    upload.save().await.unwrap();
    drop((upload, first));
    let sink = repository(&keeper, keeping(folder.path()));
    let upload = begin(&sink, &blob, &[]).await;
    assert_eq!(upload.offset(), 4 * MIB as u64 + 5);
    finish(&*upload, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
    assert_eq!(keeper.received(), blob.len());
    assert!(keeper.methods().iter().all(|method| method != "DELETE"));
}

#[tokio::test]
async fn what_another_process_left_and_the_registry_forgot_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let keeper = Keeper::start(|_| {}).await;
    let blob = bytes(5 * MIB);
    let first = repository(&keeper, keeping(folder.path()));
    let upload = begin(&first, &blob, &[]).await;
    write(&*upload, &blob, 4 * MIB).await.unwrap();
    upload.save().await.unwrap();
    drop((upload, first));
    keeper.kept().sessions.clear();
    let sink = repository(&keeper, keeping(folder.path()));
    let upload = begin(&sink, &blob, &[]).await;
    assert_eq!(upload.offset(), 0);
    finish(&*upload, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
}

#[tokio::test]
async fn a_mount_moves_no_bytes_and_is_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let blob = bytes(MIB);
    let keeper = Keeper::start(|kept: &mut Kept| {
        kept.blobs.insert(Digest::of(&blob).to_string(), blob.to_vec());
        kept.mountable.push("c/d");
    })
    .await;
    let sink = repository(&keeper, keeping(folder.path()));
    let begun = sink.begin(&described(&blob), &["x/y".into(), "a/b".into(), "c/d".into()]).await.unwrap();
    assert!(matches!(begun, Begun::Mounted { from } if from == "c/d"));
    // The session that the first candidate's refusal opened is not left behind; the repository itself is no candidate.
    assert_eq!(keeper.methods(), ["POST", "POST", "DELETE"]);
    assert_eq!(keeper.received(), 0);
    assert!(keeper.kept().sessions.is_empty());
    let root = Root { descriptor: described(&blob), platforms: None };
    let name: Reference = format!("{}/e/f:1", keeper.authority).parse().unwrap();
    sink.tag(&name.clone().at(Digest::of(&blob)), &root).await.unwrap();
    assert!(sink.mounts(&Digest::of(&blob)).is_empty());
    let next = registry(keeping(folder.path())).repository_to_write(&name);
    assert_eq!(next.mounts(&Digest::of(&blob)), ["a/b"]);
}

#[tokio::test]
async fn a_refused_mount_looks_once_more_and_uses_the_session_it_got() {
    let blob = bytes(MIB);
    let keeper = Keeper::start(|_| {}).await;
    let sink = repository(&keeper, chunked());
    let upload = begin(&sink, &blob, &["c/d"]).await;
    finish(&*upload, &blob).await.unwrap();
    assert_eq!(keeper.methods(), ["POST", "HEAD", "PUT"]);
    let begun = sink.begin(&described(&blob), &["c/d".to_owned()]).await.unwrap();
    assert!(matches!(begun, Begun::Held));
    assert!(keeper.kept().sessions.is_empty());
}

#[tokio::test]
async fn a_mount_that_is_denied_is_none() {
    let blob = bytes(MIB);
    let keeper = Keeper::start(|kept| kept.faults.push(("POST", Fault::Early(403, "")))).await;
    let upload = begin(&repository(&keeper, chunked()), &blob, &["c/d"]).await;
    finish(&*upload, &blob).await.unwrap();
    assert_eq!(keeper.methods(), ["POST", "HEAD", "POST", "PUT"]);
}
