//! Words of the command line as places of skopeo's syntax (containers-transports(5)), to read from and to write to.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::Sender;

use super::Context;
use super::engine::docker;
use super::picked::Picked;
use super::place::{self, locals, with_local};
use super::results::Pulled;
use super::staging::Stage;
use super::unpacking::{Choice, Opened, opened, stand_in};
use crate::archive::Sequential;
use crate::content::{Sink, Source};
use crate::error::{Error, Result};
use crate::event::Events;
use crate::local::directory::Directory;
use crate::oci::{Digest, Platform, Reference, is_tag};
use crate::registry::Registry;
use crate::store::{Guest, LayoutImage, Shared, Store};
use crate::transfer::Platforms;

/// What a word names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spot {
    /// `NAME` or `docker://NAME`.
    Registry(Reference),
    /// `oci:DIR[:NAME]`: an image layout. The name is kept as it is.
    Layout(PathBuf, Option<String>),
    /// `oci-archive:FILE[:NAME]`: an image layout in a tar.
    OciArchive(PathBuf, Option<String>),
    /// `docker-archive:FILE[:NAME]`: what `docker save` writes. `@N` as name is the image at this position, from 0.
    DockerArchive(PathBuf, Option<String>),
    /// `dir:DIR`: one image in a folder.
    Directory(PathBuf),
    /// `docker-daemon:NAME`: an image in docker.
    Daemon(Reference),
}

impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, name) = match self {
            Spot::Registry(name) => return write!(f, "{name}"),
            Spot::Daemon(name) => return write!(f, "docker-daemon:{name}"),
            Spot::Directory(dir) => return write!(f, "dir:{}", dir.display()),
            Spot::Layout(dir, name) => ("oci", dir, name),
            Spot::OciArchive(file, name) => ("oci-archive", file, name),
            Spot::DockerArchive(file, name) => ("docker-archive", file, name),
        };
        write!(f, "{transport}:{}", path.display())?;
        name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

impl Spot {
    /// Reads a word.
    ///
    /// # Errors
    /// `Usage` for what is no name, and for places that cannot be read or written here.
    pub fn parse(text: &str) -> Result<Spot> {
        let named = |rest| path_and_name(text, rest);
        Ok(match text.split_once(':') {
            Some(("oci", rest)) => named(rest).map(|(dir, name)| Spot::Layout(dir, name))?,
            Some(("oci-archive", rest)) => named(rest).map(|(file, name)| Spot::OciArchive(file, name))?,
            Some(("docker-archive", rest)) => named(rest).map(|(file, name)| Spot::DockerArchive(file, name))?,
            Some(("dir", "")) => return Err(Error::Usage(format!("{text}: say dir:DIR"))),
            Some(("dir", rest)) => Spot::Directory(rest.into()),
            Some(("docker-daemon", rest)) => Spot::Daemon(rest.parse()?),
            _ => Spot::Registry(place::of_registry(text)?.parse()?),
        })
    }

    /// The full name of the image, if it has one here.
    pub fn reference(&self) -> Option<Reference> {
        match self {
            Spot::Registry(name) | Spot::Daemon(name) => Some(name.clone()),
            Spot::Layout(_, name) | Spot::OciArchive(_, name) => name.as_deref().and_then(place::qualified),
            // Its names are references, also those of one word.
            Spot::DockerArchive(_, name) => name.as_deref().filter(|name| !name.starts_with('@'))?.parse().ok(),
            Spot::Directory(_) => None,
        }
    }

    /// The name of the image as it was written, where it stands behind a path.
    pub fn name(&self) -> Option<&str> {
        match self {
            Spot::Layout(_, name) | Spot::OciArchive(_, name) | Spot::DockerArchive(_, name) => name.as_deref(),
            Spot::Registry(_) | Spot::Directory(_) | Spot::Daemon(_) => None,
        }
    }

    /// Whether it takes an image of one platform alone.
    pub fn takes_one_platform(&self) -> bool {
        matches!(self, Spot::DockerArchive(..) | Spot::Daemon(_))
    }

