//! Manifests, tags, and what is removed.

use layerpull::oci::{Digest, MediaType};
use layerpull::store::{Collect, Spare};
use reqwest::header::{ACCEPT, ALLOW, CONTENT_TYPE, HOST, LOCATION};
use reqwest::{Method, StatusCode};
use support::images::{Blob, Image};

use crate::scene::{Client, Registry, code, header, refusal};

async fn put_blobs(client: Client, repository: &str, image: &Image) {
    for blob in &image.blobs {
        client.put_blob(repository, &blob.content.to_bytes()).await;
    }
}

#[tokio::test]
async fn an_image_is_stored_under_the_name_of_the_listener() {
    let registry = Registry::start().await;
    let client = registry.client();
    let image = Image::tiny("pushed");
    put_blobs(client, "docker.io/library/x", &image).await;
    let answer = client.put_manifest("docker.io/library/x", "1", image.root()).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(header(&answer, LOCATION.as_str()), format!("/v2/docker.io/library/x/manifests/{}", image.digest()));
    assert_eq!(header(&answer, "docker-content-digest"), image.digest().to_string());
    assert_eq!(registry.names().await, [format!("{}/docker.io/library/x:1", registry.address)]);
    let got = client.send(Method::GET, "docker.io/library/x/manifests/1").await;
    assert_eq!(got.bytes().await.unwrap(), image.root().bytes);
    let catalog = client.send(Method::GET, "_catalog").await.text().await.unwrap();
    assert_eq!(catalog, r#"{"repositories":["docker.io/library/x"]}"#);
}

#[tokio::test]
async fn no_host_that_a_client_names_makes_it_an_image_of_another_registry() {
    let registry = Registry::start().await;
    let client = registry.client();
    let image = Image::tiny("forged");
    put_blobs(client, "library/x", &image).await;
    for host in ["docker.io", "quay.io:443", "localhost:1", "127.0.0.1:5000"] {
        let put = client.request(Method::PUT, "library/x/manifests/1?ns=docker.io").header(HOST, host);
        let put = put.header(CONTENT_TYPE, MediaType::OCI_MANIFEST).body(image.root().bytes.clone());
        assert_eq!(put.send().await.unwrap().status(), StatusCode::CREATED, "{host}");
    }
    assert_eq!(registry.names().await, [format!("{}/library/x:1", registry.address)]);
}

#[tokio::test]
async fn what_was_pushed_wins_over_a_pulled_image_of_the_same_path() {
    let registry = Registry::start().await;
    let (pulled, pushed) = (Image::tiny("pulled"), Image::tiny("pushed"));
    pulled.write_layout(registry.dir.path(), "docker.io/library/x:1");
    let client = registry.client();
    client.push("library/x", "1", &pushed).await;
    let digest = async |path: &str| header(&client.send(Method::HEAD, path).await, "docker-content-digest");
    assert_eq!(digest("library/x/manifests/1").await, pushed.digest().to_string());
    assert_eq!(digest("docker.io/library/x/manifests/1").await, pulled.digest().to_string());
    // A pulled image is not for clients to remove.
    let answer = client.send(Method::DELETE, "docker.io/library/x/manifests/1").await;
    assert_eq!(code(answer).await, (404, "MANIFEST_UNKNOWN".into()));
}

#[tokio::test]
async fn a_manifest_comes_after_what_it_names() {
    let registry = Registry::start().await;
    let client = registry.client();
    let image = Image::tiny("whole");
    client.put_blob("a", &image.config().content.to_bytes()).await;
    let (status, code, detail) = refusal(client.put_manifest("a", "1", image.root()).await).await;
    assert_eq!((status, code.as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(detail["digest"], image.layer(0).digest().to_string());
    assert_eq!(client.send(Method::HEAD, &format!("a/manifests/{}", image.digest())).await.status(), 404);
    assert!(registry.names().await.is_empty());

    let index = Image::index(&[image.clone(), Image::build().platform("linux/arm64").finish()]);
    client.push("a", "1", &image).await;
    let (status, code, detail) = refusal(client.put_manifest("a", "all", index.root()).await).await;
    assert_eq!((status, code.as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));
    assert_eq!(detail["digest"], index.manifests[1].digest.to_string());
    client.push("a", "all", &index).await;
}

#[tokio::test]
async fn a_manifest_is_what_its_request_says_of_it() {
    let registry = Registry::start().await;
    let client = registry.client();
    let image = Image::tiny("typed");
    put_blobs(client, "a", &image).await;
    let put = async |selector: &str, media_type: &str, body: Vec<u8>| {
        let request = client.request(Method::PUT, &format!("a/manifests/{selector}")).header(CONTENT_TYPE, media_type);
        code(request.body(body).send().await.unwrap()).await
    };
    let (bytes, ours) = (image.root().bytes.to_vec(), MediaType::OCI_MANIFEST);
    assert_eq!(put("1", MediaType::DOCKER_MANIFEST, bytes.clone()).await, (400, "MANIFEST_INVALID".into()));
    assert_eq!(put("1", MediaType::OCI_INDEX, bytes.clone()).await, (400, "MANIFEST_INVALID".into()));
    assert_eq!(put(&Digest::of(b"?").to_string(), ours, bytes.clone()).await, (400, "DIGEST_INVALID".into()));
    assert_eq!(put("1", ours, b"{".to_vec()).await, (400, "MANIFEST_INVALID".into()));
    assert_eq!(put("1", ours, vec![b' '; (4 << 20) + 1]).await, (413, "SIZE_INVALID".into()));
    let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 1 << 16]));
    let request = client.request(Method::PUT, "a/manifests/1").header(CONTENT_TYPE, ours);
    let answer = request.body(reqwest::Body::wrap_stream(endless)).send().await;
    // The connection may end before the answer is read.
    assert!(answer.is_err() || answer.unwrap().status() == StatusCode::PAYLOAD_TOO_LARGE);
    assert!(registry.names().await.is_empty());
}

