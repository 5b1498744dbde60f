//! Authentication at a registry: anonymous, basic, or by tokens (distribution's spec/auth: `token.md`, `oauth.md`).
//!
//! Promises: credentials go to the registry itself and to the token server it names, and to that only by https, or in
//! plain where the registry itself is asked in plain and both are this machine or the same host.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use ureq::http::header::WWW_AUTHENTICATE;
use ureq::http::{HeaderMap, Uri};

use super::challenge::{self, Challenge};
use super::credentials::{BASE64, Credentials, Keeper, Login};
use super::http::{Ask, Http};
use super::message;
use super::origin::{Origin, is_loopback};
use super::redirect::follow;
use super::retry::{Failure, Limits};
use super::secret::Secret;
use super::status;
use crate::image::read_bounded;

/// What OAuth 2 calls us.
const CLIENT: &str = "containervm";

/// Who we are for one repository. The header that was good last is used again, by all threads.
#[derive(Debug)]
pub struct Auth {
    keeper: Keeper,
    host: String,
    repository: String,
    found: OnceLock<Option<Credentials>>,
    /// The header `Authorization`.
    header: Mutex<Option<Arc<Secret>>>,
}

/// A token server's answer (`token.md`, "Token Response Fields"). When it expires we do not care: the registry says so.
#[derive(Deserialize)]
struct Token {
    token: Option<Secret>,
    access_token: Option<Secret>,
}

impl Auth {
    /// Nothing is looked up yet: `host` is the registry as users write it.
    pub fn new(keeper: Keeper, host: &str, repository: &str) -> Self {
        let (host, repository) = (host.to_owned(), repository.to_owned());
        Self { keeper, host, repository, found: OnceLock::new(), header: Mutex::new(None) }
    }