    /// The file or folder beside which something is made for it.
    fn path(&self) -> Option<&Path> {
        match self {
            Spot::OciArchive(path, _) | Spot::DockerArchive(path, _) | Spot::Directory(path) => Some(path),
            _ => None,
        }
    }

    /// Whether it is a registry.
    pub fn is_registry(&self) -> bool {
        matches!(self, Spot::Registry(_))
    }
}

/// What stands before the first colon, and what behind it, as skopeo parts them.
fn path_and_name(text: &str, rest: &str) -> Result<(PathBuf, Option<String>)> {
    let (path, name) = rest.split_once(':').map_or((rest, None), |(path, name)| (path, Some(name.to_owned())));
    if path.is_empty() {
        return Err(Error::Usage(format!(
            "{text}: it names no file or folder; say oci:DIR or oci-archive:FILE, and :NAME behind it"
        )));
    }
    Ok((path.into(), name.filter(|name| !name.is_empty())))
}

/// The names for the two ends of a copy: where one end has none that is whole, it goes by that of the other.
pub fn names(from: &Spot, to: &Spot) -> (Reference, Reference) {
    let unnamed = || "localhost/unnamed".parse().expect("a valid name");
    let name = from.reference().or_else(|| to.reference()).unwrap_or_else(unnamed);
    let target = to.reference().unwrap_or_else(|| name.clone());
    (name, target)
}

/// An end to read from.
pub struct Reading {
    /// Where manifests and blobs come from.
    pub source: Arc<dyn Source>,
    /// The platforms of an index that are there, where not all are.
    platforms: Option<Vec<Platform>>,
    _held: Held,
}

/// What must stay while an end is read.
enum Held {
    Nothing,
    Layout { _shared: Shared },
    Stage { _stage: Stage },
}

/// An end to write to.
pub struct Writing {
    /// Where they go.
    pub sink: Arc<dyn Sink>,
    /// What is listed there already, if it is a registry.
    pub there: Option<Arc<dyn Source>>,
    to: Spot,
    /// Where the image waits until it is whole.
    stage: Option<Stage>,
    _guest: Option<Guest>,
}

impl Reading {
    /// Opens `spot`, which is at `registry` if it is at one.
    ///
    /// # Errors
    /// `Refused` when the trust policy of this machine forbids it; those of the place.
    pub async fn open(spot: &Spot, registry: &Registry, context: &Context, events: Events) -> Result<Reading> {
        match spot {
            Spot::Registry(name) => {
                let source = with_local(Arc::new(registry.repository(name)?), &locals(&context.settings, None)?);
                Ok(Reading { source, platforms: None, _held: Held::Nothing })
            }
            Spot::Layout(dir, name) => {
                let store = layout(dir, context, events)?;
                let shared = store.share().await?;
                let source = Arc::new(LayoutImage::new(store, name.clone()));
                Ok(Reading { source, platforms: None, _held: Held::Layout { _shared: shared } })
            }
            Spot::Directory(dir) => {
                Ok(Reading { source: Arc::new(Directory::open(dir)?), platforms: None, _held: Held::Nothing })
            }
            Spot::OciArchive(file, _) | Spot::DockerArchive(file, _) => {
                Reading::archive(spot, file, context, events).await
            }
            Spot::Daemon(name) => {
                let archive = saved(name).await?;
                let choice = Choice { only: Vec::new(), name: Some(name.clone()) };
                Reading::staged(spot, archive, choice, context, events).await
            }
        }
    }

    /// What of an index is taken: what is `wanted`, else what is there.
    pub fn platforms(&self, wanted: &[Platform]) -> Platforms {
        match (wanted, &self.platforms) {
            ([], Some(there)) => Platforms::Only(there.clone()),
            ([], None) => Platforms::All,
            (wanted, _) => Platforms::Only(wanted.to_vec()),
        }
    }

