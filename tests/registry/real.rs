//! Against distribution's registry, with oci-client as an independent peer.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use futures::StreamExt;
use layerpull::content::Source;
use layerpull::error::Error;
use layerpull::oci::{Descriptor, Digest, MediaType, Reference};
use layerpull::registry::{Credential, Options};
use reqwest::header::{CONTENT_TYPE, LOCATION};

use super::scripted::{options, registry};

/// A registry process that ends with the test.
struct Distribution {
    child: Child,
    authority: String,
    _data: tempfile::TempDir,
}

impl Drop for Distribution {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Distribution {
    /// `None` where the program is not installed.
    fn start(htpasswd: Option<&Path>) -> Option<Distribution> {
        let data = tempfile::tempdir().unwrap();
        let config = data.path().join("config.yml");
        std::fs::write(&config, "version: 0.1\nstorage: {filesystem: {}}\nhttp: {}\n").unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).env("REGISTRY_HTTP_ADDR", "127.0.0.1:0");
        command.env("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY", data.path()).env("OTEL_TRACES_EXPORTER", "none");
        if let Some(file) = htpasswd {
            command.env("REGISTRY_AUTH", "htpasswd").env("REGISTRY_AUTH_HTPASSWD_REALM", "r");
            command.env("REGISTRY_AUTH_HTPASSWD_PATH", file);
        }
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().ok()?;
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let said = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let address = line.split("listening on ").nth(1)?;
            Some(address.split(['"', ',', ' ']).next()?.to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        Some(Distribution { child, authority: said.expect("the registry says where it listens"), _data: data })
    }

    async fn push_blob(&self, bytes: &[u8]) -> Digest {
        let (client, digest) = (reqwest::Client::new(), Digest::of(bytes));
        let begun = client.post(format!("http://{}/v2/a/b/blobs/uploads/", self.authority)).send().await.unwrap();
        let location = begun.headers()[LOCATION].to_str().unwrap().to_owned();
        let put = client.put(format!("{location}&digest={digest}")).body(bytes.to_vec()).send().await.unwrap();
        assert_eq!(put.status(), 201);
        digest
    }

    async fn push_manifest(&self, tag: &str, text: String) {
        let url = format!("http://{}/v2/a/b/manifests/{tag}", self.authority);
        let put = reqwest::Client::new().put(url).header(CONTENT_TYPE, MediaType::OCI_MANIFEST).body(text).send().await;
        assert_eq!(put.unwrap().status(), 201);
    }

    fn name(&self) -> Reference {
        format!("{}/a/b:1", self.authority).parse().unwrap()
    }
}

fn installed() -> bool {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let found = Command::new("docker-registry").arg("--version").stdout(Stdio::null()).status().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "docker-registry is missing");
    found
}

#[tokio::test]
async fn manifests_and_ranges_of_blobs_come_as_they_were_pushed() {
    if !installed() {
        return;
    }
    let server = Distribution::start(None).unwrap();
    let layer: Vec<u8> = (0..1_000_000u32).flat_map(u32::to_le_bytes).collect();
    let (config, digest) = (server.push_blob(b"{}").await, server.push_blob(&layer).await);
    let kind = MediaType::OCI_MANIFEST;
    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{kind}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{}}}]}}"#,
        layer.len()
    );
    server.push_manifest("1", text.clone()).await;

    let (registry, name) = (registry(options()), server.name());
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
    assert_eq!(registry.catalog(&server.authority).await.unwrap(), ["a/b"]);
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
    if !installed() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (passwords, authfile) = (folder.path().join("htpasswd"), folder.path().join("auth.json"));
    // The password is "pw".
    std::fs::write(&passwords, HTPASSWD).unwrap();
    let server = Distribution::start(Some(&passwords)).unwrap();
    let registry = registry(Options { authfile: Some(authfile.clone()), ..options() });
    let wrong = registry.login(&server.authority, Credential::password("ann", "wrong")).await.unwrap_err();
    assert!(matches!(wrong, Error::Unauthorized { .. }), "{wrong}");
    let anonymous = registry.tags(&server.name()).await.unwrap_err();
    assert!(anonymous.to_string().contains("authentication required"), "{anonymous}");
    registry.login(&server.authority, Credential::password("ann", "pw")).await.unwrap();
    assert_eq!(registry.catalog(&server.authority).await.unwrap(), Vec::<String>::new());
}

const HTPASSWD: &str = "ann:$2y$05$L0UR.Jt/V80e4ecwcZrUre3qNXm5gpe1kFg3/V2q.AmUvYBEdQxci\n";
