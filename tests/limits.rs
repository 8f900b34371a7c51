//! Limits of bandwidth and of bytes, as a user asks for them. How exactly a limit is kept is measured by
//! `scripts/bench-limits`; here only what a busy machine cannot change: that nothing comes too early, and nothing breaks.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use support::command::Layerpull;
use support::images::{Blob, Image};
use support::peers::DockerRegistry;
use support::proxy::Proxy;
use support::registry::{Auth, Fault, Redirect, Registry, Times, When, basic};
use tempfile::TempDir;

fn home() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A registry with an image of `sizes`.
fn registry(sizes: &[u64]) -> (Registry, String, Image) {
    let registry = Registry::start();
    let layers = sizes.iter().zip(1..).map(|(size, seed)| Blob::noise(seed, *size));
    let image = layers.fold(Image::build(), |image, layer| image.layer(layer)).finish();
    registry.add("a/b", "1", &image);
    let name = registry.name("a/b", "1");
    (registry, name, image)
}

fn pull(home: &TempDir, words: &[&str]) -> Layerpull {
    Layerpull::new().home(home.path()).arg("pull").args(words)
}

/// The least time that so many bytes may take: what the limiter lets through at once is less than half a second's worth.
fn least(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64 - 0.5)
}

#[test]
fn nothing_comes_faster_than_the_limit() {
    let (registry, name, image) = registry(&[300_000, 200_000, 100_000]);
    let (home, began) = (home(), Instant::now());
    pull(&home, &["--bwlimit", "300k", &name]).run().success();
    assert!(began.elapsed() >= least(image.size(), 300_000), "{:?}", began.elapsed());
    assert_eq!(registry.requests().blob_bytes(), image.size());
    Layerpull::new().home(home.path()).arg("verify").run().success();
}

