//! Proxies from the environment, by the rules of Go's `httpproxy`, which docker, podman and skopeo follow.

use std::net::IpAddr;

use reqwest::Url;

use super::environment::Environment;

/// Which proxy a request takes.
#[derive(Debug, Clone, Default)]
pub(super) struct Proxies {
    http: Option<Url>,
    https: Option<Url>,
    bypass: Vec<Bypass>,
}

/// One entry of `NO_PROXY`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Bypass {
    Everything,
    Network(IpAddr, u8),
    Address(IpAddr, Option<u16>),
    Domain { suffix: String, itself: bool, port: Option<u16> },
}

impl Proxies {
    /// Reads `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, or their lower-case forms.
    pub(super) fn from_environment(environment: &Environment) -> Proxies {
        let read = |name: &str| {
            let lower = name.to_lowercase();
            let text = environment.var(name).or_else(|| environment.var(&lower))?;
            (!text.is_empty()).then(|| text.to_owned())
        };
        // A CGI server sets HTTP_PROXY from the client's `Proxy:` header (httpoxy).
        let cgi = environment.var("REQUEST_METHOD").is_some();
        let all = read("ALL_PROXY").and_then(|text| proxy_url(&text));
        let http = read("HTTP_PROXY").filter(|_| !cgi).and_then(|text| proxy_url(&text));
        let https = read("HTTPS_PROXY").and_then(|text| proxy_url(&text));
        let bypass = read("NO_PROXY").unwrap_or_default().split(',').filter_map(Bypass::parse).collect();
        Proxies { http: http.or_else(|| all.clone()), https: https.or(all), bypass }
    }

    /// Whether one of them is spoken to over TLS.
    pub(super) fn speak_tls(&self) -> bool {
        [&self.http, &self.https].into_iter().flatten().any(|proxy| proxy.scheme() == "https")
    }

    /// The proxy for `url`, if it takes one. Hosts on loopback never do.
    pub(super) fn for_url(&self, url: &Url) -> Option<&Url> {
        let proxy = match url.scheme() {
            "http" => self.http.as_ref()?,
            "https" => self.https.as_ref()?,
            _ => return None,
        };
        let host = url.host_str()?.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        let port = url.port_or_known_default();
        let direct = is_loopback(&host) || self.bypass.iter().any(|entry| entry.covers(&host, port));
        (!direct).then_some(proxy)
    }
}

/// Whether `host` (no port, no brackets) is this machine by its name or address.
pub(super) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

fn proxy_url(text: &str) -> Option<Url> {
    let known = ["http", "https", "socks5", "socks5h", "socks4", "socks4a"];
    match Url::parse(text) {
        Ok(url) if known.contains(&url.scheme()) && url.has_host() => Some(url),
        _ => Url::parse(&format!("http://{text}")).ok().filter(Url::has_host),
    }
}

impl Bypass {
    fn parse(entry: &str) -> Option<Bypass> {
        let entry = entry.trim().to_ascii_lowercase();
        if entry == "*" {
            return Some(Bypass::Everything);
        }
        if let Some((address, bits)) = entry.split_once('/') {
            let (address, bits) = (address.parse::<IpAddr>().ok()?, bits.parse().ok()?);
            return (bits <= if address.is_ipv4() { 32 } else { 128 }).then_some(Bypass::Network(address, bits));
        }
        if let Ok(address) = entry.trim_matches(['[', ']']).parse() {
            return Some(Bypass::Address(address, None));
        }
        let (name, port) = match entry.rsplit_once(':') {
            Some((name, port)) => (name, Some(port.parse().ok()?)),
            None => (entry.as_str(), None),
        };
        if let Ok(address) = name.trim_matches(['[', ']']).parse() {
            return Some(Bypass::Address(address, port));
        }
        let name = name.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(name);
        let itself = !name.starts_with('.');
        let suffix = name.trim_start_matches('.').to_owned();
        (!suffix.is_empty()).then_some(Bypass::Domain { suffix, itself, port })
    }

    fn covers(&self, host: &str, port: Option<u16>) -> bool {
        let address = host.parse::<IpAddr>().ok();
        match self {
            Bypass::Everything => true,
            Bypass::Network(network, bits) => address.is_some_and(|a| same_network(a, *network, *bits)),
            Bypass::Address(known, only) => address == Some(*known) && (only.is_none() || *only == port),
            Bypass::Domain { suffix, itself, port: only } => {
                let below = host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.ends_with('.'));
                (below || (*itself && host == suffix)) && (only.is_none() || *only == port)
            }
        }
    }
}

fn same_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let differing = match (address.to_canonical(), network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
        (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
        _ => return false,
    };
    bits == 0 || differing.leading_zeros() >= u32::from(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxied(variables: &[(&str, &str)], url: &str) -> Option<String> {
        let environment = variables.iter().fold(Environment::empty(), |e, (name, value)| e.with(name, value));
        let proxies = Proxies::from_environment(&environment);
        proxies.for_url(&url.parse().unwrap()).map(Url::to_string)
    }

    #[test]
    fn each_scheme_takes_its_own_proxy() {
        let variables = [("HTTP_PROXY", "http://p:1"), ("https_proxy", "p:2")];
        assert_eq!(proxied(&variables, "http://h/").as_deref(), Some("http://p:1/"));
        assert_eq!(proxied(&variables, "https://h/").as_deref(), Some("http://p:2/"));
        assert_eq!(proxied(&[("ALL_PROXY", "socks5://p:3")], "https://h/").as_deref(), Some("socks5://p:3"));
        assert_eq!(proxied(&[("REQUEST_METHOD", "GET"), ("HTTP_PROXY", "http://p")], "http://h/"), None);
    }

    #[test]
    fn loopback_is_never_proxied() {
        for url in ["http://127.0.0.1:5000/", "http://localhost/", "http://[::1]:5000/", "http://127.8.8.8/"] {
            assert_eq!(proxied(&[("ALL_PROXY", "http://p")], url), None, "{url}");
        }
    }

    #[test]
    fn no_proxy_is_read_as_go_reads_it() {
        let direct = |list: &str, url: &str| proxied(&[("ALL_PROXY", "http://p"), ("NO_PROXY", list)], url).is_none();
        assert!(direct("*", "https://h.example/"));
        assert!(direct("x, example.com", "https://example.com/"));
        assert!(direct("example.com", "https://a.example.com/"));
        assert!(!direct("example.com", "https://notexample.com/"));
        assert!(!direct(".example.com", "https://example.com/"));
        assert!(direct("*.example.com", "https://a.example.com/"));
        assert!(direct("10.0.0.0/8", "http://10.255.0.1:5000/"));
        assert!(!direct("10.0.0.0/8", "http://11.0.0.1/"));
        assert!(direct("fd00::/8", "http://[fd12::1]/"));
        assert!(direct("10.1.2.3", "http://10.1.2.3:5000/"));
        assert!(direct("h.example:5000", "http://h.example:5000/"));
        assert!(!direct("h.example:5000", "http://h.example:5001/"));
        assert!(!direct("10.0.0.0/99", "http://10.0.0.1/"));
    }
}
