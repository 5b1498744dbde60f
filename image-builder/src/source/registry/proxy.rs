//! Proxies, from the environment as curl reads it. This machine itself is never asked by way of one.

use std::env;

use anyhow::{Context, Result};
use ureq::Proxy;

use super::origin::{Origin, is_loopback};

/// What the environment says about proxies.
#[derive(Debug, Default)]
pub struct Proxies {
    https: Option<Proxy>,
    http: Option<Proxy>,
    exceptions: String,
}

impl Proxies {
    /// `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, in either case.
    ///
    /// # Errors
    /// A malformed URL; the variable is named, the URL is not shown, for it may hold a password.
    pub fn from_environment() -> Result<Self> {
        let proxy = |names: &[&str]| {
            let found = names.iter().find_map(|name| Some((name, variable(name)?)));
            let parse = |(name, url): (&&str, String)| {
                Proxy::new(&url)
                    .ok()
                    .with_context(|| format!("${name} is not a proxy's URL (http://HOST:PORT)"))
            };
            found.map(parse).transpose()
        };
        Ok(Self {
            https: proxy(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])?,
            http: proxy(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])?,
            exceptions: variable("no_proxy").or_else(|| variable("NO_PROXY")).unwrap_or_default(),
        })
    }

    /// The proxy for requests to `origin`.
    pub fn for_origin(&self, origin: &Origin) -> Option<Proxy> {
        let proxy = if origin.is_https { &self.https } else { &self.http };
        proxy.clone().filter(|_| !is_loopback(&origin.host) && !is_exception(&self.exceptions, origin))
    }
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// curl(1), `NO_PROXY`: names and all that is under them, with a port or without, divided by commas or spaces; `*` is all.
fn is_exception(list: &str, origin: &Origin) -> bool {
    let port = format!(":{}", origin.port);
    list.split([',', ' ']).filter(|entry| !entry.is_empty()).any(|entry| {
        let entry = entry.to_ascii_lowercase();
        let name =
            entry.strip_suffix(&port).unwrap_or(&entry).trim_start_matches("*.").trim_start_matches('.');
        entry == "*"
            || origin.host.strip_suffix(name).is_some_and(|left| left.is_empty() || left.ends_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_read_as_curl_reads_them() {
        let origin = |url: &str| Origin::of(&url.parse().unwrap()).unwrap();
        for (list, url, expected) in [
            ("example.com", "https://example.com/", true),
            ("other, .Example.com", "https://a.b.example.com/", true),
            ("*.example.com", "https://a.example.com/", true),
            ("example.com:5000", "https://example.com:5000/", true),
            ("example.com:5000", "https://example.com/", false),
            ("example.com", "https://notexample.com/", false),
            ("*", "https://x/", true),
            ("", "https://x/", false),
        ] {
            assert_eq!(is_exception(list, &origin(url)), expected, "{list:?} {url}");
        }
        let proxies = Proxies { http: Proxy::new("http://p:1").ok(), ..Proxies::default() };
        assert!(proxies.for_origin(&origin("http://x/")).is_some());
        assert!(proxies.for_origin(&origin("http://127.0.0.1:5000/")).is_none());
        assert!(proxies.for_origin(&origin("https://x/")).is_none());
    }
}