#[test]
fn a_large_blob_under_a_limit_is_not_given_to_a_connection_that_brings_nothing_more() {
    let (registry, name, image) = registry(&[24 << 20]);
    let home = home();
    let output = pull(&home, &["--bwlimit", "8M", "--format", "json", &name]).run().success();
    assert!(output.stdout.contains(r#""causes":{}"#), "{}", output.stdout);
    assert_eq!(registry.requests().blob_bytes(), image.size());
}

#[test]
fn waiting_for_the_limit_is_neither_a_stall_nor_a_failure() {
    let (registry, name, image) = registry(&[60_000, 60_000, 60_000]);
    let folders: Vec<TempDir> = (0..3).map(|_| home()).collect();
    let file = folders[0].path().join("limit");
    let began = Instant::now();
    let patience = ["--stall-timeout", "3s", "--retries", "0", "--bwlimit", "60k", "--limit-file"];
    let runs: Vec<_> = folders.iter().map(|home| pull(home, &patience).arg(&file).arg(&name).spawn()).collect();
    for run in runs {
        run.wait().success();
    }
    // One limit for the three of them.
    assert!(began.elapsed() >= least(3 * image.size(), 60_000), "{:?}", began.elapsed());
    assert_eq!(registry.requests().blob_bytes(), 3 * image.size());
}

#[test]
fn those_who_share_a_store_share_a_limit() {
    let (_registry, name, image) = registry(&[150_000]);
    let (home, other) = (home(), registry_of_another_image());
    let began = Instant::now();
    let runs = [&name, &other.1].map(|name| pull(&home, &["--limit-rate", "100k", name]).spawn());
    for run in runs {
        run.wait().success();
    }
    assert!(began.elapsed() >= least(image.size() + 150_000, 100_000), "{:?}", began.elapsed());
}

fn registry_of_another_image() -> (Registry, String) {
    let registry = Registry::start();
    registry.add("c/d", "1", &Image::build().layer(Blob::noise(77, 150_000)).finish());
    let name = registry.name("c/d", "1");
    (registry, name)
}

/// A timetable with this rate for three seconds more, in UTC.
fn soon_free(rate: &str) -> String {
    let text =
        |ahead: i64| (jiff::Timestamp::now() + jiff::SignedDuration::from_secs(ahead)).strftime("%H:%M:%S").to_string();
    format!("{},{rate} {},off", text(-60), text(3))
}

#[test]
fn a_timetable_changes_while_a_transfer_runs() {
    let (_registry, name, _) = registry(&[4_000_000]);
    let home = home();
    let began = Instant::now();
    let table = soon_free("100k");
    pull(&home, &["--bwlimit", &table, &name]).env("TZ", "UTC").run().success();
    // At the first rate it would take 40 s; what is free takes no time.
    let elapsed = began.elapsed();
    assert!(elapsed >= Duration::from_millis(1900) && elapsed < Duration::from_secs(30), "{elapsed:?}");
}

#[test]
fn a_copy_gets_a_connection_with_other_buffers_when_its_limit_changes() {
    let (registry, name, image) = registry(&[4_000_000]);
    let (home, target) = (home(), DockerRegistry::start());
    let copy = Layerpull::new().home(home.path()).args(["copy", "--format", "json", "--bwlimit", &soon_free("100k")]);
    let output = copy.args([&name, &target.name("a/b", "1")]).env("TZ", "UTC").run().success();
    assert_eq!(moved(&output.stdout), image.size());
    assert!(output.stdout.contains(r#""causes":{}"#), "{}", output.stdout);
    let ranges = registry.requests().ranges(image.layer(0).digest());
    assert!(matches!(&ranges[..], [None, Some(rest)] if rest.ends_with("-3999999")), "{ranges:?}");
}

#[test]
fn what_is_sent_has_a_limit_too() {
    let (_registry, name, image) = registry(&[300_000, 300_000]);
    let (home, target) = (home(), DockerRegistry::start());
    pull(&home, &[&name]).run().success();
    Layerpull::new().home(home.path()).args(["tag", &name, &target.name("a/b", "1")]).run().success();
    let began = Instant::now();
    let push = Layerpull::new().home(home.path()).args(["push", "--bwlimit", "up:200k", "--retries", "0"]);
    push.arg(target.name("a/b", "1")).run().success();
    assert!(began.elapsed() >= least(image.size(), 200_000), "{:?}", began.elapsed());
}

#[test]
fn a_run_stops_when_its_budget_is_used_and_the_next_one_goes_on() {
    let (registry, name, image) = registry(&[3_000_000, 2_000_000]);
    let home = home();
    let stopped = pull(&home, &["--max-transfer", "2M", "--bwlimit", "2M", &name]).run().code(8);
    assert!(stopped.stderr.contains("limit reached: --max-transfer 2M"), "{}", stopped.stderr);
    let first = registry.requests().blob_bytes();
    let finished = pull(&home, &["--format", "json", &name]).run().success();
    let moved = moved(&finished.stdout);
    // What the first run had received was kept: the two together moved what there is, and little that was on its way
    // when the first one stopped.
    assert!(first > 2_000_000 && moved < image.size() - 1_900_000, "{first}, then {moved} of {}", image.size());
    Layerpull::new().home(home.path()).arg("verify").run().success();
}

/// Bytes that the run of a JSON result moved.
fn moved(text: &str) -> u64 {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    lines.filter_map(|line| line["run"]["moved"].as_u64().or(line["run"]["moved_bytes"].as_u64())).next_back().unwrap()
}

#[test]
fn a_plan_that_is_too_large_is_refused_before_anything_moves() {
    let (registry, name, image) = registry(&[3_000_000, 2_000_000]);
    let home = home();
    let refused = pull(&home, &["--max-bytes", "4M", &name]).run().code(8);
    let why = format!("--max-bytes 4M: {} bytes would have to move; nothing was fetched", image.size());
    assert!(refused.stderr.contains(&why), "{}", refused.stderr);
    assert_eq!(registry.requests().count("GET", "/blobs/"), 0);
    pull(&home, &["--max-bytes", &image.size().to_string(), &name]).run().success();
    // Of what is here nothing moves.
    pull(&home, &["--max-bytes", "0", &name]).run().success();
}

#[test]
fn a_limit_that_makes_no_sense_is_named_with_where_it_came_from() {
    let usage = |words: &[&str], why: &str| {
        let output = Layerpull::new().arg("pull").args(words).arg("x").run().code(2);
        assert!(output.stderr.contains(why), "{words:?}: {}", output.stderr);
    };
    usage(&["--bwlimit", "10Mb"], "say whether bits or bytes are meant");
    usage(&["--bwlimit", "25:00,1M"], "no time of day");
    usage(&["--bwlimit", "1k"], "too slow");
    usage(&["--max-transfer", "lots"], "no amount");
    let output = Layerpull::new().args(["config"]).env("LAYERPULL_BWLIMIT", "fast").run().code(2);
    assert!(output.stderr.contains("LAYERPULL_BWLIMIT: `bwlimit`: \"fast\" is no rate"), "{}", output.stderr);
    let rows = Layerpull::new().args(["config", "--bwlimit", "08:00,2M 18:00,off"]).run().success().stdout;
    assert!(rows.lines().any(|row| row.starts_with("bwlimit") && row.contains("08:00,2M 18:00,off")), "{rows}");
}

#[test]
fn a_file_that_is_no_limit_is_left_alone_and_the_limit_holds_for_the_process() {
    let (_registry, name, image) = registry(&[150_000]);
    let home = home();
    let file = home.path().join("notes");
    std::fs::write(&file, "mine").unwrap();
    let began = Instant::now();
    let output = pull(&home, &["--bwlimit", "100k", &name, "--limit-file"]).arg(&file).run().success();
    assert!(output.stderr.contains("the limit holds for this process alone"), "{}", output.stderr);
    assert!(began.elapsed() >= least(image.size(), 100_000));
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
}

/// A SOCKS proxy (RFC 1928) that leads to `target` whatever it is asked for. Returns its address.
fn socks(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut client in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut read = |count: usize| {
                    let mut bytes = vec![0; count];
                    client.read_exact(&mut bytes).map(|()| bytes)
                };
                let methods = read(2).unwrap()[1];
                read(methods.into()).unwrap();
                client.write_all(&[5, 0]).unwrap();
                let mut head = [0; 5];
                client.read_exact(&mut head).unwrap();
                // A name and a port, or the rest of an address of four bytes.
                let rest = if head[3] == 3 { usize::from(head[4]) + 2 } else { 5 };
                client.read_exact(&mut vec![0; rest]).unwrap();
                client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).unwrap();
                carry(client, TcpStream::connect(target).unwrap());
            });
        }
    });
    address
}

