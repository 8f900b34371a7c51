//! `layerpull layers`: the stack of each image drawn as text, and what the stacks share.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::cli::draw::{self, Known, Layer, Stack};
use crate::cli::image::{ImageFlags, Look, look};
use crate::cli::output::{escape, json, print};
use crate::cli::place::Place;
use crate::cli::{Context, Format};
use crate::content::Source;
use crate::error::Result;
use crate::oci::{Digest, Platform, Reference};

/// Which images.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Images to draw
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Which platform, and where to look.
    #[command(flatten)]
    pub image: ImageFlags,
}

/// Draws the stacks.
///
/// # Errors
/// Those of the place.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let platform = context.platform();
    let place = Place::of(&args.image, context, context.notices()).await?;
    let mut stacks = Vec::new();
    for text in &args.images {
        let name = context.reference(text)?;
        let source = place.source(&name)?;
        stacks.push(stack(source.as_ref(), &name, &platform).await?);
    }
    let known = match &place {
        Place::Registry(..) => Known::Drawn,
        Place::Store { store, .. } => {
            name_others(&mut stacks, &store.sharing().await?);
            Known::Store
        }
    };
    match args.format {
        Format::Text => print(&draw::stacks(&stacks, known, crate::cli::output::columns(std::io::stdout())))?,
        Format::Json => print(&json(&stacks.iter().map(|stack| described(stack, &stacks)).collect::<Vec<_>>())?)?,
    }
    Ok(())
}

/// Adds to each layer the images among `sharing` that are not drawn.
fn name_others(stacks: &mut [Stack], sharing: &BTreeMap<Digest, BTreeSet<String>>) {
    let drawn: Vec<String> = stacks.iter().map(|stack| stack.name.clone()).collect();
    let familiar = |name: &String| name.parse().map_or_else(|_| name.clone(), |name: Reference| name.familiar());
    for layer in stacks.iter_mut().flat_map(|stack| &mut stack.layers) {
        let names = sharing.get(&layer.digest).into_iter().flatten().map(familiar);
        layer.elsewhere = names.filter(|name| !drawn.contains(name)).map(|name| escape(&name)).collect();
    }
}

async fn stack(source: &dyn Source, name: &Reference, platform: &Platform) -> Result<Stack> {
    Ok(stack_of(name, &look(source, name, platform).await?))
}

fn stack_of(name: &Reference, look: &Look) -> Stack {
    let config = look.config();
    let instructions = config.instructions(look.image.layers.len());
    let layers = look.image.layers.iter().zip(instructions);
    let layer = |(descriptor, instruction): (&crate::oci::Descriptor, Option<&str>)| Layer {
        digest: descriptor.digest.clone(),
        size: descriptor.size,
        instruction: instruction.map(|text| escape(&readable(text))),
        elsewhere: Vec::new(),
    };
    Stack {
        name: name.familiar(),
        platform: config.platform().map(|platform| platform.to_string()).unwrap_or_else(|| "no platform".into()),
        layers: layers.map(layer).collect(),
    }
}

/// An instruction as its author wrote it: without what builders add around it, on one line.
fn readable(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = text.strip_suffix(" # buildkit").unwrap_or(&text);
    if let Some(instruction) = text.strip_prefix("/bin/sh -c #(nop) ") {
        return instruction.trim_start().into();
    }
    // `|2 A=1 B=2 /bin/sh -c make`: two build arguments before the command.
    let command = match text.starts_with('|') {
        true => text.split_once("/bin/sh -c ").map(|(_, command)| command),
        false => text.strip_prefix("/bin/sh -c ").or_else(|| text.strip_prefix("RUN /bin/sh -c ")),
    };
    match command {
        Some(command) => format!("RUN {command}"),
        None => text.into(),
    }
}

#[derive(Serialize)]
struct Described<'a> {
    name: &'a str,
    platform: &'a str,
    layers: Vec<DescribedLayer<'a>>,
}

#[derive(Serialize)]
struct DescribedLayer<'a> {
    digest: &'a Digest,
    size: u64,
    instruction: Option<&'a str>,
    shared_with: Vec<&'a str>,
}

fn described<'a>(stack: &'a Stack, all: &'a [Stack]) -> Described<'a> {
    let others = |layer: &'a Layer| {
        let holds =
            |other: &&Stack| !std::ptr::eq(*other, stack) && other.layers.iter().any(|l| l.digest == layer.digest);
        let drawn = all.iter().filter(holds).map(|other| other.name.as_str());
        drawn.chain(layer.elsewhere.iter().map(String::as_str)).collect()
    };
    let layer = |layer: &'a Layer| DescribedLayer {
        digest: &layer.digest,
        size: layer.size,
        instruction: layer.instruction.as_deref(),
        shared_with: others(layer),
    };
    Described { name: &stack.name, platform: &stack.platform, layers: stack.layers.iter().map(layer).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::image::samples::{Shelf, image};

    #[test]
    fn instructions_are_shown_as_they_were_written() {
        let cases = [
            ("/bin/sh -c #(nop)  CMD [\"bash\"]", "CMD [\"bash\"]"),
            ("/bin/sh -c apt-get update     && apt-get install -y x", "RUN apt-get update && apt-get install -y x"),
            ("RUN /bin/sh -c make # buildkit", "RUN make"),
            ("|2 A=1 B=2 /bin/sh -c make", "RUN make"),
            ("COPY a /b # buildkit", "COPY a /b"),
            ("", ""),
        ];
        for (text, shown) in cases {
            assert_eq!(readable(text), shown);
        }
    }

    #[tokio::test]
    async fn shared_layers_name_the_other_image() {
        let mut shelf = Shelf::default();
        let base = ("debian.sh --arch amd64", 29_700_000);
        let a = shelf.image(image("amd64", &[base, ("COPY a /", 10)]));
        let b = shelf.image(image("amd64", &[base, ("COPY b /\u{1b}[31m", 20)]));
        let names = [shelf.name("h.example/a:1", a), shelf.name("h.example/b:1", b)];
        let platform = "linux/amd64".parse().unwrap();
        let mut stacks = Vec::new();
        for name in &names {
            stacks.push(stack(&shelf, name, &platform).await.unwrap());
        }
        let sharing = BTreeMap::from([(
            stacks[0].layers[0].digest.clone(),
            ["h.example/a:1", "h.example/b:1", "docker.io/library/c:1"].map(str::to_owned).into(),
        )]);
        name_others(&mut stacks, &sharing);
        let described: Vec<_> = stacks.iter().map(|stack| described(stack, &stacks)).collect();
        assert_eq!(described[0].layers[0].shared_with, ["h.example/b:1", "c:1"]);
        assert!(described[0].layers[1].shared_with.is_empty());
        assert_eq!(described[1].layers[1].instruction, Some("COPY b /\\u{1b}[31m"));
    }
}
