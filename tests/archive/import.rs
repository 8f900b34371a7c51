//! What is read: archives of every kind, in every way.

use std::fs;

use layerpull::oci::Digest;
use support::command::Layerpull;
use support::images::{Blob, Image, gzip};
use support::peers::{run, skopeo};

use crate::scene::{Scene, Tar, name, on_base};

/// A scene with the archive `x.tar` of one image.
fn archived() -> (Scene, Image) {
    let (scene, image) = (Scene::new(), on_base("a"));
    scene.store("s", &[("a", &image)]);
    scene.run("s", &["export", &name("a"), "-o", "x.tar"]).success();
    (scene, image)
}

/// What `program` makes of a file, beside it.
fn compressed(scene: &Scene, program: &str, suffix: &str) -> String {
    run(program, ["-k", scene.path("x.tar").to_str().unwrap()]).ok();
    format!("x.tar.{suffix}")
}

#[test]
fn an_archive_arrives_with_the_digests_that_it_left_with() {
    let (scene, image) = archived();
    scene.run("t", &["import", "x.tar"]).success();
    assert_eq!(scene.digest("t", &name("a")), image.digest().to_string());
    assert_eq!(scene.blobs("t"), scene.blobs("s"));
    scene.verify("t");
    let again = scene.run("t", &["import", "x.tar", "--format", "json"]).success().stdout;
    assert!(again.contains(r#""status":"up-to-date""#), "{again}");
}

#[test]
fn compressed_archives_and_pipes_arrive_the_same() {
    let (scene, image) = archived();
    let files = [compressed(&scene, "gzip", "gz"), compressed(&scene, "xz", "xz"), compressed(&scene, "zstd", "zst")];
    for (n, file) in files.iter().enumerate() {
        let store = format!("t{n}");
        scene.run(&store, &["import", file]).success();
        assert_eq!(scene.digest(&store, &name("a")), image.digest().to_string(), "{file}");
        assert_eq!(scene.blobs(&store), scene.blobs("s"));
        let piped = Layerpull::new().args(["load", "-i", "-"]).store(&scene.path(&format!("p{n}")));
        piped.stdin(fs::read(scene.path(file)).unwrap()).run().success();
        assert_eq!(scene.digest(&format!("p{n}"), &name("a")), image.digest().to_string(), "{file}");
    }
    let piped = Layerpull::new().arg("load").store(&scene.path("p"));
    piped.stdin(fs::read(scene.path("x.tar")).unwrap()).run().success();
    assert_eq!(scene.blobs("p"), scene.blobs("s"));
    let listed = scene.run("none", &["import", "--list", "x.tar.gz"]).success().stdout;
    assert!(listed.contains(&name("a")) && listed.contains(&image.digest().to_string()), "{listed}");
    assert!(!scene.path("none").exists());
}

#[test]
fn what_is_here_already_is_not_written_again() {
    let (scene, _) = archived();
    scene.run("t", &["import", "x.tar"]).success();
    let inodes = || {
        use std::os::unix::fs::MetadataExt;
        let folder = scene.path("t").join("blobs/sha256");
        let mut all: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().metadata().unwrap().ino()).collect();
        all.sort();
        all
    };
    let before = inodes();
    scene.run("t", &["rm", &name("a")]).success();
    let told = scene.run("t", &["import", "x.tar", "--format", "json"]).success().stdout;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!((&told["run"]["local"], &told["missing"]), (&0.into(), &0.into()), "{told}");
    let piped = Layerpull::new().arg("load").store(&scene.path("t"));
    piped.stdin(fs::read(scene.path("x.tar")).unwrap()).run().success();
    assert_eq!(inodes(), before);
}

#[test]
fn one_image_of_several_can_be_taken_and_named() {
    let scene = Scene::new();
    scene.store("s", &[("a", &on_base("a")), ("b", &on_base("b"))]);
    scene.run("s", &["export", &name("a"), &name("b"), "-o", "x.tar"]).success();
    let listed = scene.run("t", &["import", "--list", "x.tar"]).success().stdout;
    assert!(listed.contains(&name("a")) && listed.contains(&name("b")), "{listed}");
    scene.run("t", &["import", "x.tar", "--image", &name("b")]).success();
    assert_eq!(scene.names("t"), [name("b")]);
    scene.run("t", &["import", "x.tar", "--image", &name("a"), "--name", "h.example/other:2"]).success();
    assert_eq!(scene.names("t"), ["h.example/other:2".to_owned(), name("b")]);
    scene.run("t", &["import", "x.tar", "--name", "h.example/other:2"]).code(2);
    let told = scene.run("t", &["import", "x.tar", "--image", "h.example/absent:1"]).code(3).stderr;
    assert!(told.contains("--list"), "{told}");
}

/// A docker-archive as docker up to 24 writes it: a folder a layer, with links where a layer comes again.
fn legacy(image: &Image, layers: &[Vec<u8>], tag: &str) -> Tar {
    let config = image.config().content.to_bytes();
    let hex = image.config().digest().hex().to_owned();
    let paths: Vec<String> = (0..layers.len()).map(|n| format!("{:064}/layer.tar", n)).collect();
    let mut tar = Tar::default();
    for (n, (layer, path)) in layers.iter().zip(&paths).enumerate() {
        let folder = path.trim_end_matches("/layer.tar");
        tar = tar.entry(tar::EntryType::Directory, &format!("{folder}/"), "", b"");
        tar = tar.file(&format!("{folder}/VERSION"), "1.0").file(&format!("{folder}/json"), "{}");
        let former = layers[..n].iter().position(|other| other == layer);
        tar = match former {
            Some(other) => tar.link(path, &format!("../{}", paths[other])),
            None => tar.file(path, layer),
        };
    }
    let manifest = serde_json::json!([{"Config": format!("{hex}.json"), "RepoTags": [tag], "Layers": paths}]);
    tar.file(&format!("{hex}.json"), config).file("manifest.json", manifest.to_string()).file("repositories", "{}")
}

#[test]
fn a_docker_archive_becomes_the_same_manifest_in_every_way_and_says_so() {
    let scene = Scene::new();
    let layers = [
        support::images::tar(&[("a", b"1")]),
        support::images::tar(&[("b", b"2")]),
        support::images::tar(&[("a", b"1")]),
    ];
    let blob = |tar: &Vec<u8>| Blob { diff_id: Some(Digest::of(tar)), ..Blob::files(&[]) };
    let image = Image::build().layers(layers.iter().map(blob)).finish();
    legacy(&image, &layers, "team/a:1").write(&scene.path("x.tar"));
    let told = scene.run("t", &["import", "x.tar"]).success();
    assert!(told.stderr.contains("not that of the registry"), "{}", told.stderr);
    let digest = scene.digest("t", "docker.io/team/a:1");
    assert!(told.stderr.contains(&digest));
    fs::write(scene.path("x.tar.gz"), gzip(&fs::read(scene.path("x.tar")).unwrap())).unwrap();
    scene.run("u", &["import", "x.tar.gz"]).success();
    assert_eq!(scene.digest("u", "docker.io/team/a:1"), digest);
    for layer in &layers {
        assert!(
            scene.blobs("t").contains(Digest::of(layer).hex()) && scene.blobs("u").contains(Digest::of(layer).hex())
        );
    }
    scene.verify("t");
    scene.verify("u");
    // Another reader finds the same image in it.
    let from = format!("oci:{}:docker.io/team/a:1", scene.path("t").display());
    let config = skopeo(["inspect", "--config", "--raw", &from]).ok();
    assert_eq!(Digest::of(config.as_bytes()), *image.config().digest());
}

#[test]
fn compressed_layers_of_a_docker_archive_stay_as_they_lie() {
    let scene = Scene::new();
    let tar = support::images::tar(&[("a", b"1")]);
    let packed = gzip(&tar);
    let image = Image::build().layer(Blob { diff_id: Some(Digest::of(&tar)), ..Blob::files(&[]) }).finish();
    // As tools beside docker name things: without endings, or with those of their own.
    let config = format!("sha256:{}", image.config().digest().hex());
    let manifest = serde_json::json!([{"Config": config, "RepoTags": ["h.example/a:1"], "Layers": ["1.tar.gz"]}]);
    let archive = Tar::default().file(&config, image.config().content.to_bytes()).file("1.tar.gz", &packed);
    archive.file("manifest.json", manifest.to_string()).write(&scene.path("x.tar"));
    scene.run("t", &["import", "x.tar"]).success();
    assert!(scene.blobs("t").contains(Digest::of(&packed).hex()));
    let piped = Layerpull::new().arg("load").store(&scene.path("u"));
    piped.stdin(fs::read(scene.path("x.tar")).unwrap()).run().success();
    assert_eq!(scene.digest("u", "h.example/a:1"), scene.digest("t", "h.example/a:1"));
}

#[test]
fn archives_of_skopeo_arrive_also_without_a_whole_name() {
    let (scene, image) = archived();
    let layout = scene.path("s");
    let from = format!("oci:{}:{}", layout.display(), name("a"));
    let to = |kind: &str, file: &str, name: &str| format!("{kind}:{}:{name}", scene.path(file).display());
    skopeo(["copy", &from, &to("oci-archive", "o.tar", "v9")]).ok();
    scene.run("t", &["import", "o.tar"]).success();
    assert_eq!(scene.digest("t", "localhost/o:v9"), image.digest().to_string());
    skopeo(["copy", &from, &to("docker-archive", "d.tar", "h.example/d:1")]).ok();
    scene.run("t", &["import", "d.tar"]).success();
    assert_eq!(scene.names("t"), ["h.example/d:1", "localhost/o:v9"]);
    scene.verify("t");
}

#[test]
fn a_named_pipe_is_read_as_it_comes() {
    let (scene, image) = archived();
    let pipe = scene.path("pipe");
    run("mkfifo", [pipe.to_str().unwrap()]).ok();
    let writer = std::thread::spawn({
        let (from, to) = (scene.path("x.tar"), pipe.clone());
        move || fs::write(to, fs::read(from).unwrap()).unwrap()
    });
    scene.run("t", &["import", "pipe"]).success();
    writer.join().unwrap();
    assert_eq!(scene.digest("t", &name("a")), image.digest().to_string());
}