fn carry(near: TcpStream, far: TcpStream) {
    let (mut from, mut to) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let _ = std::io::copy(&mut &far, &mut &near);
    let _ = near.shutdown(std::net::Shutdown::Both);
}

#[test]
fn a_limit_holds_through_tls_and_proxies() {
    let registry = Registry::start_tls_as(&["registry.test"]);
    let image = Image::build().layer(Blob::noise(1, 200_000)).finish();
    registry.add("a/b", "1", &image);
    let proxy = socks(registry.address());
    for scheme in ["socks5h", "socks5"] {
        let home = home();
        std::fs::write(home.path().join("ca.pem"), registry.certificate()).unwrap();
        // A proxy that looks up no names gets an address.
        let host = if scheme == "socks5" { "0.0.0.0:443" } else { "registry.test" };
        let words = ["--bwlimit", "200k", "--retries", "0", "--insecure", "--ca-file"];
        let run = pull(&home, &words).arg(home.path().join("ca.pem")).arg(format!("{host}/a/b:1"));
        let began = Instant::now();
        run.env("ALL_PROXY", format!("{scheme}://{proxy}")).run().success();
        assert!(began.elapsed() >= least(image.size(), 200_000), "{scheme}: {:?}", began.elapsed());
    }
}

/// `layerpull`, which takes `proxy` and trusts these certificates.
fn through(proxy: &Proxy, home: &TempDir, certificates: &str) -> Layerpull {
    let authorities = home.path().join("ca.pem");
    std::fs::write(&authorities, certificates).unwrap();
    let command =
        Layerpull::new().home(home.path()).env("LAYERPULL_RETRIES", "0").env("LAYERPULL_CA_FILE", authorities);
    ["HTTP_PROXY", "HTTPS_PROXY"].into_iter().fold(command, |command, name| command.env(name, proxy.url("pat:canary")))
}

#[test]
fn a_limit_holds_through_http_proxies_for_tunnels_and_plain_requests() {
    let image = Image::build().layer(Blob::noise(1, 200_000)).finish();
    for (secure_registry, secure_proxy) in [(true, false), (false, false), (true, true), (false, true)] {
        let registry = if secure_registry { Registry::start_tls_as(&["registry.test"]) } else { Registry::start() };
        registry.add("a/b", "1", &image);
        let proxy = if secure_proxy { Proxy::tls_to(registry.address()) } else { Proxy::to(registry.address()) };
        let own = if secure_registry { registry.certificate() } else { "" };
        let certificates = own.to_owned() + if secure_proxy { proxy.certificate() } else { "" };
        let insecure = if secure_registry { &[][..] } else { &["--insecure"] };
        let (home, began) = (home(), Instant::now());
        let command = through(&proxy, &home, &certificates).args(["pull", "--bwlimit", "200k"]).args(insecure);
        command.arg("registry.test/a/b:1").run().success();
        let told = format!("TLS to the registry: {secure_registry}, to the proxy: {secure_proxy}");
        assert!(began.elapsed() >= least(image.size(), 200_000), "{told}: {:?}", began.elapsed());
        assert_eq!(registry.requests().blob_bytes(), image.size(), "{told}");
        assert!(proxy.brought() >= image.size(), "{told}: {} bytes went through it", proxy.brought());
        let first = if secure_registry { "CONNECT " } else { "HEAD http://registry.test/v2/" };
        assert!(proxy.asked().iter().any(|line| line.starts_with(first)), "{told}: {:?}", proxy.asked());
    }
}

