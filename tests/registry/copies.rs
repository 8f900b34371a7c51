//! Whole copies in which one side fails while the other is well.

use std::sync::Arc;

use layerpull::content::{Sink, Source};
use layerpull::event::Silent;
use layerpull::oci::Reference;
use layerpull::registry::Options;
use layerpull::state::State;
use layerpull::transfer::{Job, Platforms, Report, Settings, Transfer};
use support::images::{Blob, Image};
use support::registry::{Cut, Fault as Trouble, Gate, Registry, Stall, Times, When};
use tokio_util::sync::CancellationToken;

use super::keeper::{Fault, Keeper};
use super::scripted::{options, registry};
use super::uploads::{MIB, chunked, repository};

const SIZE: u64 = 12 * MIB as u64;

fn image() -> Image {
    Image::build().layer(Blob::noise(1, SIZE)).finish()
}

async fn copy(source: &Registry, keeper: &Keeper, options_there: Options) -> Report {
    let name: Reference = source.name("a/b", "1").parse().unwrap();
    let from: Arc<dyn Source> = Arc::new(registry(options()).repository(&name).unwrap());
    let to: Arc<dyn Sink> = Arc::new(repository(keeper, options_there));
    let target = format!("{}/a/b:1", keeper.authority).parse().unwrap();
    let job = Job { name, target, source: from, sink: to, platforms: Platforms::All };
    let transfer = Transfer {
        settings: Settings::default(),
        events: Arc::new(Silent),
        cancel: CancellationToken::new(),
        state: Arc::new(State::new(None)),
    };
    let plan = transfer.plan(vec![job]).await.unwrap();
    let report = transfer.run(plan).await.unwrap();
    assert!(report.images[0].result.is_ok(), "{:?}", report.images);
    report
}

fn is_there(keeper: &Keeper, image: &Image) -> bool {
    let kept = keeper.kept();
    image
        .blobs
        .iter()
        .all(|blob| kept.blobs.get(&blob.digest().to_string()).map(Vec::len) == Some(blob.size() as usize))
}

/// Bytes of blobs that arrived.
fn received(keeper: &Keeper) -> u64 {
    let kept = keeper.kept();
    kept.asked.iter().filter(|asked| asked.target.contains("/uploads/")).map(|asked| asked.body as u64).sum()
}

fn count(keeper: &Keeper, method: &str) -> usize {
    keeper.methods().iter().filter(|asked| *asked == method).count()
}

#[tokio::test]
async fn a_source_that_is_cut_while_the_target_waits_costs_no_request_there() {
    let (source, image) = (Registry::start(), image());
    source.add("a/b", "1", &image);
    let layer = image.layer(0).digest();
    source.rule(When::blob(layer).from_start(), Times::Once, Trouble::CutAfter(5 * MIB as u64, Cut::Fin));
    // The rest is late: the target waits in the middle of a body.
    let gate = Gate::default();
    source.rule(When::blob(layer).resumed(), Times::Once, Trouble::StallAfter(0, Stall::Until(gate.clone())));
    let keeper = Keeper::start(|_| {}).await;
    let (wanted, source) = (layer.clone(), &source);
    let opened = async move {
        source.reached("the rest is asked for", move |requests| requests.blob_gets(&wanted).len() == 2).await;
        gate.open();
    };
    tokio::join!(copy(source, &keeper, options()), opened);
    assert!(is_there(&keeper, &image));
    assert_eq!(received(&keeper), image.size());
    assert_eq!((count(&keeper, "POST"), count(&keeper, "PATCH"), count(&keeper, "DELETE")), (2, 0, 0));
    assert_eq!(source.requests().bytes_sent_for(layer), SIZE, "what came before the cut was not asked for again");
}

#[tokio::test]
async fn a_target_that_is_unavailable_while_the_source_streams_gets_nothing_twice() {
    let (source, image) = (Registry::start(), image());
    source.add("a/b", "1", &image);
    let keeper = Keeper::start(|kept| kept.faults.push(("PATCH", Fault::Early(503, "Retry-After: 1\r\n")))).await;
    copy(&source, &keeper, chunked()).await;
    assert!(is_there(&keeper, &image));
    assert_eq!(received(&keeper), image.size());
    // What the source had sent is kept as far as memory goes.
    let sent = source.requests().bytes_sent_for(image.layer(0).digest());
    assert!(sent <= SIZE + 8 * MIB as u64, "{sent} bytes came");
    // It had nothing of the layer yet, which no answer tells from one byte: so another session.
    assert_eq!((count(&keeper, "POST"), count(&keeper, "DELETE")), (3, 1));
}
