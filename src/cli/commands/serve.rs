//! `layerpull serve`: the store as a registry.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::cli::Context;
use crate::cli::config::{socket, values};
use crate::cli::exit::{self, Told};
use crate::cli::output::note;
use crate::cli::place;
use crate::content::file::read_configuration;
use crate::error::{Error, Result};
use crate::registry::Credential;
use crate::serve::{Access, Server, Users};

/// Where, and to whom.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address to listen on; port 0 takes a free one [default: 127.0.0.1:5000]
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket)]
    pub listen: Option<SocketAddr>,
    /// File with USER:PASSWORD lines; only these users are let in
    #[arg(long, value_name = "FILE", conflicts_with = "no_auth")]
    users: Option<PathBuf>,
    /// The only user who is let in; other users of this machine can see it: prefer --users
    #[arg(long, value_name = "USER:PASSWORD", value_parser = values::credentials, conflicts_with_all = ["users", "no_auth"])]
    creds: Option<Credential>,
    /// Let everybody in who can reach the address, also from other machines
    #[arg(long)]
    no_auth: bool,
    /// Take pushes, too, and keep them in the store; wants --users, --creds or --no-auth
    #[arg(long)]
    writable: bool,
}

/// Serves until it is interrupted, which is no failure.
///
/// # Errors
/// `Usage` for an address that others can reach without a word about credentials, and for one that is taken.
pub async fn run(args: Args, context: &Context) -> anyhow::Result<()> {
    let store = place::store(context, context.notices())?;
    let bound = Server::bind(context.settings.listen.value, access(&args)?, store.clone()).await?;
    let server = if args.writable { bound.writable()? } else { bound };
    note(&format!("serving {} on http://{}", store.root().display(), server.address()?));
    server.run(context.cancel.clone()).await;
    match context.cancel.is_cancelled() {
        // The code says which signal it was; there is nothing to go on with, so nothing more is said.
        true => Err(Told(exit::INTERRUPTED).into()),
        false => Ok(()),
    }
}

fn access(args: &Args) -> Result<Access> {
    match (&args.users, &args.creds, args.no_auth) {
        (Some(file), _, _) => users(file),
        (_, Some(creds), _) => {
            let (user, password) = creds.pair();
            Ok(Access::Users(Users::one(user, password.expose())))
        }
        (_, _, true) => Ok(Access::NoAuth),
        _ => Ok(Access::Loopback),
    }
}

fn users(file: &Path) -> Result<Access> {
    let text = read_configuration(file).map_err(Error::store("read the users from", file))?;
    Ok(Access::Users(Users::parse(&text)?))
}
