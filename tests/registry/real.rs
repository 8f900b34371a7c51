//! Against distribution's registry, with oci-client as an independent peer.

use futures::StreamExt;
use layerpull::content::Source;
use layerpull::error::Error;
use layerpull::oci::{Descriptor, Digest, MediaType, Reference};
use layerpull::registry::{Credential, Options};
use reqwest::header::{CONTENT_TYPE, LOCATION};
use support::peers::DockerRegistry;

use super::scripted::{options, registry};

fn name(server: &DockerRegistry) -> Reference {
    server.name("a/b", "1").parse().unwrap()
}

async fn push_blob(server: &DockerRegistry, bytes: &[u8]) -> Digest {
    let (client, digest) = (reqwest::Client::new(), Digest::of(bytes));
    let begun = client.post(format!("http://{}/v2/a/b/blobs/uploads/", server.host())).send().await.unwrap();
    let location = begun.headers()[LOCATION].to_str().unwrap().to_owned();
    let put = client.put(format!("{location}&digest={digest}")).body(bytes.to_vec()).send().await.unwrap();
    assert_eq!(put.status(), 201);
    digest
}

async fn push_manifest(server: &DockerRegistry, tag: &str, text: String) {
    let url = format!("http://{}/v2/a/b/manifests/{tag}", server.host());
    let put = reqwest::Client::new().put(url).header(CONTENT_TYPE, MediaType::OCI_MANIFEST).body(text).send().await;
    assert_eq!(put.unwrap().status(), 201);
}

#[tokio::test]
async fn manifests_and_ranges_of_blobs_come_as_they_were_pushed() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let server = DockerRegistry::start();
    let layer: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let (config, digest) = (push_blob(&server, b"{}").await, push_blob(&server, &layer).await);
    let kind = MediaType::OCI_MANIFEST;
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{}}}]}}"#,
        layer.len()
    );
    push_manifest(&server, "1", text.clone()).await;

    let (registry, name) = (registry(options()), name(&server));
    let repository = registry.repository(&name).unwrap();
    let descriptor = repository.resolve(&name).await.unwrap();
    assert_eq!(descriptor, Descriptor::new(kind, Digest::of(text.as_bytes()), text.len() as u64));
    let raw = repository.manifest(&descriptor).await.unwrap();
    assert_eq!(raw.bytes, text);
    assert_eq!(peer_manifest(&name).await, text);

    let blob = Descriptor::new("application/vnd.oci.image.layer.v1.tar", digest, layer.len() as u64);
    let origin = repository.origins(&blob).remove(0);
    for range in [0..layer.len() as u64, 0..1, 1_000..2_000_000, 3_999_999..4_000_000] {
        let body = origin.open(range.clone()).await.unwrap();
        assert_eq!((body.start, body.end), (range.start, Some(range.end)));
        let pieces: Vec<_> = body.bytes.map(Result::unwrap).collect().await;
        assert!(pieces.concat() == layer[range.start as usize..range.end as usize], "{range:?}");
    }
    assert_eq!(registry.tags(&name).await.unwrap(), ["1"]);
    assert_eq!(registry.catalog(&server.host()).await.unwrap(), ["a/b"]);
    assert!(repository.referrers(&descriptor.digest).await.unwrap().is_empty());
    let absent = repository.resolve(&name.tagged("2").unwrap()).await.unwrap_err();
    assert!(matches!(&absent, Error::NotFound { why, .. } if why.contains("manifest unknown")), "{absent}");
}

/// The same manifest, read by somebody else's client.
async fn peer_manifest(name: &Reference) -> String {
    use oci_client::client::{ClientConfig, ClientProtocol};
    let client = oci_client::Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
    let (name, auth) = (name.to_string().parse().unwrap(), oci_client::secrets::RegistryAuth::Anonymous);
    let (bytes, _) = client.pull_manifest_raw(&name, &auth, &[MediaType::OCI_MANIFEST]).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_registry_with_passwords_is_logged_in_to() {
    let folder = tempfile::tempdir().unwrap();
    let authfile = folder.path().join("auth.json");
    let server = DockerRegistry::start_with_passwords(HTPASSWD);
    let registry = registry(Options { authfile: Some(authfile.clone()), ..options() });
    let wrong = registry.login(&server.host(), Credential::password("ann", "wrong")).await.unwrap_err();
    assert!(matches!(wrong, Error::Unauthorized { .. }), "{wrong}");
    let anonymous = registry.tags(&name(&server)).await.unwrap_err();
    assert!(anonymous.to_string().contains("authentication required"), "{anonymous}");
    registry.login(&server.host(), Credential::password("ann", "pw")).await.unwrap();
    assert_eq!(registry.catalog(&server.host()).await.unwrap(), Vec::<String>::new());
}

/// The password is "pw".
const HTPASSWD: &str = "ann:$2y$05$L0UR.Jt/V80e4ecwcZrUre3qNXm5gpe1kFg3/V2q.AmUvYBEdQxci\n";
