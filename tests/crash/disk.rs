//! Disks that are full or read-only, and files in the way.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use support::command::Layerpull;
use support::images::{Blob, Image};
use support::peers;

use super::scene::{KIB, MIB, Scene, asked, assert_whole, blob_path};

/// A file system in a mount namespace of its own, so that nobody needs to be root and nothing stays behind.
struct Mounted {
    child: Child,
    root: PathBuf,
}

impl Mounted {
    /// Runs `script` in the namespace; the file system that it mounts on `folder` is then at [`Mounted::root`].
    fn by(script: &str, folder: &Path) -> Mounted {
        let mut child = Command::new(peers::program("unshare"))
            .args(["--user", "--map-root-user", "--mount", "sh", "-ec"])
            .arg(format!("{script}; echo mounted; read end"))
            .env("FOLDER", folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let needs = "this test needs user namespaces that may mount (kernel.unprivileged_userns_clone, or root)";
        assert_eq!(line, "mounted\n", "{needs}");
        let outside = folder.strip_prefix("/").unwrap();
        let root = PathBuf::from(format!("/proc/{}/root", child.id())).join(outside);
        Mounted { child, root }
    }

    /// An empty file system of `size` bytes.
    fn of_size(size: u64, folder: &Path) -> Mounted {
        Mounted::by(&format!("mount -t tmpfs -o size={size} none \"$FOLDER\""), folder)
    }

    /// `folder`, which cannot be written.
    fn read_only(folder: &Path) -> Mounted {
        Mounted::by("mount --bind \"$FOLDER\" \"$FOLDER\"; mount -o remount,bind,ro \"$FOLDER\"", folder)
    }

    fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Takes `size` bytes away, or what there is.
    fn fill(&self, size: u64) -> PathBuf {
        let filler = self.root.join("filler");
        // A full disk is what is wanted.
        let _ = std::fs::File::create(&filler).unwrap().write_all(&vec![1; size as usize]);
        filler
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pull(scene: &Scene, store: &Path) -> Layerpull {
    Layerpull::new().args(["pull", "--streams", "1", &scene.name()]).store(store)
}

#[test]
fn a_full_disk_is_told_before_the_blob_travels_and_what_is_verified_stays() {
    let (small, large) = (Blob::noise(1, 256 * KIB), Blob::noise(2, 8 * MIB));
    let image = Image::build().layer(small.clone()).layer(large.clone()).finish();
    let (scene, folder) = (Scene::with(&image), tempfile::tempdir().unwrap());
    let disk = Mounted::of_size(16 * MIB, folder.path());
    let gate = super::scene::hold_blob(&scene, &large);
    scene.registry.add("library/small", "1", &Image::build().layer(small.clone()).finish());
    let first = scene.registry.name("library/small", "1");
    Layerpull::new().args(["pull", &first]).store(&disk.store()).run().success();
    let filler = disk.fill(11 * MIB);

    let output = pull(&scene, &disk.store()).run().code(7);
    assert!(output.stdout.is_empty() && output.stderr.contains("free some space"), "{}", output.stderr);
    assert_eq!(scene.registry.requests().bytes_sent_for(large.digest()), 0);
    assert!(blob_path(&disk.store(), small.digest()).exists());
    Layerpull::new().arg("verify").store(&disk.store()).run().success();

    std::fs::remove_file(filler).unwrap();
    gate.open();
    pull(&scene, &disk.store()).run().success();
    assert_whole(&disk.store(), &image);
    assert_eq!(scene.registry.requests().blob_gets(small.digest()).len(), 1);
}

#[test]
fn a_disk_that_fills_up_in_mid_transfer_costs_no_blob() {
    // A manifest that does not fit into what the journals of the blobs leave behind.
    let wide = "x".repeat(64 * KIB as usize);
    let image = Image::build().layer(Blob::noise(9, 8 * MIB)).annotation("wide", &wide).finish();
    let (scene, folder) = (Scene::with(&image), tempfile::tempdir().unwrap());
    let disk = Mounted::of_size(16 * MIB, folder.path());
    let gate = scene.hold_blobs();
    let running = pull(&scene, &disk.store()).spawn();
    scene.registry.wait_until("blobs are asked for", |r| r.all_blob_gets().len() == 2);
    let filler = disk.fill(16 * MIB);
    gate.open();
    let output = running.wait().code(7);
    assert!(output.stderr.contains("free some space"), "{}", output.stderr);
    assert!(!disk.store().join("index.json").exists());

    std::fs::remove_file(filler).unwrap();
    let from = scene.registry.requests().len();
    pull(&scene, &disk.store()).run().success();
    assert_whole(&disk.store(), &image);
    assert_eq!(asked(&scene.requests_since(from), image.layer(0)), 0);
}

#[test]
fn a_disk_without_any_space_is_told_before_a_blob_moves() {
    let image = Image::build().layer(Blob::noise(3, MIB)).finish();
    let (scene, folder) = (Scene::with(&image), tempfile::tempdir().unwrap());
    let disk = Mounted::of_size(64 * KIB, folder.path());
    disk.fill(64 * KIB);
    let output = pull(&scene, &disk.store()).run().code(7);
    assert!(output.stderr.contains("free some space"), "{}", output.stderr);
}

#[test]
fn a_read_only_store_is_told_serves_and_lists() {
    let image = Image::build().layer(Blob::noise(4, 64 * KIB)).finish();
    let (scene, folder) = (Scene::with(&image), tempfile::tempdir().unwrap());
    let store = folder.path().join("store");
    pull(&scene, &store).run().success();
    let other = Image::build().layer(Blob::noise(5, 64 * KIB)).finish();
    scene.registry.add("library/x", "1", &other);
    let disk = Mounted::read_only(folder.path());
    let run = |name: &str| Layerpull::new().arg(name).store(&disk.store());

    let output = pull(&scene, &disk.store()).run().code(7);
    assert!(output.stdout.is_empty() && output.stderr.contains("ead-only"), "{}", output.stderr);
    assert!(run("images").run().success().stdout.contains("library/x"));
    run("verify").run().success();
    run("gc").run().code(7);
    run("rm").arg(scene.name()).run().code(7);
    assert_whole(&store, &image);
}

#[test]
fn a_file_in_the_way_of_the_store_is_told_and_stays() {
    let image = Image::build().layer(Blob::noise(6, 64 * KIB)).finish();
    let (scene, folder) = (Scene::with(&image), tempfile::tempdir().unwrap());
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    for store in [file.clone(), file.join("below")] {
        let output = pull(&scene, &store).run().code(7);
        assert!(output.stderr.contains(file.to_str().unwrap()), "{}", output.stderr);
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    assert!(scene.registry.requests().all_blob_gets().is_empty());
}

#[test]
fn a_folder_of_somebody_else_is_no_store_and_stays_as_it_is() {
    let image = Image::build().layer(Blob::noise(7, 64 * KIB)).finish();
    let (scene, folder) = (Scene::with(&image), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("letter.txt"), "mine").unwrap();
    let output = pull(&scene, folder.path()).run().code(1);
    assert!(output.stderr.contains(folder.path().to_str().unwrap()), "{}", output.stderr);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_in_the_way_of_a_blob_is_told() {
    let image = Image::build().layer(Blob::noise(8, 64 * KIB)).finish();
    let scene = Scene::with(&image);
    let path = scene.path(image.layer(0).digest());
    scene.command("gc").run().success();
    std::fs::create_dir_all(path.join("in the way")).unwrap();
    std::fs::write(scene.store().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let output = scene.pull().run().code(7);
    assert!(output.stderr.contains(path.to_str().unwrap()), "{}", output.stderr);
    assert!(path.join("in the way").exists());
}