    async fn archive(spot: &Spot, file: &Path, context: &Context, events: Events) -> Result<Reading> {
        let words = [file.display().to_string()];
        match tokio::task::block_in_place(|| opened(&words))?.pop() {
            Some(Opened::Disk(archive)) => {
                let picked = Picked::of(spot, archive)?;
                let platforms = picked.platforms.clone();
                Ok(Reading { source: Arc::new(picked), platforms, _held: Held::Nothing })
            }
            Some(Opened::Stream(archive)) => {
                let choice = Choice { only: meant(spot, archive.place())?.into_iter().collect(), name: None };
                Reading::staged(spot, archive, choice, context, events).await
            }
            None => Err(Error::Usage(format!("{spot}: it names no archive"))),
        }
    }

    /// What comes in order is brought into a layout first.
    async fn staged(
        spot: &Spot,
        archive: Sequential,
        choice: Choice,
        context: &Context,
        events: Events,
    ) -> Result<Reading> {
        let stage = Stage::near(None, context, events.clone())?;
        let name = stage.take(archive, choice, context, events).await?;
        let source = Arc::new(stage.image(Some(name), &spot.to_string()));
        Ok(Reading { source, platforms: None, _held: Held::Stage { _stage: stage } })
    }
}

impl Writing {
    /// Opens `spot`, which is at `registry` if it is at one.
    ///
    /// # Errors
    /// Those of the place.
    pub async fn open(spot: &Spot, registry: &Registry, context: &Context, events: Events) -> Result<Writing> {
        match spot {
            Spot::Registry(name) => {
                let there = Arc::new(registry.repository_to_write(name));
                let to = spot.clone();
                Ok(Writing { sink: there.clone(), there: Some(there), to, stage: None, _guest: None })
            }
            Spot::Layout(dir, name) => {
                let store = layout(dir, context, events)?;
                let guest = store.share_as_guest().await?;
                let sink = Arc::new(LayoutImage::new(store, name.clone()));
                Ok(Writing { sink, there: None, to: spot.clone(), stage: None, _guest: Some(guest) })
            }
            _ => {
                let stage = Stage::near(spot.path(), context, events)?;
                let name = if let Spot::OciArchive(_, name) = spot { name.clone() } else { None };
                let sink = Arc::new(stage.image(name, &spot.to_string()));
                Ok(Writing { sink, there: None, to: spot.clone(), stage: Some(stage), _guest: None })
            }
        }
    }

    /// Opens `spot` to see what it has. Changes nothing.
    ///
    /// # Errors
    /// `Usage` for what takes an image as one piece, whatever it has; those of the place.
    pub fn foreseen(spot: &Spot, registry: &Registry, context: &Context, events: Events) -> Result<Writing> {
        let (sink, there): (Arc<dyn Sink>, Option<Arc<dyn Source>>) = match spot {
            Spot::Registry(name) => {
                let there = Arc::new(registry.repository_to_write(name));
                (there.clone(), Some(there))
            }
            Spot::Layout(dir, name) => {
                let store = layout(dir, context, events)?.untouched();
                (Arc::new(LayoutImage::new(store, name.clone())), None)
            }
            _ => return Err(Error::Usage(format!("{spot}: it takes the whole image: leave out --dry-run"))),
        };
        Ok(Writing { sink, there, to: spot.clone(), stage: None, _guest: None })
    }

    /// Brings the image that has arrived where it waits to its place; it fails in `pulled` when that fails.
    pub async fn deliver(&self, pulled: &mut [Pulled], context: &Context, events: &Events) {
        let Some(stage) = &self.stage else { return };
        let place = self.to.to_string();
        let arrived = |image: &&mut Pulled| image.place.as_ref() == Some(&place) && image.result.is_ok();
        for image in pulled.iter_mut().filter(arrived) {
            if let Err(error) = stage.deliver(&self.to, &image.name, context, events.clone()).await {
                image.result = Err(error.into());
            }
        }
    }

    /// Where what is listed can be seen, for `--referrers`.
    ///
    /// # Errors
    /// `Usage` when the target is no registry.
    pub fn listing(&self) -> Result<Arc<dyn Source>> {
        let place = self.sink.place();
        self.there.clone().ok_or_else(|| {
            Error::Usage(format!("{place}: --referrers bring what hangs on an image to registries only; leave it out"))
        })
    }
}

