//! How the commands that move images end: results, summary, failures, exit code.

use std::path::PathBuf;
use std::sync::Arc;

use super::config::Origin;
use super::digestfile::Digestfile;
use super::exit::{self, Told};
use super::output::{note, print};
use super::progress::Mode;
use super::results::{self, Direction, Pulled};
use super::{Context, Format, args};
use crate::error::{Error, Result};
use crate::transfer::Report;

/// What is printed, and where the digests go.
#[derive(Debug, clap::Args)]
pub struct OutputFlags {
    /// Print only one line an image: the reference with its digest
    #[arg(short, long, conflicts_with = "format")]
    quiet: bool,
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    /// Write the digests into this file, one a line; the line of an image that failed is empty
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
}

impl OutputFlags {
    /// Somebody who asked for one line gets no progress, unless they asked for that, too.
    pub fn mode(&self, context: &Context) -> Mode {
        match (self.quiet, &context.settings.progress.origin) {
            (true, Origin::Default) => Mode::None,
            _ => context.settings.progress.value,
        }
    }

    /// The form of results that are no images; `None` when only images are wanted.
    pub fn format(&self) -> Option<Format> {
        (!self.quiet).then_some(self.format)
    }

    /// The file for the digests. One that cannot be written is no reason to move anything first.
    ///
    /// # Errors
    /// `Store` when it cannot.
    pub fn digests(&self) -> Result<Option<Digestfile>> {
        self.digestfile.as_deref().map(Digestfile::open).transpose()
    }

    /// The results of a part of the work, when more is to follow: not where one line an image is wanted.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn tell_half(
        &self,
        context: &Context,
        direction: Direction,
        images: &[Pulled],
        report: &Report,
    ) -> anyhow::Result<()> {
        if self.quiet || images.is_empty() {
            return Ok(());
        }
        if self.mode(context) != Mode::Json {
            note(&results::summary(report, direction));
        }
        print(&match self.format {
            Format::Text => results::text(images, direction),
            Format::Json => results::json(images, report, direction)?,
        })?;
        Ok(())
    }

    /// Results on standard output, the summary and failures on standard error, digests into their file.
    ///
    /// # Errors
    /// [`Told`] when an image failed.
    pub fn conclude(
        &self,
        context: &Context,
        direction: Direction,
        (images, report): (Vec<Pulled>, Report),
        digests: Option<Digestfile>,
    ) -> anyhow::Result<()> {
        let failures: Vec<&Error> =
            images.iter().filter_map(|image| image.result.as_ref().err().map(Arc::as_ref)).collect();
        for error in &failures {
            exit::tell(error, &context.ground);
        }
        hint(context, &failures);
        // The last event says the same to a program.
        if !self.quiet && self.mode(context) != Mode::Json && failures.len() < images.len() {
            note(&results::summary(&report, direction));
        }
        print(&match (self.quiet, self.format) {
            (true, _) => results::quiet(&images),
            (false, Format::Text) => results::text(&images, direction),
            (false, Format::Json) => results::json(&images, &report, direction)?,
        })?;
        if let Some(digests) = digests {
            digests.write(&images)?;
        }
        match exit::of_several(failures, images.len()) {
            0 => Ok(()),
            code => Err(Told(code).into()),
        }
    }
}

/// A word that is no image may have meant a command.
fn hint(context: &Context, failures: &[&Error]) {
    let Some(word) = &context.guess else { return };
    if let Some(command) = args::meant(word).filter(|_| !failures.is_empty()) {
        note(&format!("hint: {word:?} was taken for an image; did you mean `layerpull {command}`?"));
    }
}