#[test]
fn what_is_sent_through_a_proxy_has_a_limit_too() {
    let (_registry, name, image) = registry(&[300_000]);
    let (home, target) = (home(), DockerRegistry::start());
    let proxy = Proxy::to(target.host().parse().unwrap());
    pull(&home, &[&name]).run().success();
    Layerpull::new().home(home.path()).args(["tag", &name, "registry.test/a/b:1"]).run().success();
    let began = Instant::now();
    let push = through(&proxy, &home, "").args(["push", "--insecure", "--bwlimit", "up:200k", "registry.test/a/b:1"]);
    push.run().success();
    assert!(began.elapsed() >= least(image.size(), 200_000), "{:?}", began.elapsed());
    assert_eq!(target.count("PUT", "/manifests/1"), 1);
}

#[test]
fn a_proxy_is_told_its_own_password_whatever_the_limit_and_nobody_learns_one_of_another() {
    let image = Image::build().layer(Blob::noise(1, 20_000)).finish();
    for limit in ["off", "10M"] {
        let (registry, storage) = (Registry::start(), Registry::start());
        registry.add("a/b", "1", &image);
        storage.add("a/b", "1", &image);
        registry.require(Auth::basic("ann", "secret"));
        let blob = image.layer(0).digest();
        let elsewhere = format!("http://storage.test/v2/a/b/blobs/{blob}");
        registry.rule(When::blob(blob), Times::Always, Fault::Redirect(Redirect::To(elsewhere)));
        let proxy = Proxy::to(registry.address());
        proxy.lead("storage.test", storage.address());
        let words = ["pull", "--insecure", "--creds", "ann:secret", "--bwlimit", limit, "registry.test/a/b:1"];
        through(&proxy, &home(), "").args(words).run().success();
        assert_eq!(storage.requests().all_blob_gets().len(), 1);
        for head in proxy.heads() {
            let carries = |text: String| head.to_lowercase().contains(&text.to_lowercase());
            assert!(carries(format!("\nproxy-authorization: {}", basic("pat", "canary"))), "{limit}: {head}");
            let is_storages = head.contains("http://storage.test/");
            assert!(!(is_storages && carries("\nauthorization:".into())), "{limit}: {head}");
        }
        // The proxy hands nothing on that is meant for it: what came in a tunnel would show here.
        for asked in [registry.requests(), storage.requests()] {
            assert!(asked.carrying("canary").is_empty(), "{limit}: {asked:#?}");
        }
        assert!(registry.requests().iter().any(|request| request.basic().is_some()));
        assert!(storage.requests().iter().all(|request| request.header("authorization").is_none()));
    }
}

#[test]
fn a_proxy_is_not_trusted_as_the_registry_behind_it() {
    let registry = Registry::start_tls_as(&["registry.test"]);
    registry.add("a/b", "1", &Image::build().layer(Blob::noise(1, 20_000)).finish());
    let proxy = Proxy::tls_to(registry.address());
    let digest = |certificates: &str, limit: &str, words: &[&str]| {
        let home = home();
        let command = through(&proxy, &home, certificates).args(["digest", "registry.test/a/b:1"]).args(words);
        command.env("LAYERPULL_BWLIMIT", limit).run()
    };
    for limit in ["off", "10M"] {
        // Any certificate will do for the registry, but the password of the proxy is for the proxy alone.
        let output = digest(registry.certificate(), limit, &["--insecure"]).code(5);
        assert!(output.stderr.contains("certificate"), "{limit}: {}", output.stderr);
        digest(proxy.certificate(), limit, &["--insecure"]).success();
        digest(registry.certificate(), limit, &["--tls-verify=false"]).success();
    }
    assert_eq!(registry.requests().count("HEAD", "/manifests/1"), 4);
}
