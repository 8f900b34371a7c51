//! Blobs that travel as one body, and chunks that grow.

use bytes::Bytes;
use layerpull::content::{Begun, Holding, Sink, Standing};
use layerpull::error::Error;
use layerpull::registry::{Credential, Environment, Options};

use super::keeper::{Fault, Keeper, Kept};
use super::scripted::options;
use super::uploads::{MIB, begin, bytes, chunked, described, finish, is_there, repository, write};

/// Chunks of 8 MiB.
fn long() -> Options {
    Options { chunk: 8 * MIB as u64, ..options() }
}

#[tokio::test]
async fn a_blob_no_longer_than_a_chunk_is_the_body_of_its_put() {
    let keeper = Keeper::start(|_| {}).await;
    let (sink, blob) = (repository(&keeper, long()), bytes(7 * MIB));
    finish(&*begin(&sink, &blob, &[]).await, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
    assert_eq!(keeper.methods(), ["POST", "PUT"]);
    assert_eq!(keeper.received(), blob.len());
}

#[tokio::test]
async fn the_last_byte_of_a_body_waits_until_our_own_hash_agrees() {
    let keeper = Keeper::start(|_| {}).await;
    let (sink, blob) = (repository(&keeper, long()), bytes(7 * MIB));
    let upload = begin(&sink, &blob, &[]).await;
    let mut wrong = blob.to_vec();
    wrong[3] ^= 1;
    let error = finish(&*upload, &Bytes::from(wrong)).await.unwrap_err();
    assert!(matches!(error, Error::Verification { .. }), "{error}");
    assert!(keeper.received() < blob.len());
    assert!(keeper.kept().sessions.is_empty() && keeper.kept().blobs.is_empty());
    assert_eq!((upload.resume().await.unwrap(), upload.offset()), (Standing::Open, 0));
    finish(&*upload, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
}

#[tokio::test]
async fn a_body_that_is_cut_goes_on_in_chunks_where_the_registry_stands() {
    let keeper = Keeper::start(|kept| kept.faults.push(("PUT", Fault::Cut(5 * MIB)))).await;
    let (sink, blob) = (repository(&keeper, long()), bytes(7 * MIB));
    let upload = begin(&sink, &blob, &[]).await;
    assert!(finish(&*upload, &blob).await.unwrap_err().is_transient());
    assert_eq!((upload.resume().await.unwrap(), upload.offset()), (Standing::Open, 7 * MIB as u64));
    finish(&*upload, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
    assert_eq!(keeper.received(), blob.len());
}

#[tokio::test]
async fn refusals_in_mid_body_cost_a_session_and_no_more() {
    let refusals = [404, 416, 401, 503].map(|status| Fault::Early(status, "WWW-Authenticate: Basic realm=\"r\"\r\n"));
    for fault in refusals.into_iter().chain([Fault::CutAndLose(MIB)]) {
        let keeper = Keeper::start(|kept| kept.faults.push(("PUT", fault.clone()))).await;
        let options = Options { credential: Some(Credential::password("ann", "secret")), ..long() };
        let (sink, blob) = (repository(&keeper, options), bytes(7 * MIB));
        let upload = begin(&sink, &blob, &[]).await;
        assert!(finish(&*upload, &blob).await.unwrap_err().is_transient());
        assert_eq!(upload.resume().await.unwrap(), Standing::Open);
        finish(&*upload, &blob).await.unwrap();
        assert!(is_there(&keeper, &blob), "{fault:?}");
        assert!(keeper.received() <= blob.len() + MIB, "{fault:?}");
    }
}

#[tokio::test]
async fn a_lost_reply_to_a_body_is_looked_up_before_anything_is_sent_twice() {
    let keeper = Keeper::start(|kept| kept.faults.push(("PUT", Fault::NoReply))).await;
    let (sink, blob) = (repository(&keeper, long()), bytes(7 * MIB));
    let upload = begin(&sink, &blob, &[]).await;
    assert!(finish(&*upload, &blob).await.unwrap_err().is_transient());
    assert_eq!(upload.resume().await.unwrap(), Standing::Held);
    assert_eq!(keeper.methods(), ["POST", "PUT", "GET", "HEAD"]);
    assert_eq!(keeper.received(), blob.len());
}

#[tokio::test]
async fn another_process_goes_on_with_what_arrived_of_a_body() {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment::empty().with("XDG_STATE_HOME", folder.path().to_str().unwrap());
    let keeper = Keeper::start(|_| {}).await;
    let (options, blob) = (|| Options { environment: environment.clone(), ..long() }, bytes(7 * MIB));
    let first = repository(&keeper, options());
    let upload = begin(&first, &blob, &[]).await;
    write(&*upload, &blob, 6 * MIB).await.unwrap();
    upload.save().await.unwrap();
    drop((upload, first));
    let before = keeper.received();
    let sink = repository(&keeper, options());
    let upload = begin(&sink, &blob, &[]).await;
    finish(&*upload, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
    assert!(before > MIB && keeper.received() == blob.len(), "{before} before, {} in all", keeper.received());
    assert_eq!(sink.holds(&described(&blob)).await.unwrap(), Holding::Whole);
}

fn patches(kept: &Kept) -> Vec<usize> {
    kept.asked.iter().filter(|asked| asked.method == "PATCH").map(|asked| asked.body / MIB).collect()
}

#[tokio::test]
async fn a_chunk_is_as_long_as_all_before_it() {
    let keeper = Keeper::start(|_| {}).await;
    let (sink, blob) = (repository(&keeper, chunked()), bytes(32 * MIB));
    finish(&*begin(&sink, &blob, &[]).await, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
    assert_eq!(patches(&keeper.kept()), [3, 3, 6, 12, 8]);
}

#[tokio::test]
async fn chunks_that_are_too_long_for_the_way_are_made_shorter() {
    let keeper = Keeper::start(|_| {}).await;
    let (sink, blob) = (repository(&keeper, chunked()), bytes(16 * MIB));
    let upload = begin(&sink, &blob, &[]).await;
    write(&*upload, &blob, 6 * MIB).await.unwrap();
    keeper.kept().faults.push(("PATCH", Fault::Early(413, "")));
    let error = write(&*upload, &blob, blob.len()).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert_eq!(upload.resume().await.unwrap(), Standing::Open);
    finish(&*upload, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
    assert_eq!(patches(&keeper.kept()), [3, 3, 0, 3, 3, 3, 1]);
    keeper.kept().asked.clear();
    // The shortest one is refused, too: nothing is left to try.
    keeper.kept().faults.extend([("PATCH", Fault::Early(413, "")), ("PATCH", Fault::Early(413, ""))]);
    let blob = bytes(9 * MIB);
    let upload = begin(&sink, &blob, &[]).await;
    assert!(write(&*upload, &blob, blob.len()).await.unwrap_err().is_transient());
    assert_eq!(upload.resume().await.unwrap(), Standing::Open);
    assert!(matches!(write(&*upload, &blob, blob.len()).await.unwrap_err(), Error::Invalid { .. }));
}

#[tokio::test]
async fn a_mount_that_was_refused_is_not_tried_by_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment::empty().with("XDG_STATE_HOME", folder.path().to_str().unwrap());
    let options = || Options { environment: environment.clone(), ..options() };
    let keeper = Keeper::start(|_| {}).await;
    let blob = bytes(MIB);
    let state = layerpull::state::State::new(Some(folder.path().join("layerpull")));
    state.held(&keeper.authority, "c/d", &described(&blob).digest);
    state.save();
    let sink = repository(&keeper, options());
    let mounts = sink.mounts(&described(&blob).digest);
    assert_eq!(mounts, ["c/d"]);
    let Begun::Upload(upload) = sink.begin(&described(&blob), &mounts).await.unwrap() else { panic!("no upload") };
    finish(&*upload, &blob).await.unwrap();
    let root = layerpull::content::Root { descriptor: described(&blob), platforms: None };
    let name: layerpull::oci::Reference = format!("{}/a/b:1", keeper.authority).parse().unwrap();
    sink.tag(&name.at(described(&blob).digest), &root).await.unwrap();
    let next = repository(&keeper, options());
    assert!(next.mounts(&described(&blob).digest).is_empty());
}
