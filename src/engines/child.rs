//! A program of an engine: run with a limit, fed in pieces, what it says bounded.

use std::ffi::OsString;
use std::io;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{ChildStdin, Command};

use super::Shipment;
use super::watch::{STANDSTILL, answered, watched};
use crate::error::{Error, Fault, Result};

/// What a program prints that is read, in bytes: a listing of an engine with a hundred thousand blobs.
const MAX_OUTPUT: usize = 64 * 1024 * 1024;
/// What of its complaints is kept, in bytes.
const MAX_COMPLAINT: usize = 4096;

/// A program of an engine.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// Its name, looked for in `PATH`.
    pub name: &'static str,
    /// Arguments of every call.
    pub args: Vec<OsString>,
    /// How the engine is named in messages.
    pub place: String,
}

/// How a call ended.
pub(super) struct Ended {
    pub stdout: Vec<u8>,
    status: ExitStatus,
    complaint: String,
}

impl Program {
    /// What it prints when it is called with `args`.
    ///
    /// # Errors
    /// `NotFound` when it is not installed, `Invalid` with what it says when it fails, `Network` after two minutes.
    pub async fn ask(&self, args: &[&str]) -> Result<Vec<u8>> {
        let ended = answered(self.call(args, None), &self.place, args.first().unwrap_or(&"")).await?;
        self.well(ended, args)
    }

    /// Calls it with `args` and the archive as its input.
    ///
    /// # Errors
    /// As [`Program::ask`], but after half an hour in which nothing moves; and those of the archive.
    pub async fn feed(&self, args: &[&str], shipment: Shipment) -> Result<Vec<u8>> {
        let course = shipment.course.clone();
        let call = self.call(args, Some(shipment));
        let ended = watched(call, || course.taken(), STANDSTILL, &self.place).await?;
        self.well(ended, args)
    }

    async fn call(&self, args: &[&str], shipment: Option<Shipment>) -> Result<Ended> {
        let input = if shipment.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut command = Command::new(self.name);
        command.args(&self.args).args(args).stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| self.absent(error))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let stdout = stdout.expect("standard output is a pipe");
        let stderr = stderr.expect("standard error is a pipe");
        let broken = |error: io::Error| Error::network(&self.place, self.name, Fault::Broken(error.to_string()));
        let stdout = async { whole(stdout).await.map_err(broken) };
        // The first error drops the others, and with the child ends what it does.
        let ((), stdout, complaint) = tokio::try_join!(fill(stdin, shipment), stdout, last(stderr))?;
        let status = child.wait().await.map_err(broken)?;
        Ok(Ended { stdout, status, complaint })
    }

    fn absent(&self, error: io::Error) -> Error {
        let why = match error.kind() {
            io::ErrorKind::NotFound => format!("`{}` is not in PATH: install it, or name another engine", self.name),
            _ => error.to_string(),
        };
        Error::NotFound { what: format!("the program {}", self.name), place: self.place.clone(), why }
    }

    fn well(&self, ended: Ended, args: &[&str]) -> Result<Vec<u8>> {
        if ended.status.success() {
            return Ok(ended.stdout);
        }
        let why = match ended.complaint.trim() {
            "" => ended.status.to_string(),
            complaint => complaint.to_owned(),
        };
        let words = args.iter().take_while(|word| !word.starts_with('-')).copied().collect::<Vec<_>>().join(" ");
        Err(Error::Invalid { what: format!("{} {words}", self.name), place: self.place.clone(), why })
    }
}

/// Writes the archive. A program that ends early closes its input, and says why.
async fn fill(stdin: Option<ChildStdin>, shipment: Option<Shipment>) -> Result<()> {
    use futures::StreamExt as _;
    let (Some(mut stdin), Some(mut shipment)) = (stdin, shipment) else { return Ok(()) };
    while let Some(piece) = shipment.bytes.next().await {
        let piece = piece.map_err(|error| shipment.course.failed().unwrap_or(error))?;
        if stdin.write_all(&piece).await.is_err() {
            return Ok(());
        }
    }
    let _ = stdin.shutdown().await;
    Ok(())
}

/// All that comes, up to a bound.
async fn whole(pipe: impl AsyncRead + Unpin) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.take(MAX_OUTPUT as u64 + 1).read_to_end(&mut bytes).await?;
    match bytes.len() > MAX_OUTPUT {
        true => Err(io::Error::other(format!("it prints more than {MAX_OUTPUT} bytes"))),
        false => Ok(bytes),
    }
}

/// The last of what comes, as text. Reads on to the end, so that nobody waits for a full pipe.
async fn last(mut pipe: impl AsyncRead + Unpin) -> Result<String> {
    let (mut kept, mut buffer) = (Vec::new(), [0; MAX_COMPLAINT]);
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        let surplus = kept.len().saturating_sub(MAX_COMPLAINT);
        kept.drain(..surplus);
    }
    Ok(String::from_utf8_lossy(&kept).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell() -> Program {
        Program { name: "sh", args: vec!["-c".into()], place: "the shell".into() }
    }

    #[tokio::test]
    async fn what_a_program_says_is_bounded() {
        assert_eq!(shell().ask(&["echo one"]).await.unwrap(), b"one\n");
        let complaint = shell().ask(&["yes no | head -c 100000 >&2; echo last >&2; exit 3"]).await.unwrap_err();
        let text = complaint.to_string();
        assert!(text.ends_with("last") && text.len() < 2 * MAX_COMPLAINT, "{} bytes", text.len());
        let endless = shell().ask(&["yes"]).await.unwrap_err();
        assert!(endless.to_string().contains("prints more than"), "{endless}");
        let silent = shell().ask(&["exit 3"]).await.unwrap_err();
        assert!(silent.to_string().contains("exit status: 3"), "{silent}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let absent = Program { name: "layerpull-no-such-program", ..shell() };
        let error = absent.ask(&[]).await.unwrap_err();
        assert!(matches!(&error, Error::NotFound { .. }) && error.to_string().contains("not in PATH"), "{error}");
    }
}