/// The image of an archive that comes in order which `spot` names, as it is called when it has come.
fn meant(spot: &Spot, place: &str) -> Result<Option<Reference>> {
    let Some(name) = spot.name() else { return Ok(None) };
    let by_tag = || stand_in(place, Some(name), &Digest::of(b"")).filter(|_| is_tag(name));
    spot.reference().or_else(by_tag).map(Some).ok_or_else(|| {
        let why = "of a compressed archive an image is taken by its name: say that, or unpack the archive first";
        Error::Usage(format!("{spot}: {why}"))
    })
}

/// The archive that docker makes of an image, as it comes.
async fn saved(name: &Reference) -> Result<Sequential> {
    let mut bytes = docker()?.save(name).await?;
    let place = format!("docker-daemon:{name}");
    let (reader, writer) = std::io::pipe().map_err(Error::store("make a pipe for", &place))?;
    let writer = Sender::from_owned_fd(writer.into()).map_err(Error::store("make a pipe for", &place))?;
    tokio::spawn(async move {
        let mut writer = writer;
        // An archive that ends early says so itself, and nobody reads on behind its end.
        while let Some(Ok(piece)) = bytes.next().await {
            if writer.write_all(&piece).await.is_err() {
                return;
            }
        }
    });
    Sequential::start(reader, &place)
}

fn layout(dir: &Path, context: &Context, events: Events) -> Result<Store> {
    Ok(Store::open(dir)?.observed(events, context.cancel.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dir: &str, name: Option<&str>) -> Spot {
        Spot::Layout(dir.into(), name.map(str::to_owned))
    }

    #[test]
    fn a_layout_and_its_name_are_parted_at_the_first_colon() {
        let cases = [
            ("oci:/d", layout("/d", None)),
            ("oci:/d:", layout("/d", None)),
            ("oci:d:v1", layout("d", Some("v1"))),
            ("oci:/d:h.example:5000/a:1", layout("/d", Some("h.example:5000/a:1"))),
            ("docker://x", Spot::Registry("x".parse().unwrap())),
        ];
        for (text, spot) in cases {
            assert_eq!(Spot::parse(text).unwrap(), spot, "{text}");
        }
        let archive = |file: &str, name: &str| Spot::DockerArchive(file.into(), Some(name.into()));
        assert_eq!(Spot::parse("docker-archive:f.tar:x:1").unwrap(), archive("f.tar", "x:1"));
        assert_eq!(Spot::parse("dir:/a:b").unwrap(), Spot::Directory("/a:b".into()));
        assert_eq!(Spot::parse("docker-daemon:x").unwrap(), Spot::Daemon("x".parse().unwrap()));
        for text in ["oci:/d", "oci:d:v1", "oci-archive:f:v1", "docker-archive:f:@1", "dir:d", "docker-daemon:h.x/a:1"]
        {
            assert_eq!(Spot::parse(text).unwrap().to_string(), text);
        }
        for text in ["oci:", "oci::x", "oci-archive:", "dir:", "docker-daemon:", "containers-storage:x", "docker://"] {
            assert!(matches!(Spot::parse(text), Err(Error::Usage(_))), "{text}");
        }
    }

    #[test]
    fn an_end_without_a_whole_name_goes_by_that_of_the_other() {
        let named = |from: &str, to: &str| {
            let (name, target) = names(&Spot::parse(from).unwrap(), &Spot::parse(to).unwrap());
            (name.familiar(), target.familiar())
        };
        assert_eq!(named("x:1", "oci:d:v1"), ("x:1".into(), "x:1".into()));
        assert_eq!(named("oci:d:v1", "h.example/x:1"), ("h.example/x:1".into(), "h.example/x:1".into()));
        assert_eq!(named("oci:d:a/b:1", "oci:e:a/c:1"), ("a/b:1".into(), "a/c:1".into()));
        assert_eq!(named("oci:d", "oci:e").0, "localhost/unnamed:latest");
    }
}