#[tokio::test]
async fn a_signature_says_what_it_is_attached_to_and_is_listed() {
    let registry = Registry::start().await;
    let client = registry.client();
    let image = Image::tiny("signed");
    let signature = Image::build().artifact("application/x.signature").subject(image.descriptor());
    let signature = signature.layer(Blob::files(&[("signature", b"...")])).finish();
    client.push("a", "1", &image).await;
    put_blobs(client, "a", &signature).await;
    let answer = client.put_manifest("a", &signature.digest().to_string(), signature.root()).await;
    assert_eq!(header(&answer, "oci-subject"), image.digest().to_string());
    let listed = client.send(Method::GET, &format!("a/referrers/{}", image.digest())).await.text().await.unwrap();
    assert!(listed.contains(&signature.digest().to_string()), "{listed}");
}

#[tokio::test]
async fn a_manifest_without_a_tag_stays_until_it_is_deleted() {
    let registry = Registry::start().await;
    let client = registry.client();
    let image = Image::tiny("unnamed");
    put_blobs(client, "a", &image).await;
    let path = format!("a/manifests/{}", image.digest());
    assert_eq!(client.put_manifest("a", &image.digest().to_string(), image.root()).await.status(), 201);
    client.begin("a").await;
    let all = || Collect { spare: Spare::Nothing, ..Collect::default() };
    let collected = registry.store.collect(all()).await.unwrap();
    assert_eq!((collected.blobs.len(), collected.uploads.len()), (0, 1));
    let got = client.request(Method::GET, &path).header(ACCEPT, MediaType::OCI_MANIFEST).send().await.unwrap();
    assert_eq!(got.bytes().await.unwrap(), image.root().bytes);
    assert_eq!(client.send(Method::DELETE, &path).await.status(), StatusCode::ACCEPTED);
    assert_eq!(registry.store.collect(all()).await.unwrap().blobs.len(), 3);
    assert_eq!(client.send(Method::GET, &path).await.status(), 404);
}

#[tokio::test]
async fn what_a_tag_or_an_index_names_has_no_name_of_its_own() {
    let registry = Registry::start().await;
    let client = registry.client();
    let children = ["one", "two"].map(Image::tiny);
    let index = Image::index(&children);
    put_blobs(client, "a", &index).await;
    for manifest in &index.manifests {
        assert_eq!(client.put_manifest("a", &manifest.digest.to_string(), manifest).await.status(), 201);
    }
    assert_eq!(registry.names().await, [format!("{}/a@{}", registry.address, index.digest())]);
    // Somebody else's name of a child is not touched.
    put_blobs(client, "b", &children[0]).await;
    client.put_manifest("b", &children[0].digest().to_string(), children[0].root()).await;
    assert_eq!(client.put_manifest("a", "1", index.root()).await.status(), 201);
    let other = format!("{}/b@{}", registry.address, children[0].digest());
    assert_eq!(registry.names().await, [format!("{}/a:1", registry.address), other]);
}

#[tokio::test]
async fn a_tag_goes_alone_and_a_digest_with_all_its_tags() {
    let registry = Registry::start().await;
    let client = registry.client();
    let (one, other) = (Image::tiny("one"), Image::tiny("other"));
    for (tag, image) in [("1", &one), ("1.0", &one), ("latest", &one), ("2", &other)] {
        client.push("a", tag, image).await;
    }
    client.push("b", "1", &one).await;
    let name = |rest: &str| format!("{}/{rest}", registry.address);
    assert_eq!(client.send(Method::DELETE, "a/manifests/latest").await.status(), StatusCode::ACCEPTED);
    assert_eq!(registry.names().await, ["a:1", "a:1.0", "a:2", "b:1"].map(name));
    let path = format!("a/manifests/{}", one.digest());
    assert_eq!(client.send(Method::DELETE, &path).await.status(), StatusCode::ACCEPTED);
    assert_eq!(registry.names().await, ["a:2", "b:1"].map(name));
    for path in [path.as_str(), "a/manifests/latest", "nowhere/manifests/1"] {
        assert_eq!(code(client.send(Method::DELETE, path).await).await.0, 404, "{path}");
    }
    let blob = client.send(Method::DELETE, &format!("a/blobs/{}", other.layer(0).digest())).await;
    assert_eq!(header(&blob, ALLOW.as_str()), "GET, HEAD");
    assert_eq!(code(blob).await, (405, "UNSUPPORTED".into()));
    assert_eq!(registry.root(&name("a:2")).await.unwrap().digest, *other.digest());
}
