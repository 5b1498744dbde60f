//! Redirects, and what must not go with them.
//!
//! Promises: the header `Authorization` goes to the origin it was made for and to no other; nobody is led from https to
//! plain http, nor without end.

use anyhow::{Context, Result, anyhow, bail};
use ureq::http::Uri;
use ureq::http::header::LOCATION;

use super::http::{Answer, Ask, Http};
use super::origin::{Origin, resolve};
use super::retry::{Again, Failure};

/// Redirects for one request, at most.
const MAX_REDIRECTS: usize = 10;

/// Sends `ask`, follows where it leads, and gives the first answer that is no redirect, with its origin.
///
/// # Errors
/// No answer; a redirect to nowhere, to plain http, or one too many.
pub fn follow(http: &Http, ask: &Ask) -> Result<(Answer, Origin), Failure> {
    let first = Origin::of(ask.url)?;
    let (mut url, mut origin) = (ask.url.clone(), first.clone());
    for _ in 0..=MAX_REDIRECTS {
        let authorization = ask.authorization.filter(|_| origin == first);
        let sent = http.send(&Ask { url: &url, authorization, ..*ask });
        let answer =
            sent.map_err(|failure| if origin == first { failure } else { elsewhere(failure, &origin) })?;
        // A form is not sent on: it holds secrets.
        if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) || ask.form.is_some() {
            return Ok((answer, origin));
        }
        (url, origin) = next(&answer, &url, &origin)?;
    }
    Err(anyhow!("more than {MAX_REDIRECTS} redirects").into())
}

fn next(answer: &Answer, url: &Uri, from: &Origin) -> Result<(Uri, Origin)> {
    let location = answer.headers.get(LOCATION).context("a redirect to nowhere")?;
    target(url, from, location.to_str().ok().context("a redirect to a malformed URL")?)
}

fn target(url: &Uri, from: &Origin, location: &str) -> Result<(Uri, Origin)> {
    let to = resolve(url, location)?;
    let origin = Origin::of(&to).context("a redirect that is not followed")?;
    if from.is_https && !origin.is_https {
        bail!("a redirect from https to plain http, at {origin}, is not followed");
    }
    Ok((to, origin))
}

fn elsewhere(failure: Failure, origin: &Origin) -> Failure {
    // Whoever sent us there has answered.
    let again = if failure.again == Again::IfKnown { Again::After(None) } else { failure.again };
    Failure { again, ..failure.context(format!("redirected to {origin}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_led_from_https_to_plain_http() {
        let to = |url: &str, location: &str| {
            let url = url.parse().unwrap();
            target(&url, &Origin::of(&url).unwrap(), location)
                .map(|(to, _)| to.to_string())
                .map_err(|e| e.to_string())
        };
        let refused = Err("a redirect from https to plain http, at b:443, is not followed".to_owned());
        assert_eq!(to("https://b/x", "http://b:443/x"), refused);
        assert!(to("https://b/x", "http://127.0.0.1/x").is_err());
        assert_eq!(to("https://b/x", "https://c/x").unwrap(), "https://c/x");
        assert_eq!(to("http://b/x", "http://c/x").unwrap(), "http://c/x");
        assert_eq!(to("http://b/x", "https://c/x").unwrap(), "https://c/x");
    }
}
