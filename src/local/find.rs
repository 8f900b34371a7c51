//! Where container engines, and we, keep blobs on this machine when nobody says otherwise.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{CONTENT, Local, content_store};
use crate::content::file::{Folder, layout_version, read_configuration};

/// Snapshotters of buildkit, each of which has a store of its own.
const SNAPSHOTTERS: [&str; 3] = ["overlayfs", "native", "fuse-overlayfs"];

/// How another store of ours is called.
const OTHER_STORE: &str = "another store";

/// What of this machine is looked at.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The root of its file system: `/`, or where that is mounted in a container.
    pub root: PathBuf,
    /// The home of this user.
    pub home: Option<PathBuf>,
    /// Where programs keep data of this user (`$XDG_DATA_HOME`).
    pub data: Option<PathBuf>,
    /// Where stores of ours may be, besides `/var/lib/layerpull`.
    pub stores: Vec<PathBuf>,
}

impl Surroundings {
    /// The stores of engines, and ours, that can be read. Costs a look at each place and at two files of configuration.
    pub fn locals(&self) -> Vec<Local> {
        let engines = self.contents().into_iter().filter_map(|(name, path)| {
            let folder = content_store(&path)?;
            tracing::debug!(path = %path.display(), "blobs of {name} are used");
            Some(Local { folder: folder.named(name) })
        });
        let shared = self.below("/var/lib/layerpull");
        let own = self.stores.iter().chain([&shared]).filter_map(|path| layout(path));
        own.chain(engines).collect()
    }

    /// Where content stores may be, and whose.
    fn contents(&self) -> Vec<(&'static str, PathBuf)> {
        let containerd = |name, root: PathBuf| (name, root.join(CONTENT));
        let mut all = vec![
            containerd("containerd", self.containerd_root()),
            containerd("k3s", self.below("/var/lib/rancher/k3s/agent/containerd")),
            containerd("rke2", self.below("/var/lib/rancher/rke2/agent/containerd")),
            containerd("docker", self.docker_root().join("containerd/daemon")),
        ];
        all.extend(buildkit("buildkit", &self.below("/var/lib/buildkit")));
        if let Some(home) = &self.home {
            all.push(containerd("rootless k3s", home.join(".rancher/k3s/agent/containerd")));
        }
        if let Some(data) = &self.data {
            all.push(containerd("rootless containerd", data.join("containerd")));
            all.push(containerd("rootless docker", data.join("docker/containerd/daemon")));
            all.extend(buildkit("rootless buildkit", &data.join("buildkit")));
        }
        all
    }

    /// `path`, which is absolute, below the root.
    fn below(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// As its configuration says (containerd-config.toml(5), `root`).
    fn containerd_root(&self) -> PathBuf {
        let read = || {
            let text = read_configuration(&self.below("/etc/containerd/config.toml")).ok()?;
            let table: toml::Table = text.parse().ok()?;
            absolute(table.get("root")?.as_str()?)
        };
        self.below(read().unwrap_or_else(|| "/var/lib/containerd".into()))
    }

    /// As its configuration says (dockerd(8), `data-root`).
    fn docker_root(&self) -> PathBuf {
        let read = || {
            let text = read_configuration(&self.below("/etc/docker/daemon.json")).ok()?;
            let value: Value = serde_json::from_str(&text).ok()?;
            absolute(value.get("data-root")?.as_str()?)
        };
        self.below(read().unwrap_or_else(|| "/var/lib/docker".into()))
    }
}

fn absolute(path: &str) -> Option<PathBuf> {
    Some(PathBuf::from(path)).filter(|path| path.is_absolute())
}

fn buildkit(name: &'static str, root: &Path) -> Vec<(&'static str, PathBuf)> {
    SNAPSHOTTERS.map(|snapshotter| (name, root.join(format!("runc-{snapshotter}/content")))).into()
}

/// A store of ours that is there.
fn layout(path: &Path) -> Option<Local> {
    layout_version(path).ok().filter(|version| version.starts_with("1."))?;
    Some(Local { folder: Folder::open(path).ok()?.named(OTHER_STORE) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(root: &Path) -> Vec<(String, PathBuf)> {
        let surroundings = Surroundings {
            root: root.into(),
            home: Some(root.join("home")),
            data: Some(root.join("home/.local/share")),
            stores: vec![root.join("home/.local/share/layerpull")],
        };
        let short = |local: &Local| local.path().strip_prefix(root).unwrap().to_owned();
        surroundings.locals().iter().map(|local| (local.name().to_owned(), short(local))).collect()
    }

    fn store(root: &Path, path: &str) {
        std::fs::create_dir_all(root.join(path).join("blobs/sha256")).unwrap();
    }

    #[test]
    fn a_machine_without_engines_has_nothing() {
        assert!(found(tempfile::tempdir().unwrap().path()).is_empty());
    }

    #[test]
    fn the_stores_of_engines_are_found_where_they_are_by_default() {
        let dir = tempfile::tempdir().unwrap();
        let places = [
            ("containerd", "var/lib/containerd/io.containerd.content.v1.content"),
            ("k3s", "var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content"),
            ("rke2", "var/lib/rancher/rke2/agent/containerd/io.containerd.content.v1.content"),
            ("docker", "var/lib/docker/containerd/daemon/io.containerd.content.v1.content"),
            ("buildkit", "var/lib/buildkit/runc-overlayfs/content"),
            ("rootless containerd", "home/.local/share/containerd/io.containerd.content.v1.content"),
        ];
        places.iter().for_each(|(_, path)| store(dir.path(), path));
        let expected: Vec<(String, PathBuf)> = places.map(|(name, path)| (name.into(), path.into())).into();
        assert_eq!(found(dir.path()), expected);
    }

    #[test]
    fn roots_that_are_configured_are_used_and_broken_configurations_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("etc/containerd/config.toml", "version = 2\nroot = \"/data/ctrd\"\n[plugins]\n");
        write("etc/docker/daemon.json", r#"{"data-root": "/data/docker"}"#);
        store(dir.path(), "data/ctrd/io.containerd.content.v1.content");
        store(dir.path(), "data/docker/containerd/daemon/io.containerd.content.v1.content");
        store(dir.path(), "var/lib/containerd/io.containerd.content.v1.content");
        let names = || found(dir.path()).into_iter().map(|(name, path)| format!("{name} {}", path.display()));
        let expected = [
            "containerd data/ctrd/io.containerd.content.v1.content",
            "docker data/docker/containerd/daemon/io.containerd.content.v1.content",
        ];
        assert_eq!(names().collect::<Vec<_>>(), expected);
        write("etc/containerd/config.toml", "root = [");
        write("etc/docker/daemon.json", r#"{"data-root": "relative"}"#);
        assert_eq!(names().collect::<Vec<_>>(), ["containerd var/lib/containerd/io.containerd.content.v1.content"]);
    }

    #[test]
    fn other_stores_of_ours_are_found_by_their_marker() {
        let dir = tempfile::tempdir().unwrap();
        store(dir.path(), "var/lib/layerpull");
        assert!(found(dir.path()).is_empty());
        std::fs::write(dir.path().join("var/lib/layerpull/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        assert_eq!(found(dir.path()), [(OTHER_STORE.to_owned(), PathBuf::from("var/lib/layerpull"))]);
    }
}
