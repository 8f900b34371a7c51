//! The clockwork under tokio's paused clock.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{
    AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, AsyncWriteExt as _, DuplexStream, ReadBuf, duplex,
};
use tokio::task::JoinSet;

use super::*;

fn limiter(text: &str) -> Limiter {
    Limiter::new(Timetable::parse(text).unwrap(), Precedence::Equal)
}

/// A connection whose other side sends without end and as fast as it may.
fn flood() -> DuplexStream {
    let (near, mut far) = duplex(64 * 1024);
    tokio::spawn(async move { while far.write_all(&[7; 4096]).await.is_ok() {} });
    near
}

async fn read(limiter: &Limiter, count: usize) -> usize {
    let mut stream = Metered::new(flood(), |_| None, limiter.clone(), None);
    let (mut buffer, mut total) = (vec![0; 64 * 1024], 0);
    while total < count {
        total += stream.read(&mut buffer).await.unwrap();
    }
    total
}

/// How far `count` is from what `rate` gives in `time`, overhead counted.
fn deviation(count: usize, rate: f64, time: Duration) -> f64 {
    (count as f64 * 1.04 / (rate * time.as_secs_f64()) - 1.0).abs()
}

#[tokio::test(start_paused = true)]
async fn all_connections_together_keep_to_the_limit() {
    for (rate, connections) in [(50_000, 1), (50_000, 3), (1_000_000, 10), (200_000_000, 16)] {
        let (limiter, began) = (limiter(&rate.to_string()), Instant::now());
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let limiter = limiter.clone();
            tasks.spawn(async move { read(&limiter, rate * 10 / connections).await });
        }
        let total = tasks.join_all().await.into_iter().sum();
        let off = deviation(total, rate as f64, began.elapsed());
        assert!(off < 0.02, "{rate} bytes/s over {connections}: off by {off}");
    }
}

#[tokio::test(start_paused = true)]
async fn connections_share_fairly() {
    let limiter = limiter("100k");
    let counts = futures::future::join_all((0..4).map(|_| counted(&limiter, Duration::from_secs(20)))).await;
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!((most - least) * 20 < *most, "{counts:?}");
}

