//! Who is spoken to. Credentials belong to an origin (RFC 6454: scheme, host, port), and go to no other.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail};
use ureq::http::Uri;

/// No name of the DNS is longer (RFC 1035, section 2.3.4).
const MAX_HOST: usize = 255;

/// Scheme, host and port of a URL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// `https`, not `http`.
    pub is_https: bool,
    /// In lower case; an IPv6 address in brackets.
    pub host: String,
    /// The one that the URL names, or its scheme's.
    pub port: u16,
}

impl Origin {
    /// The origin of `url`.
    ///
    /// # Errors
    /// Neither http nor https, no host, or a user's name in it.
    pub fn of(url: &Uri) -> Result<Self> {
        let is_https = match url.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => bail!("only http and https are supported"),
        };
        let authority = url.authority().context("a URL without a host")?;
        if authority.as_str().contains('@') {
            bail!("a URL with a user's name in it is not supported");
        }
        if !(1..=MAX_HOST).contains(&authority.host().len()) {
            bail!("a URL without a host, or with one longer than {MAX_HOST} characters");
        }
        let port = authority.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        Ok(Self { is_https, host: authority.host().to_ascii_lowercase(), port })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.host)?;
        if self.port == if self.is_https { 443 } else { 80 } { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

/// Whether `host` (without port) is this machine, whatever a name server says.
pub fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || bare.parse::<Ipv6Addr>().is_ok_and(|ip| ip.is_loopback())
}

/// `HOST[:PORT]` without its port.
pub fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => name,
        _ => host,
    }
}

/// The URL that `location`, a redirect's, means at `base` (RFC 3986, section 5.2).
///
/// # Errors
/// It is malformed; it is not shown, for it may hold a signature.
pub fn resolve(base: &Uri, location: &str) -> Result<Uri> {
    let scheme = base.scheme_str().unwrap_or_default();
    let root = format!("{scheme}://{}", base.authority().map_or("", |a| a.as_str()));
    let absolute = if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{root}{location}")
    } else if location.split(['/', '?']).next().is_some_and(|first| first.contains(':')) {
        location.to_owned()
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{root}{folder}/{location}")
    };
    absolute.parse().ok().context("a redirect to a malformed URL")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_by_address_or_localhost() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.com", "128.0.0.1", "127.0.0.1.nip.io", "[::2]", "0.0.0.0", "", "x"] {
            assert!(!is_loopback(host), "{host}");
        }
        assert_eq!(without_port("[::1]:5000"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
        assert_eq!(without_port("a:1"), "a");
    }

    #[test]
    fn redirects_resolve_as_urls_do() {
        let base = "https://a:5/v2/x/blobs/y?q=1".parse().unwrap();
        for (location, url) in [
            ("https://b/c?sig=1", "https://b/c?sig=1"),
            ("//b/c", "https://b/c"),
            ("/c", "https://a:5/c"),
            ("z", "https://a:5/v2/x/blobs/z"),
            ("z?u=http://q", "https://a:5/v2/x/blobs/z?u=http://q"),
        ] {
            assert_eq!(resolve(&base, location).unwrap().to_string(), url, "{location}");
        }
        for bad in ["https://", "http://a b/", "https://[/"] {
            assert!(resolve(&base, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins_are_scheme_host_and_port() {
        let origin = |url: &str| Origin::of(&url.parse().unwrap()).unwrap();
        assert_eq!(origin("https://A.b/x"), origin("https://a.B:443/y?z"));
        for other in ["http://a.b:443/", "https://a.b:444/", "https://a.c/"] {
            assert_ne!(origin("https://a.b/"), origin(other));
        }
        assert_eq!(origin("http://[::1]:80/").to_string(), "[::1]");
        let long = format!("https://{}/", "a".repeat(256));
        for bad in [&long, "ftp://a/", "https://user:password@a/", "/x", "file:///etc/passwd"] {
            assert!(bad.parse().map_or(true, |url| Origin::of(&url).is_err()), "{bad}");
        }
    }
}
