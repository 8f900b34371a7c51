//! Uploads to registries that behave well and badly: what is asked, how many bytes travel, and where it goes on.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use layerpull::content::{Begun, Holding, Sink, Standing, Upload};
use layerpull::error::{Error, Fault as Broken};
use layerpull::oci::{Descriptor, Digest, Reference};
use layerpull::registry::{Credential, Options, Repository};

use super::keeper::{Fault, Keeper, Locations};
use super::scripted::{Asked, Server, options, registry, reply};

pub const MIB: usize = 1024 * 1024;
pub const PIECE: usize = 100_000;

pub fn bytes(length: usize) -> Bytes {
    (0..length).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

pub fn described(bytes: &Bytes) -> Descriptor {
    Descriptor::new("application/x", Digest::of(bytes), bytes.len() as u64)
}

/// Chunks of 3 MiB.
pub fn chunked() -> Options {
    Options { chunk: 3 * MIB as u64, ..options() }
}

pub fn repository(keeper: &Keeper, options: Options) -> Repository {
    let name: Reference = format!("{}/a/b:1", keeper.authority).parse().unwrap();
    registry(options).repository_to_write(&name)
}

pub async fn begin(sink: &Repository, blob: &Bytes, mounts: &[&str]) -> Box<dyn Upload> {
    let mounts: Vec<String> = mounts.iter().map(|&name| name.to_owned()).collect();
    match sink.begin(&described(blob), &mounts).await.unwrap() {
        Begun::Upload(upload) => upload,
        _ => panic!("no upload"),
    }
}

/// Writes the rest up to `end`.
pub async fn write(upload: &dyn Upload, blob: &Bytes, end: usize) -> Result<(), Error> {
    while (upload.offset() as usize) < end {
        let at = upload.offset() as usize;
        upload.write(blob.slice(at..end.min(at + PIECE))).await?;
    }
    Ok(())
}

pub async fn finish(upload: &dyn Upload, blob: &Bytes) -> Result<(), Error> {
    write(upload, blob, blob.len()).await?;
    upload.commit().await
}

/// Goes on after failures as often as is allowed, as the engine does.
async fn patiently(upload: &dyn Upload, blob: &Bytes, attempts: usize) -> usize {
    for attempt in 0..attempts {
        match finish(upload, blob).await {
            Ok(()) => return attempt,
            Err(e) => assert!(e.is_transient() || matches!(e, Error::Verification { .. }), "{e}"),
        }
        if upload.resume().await.unwrap() == Standing::Held {
            return attempt + 1;
        }
    }
    panic!("not done after {attempts} attempts")
}

pub fn is_there(keeper: &Keeper, blob: &Bytes) -> bool {
    keeper.kept().blobs.get(&Digest::of(blob).to_string()).is_some_and(|kept| kept == blob)
}

#[tokio::test]
async fn a_small_blob_travels_in_one_put_and_a_large_one_in_chunks() {
    let keeper = Keeper::start(|_| {}).await;
    let sink = repository(&keeper, chunked());
    for (length, methods) in [
        (0, vec!["POST", "PUT"]),
        (1, vec!["POST", "PUT"]),
        (4 * MIB, vec!["POST", "PUT"]),
        (4 * MIB + 1, vec!["POST", "PATCH", "PATCH", "PUT"]),
        (9 * MIB, vec!["POST", "PATCH", "PATCH", "PATCH", "PUT"]),
    ] {
        let blob = bytes(length);
        keeper.kept().asked.clear();
        finish(&*begin(&sink, &blob, &[]).await, &blob).await.unwrap();
        assert!(is_there(&keeper, &blob), "{length}");
        assert_eq!(keeper.methods(), methods, "{length}");
        assert_eq!(keeper.received(), length);
    }
}

#[tokio::test]
async fn the_newest_location_is_followed_wherever_it_leads_with_its_query() {
    for absolute in [false, true] {
        let locations = if absolute { Locations::Absolute } else { Locations::Relative };
        let keeper = Keeper::start(|kept| kept.locations = locations).await;
        let blob = bytes(5 * MIB);
        finish(&*begin(&repository(&keeper, chunked()), &blob, &[]).await, &blob).await.unwrap();
        assert!(is_there(&keeper, &blob));
        let put = keeper.kept().asked.last().unwrap().target.clone();
        assert!(put.contains("?a=b%2Fc&_state=") && put.contains("&digest=sha256%3A"), "{put}");
    }
}

#[tokio::test]
async fn another_host_gets_the_bytes_but_no_credentials() {
    let elsewhere = Keeper::start(|_| {}).await;
    let keeper = elsewhere.twin().await;
    {
        let mut kept = elsewhere.kept();
        kept.locations = Locations::Foreign(elsewhere.authority.clone());
        kept.faults.push(("POST", Fault::Early(401, "WWW-Authenticate: Basic realm=\"r\"\r\n")));
    }
    let options = Options { credential: Some(Credential::password("ann", "secret")), ..chunked() };
    let (sink, blob) = (repository(&keeper, options), bytes(5 * MIB));
    finish(&*begin(&sink, &blob, &[]).await, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
    for asked in &keeper.kept().asked[1..] {
        let is_own = asked.headers["host"] == keeper.authority;
        assert_eq!(is_own, asked.method == "POST");
        assert_eq!(asked.headers.contains_key("authorization"), is_own, "{}", asked.method);
    }
}

#[tokio::test]
async fn a_registry_that_names_a_least_length_gets_chunks_that_state_theirs() {
    let keeper = Keeper::start(|kept| kept.minimum = Some(4 * MIB)).await;
    let blob = bytes(9 * MIB);
    finish(&*begin(&repository(&keeper, chunked()), &blob, &[]).await, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
    let kept = keeper.kept();
    let patches: Vec<_> = kept.asked.iter().filter(|asked| asked.method == "PATCH").collect();
    let ranges: Vec<&str> = patches.iter().map(|asked| asked.headers["content-range"].as_str()).collect();
    assert_eq!(ranges, ["0-4194303", "4194304-8388607", "8388608-9437183"]);
    assert_eq!(patches[0].headers["content-length"], "4194304");
}

#[tokio::test]
async fn a_registry_that_wants_a_length_gets_one() {
    let keeper = Keeper::start(|kept| kept.faults.push(("PATCH", Fault::Early(411, "")))).await;
    let (sink, blob) = (repository(&keeper, chunked()), bytes(5 * MIB));
    let upload = begin(&sink, &blob, &[]).await;
    assert_eq!(patiently(&*upload, &blob, 2).await, 1);
    assert!(is_there(&keeper, &blob));
    assert!(keeper.kept().asked.last().unwrap().headers["content-length"] == "0");
    assert!(keeper.kept().asked.iter().rev().any(|asked| asked.headers.contains_key("content-range")));
}

#[tokio::test]
async fn what_a_cut_lost_is_sent_again_out_of_memory() {
    for at in [1, 2 * MIB, 3 * MIB - 1] {
        let keeper = Keeper::start(|kept| kept.faults.push(("PATCH", Fault::Cut(at)))).await;
        let (sink, blob) = (repository(&keeper, chunked()), bytes(9 * MIB));
        let upload = begin(&sink, &blob, &[]).await;
        write(&*upload, &blob, blob.len()).await.unwrap_err();
        let written = upload.offset();
        assert_eq!(upload.resume().await.unwrap(), Standing::Open);
        assert_eq!(upload.offset(), written);
        finish(&*upload, &blob).await.unwrap();
        // One byte looks like none: then a new session has all of it.
        assert_eq!(keeper.received(), blob.len() + usize::from(at == 1), "{at}");
        assert!(is_there(&keeper, &blob), "{at}");
    }
}

#[tokio::test]
async fn a_cut_chunk_of_stated_length_goes_on_where_the_registry_stands() {
    let keeper = Keeper::start(|kept| {
        kept.minimum = Some(4 * MIB);
        kept.faults.push(("PATCH", Fault::Cut(2 * MIB)));
    })
    .await;
    let (sink, blob) = (repository(&keeper, chunked()), bytes(9 * MIB));
    let upload = begin(&sink, &blob, &[]).await;
    assert_eq!(patiently(&*upload, &blob, 2).await, 1);
    assert!(is_there(&keeper, &blob));
    assert_eq!(keeper.received(), blob.len());
    let kept = keeper.kept();
    let ranges: Vec<_> = kept.asked.iter().filter_map(|asked| asked.headers.get("content-range")).collect();
    assert_eq!(ranges, ["0-4194303", "2097152-6291455", "6291456-9437183"]);
}

#[tokio::test]
async fn a_token_that_ends_in_mid_upload_is_renewed_and_nothing_is_sent_twice() {
    let count = AtomicUsize::new(0);
    let tokens = Server::start(|_| {
        move |_: &Asked| {
            let number = count.fetch_add(1, Ordering::Relaxed);
            reply(200, &[("Content-Type", "application/json")], format!(r#"{{"token":"t{number}"}}"#))
        }
    })
    .await;
    let challenge = format!("WWW-Authenticate: Bearer realm=\"http://{}/\",service=\"s\"\r\n", tokens.authority);
    let challenge: &'static str = challenge.leak();
    let keeper = Keeper::start(|kept| kept.faults.push(("POST", Fault::Early(401, challenge)))).await;
    let (sink, blob) = (repository(&keeper, chunked()), bytes(9 * MIB));
    let upload = begin(&sink, &blob, &[]).await;
    write(&*upload, &blob, 3 * MIB).await.unwrap();
    keeper.kept().faults.push(("PATCH", Fault::Early(401, challenge)));
    assert_eq!(patiently(&*upload, &blob, 2).await, 1);
    assert!(is_there(&keeper, &blob));
    assert_eq!((keeper.received(), tokens.lines().len()), (blob.len(), 2));
    let kept = keeper.kept();
    let used: Vec<_> = kept.asked.iter().filter_map(|asked| asked.headers.get("authorization")).collect();
    assert_eq!((used[0].as_str(), used[used.len() - 1].as_str()), ("Bearer t0", "Bearer t1"));
}

#[tokio::test]
async fn a_lost_session_begins_again_at_the_beginning() {
    for fault in [Fault::Lose, Fault::CutAndLose(MIB)] {
        let keeper = Keeper::start(|_| {}).await;
        let (sink, blob) = (repository(&keeper, chunked()), bytes(9 * MIB));
        let upload = begin(&sink, &blob, &[]).await;
        write(&*upload, &blob, 6 * MIB).await.unwrap();
        keeper.kept().faults.push(("PATCH", fault.clone()));
        let error = write(&*upload, &blob, blob.len()).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert_eq!(upload.resume().await.unwrap(), Standing::Open);
        assert_eq!(upload.offset(), 0);
        finish(&*upload, &blob).await.unwrap();
        assert!(is_there(&keeper, &blob), "{fault:?}");
        // What was confirmed, and the chunk that was lost on its way.
        assert!(keeper.received() <= (6 + 3 + 9) * MIB, "{fault:?}: {}", keeper.received());
        assert_eq!(keeper.methods().iter().filter(|method| *method == "POST").count(), 2, "{fault:?}");
    }
}

#[tokio::test]
async fn refusals_in_mid_upload_ask_where_the_registry_stands() {
    let refusals: [(u16, &'static str); 5] = [
        (416, ""),
        (401, "WWW-Authenticate: Basic realm=\"r\"\r\n"),
        (503, "Retry-After: 7\r\n"),
        (429, ""),
        (404, ""),
    ];
    for (status, headers) in refusals {
        let keeper = Keeper::start(|_| {}).await;
        let options = Options { credential: Some(Credential::password("ann", "secret")), ..chunked() };
        let (sink, blob) = (repository(&keeper, options), bytes(9 * MIB));
        let upload = begin(&sink, &blob, &[]).await;
        write(&*upload, &blob, 3 * MIB).await.unwrap();
        keeper.kept().faults.push(("PATCH", Fault::Early(status, headers)));
        let error = write(&*upload, &blob, blob.len()).await.unwrap_err();
        assert!(error.is_transient(), "{status}: {error}");
        assert_eq!(upload.resume().await.unwrap(), Standing::Open);
        finish(&*upload, &blob).await.unwrap();
        assert!(is_there(&keeper, &blob), "{status}");
        assert_eq!(keeper.received(), blob.len(), "{status}");
    }
}

#[tokio::test]
async fn a_lost_reply_is_looked_up_before_anything_is_sent_twice() {
    for length in [MIB, 5 * MIB] {
        let keeper = Keeper::start(|kept| kept.faults.push(("PUT", Fault::NoReply))).await;
        let (sink, blob) = (repository(&keeper, chunked()), bytes(length));
        let upload = begin(&sink, &blob, &[]).await;
        assert!(finish(&*upload, &blob).await.unwrap_err().is_transient());
        assert_eq!(upload.resume().await.unwrap(), Standing::Held);
        assert_eq!(keeper.received(), length);
        assert_eq!(keeper.methods()[keeper.methods().len() - 3..], ["PUT", "GET", "HEAD"]);
    }
}

#[tokio::test]
async fn a_lost_reply_of_a_chunk_costs_no_bytes() {
    let keeper = Keeper::start(|kept| kept.faults.push(("PATCH", Fault::NoReply))).await;
    let (sink, blob) = (repository(&keeper, chunked()), bytes(9 * MIB));
    let upload = begin(&sink, &blob, &[]).await;
    assert_eq!(patiently(&*upload, &blob, 2).await, 1);
    assert!(is_there(&keeper, &blob));
    assert_eq!(keeper.received(), blob.len());
}

#[tokio::test]
async fn wrong_bytes_end_the_session_and_never_become_visible() {
    for length in [MIB, 5 * MIB] {
        let keeper = Keeper::start(|_| {}).await;
        let (sink, blob) = (repository(&keeper, chunked()), bytes(length));
        let upload = begin(&sink, &blob, &[]).await;
        let wrong = Bytes::from(vec![7; length]);
        let error = finish(&*upload, &wrong).await.unwrap_err();
        assert!(matches!(error, Error::Verification { .. }), "{error}");
        assert_eq!(keeper.methods().last().unwrap(), "DELETE");
        assert!(keeper.kept().sessions.is_empty() && keeper.kept().blobs.is_empty());
        assert_eq!((upload.offset(), upload.resume().await.unwrap()), (0, Standing::Open));
        finish(&*upload, &blob).await.unwrap();
        assert!(is_there(&keeper, &blob));
        let error = upload.write(Bytes::from_static(b"x")).await.unwrap_err();
        assert!(matches!(error, Error::Verification { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_registry_that_got_other_bytes_begins_anew() {
    let keeper = Keeper::start(|_| {}).await;
    let (sink, blob) = (repository(&keeper, chunked()), bytes(5 * MIB));
    let upload = begin(&sink, &blob, &[]).await;
    write(&*upload, &blob, blob.len()).await.unwrap();
    keeper.kept().sessions.values_mut().for_each(|bytes| bytes[9] ^= 1);
    assert!(matches!(upload.commit().await, Err(Error::Verification { .. })));
    assert!(keeper.kept().sessions.is_empty());
    assert_eq!((upload.resume().await.unwrap(), upload.offset()), (Standing::Open, 0));
    finish(&*upload, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
}

#[tokio::test]
async fn a_registry_that_stands_still_is_given_up_and_takes_the_rest_later() {
    let keeper = Keeper::start(|kept| kept.faults.push(("PATCH", Fault::Stall(MIB)))).await;
    let options = Options { stall: Duration::from_secs(2), chunk: 18 * MIB as u64, ..options() };
    let (sink, blob) = (repository(&keeper, options), bytes(20 * MIB));
    let upload = begin(&sink, &blob, &[]).await;
    let error = write(&*upload, &blob, blob.len()).await.unwrap_err();
    assert!(matches!(error, Error::Network { fault: Broken::Stalled(_), .. }), "{error}");
    // What the system had buffered is bounded, and so is what was read in vain.
    assert!(upload.offset() < 15 * MIB as u64, "{}", upload.offset());
    assert_eq!(upload.resume().await.unwrap(), Standing::Open);
    finish(&*upload, &blob).await.unwrap();
    assert!(is_there(&keeper, &blob));
    assert_eq!(keeper.received(), blob.len());
}

#[tokio::test]
async fn a_registry_without_head_is_asked_for_one_byte() {
    let blob = bytes(MIB);
    let keeper = Keeper::start(|kept| kept.knows_head = Some(false)).await;
    let sink = repository(&keeper, chunked());
    assert_eq!(sink.holds(&described(&blob)).await.unwrap(), Holding::Missing);
    finish(&*begin(&sink, &blob, &[]).await, &blob).await.unwrap();
    assert_eq!(sink.holds(&described(&blob)).await.unwrap(), Holding::Whole);
    assert_eq!(keeper.kept().asked.last().unwrap().headers["range"], "bytes=0-0");
}