    /// The header to send, once there was a challenge.
    pub fn header(&self) -> Option<Arc<Secret>> {
        self.header.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Makes another header after the registry at `registry` refused `used`. Of many threads one asks for a token.
    ///
    /// # Errors
    /// No way to authenticate that we know, no credentials, no token.
    pub fn renew(
        &self,
        http: &Http,
        limits: &Limits,
        registry: &Origin,
        used: Option<&Arc<Secret>>,
        headers: &HeaderMap,
    ) -> Result<(), Failure> {
        let mut header = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        if header.as_ref() != used {
            return Ok(());
        }
        *header = None;
        let values = headers.get_all(WWW_AUTHENTICATE).iter();
        // Quoted strings may hold anything.
        let text = values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let challenges: Vec<Challenge> = text.flat_map(|text| challenge::parse(&text)).collect();
        let of = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
        let made = match (of("bearer"), of("basic")) {
            (Some(bearer), _) => self.bearer(http, limits, registry, bearer)?,
            (None, Some(_)) => format!("Basic {}", self.basic()?),
            (None, None) => return Err(anyhow!("it wants no kind of authentication that we know").into()),
        };
        *header = Some(Arc::new(made.into()));
        Ok(())
    }

    /// Which credentials there are, for the message of a refusal.
    pub fn tried(&self) -> String {
        match self.found.get() {
            Some(Some(Credentials { login: Login::Password(user, _), origin })) => {
                format!("tried as user {user:?} of {origin}")
            }
            Some(Some(Credentials { origin, .. })) => format!("tried with the token of {origin}"),
            _ => format!("no credentials for {} in {}", self.host, self.keeper.places()),
        }
    }

    fn credentials(&self) -> Result<Option<&Credentials>> {
        if self.found.get().is_none() {
            let found = self.keeper.find(&self.host, &self.repository)?;
            return Ok(self.found.get_or_init(|| found).as_ref());
        }
        Ok(self.found.get().and_then(Option::as_ref))
    }

    fn basic(&self) -> Result<String> {
        match self.credentials()?.map(|c| &c.login) {
            Some(Login::Password(user, password)) => {
                Ok(BASE64.encode(format!("{user}:{}", password.reveal())))
            }
            Some(_) => bail!("it wants a user and a password; {}", self.tried()),
            None => bail!("access denied; {}", self.tried()),
        }
    }

    fn bearer(
        &self,
        http: &Http,
        limits: &Limits,
        registry: &Origin,
        it: &Challenge,
    ) -> Result<String, Failure> {
        let credentials = self.credentials()?;
        if let Some(Credentials { login: Login::RegistryToken(token), .. }) = credentials {
            return Ok(format!("Bearer {}", token.reveal()));
        }
        let realm = realm(it, registry)?;
        let server = Origin::of(&realm)?;
        let token = self.token(http, limits, &realm, it).map_err(|failure| {
            failure.context(format!("cannot get a token for {} from {server}", self.repository))
        })?;
        Ok(format!("Bearer {}", token.reveal()))
    }

    fn token(&self, http: &Http, limits: &Limits, realm: &Uri, it: &Challenge) -> Result<Secret, Failure> {
        let own = format!("repository:{}:pull", self.repository);
        let scope = it.get("scope").unwrap_or(&own);
        let service = it.get("service").unwrap_or_default();
        let mut fields = vec![("service", service)];
        fields.extend(scope.split(' ').filter(|s| !s.is_empty()).map(|scope| ("scope", scope)));
        let (url, authorization, form) = match self.credentials()?.map(|c| &c.login) {
            Some(Login::IdentityToken(token)) => {
                let grant = [
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("client_id", CLIENT),
                    ("scope", scope),
                    ("refresh_token", token.reveal()),
                ];
                (realm.clone(), None, Some(Secret::from(encode(&grant))))
            }
            Some(Login::Password(user, _)) => {
                fields.push(("account", user));
                (with_query(realm, &fields)?, Some(Secret::from(format!("Basic {}", self.basic()?))), None)
            }
            _ => (with_query(realm, &fields)?, None, None),
        };
        let ask = Ask {
            url: &url,
            accept: "application/json",
            authorization: authorization.as_ref(),
            from: 0,
            form: form.as_ref(),
            within: Some(limits.answer),
        };
        let (answer, _) = follow(http, &ask)?;
        if !answer.status.is_success() {
            let denied = matches!(answer.status.as_u16(), 400 | 401 | 403);
            let tried = if denied { format!("; {}", self.tried()) } else { String::new() };
            let said = message::of(answer.body);
            return Err(status::failure(answer.status, &answer.headers, &format!("{said}{tried}")));
        }
        let bytes = read_bounded(answer.body, "the answer").map_err(Failure::transient)?;
        parse_token(&bytes).map_err(Into::into)
    }
}

/// The token server's URL, if it may be asked.
fn realm(it: &Challenge, registry: &Origin) -> Result<Uri> {
    let text = it.get("realm").context("it names no token server (realm)")?;
    let url: Uri = text
        .parse()
        .ok()
        .with_context(|| format!("its token server is malformed{}", message::brief(text)))?;
    let server = Origin::of(&url).context("its token server")?;
    let plain = !registry.is_https && (is_loopback(&server.host) || server.host == registry.host);
    if !server.is_https && !plain {
        bail!("its token server {server} is plain http, and would see secrets; https is needed");
    }
    Ok(url)
}

fn parse_token(bytes: &[u8]) -> Result<Secret> {
    // serde_json's own message could quote the token.
    let it: Token = serde_json::from_slice(bytes).ok().context("its answer is not a token's JSON")?;
    let given = [it.token, it.access_token].into_iter().flatten().find(|token| !token.reveal().is_empty());
    given.context("its answer holds no token")
}

fn with_query(url: &Uri, fields: &[(&str, &str)]) -> Result<Uri> {
    let fields: Vec<_> = fields.iter().copied().filter(|(_, value)| !value.is_empty()).collect();
    let separator = if url.query().is_some() { '&' } else { '?' };
    format!("{url}{separator}{}", encode(&fields)).parse().ok().context("the token server's URL is too long")
}

/// As forms and queries are encoded.
fn encode(fields: &[(&str, &str)]) -> String {
    let encoded =
        fields.iter().map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, NON_ALPHANUMERIC)));
    encoded.collect::<Vec<_>>().join("&")
}