async fn counted(limiter: &Limiter, time: Duration) -> usize {
    let mut stream = Metered::new(flood(), |_| None, limiter.clone(), None);
    let (mut buffer, mut total, end) = (vec![0; 64 * 1024], 0, Instant::now() + time);
    while let Ok(count) = tokio::time::timeout_at(end, stream.read(&mut buffer)).await {
        total += count.unwrap();
    }
    total
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_has_a_limit_of_its_own() {
    let limiter = limiter("up:50k");
    let (near, mut far) = duplex(1024);
    let drain = tokio::spawn(async move {
        let mut all = Vec::new();
        far.read_to_end(&mut all).await.unwrap();
        all.len()
    });
    let began = Instant::now();
    let mut stream = Metered::new(near, |_| None, limiter.clone(), None);
    stream.write_all(&vec![7; 500_000]).await.unwrap();
    drop(stream);
    assert!(deviation(drain.await.unwrap(), 50_000.0, began.elapsed()) < 0.02);
    let began = Instant::now();
    read(&limiter, 10_000_000).await;
    assert!(began.elapsed() < Duration::from_millis(50), "the other direction is free");
}

#[tokio::test(start_paused = true)]
async fn processes_that_share_a_file_keep_to_one_limit_and_take_turns() {
    let folder = tempfile::tempdir().unwrap();
    let open =
        || Limiter::shared(Timetable::parse("50k").unwrap(), Precedence::Equal, &folder.path().join("limit")).unwrap();
    let time = Duration::from_secs(30);
    // One of them has more connections than the others.
    let (one, two, three) = (open(), open(), open());
    let (a, b, c, d, e) = tokio::join!(
        counted(&one, time),
        counted(&one, time),
        counted(&one, time),
        counted(&two, time),
        counted(&three, time)
    );
    assert!(deviation(a + b + c + d + e, 50_000.0, time) < 0.03);
    for share in [a + b + c, d, e] {
        assert!(deviation(share, 50_000.0 / 3.0, time) < 0.1, "{share} of {}", a + b + c + d + e);
    }
}

#[tokio::test(start_paused = true)]
async fn who_steps_back_leaves_the_rest_of_a_shared_limit_to_others() {
    let folder = tempfile::tempdir().unwrap();
    let process = |precedence| {
        let table = Timetable::parse("1M").unwrap();
        Limiter::shared(table, precedence, &folder.path().join("limit")).unwrap()
    };
    let (before, behind) = (process(Precedence::Equal), process(Precedence::Others));
    let time = Duration::from_secs(20);
    let (rest, slow) = tokio::join!(counted(&before, time), counted(&behind, time));
    assert!(deviation(rest + slow, 1_000_000.0, time) < 0.03, "{rest} and {slow}");
    // Nothing is known of the way, so it takes no more than at first.
    assert!(slow as f64 * 1.04 <= 256_000.0 * 21.0 && slow > 3_000_000, "{slow}");
}

/// Ten seconds before noon when it is first asked for; the paused clock of the test's own thread goes on from there.
fn before_noon() -> Zoned {
    thread_local!(static BEGAN: Instant = Instant::now());
    let began: Zoned = "2026-11-21T11:59:50[UTC]".parse().unwrap();
    let elapsed = BEGAN.with(Instant::elapsed);
    began.checked_add(jiff::SignedDuration::try_from(elapsed).unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_timetable_changes_while_bytes_move() {
    let table = Timetable::parse("00:00,50k 12:00,1M 12:00:10,off").unwrap();
    let limiter = Limiter::on(table, Precedence::Equal, Box::new(Own::default()), before_noon);
    let slow = counted(&limiter, Duration::from_secs(10)).await;
    assert!(deviation(slow, 50_000.0, Duration::from_secs(10)) < 0.05, "{slow}");
    let fast = counted(&limiter, Duration::from_secs(10)).await;
    assert!(deviation(fast, 1_000_000.0, Duration::from_secs(10)) < 0.15, "{fast}");
    tokio::time::sleep(LOOK).await;
    let began = Instant::now();
    read(&limiter, 20_000_000).await;
    assert!(began.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn what_moved_under_a_high_limit_is_no_debt_under_a_low_one() {
    let table = Timetable::parse("00:00,10M 12:00,10k").unwrap();
    let limiter = Limiter::on(table, Precedence::Equal, Box::new(Own::default()), before_noon);
    let totals: Vec<Arc<AtomicUsize>> = (0..8).map(|_| Arc::default()).collect();
    for total in totals.clone() {
        let mut stream = Metered::new(flood(), |_| None, limiter.clone(), None);
        tokio::spawn(async move {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                total.fetch_add(stream.read(&mut buffer).await.unwrap(), Ordering::Relaxed);
            }
        });
    }
    let came = || totals.iter().map(|total| total.load(Ordering::Relaxed)).sum::<usize>();
    // The change is seen within a second, and may find every connection with one piece of the old limit.
    tokio::time::sleep(Duration::from_millis(11_500)).await;
    let before = came();
    assert!(before > 90_000_000, "{before}");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(deviation(came() - before, 10_000.0, Duration::from_secs(10)) < 0.1, "{}", came() - before);
}

#[tokio::test(start_paused = true)]
async fn a_rest_is_not_made_up_for() {
    let limiter = limiter("1M");
    read(&limiter, 100_000).await;
    tokio::time::sleep(Duration::from_secs(100)).await;
    let burst = counted(&limiter, Duration::from_secs(2)).await;
    assert!(burst <= 2_200_000, "{burst}");
}

#[tokio::test(start_paused = true)]
async fn waiting_for_the_limit_is_no_silence() {
    let limiter = limiter("10k");
    let other = counted(&limiter, Duration::from_secs(60));
    let mut stream = Metered::new(flood(), |_| None, limiter.clone(), Some(Duration::from_millis(100)));
    let mut buffer = vec![0; 16 * 1024];
    let (_, read) = tokio::join!(other, async { stream.read_exact(&mut buffer).await });
    assert!(read.is_ok(), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_told_from_the_limit() {
    let (near, _far) = duplex(1024);
    let mut stream = Metered::new(near, |_| None, limiter("1M"), Some(Duration::from_secs(20)));
    let began = Instant::now();
    let error = stream.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 20));
}

#[tokio::test(start_paused = true)]
async fn silence_behind_a_request_is_noticed_also_by_who_has_read_before() {
    let (near, _far) = duplex(1024);
    let mut stream = Metered::new(near, |_| None, limiter("1M"), Some(Duration::from_secs(20)));
    let (began, mut has_asked) = (Instant::now(), false);
    // As hyper does on a kept connection: it reads, writes the request, and reads again when it is woken.
    let waits = std::future::poll_fn(|cx| {
        let mut space = [0; 10];
        let read = Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut space));
        if !std::mem::replace(&mut has_asked, true) {
            assert!(Pin::new(&mut stream).poll_write(cx, b"GET").is_ready());
        }
        read
    });
    let error = waits.await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 20));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_nothing_is_as_silent_as_one_that_sends_nothing() {
    let (near, _far) = duplex(16);
    let mut stream = Metered::new(near, |_| None, limiter("1M"), Some(Duration::from_secs(20)));
    let began = Instant::now();
    let error = stream.write_all(&[0; 100]).await.unwrap_err();
    assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, 20));
}

#[test]
fn a_low_limit_means_few_connections_and_small_buffers() {
    let of = |text: &str| {
        let limiter = limiter(text);
        (limiter.connections(Direction::Down), limiter.buffer(Direction::Down))
    };
    assert_eq!(of("50k"), (1, Some(6144)));
    assert_eq!(of("1M"), (3, Some(27_777)));
    assert_eq!(of("20M"), (8, Some(208_333)));
    assert_eq!(of("200M").0, 80);
    assert_eq!(limiter("up:1M").connections(Direction::Down), usize::MAX);
    assert!(!limiter("off").is_set());
}
