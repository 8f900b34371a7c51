//! Draws images as stacks of layers: the newest on top, the base at the bottom, and what they share marked.

use std::collections::{BTreeMap, BTreeSet};

use super::output::{bar, pad, percent, shorten, size, width};
use crate::oci::Digest;

/// Narrower than this nothing can be read.
const MIN_COLUMNS: usize = 40;
/// Wider than this lines are hard to follow.
const MAX_COLUMNS: usize = 120;
/// Narrower than this there is no room for bars and platforms.
const NARROW: usize = 60;
/// Columns of the bar that shows how big a layer is.
const BAR: usize = 8;

/// One image.
#[derive(Debug, Clone)]
pub struct Stack {
    /// Its name.
    pub name: String,
    /// What it runs on.
    pub platform: String,
    /// Its layers, the base first.
    pub layers: Vec<Layer>,
}

/// One layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The blob.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What made it, safe for a terminal.
    pub instruction: Option<String>,
    /// Images that have it, too, and are not drawn; safe for a terminal.
    pub elsewhere: Vec<String>,
}

/// Which images are known, beside those that are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// No other.
    Drawn,
    /// All of the store.
    Store,
}

/// Draws `stacks` in `columns` columns.
pub fn stacks(stacks: &[Stack], known: Known, columns: usize) -> String {
    let columns = columns.clamp(MIN_COLUMNS, MAX_COLUMNS);
    let owners = owners(stacks);
    let compared = stacks.len() > 1 || known == Known::Store;
    let largest = stacks.iter().flat_map(|stack| &stack.layers).map(|layer| layer.size).max().unwrap_or(0);
    let mut drawing = stacks
        .iter()
        .enumerate()
        .map(|(at, stack)| Drawing { at, stack, owners: &owners, compared, largest, columns }.draw())
        .collect::<Vec<_>>()
        .join("\n");
    if stacks.len() > 1 {
        drawing.push_str(&together(stacks));
    }
    drawing
}

/// Which images have each layer.
fn owners(stacks: &[Stack]) -> BTreeMap<&Digest, BTreeSet<usize>> {
    let mut owners: BTreeMap<&Digest, BTreeSet<usize>> = BTreeMap::new();
    for (at, stack) in stacks.iter().enumerate() {
        for layer in &stack.layers {
            owners.entry(&layer.digest).or_default().insert(at);
        }
    }
    owners
}

/// What it costs to have all of them.
fn together(stacks: &[Stack]) -> String {
    let layers = || stacks.iter().flat_map(|stack| &stack.layers);
    let apart = total(stacks.iter().map(own_size));
    let once: BTreeMap<&Digest, u64> = layers().map(|layer| (&layer.digest, layer.size)).collect();
    let once = total(once.into_values());
    match apart.saturating_sub(once) {
        0 => format!("\n{} images share nothing: {}\n", stacks.len(), size(apart)),
        saved => format!(
            "\n{} images, {} apart, {} together: {} ({} %) need not travel twice\n",
            stacks.len(),
            size(apart),
            size(once),
            size(saved),
            percent(saved, apart)
        ),
    }
}

/// The layers of one image, each once.
fn own_size(stack: &Stack) -> u64 {
    total(stack.layers.iter().map(|layer| (&layer.digest, layer.size)).collect::<BTreeMap<_, _>>().into_values())
}

/// A sum of sizes, which registries may state as they like.
fn total(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}

struct Drawing<'a> {
    at: usize,
    stack: &'a Stack,
    owners: &'a BTreeMap<&'a Digest, BTreeSet<usize>>,
    /// Whether a layer may be said to be in no other image.
    compared: bool,
    largest: u64,
    columns: usize,
}

