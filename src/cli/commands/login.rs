//! `layerpull login`: credentials for a registry, proved and kept.

use std::io::{IsTerminal as _, Read as _};

use rustix::termios::{self, OptionalActions};

use crate::cli::Context;
use crate::cli::config::{RegistryFlags, values};
use crate::cli::output::{note, print};
use crate::cli::place::registry;
use crate::error::Error;
use crate::oci::reference::DOCKER_HUB;
use crate::registry::{Credential, Kept, Secret};

/// Longer passwords and tokens are not read.
const MAX_PASSWORD: u64 = 64 * 1024;

/// Who, and where.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Registry [default: docker.io]
    #[arg(value_name = "REGISTRY", value_parser = values::registry, default_value = DOCKER_HUB, hide_default_value = true)]
    host: String,
    /// User name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,
    /// Password; other users of this machine can see it: prefer --password-stdin
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin", requires = "username")]
    password: Option<String>,
    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
    /// How the registry is reached.
    #[command(flatten)]
    pub registry: RegistryFlags,
}

/// Asks for what is missing, proves it to the registry and keeps it.
///
/// # Errors
/// `Unauthorized` when the registry refuses; `Store` when the credentials cannot be kept.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let registry = registry(&context.settings, context.notices());
    let host = args.host.clone();
    let terminal = termios::tcgetattr(std::io::stdin()).ok();
    // A prompt waits for a person: not on a worker.
    let (user, password) = tokio::select! {
        asked = tokio::task::spawn_blocking(|| ask(args)) => asked??,
        () = context.cancel.cancelled() => {
            // The prompt had switched the echo off, and nobody else will switch it on again.
            let _ = terminal.map(|modes| termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &modes));
            return Err(Error::Interrupted.into());
        }
    };
    let login = registry.login(&host, Credential::password(user, password));
    let kept = context.until_cancelled(async { Ok(login.await?) }).await?;
    note(&format!("credentials kept {}", place_of(&kept)));
    Ok(print("Login Succeeded\n")?)
}

/// Where credentials are, as a person says it.
pub(super) fn place_of(kept: &Kept) -> String {
    match kept {
        Kept::File(path) => format!("in {}", path.display()),
        Kept::Helper(name) => format!("with docker-credential-{name}"),
    }
}

fn ask(args: Args) -> anyhow::Result<(String, Secret)> {
    let is_terminal = std::io::stdin().is_terminal();
    if args.password.is_some() {
        note("warning: --password can be seen by other users of this machine; --password-stdin cannot");
    }
    let user = match args.username {
        Some(user) => user,
        None if is_terminal => prompt_user()?,
        None => return Err(Error::Usage("no terminal to ask on: give --username and --password-stdin".into()).into()),
    };
    let password = match args.password {
        Some(password) => password,
        None if args.password_stdin => read_password(&mut std::io::stdin().lock())?,
        None if is_terminal => prompt_password()?,
        None => return Err(Error::Usage("no terminal to ask on: give --password-stdin".into()).into()),
    };
    match (user.is_empty(), password.is_empty()) {
        (false, false) => Ok((user, password.into())),
        _ => Err(Error::Usage("neither the user name nor the password may be empty".into()).into()),
    }
}

fn prompt_user() -> anyhow::Result<String> {
    eprint!("Username: ");
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim().into())
}

fn prompt_password() -> anyhow::Result<String> {
    Ok(rpassword::prompt_password("Password: ")?)
}

/// Everything, without the line break that `echo` puts at its end.
fn read_password(from: &mut impl std::io::Read) -> anyhow::Result<String> {
    let mut text = String::new();
    from.take(MAX_PASSWORD + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_PASSWORD {
        return Err(Error::Usage(format!("the password is longer than {MAX_PASSWORD} bytes")).into());
    }
    let end = text.trim_end_matches(['\r', '\n']).len();
    text.truncate(end);
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_on_standard_input_loses_only_its_line_break() {
        let read = |text: &str| read_password(&mut text.as_bytes()).unwrap();
        assert_eq!(read(" hunter2 \n"), " hunter2 ");
        assert_eq!(read("a\r\n"), "a");
        assert!(read_password(&mut "x".repeat(70_000).as_bytes()).is_err());
    }
}
