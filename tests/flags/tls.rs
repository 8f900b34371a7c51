//! Whom a connection trusts, and how it identifies itself.

use std::fs;
use std::path::Path;

use support::registry::{Registry, Requests};

use crate::{digest, home, with_image};

#[test]
fn an_authority_of_ones_own_vouches_for_a_registry() {
    let (registry, home) = (with_image(Registry::start_tls()), home());
    let folder = home.path().join("certs");
    fs::create_dir(&folder).unwrap();
    let file = folder.join("ca.crt");
    fs::write(&file, registry.certificate()).unwrap();
    digest(&home, &registry, &["--tls-verify=true", "--ca-file", file.to_str().unwrap()]).run().success();
    digest(&home, &registry, &["--tls-verify=true", "--cert-dir", folder.to_str().unwrap()]).run().success();
    digest(&home, &registry, &["--insecure"]).run().success();
    digest(&home, &registry, &["--tls-verify=false"]).run().success();
}

/// What a client identifies itself by: `client.cert` with `client.key` in a folder of their own.
fn identity(folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(vec!["client.test".into()]).unwrap();
    fs::create_dir(folder).unwrap();
    fs::write(folder.join("client.cert"), made.cert.pem()).unwrap();
    fs::write(folder.join("client.key"), made.signing_key.serialize_pem()).unwrap();
    made.cert.pem()
}

fn heads(requests: &Requests) -> usize {
    requests.count("HEAD", "/manifests/")
}

#[test]
fn a_registry_that_asks_who_the_client_is_gets_the_certificate_of_the_folder() {
    let home = home();
    let (own, other) = (home.path().join("own"), home.path().join("other"));
    let registry = with_image(Registry::start_tls_for(&identity(&own)));
    identity(&other);
    for folder in [&own, &other] {
        fs::write(folder.join("ca.crt"), registry.certificate()).unwrap();
    }
    let with =
        |folder: &Path, verify| digest(&home, &registry, &[verify, "--cert-dir", folder.to_str().unwrap()]).run();
    for verify in ["--tls-verify=true", "--tls-verify=false"] {
        let asked = heads(&registry.requests());
        with(&other, verify).code(5);
        assert_eq!(heads(&registry.requests()), asked);
        with(&own, verify).success();
        assert_eq!(heads(&registry.requests()), asked + 1);
    }
    // Without one the registry says what it misses.
    let file = own.join("ca.crt");
    let output = digest(&home, &registry, &["--tls-verify=true", "--ca-file", file.to_str().unwrap()]).run().code(5);
    assert!(output.stderr.to_lowercase().contains("certificate"), "{}", output.stderr);
}

#[test]
fn the_certificate_of_a_client_is_found_in_certs_d() {
    let home = home();
    let certs = home.path().join(".config/containers/certs.d");
    let made = certs.join("made");
    fs::create_dir_all(&certs).unwrap();
    let registry = with_image(Registry::start_tls_for(&identity(&made)));
    fs::write(made.join("ca.crt"), registry.certificate()).unwrap();
    digest(&home, &registry, &["--tls-verify=true"]).run().code(5);
    fs::rename(&made, certs.join(registry.host())).unwrap();
    digest(&home, &registry, &["--tls-verify=true"]).run().success();
}

#[test]
fn a_certificate_without_a_key_that_can_be_read_is_a_mistake_of_the_user() {
    let home = home();
    let folder = home.path().join("own");
    let registry = with_image(Registry::start_tls_for(&identity(&folder)));
    fs::write(folder.join("client.key"), "no key").unwrap();
    let words = ["--tls-verify=false", "--cert-dir", folder.to_str().unwrap()];
    let output = digest(&home, &registry, &words).run().code(2);
    assert!(output.stderr.contains("client.key: no private key"), "{}", output.stderr);
}
