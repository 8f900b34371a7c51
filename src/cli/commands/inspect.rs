//! `layerpull inspect`: an image described as skopeo describes it.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::cli::image::{ImageFlags, Look, look, manifest_for};
use crate::cli::output::{json, print, print_verbatim};
use crate::cli::place::Place;
use crate::cli::{Context, template};
use crate::oci::{Descriptor, Reference};

/// Which image, and what of it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image to describe
    #[arg(value_name = "IMAGE")]
    name: String,
    /// `json`, or a template such as '{{.Digest}}'
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    format: String,
    /// Print the manifest as it is
    #[arg(long)]
    raw: bool,
    /// Print the configuration; with --raw as it is
    #[arg(long)]
    config: bool,
    /// Which platform, and where to look.
    #[command(flatten)]
    pub image: ImageFlags,
}

/// Describes the image.
///
/// # Errors
/// Those of the place; a template that makes no sense.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let name: Reference = context.reference(&args.name)?;
    let place = Place::of(&args.image, context, context.notices()).await?;
    let source = place.source(&name)?;
    if args.raw && !args.config {
        let root = source.resolve(&name).await?;
        let manifest = match &args.image.platform {
            Some(platform) => manifest_for(source.as_ref(), &root, platform).await?,
            None => source.manifest(&root).await?,
        };
        return Ok(print_verbatim(&manifest.bytes)?);
    }
    let seen = look(source.as_ref(), &name, &context.platform()).await?;
    if args.raw {
        return Ok(print_verbatim(&seen.config)?);
    }
    match args.config {
        true => show(&args.format, &serde_json::from_slice::<serde_json::Value>(&seen.config)?),
        false => show(&args.format, &describe(&name, &seen, place.tags(&name).await?)),
    }
}

/// Prints `value` as JSON, with its fields in their order, or by a template.
fn show(format: &str, value: &impl Serialize) -> anyhow::Result<()> {
    match format {
        "json" => print(&json(value)?)?,
        text => print(&(template::render(text, &serde_json::to_value(value)?)? + "\n"))?,
    }
    Ok(())
}

/// What `skopeo inspect` says, with its names in its order.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    name: String,
    digest: String,
    repo_tags: Vec<String>,
    created: Option<String>,
    docker_version: String,
    labels: BTreeMap<String, String>,
    architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    os: String,
    layers: Vec<String>,
    layers_data: Vec<LayerData>,
    env: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct LayerData {
    #[serde(rename = "MIMEType")]
    mime_type: String,
    digest: String,
    size: u64,
    annotations: Option<BTreeMap<String, String>>,
}

fn describe(name: &Reference, seen: &Look, repo_tags: Vec<String>) -> Description {
    let config = seen.config();
    Description {
        name: name.name(),
        digest: seen.root.digest.to_string(),
        repo_tags,
        created: config.created,
        docker_version: config.docker_version,
        labels: config.config.labels,
        architecture: config.architecture,
        variant: config.variant,
        os: config.os,
        layers: seen.image.layers.iter().map(|layer| layer.digest.to_string()).collect(),
        layers_data: seen.image.layers.iter().map(layer_data).collect(),
        env: config.config.env,
    }
}

fn layer_data(layer: &Descriptor) -> LayerData {
    LayerData {
        mime_type: layer.media_type.to_string(),
        digest: layer.digest.to_string(),
        size: layer.size,
        annotations: (!layer.annotations.is_empty()).then(|| layer.annotations.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::image::samples::{Shelf, image};

    #[tokio::test]
    async fn an_image_is_described_with_the_names_that_skopeo_uses() {
        let mut shelf = Shelf::default();
        let root = shelf.image(image("amd64", &[("ADD a", 10)]));
        let name = shelf.name("h.example/x:1", root);
        let seen = look(&shelf, &name, &"linux/amd64".parse().unwrap()).await.unwrap();
        insta::assert_snapshot!(json(&describe(&name, &seen, vec!["1".into()])).unwrap());
    }
}
