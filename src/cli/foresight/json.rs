//! A plan for programs: one object an image, each on its line.

use serde::Serialize;

use super::forecast::{Forecast, Heading, Time};
use super::{Disk, Foresight, Listed};
use crate::cli::output::json_line;
use crate::cli::results::Direction;
use crate::oci::{Digest, MediaType};
use crate::transfer::{BlobPlan, ImagePlan, Totals, Way};

/// What would happen to one image. A blob that several images share counts for the first of them. Bytes of blobs.
#[derive(Debug, Default, Serialize)]
struct Image {
    reference: String,
    digest: Option<String>,
    status: &'static str,
    /// What would travel.
    moved: u64,
    /// What the registry would take from another repository.
    mounted: u64,
    /// What would be copied on this machine.
    local: u64,
    /// What is there.
    held: u64,
    blobs: Vec<Blob>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// One blob.
#[derive(Debug, Serialize)]
struct Blob {
    digest: Digest,
    media_type: MediaType,
    size: u64,
    held: u64,
    /// `held`, `mount`, `local` or `network`: how what is missing comes.
    way: &'static str,
    /// The repository, the host, or the place on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<String>,
    /// All hosts that could be asked, the preferred one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<String>,
    /// The file on this machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    /// The image before this one that it counts for.
    #[serde(skip_serializing_if = "Option::is_none")]
    shared_with: Option<String>,
}

/// The sums over all images: each line has them, as each result has what its run took.
#[derive(Debug, Serialize)]
struct Sums {
    size: u64,
    moved: u64,
    mounted: u64,
    local: u64,
    held: u64,
    hosts: Vec<Host>,
    places: Vec<Place>,
    /// `null` when nobody knows.
    seconds: Option<f64>,
    /// `limit`, `remembered` or `unknown`; `none` when nothing travels.
    basis: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk: Option<Room>,
}

#[derive(Debug, Serialize)]
struct Host {
    host: String,
    /// Others that serve the same blobs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    beside: Vec<String>,
    direction: &'static str,
    bytes: u64,
    blobs: usize,
    /// Bytes a second, as former runs found it, of those together that will be at work at once.
    rate: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Place {
    name: String,
    path: String,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct Room {
    path: String,
    needed: u64,
    free: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    #[serde(flatten)]
    image: Image,
    plan: &'a Sums,
}

/// One object an image.
pub(super) fn lines(foresight: &Foresight, forecast: &Forecast) -> serde_json::Result<String> {
    let sums = sums(foresight, forecast);
    let planned = foresight.images().into_iter().map(|(image, blobs)| planned(foresight, image, &blobs));
    let kept = foresight.kept.iter().map(|(name, digest)| Image {
        reference: name.to_string(),
        digest: Some(digest.to_string()),
        status: "kept",
        ..Image::default()
    });
    let failed = foresight.plan.failed.iter().map(|(name, error)| Image {
        reference: name.to_string(),
        status: "failed",
        error: Some(error.to_string()),
        ..Image::default()
    });
    planned.chain(kept).chain(failed).map(|image| json_line(&Line { image, plan: &sums })).collect()
}

fn planned(foresight: &Foresight, image: &ImagePlan, blobs: &[Listed<'_>]) -> Image {
    let own = blobs.iter().filter(|listed| listed.owner.is_none()).map(|listed| listed.number);
    let totals = foresight.plan.totals_of(own);
    Image {
        reference: image.target.to_string(),
        digest: Some(image.root.descriptor.digest.to_string()),
        status: match (image.up_to_date, foresight.direction) {
            (true, _) => "up-to-date",
            (false, Direction::Here | Direction::Unpacked) => "would-download",
            (false, Direction::There | Direction::Engine) => "would-send",
        },
        moved: totals.planned,
        mounted: totals.mountable,
        local: totals.local,
        held: totals.held(),
        blobs: blobs.iter().map(|listed| blob(&foresight.plan.blobs[listed.number], listed)).collect(),
        error: None,
    }
}

fn blob(plan: &BlobPlan, listed: &Listed<'_>) -> Blob {
    let (way, from, path) = match plan.way() {
        Way::There => ("held", None, None),
        Way::Mount(from) => ("mount", Some(from.to_owned()), None),
        Way::Copy(origin) => ("local", Some(origin.host().to_owned()), origin.path()),
        Way::Network => ("network", plan.serving().first().map(|host| (*host).to_owned()), None),
    };
    let hosts = if way == "network" {
        plan.origins.iter().map(|origin| origin.host().to_owned()).collect()
    } else {
        Vec::new()
    };
    Blob {
        digest: plan.descriptor.digest.clone(),
        media_type: plan.descriptor.media_type.clone(),
        size: plan.descriptor.size,
        held: plan.descriptor.size - plan.missing(),
        way,
        from,
        hosts,
        path: path.map(|path| path.display().to_string()),
        shared_with: listed.owner.map(|owner| owner.target.to_string()),
    }
}

fn sums(foresight: &Foresight, forecast: &Forecast) -> Sums {
    let totals: Totals = foresight.plan.totals();
    let (seconds, basis) = match forecast.time {
        Time::None => (Some(0.0), "none"),
        Time::Limited(time, _) => (Some(time.as_secs_f64()), "limit"),
        Time::Remembered(time, _) => (Some(time.as_secs_f64()), "remembered"),
        Time::Unknown => (None, "unknown"),
    };
    let host = |leg: &super::forecast::Leg| Host {
        host: leg.hosts.first().cloned().unwrap_or_default(),
        beside: leg.hosts.iter().skip(1).cloned().collect(),
        direction: if leg.way == Heading::Down { "down" } else { "up" },
        bytes: leg.bytes,
        blobs: leg.blobs,
        rate: leg.rate,
    };
    let place = |((name, path), bytes): (&(String, String), &u64)| Place {
        name: name.clone(),
        path: path.clone(),
        bytes: *bytes,
    };
    let room =
        |disk: &Disk| Room { path: disk.path.display().to_string(), needed: disk.space.needed, free: disk.space.free };
    Sums {
        size: totals.size,
        moved: totals.planned,
        mounted: totals.mountable,
        local: totals.local,
        held: totals.held(),
        hosts: forecast.hosts.iter().map(host).collect(),
        places: forecast.places.iter().map(place).collect(),
        seconds,
        basis,
        disk: foresight.disk.as_ref().map(room),
    }
}
