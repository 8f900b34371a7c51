//! `hosts.toml` of containerd (its docs/hosts.md).

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};

use super::document::{Document, Value, Values};
use super::{API, Approach, Capabilities, Endpoint, Manner, Role, Said};
use crate::error::Result;
use crate::oci::Reference;
use crate::oci::reference::{DOCKER_HUB, DOCKER_HUB_HOST};
use crate::registry::Options;
use crate::registry::secret::Secret;

/// Longest time that a file may allow for connecting.
const MAX_DIAL: Duration = Duration::from_secs(600);

/// What the first folder that speaks of the registry of `name` says.
///
/// # Errors
/// `Usage` with file and line when the file makes no sense; `Store` when it cannot be read.
pub(super) fn find(options: &Options, name: &Reference) -> Result<Option<Said>> {
    let base = options.hosts_dir.clone().unwrap_or_else(|| options.environment.system().join("containerd/certs.d"));
    let Some(folder) = folders(&base, name.registry()).into_iter().find(|folder| folder.is_dir()) else {
        return Ok(None);
    };
    let Some(document) = Document::read(&folder.join("hosts.toml"))? else { return Ok(None) };
    let parsed = document.parse()?;
    Ok(Some(Said { list: endpoints(document.root(&parsed), name)? }))
}

/// `host_port_`, `host:port`, `_default`: containerd never looks for the bare name of a host that has a port.
fn folders(base: &Path, registry: &str) -> Vec<PathBuf> {
    let spelled = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(format!("{host}_{port}_")),
        _ => None,
    };
    let names = spelled.into_iter().chain([registry.to_owned(), "_default".to_owned()]);
    names.map(|name| base.join(name)).collect()
}

/// The hosts in the order of the file, and the server behind them.
fn endpoints(root: Values<'_>, name: &Reference) -> Result<Vec<Endpoint>> {
    let mut list = Vec::new();
    if let Some(hosts) = root.get("host") {
        for host in hosts.table()?.in_order() {
            let url = address(host.key()).ok_or_else(|| host.wrong("is no address of a host"))?;
            let mut endpoint = endpoint(&url, host.table()?, name)?;
            endpoint.configured = host.configured();
            list.push(endpoint);
        }
    }
    let mut server = match root.get("server") {
        None => Endpoint::of_registry(name),
        Some(server) => {
            let url = address(server.text()?).ok_or_else(|| server.wrong("is no address of a host"))?;
            Endpoint { configured: server.configured(), ..endpoint(&url, root, name)? }
        }
    };
    server.role = Role::Registry;
    // It stands behind the others, for whatever they cannot do.
    server.may = Capabilities::ALL;
    list.push(server);
    Ok(list)
}

/// An address; without a scheme it is one with TLS.
fn address(text: &str) -> Option<Url> {
    let text = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let url = Url::parse(&text).ok()?;
    let is_plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
    (is_plain && url.has_host() && matches!(url.scheme(), "http" | "https")).then_some(url)
}

fn endpoint(url: &Url, values: Values<'_>, name: &Reference) -> Result<Endpoint> {
    let approach = Approach::of_url(url).named_as(name.registry());
    let api = api(url, values.is_on("override_path")?);
    let is_origin = is_origin(&approach, name.registry());
    Ok(Endpoint {
        role: Role::Mirror,
        repository: name.repository().into(),
        may: values.get("capabilities").map_or(Ok(Capabilities::ALL), capabilities)?,
        configured: values.configured("server"),
        approach: Approach {
            api,
            namespace: (!is_origin).then(|| name.registry().to_owned()),
            headers: values.get("header").map_or(Ok(Vec::new()), headers)?,
            manner: manner(values)?,
            ..approach
        },
    })
}

/// Whether a host needs no telling for which registry it is asked.
fn is_origin(approach: &Approach, registry: &str) -> bool {
    approach.is_of(registry) || (registry == DOCKER_HUB && approach.authority == DOCKER_HUB_HOST)
}

/// `/v2` is appended to the path of an address, unless it ends in that or shall be taken as it is.
fn api(url: &Url, literal: bool) -> String {
    let path = url.path().trim_end_matches('/');
    match literal || path.ends_with(API) {
        true => path.to_owned(),
        false => format!("{path}{API}"),
    }
}

fn capabilities(value: Value<'_>) -> Result<Capabilities> {
    let mut may = Capabilities { pull: false, resolve: false, push: false };
    for capability in value.texts()? {
        match capability {
            "pull" => may.pull = true,
            "resolve" => may.resolve = true,
            "push" => may.push = true,
            // Newer ones say what we do not ask of mirrors.
            "referrers" => {}
            _ => return Err(value.wrong(&format!("{capability:?} is none of pull, resolve, push, referrers"))),
        }
    }
    Ok(may)
}

fn headers(value: Value<'_>) -> Result<Vec<(HeaderName, Secret)>> {
    let mut headers = Vec::new();
    for header in value.table()?.in_order() {
        let name: HeaderName = header.key().parse().map_err(|_| header.wrong("is no name of a header"))?;
        for text in header.texts()? {
            // The text is not repeated: it may be a secret.
            HeaderValue::from_str(text).map_err(|_| header.wrong("the value is none of a header"))?;
            headers.push((name.clone(), Secret::from(text)));
        }
    }
    Ok(headers)
}

fn manner(values: Values<'_>) -> Result<Manner> {
    let folder = values.folder();
    let authorities = match values.get("ca") {
        None => Vec::new(),
        Some(files) => files.texts()?.into_iter().map(|file| folder.join(file)).collect(),
    };
    Ok(Manner {
        insecure: values.is_on("skip_verify")?,
        authorities,
        identities: values.get("client").map_or(Ok(Vec::new()), |client| identities(client, &folder))?,
        dial_timeout: values.get("dial_timeout").map(dial_timeout).transpose()?,
    })
}

/// A file that holds both, files that do, or pairs of certificate and key.
fn identities(client: Value<'_>, folder: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let pair = |element: Value<'_>| match element.texts()?.as_slice() {
        [both] | [both, ""] => Ok((folder.join(both), folder.join(both))),
        [certificate, key] => Ok((folder.join(certificate), folder.join(key))),
        _ => Err(client.wrong("expected a file, or pairs of certificate and key")),
    };
    client.elements().into_iter().map(pair).collect()
}

/// A duration as Go writes it: `200ms`, `1m30s`.
fn dial_timeout(value: Value<'_>) -> Result<Duration> {
    let wrong = || value.wrong("expected a duration such as 200ms, 5s or 1m30s");
    parse_duration(value.text()?).filter(|time| !time.is_zero() && *time <= MAX_DIAL).ok_or_else(wrong)
}

fn parse_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total) = (text, 0.0);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = &rest[digits..];
        let length = unit.find(|c: char| c.is_ascii_digit()).unwrap_or(unit.len());
        total += number
            * match &unit[..length] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &unit[length..];
    }
    Duration::try_from_secs_f64(total).ok()
}