impl Drawing<'_> {
    fn draw(&self) -> String {
        let mut lines = vec![self.title()];
        let mut above: Option<Vec<String>> = None;
        for (at, layer) in self.stack.layers.iter().enumerate().rev() {
            let sharers = self.sharers(layer);
            if above.as_ref() != Some(&sharers) {
                let corners = if above.is_none() { ("┌", "┐") } else { ("├", "┤") };
                lines.push(self.rule(corners, &self.label(at, &sharers)));
            }
            lines.push(self.row(at, layer));
            above = Some(sharers);
        }
        match above {
            Some(_) => lines.push(self.rule(("└", "┘"), "")),
            None => lines.push("    (no layers)".into()),
        }
        lines.join("\n") + "\n"
    }

    fn title(&self) -> String {
        let layers = match self.stack.layers.len() {
            1 => "1 layer".into(),
            n => format!("{n} layers"),
        };
        let platform = match self.columns {
            ..NARROW => String::new(),
            _ => format!("  {}", self.stack.platform),
        };
        let facts = format!("{platform}  {layers}, {}", size(own_size(self.stack)));
        let start = pad(&letter(self.at), 2) + "  ";
        let room = self.columns.saturating_sub(width(&start));
        match width(&self.stack.name) + width(&facts) <= room {
            true => format!("{start}{}{facts}", self.stack.name),
            false => format!("{start}{}\n  {facts}", shorten(&self.stack.name, room)),
        }
    }

    /// The other images that have `layer`: letters of those that are drawn, names of the others.
    fn sharers(&self, layer: &Layer) -> Vec<String> {
        let drawn = self.owners.get(&layer.digest).into_iter().flatten().filter(|at| **at != self.at);
        drawn.map(|at| letter(*at)).chain(layer.elsewhere.iter().cloned()).collect()
    }

    /// What is said about the run of layers that begins at `top` and goes down.
    fn label(&self, top: usize, sharers: &[String]) -> String {
        let run = self.stack.layers[..=top].iter().rev().take_while(|layer| self.sharers(layer) == sharers);
        let bytes = size(total(run.map(|layer| layer.size)));
        // All letters, and one name.
        let shown = sharers.len() - self.stack.layers[top].elsewhere.len().saturating_sub(1);
        match (&sharers[..shown], sharers.len() - shown) {
            ([], _) if self.compared => format!(" {bytes} only here "),
            ([], _) => format!(" {bytes} "),
            (names, 0) => format!(" {bytes} shared with {} ", names.join(", ")),
            (names, more) => format!(" {bytes} shared with {} +{more} ", names.join(", ")),
        }
    }

    fn rule(&self, (left, right): (&str, &str), label: &str) -> String {
        let room = self.columns - 6;
        let label = shorten(label, room - 1);
        let tail = usize::from(!label.is_empty());
        format!("    {left}{}{label}{}{right}", "─".repeat(room - tail - width(&label)), "─".repeat(tail))
    }

    fn row(&self, at: usize, layer: &Layer) -> String {
        let instruction = layer.instruction.as_deref().unwrap_or("(no history)");
        let bar = match self.columns {
            ..NARROW => String::new(),
            _ => self.bar(layer.size) + " ",
        };
        let content = format!("{:>8} {bar}{instruction}", size(layer.size));
        let room = self.columns - 8;
        format!("{:>3} │ {} │", at + 1, pad(&shorten(&content, room), room))
    }

    /// How big the layer is beside the largest of all images.
    fn bar(&self, bytes: u64) -> String {
        let eighths = match self.largest {
            0 => 0,
            largest => (u128::from(bytes) * (BAR as u128 * 8)).div_ceil(u128::from(largest)) as usize,
        };
        pad(&bar(eighths), BAR)
    }
}

/// `A` to `Z`, then `AA` as in spreadsheets.
fn letter(at: usize) -> String {
    let last = char::from(b'A' + (at % 26) as u8);
    match at / 26 {
        0 => last.into(),
        rest => letter(rest - 1) + &last.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(name: &str, layers: &[(u64, &str)]) -> Stack {
        let layer = |(size, instruction): &(u64, &str)| Layer {
            digest: Digest::of(instruction.as_bytes()),
            size: *size,
            instruction: Some(instruction.to_string()),
            elsewhere: Vec::new(),
        };
        Stack { name: name.into(), platform: "linux/amd64".into(), layers: layers.iter().map(layer).collect() }
    }

    fn samples() -> Vec<Stack> {
        let base = (29_700_000, "debian.sh --arch 'amd64' out/ 'bookworm'");
        let long = "RUN set -x && groupadd --system --gid 101 nginx && useradd --system --gid nginx --no-create-home";
        vec![
            stack("nginx:1.29", &[base, (41_200_000, long), (627, "COPY docker-entrypoint.sh /")]),
            stack(
                "httpd:2.4",
                &[base, (2_900_000, "RUN apt-get install -y libapr1"), (627, "COPY httpd-foreground /")],
            ),
            stack("scratch:1", &[]),
        ]
    }

    #[test]
    fn stacks_show_what_they_share_on_80_columns() {
        insta::assert_snapshot!(stacks(&samples(), Known::Drawn, 80));
    }

    #[test]
    fn one_stack_alone_is_all_its_own() {
        insta::assert_snapshot!(stacks(&samples()[..1], Known::Store, 60));
    }

    #[test]
    fn images_of_the_store_that_are_not_drawn_are_named() {
        let mut one = stack("a:1", &[(20, "base"), (10, "own")]);
        one.layers[0].elsewhere = ["b:1", "c:1", "d:1"].map(str::to_owned).to_vec();
        let drawing = stacks(&[one.clone()], Known::Store, 60);
        assert!(drawing.contains(" 20 B shared with b:1 +2 ") && drawing.contains(" 10 B only here "), "{drawing}");
        assert!(stacks(&[one.clone(), one], Known::Store, 60).contains("shared with B, b:1 +2 "));
        assert!(!stacks(&[stack("a:1", &[(10, "own")])], Known::Drawn, 60).contains("only here"));
    }

    #[test]
    fn no_line_is_wider_than_asked_for() {
        for columns in [40, 50, 80, 100, 200] {
            let drawing = stacks(&samples(), Known::Drawn, columns);
            assert!(drawing.lines().take_while(|line| !line.contains("images,")).all(|line| width(line) <= columns));
        }
    }

    #[test]
    fn a_layer_that_stands_twice_counts_once() {
        let twice = stack("x", &[(10, "a"), (10, "a")]);
        assert_eq!(own_size(&twice), 10);
        assert!(together(&[twice.clone(), twice]).contains("20 B apart, 10 B together: 10 B (50 %)"));
    }

    #[test]
    fn a_long_name_has_a_line_of_its_own() {
        let drawing = stacks(&[stack("registry.example:5000/a/b/nginx:1.29", &[(10, "a")])], Known::Drawn, 40);
        assert!(drawing.starts_with("A   registry.example:5000/a/b/nginx:1.29\n    1 layer, 10 B\n    ┌"), "{drawing}");
    }

    #[test]
    fn letters_go_on_after_z() {
        assert_eq!([letter(0), letter(25), letter(26), letter(52)], ["A", "Z", "AA", "BA"]);
    }
}
