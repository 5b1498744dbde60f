//! One repository of a registry (distribution-spec, "Pull"): its manifests and blobs, whoever must be asked for a token first.

use std::io::{Cursor, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result};
use oci_spec::image::Descriptor;
use ureq::http::Uri;
use ureq::http::header::CONTENT_TYPE;

use super::auth::Auth;
use super::blob::RegistryBlob;
use super::credentials::Keeper;
use super::http::{Answer, Ask, Http};
use super::message;
use super::origin::{Origin, is_loopback, without_port};
use super::redirect::follow;
use super::retry::{Again, Failure, Limits, Retry};
use super::status;
use crate::digest::Digest;
use crate::image::{self, Blob, Content, MAX_JSON, Stream};
use crate::source::{DOCKER_HUB, Name};

/// Where Docker Hub's API is.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";
/// All that `Image` reads; and old registries give what nobody asked for unless told.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// How long to try https where plain http is allowed too.
const PROBE: Duration = Duration::from_secs(5);

/// A repository, and the state of our conversation with its registry.
#[derive(Debug)]
pub struct Repository {
    host: String,
    path: String,
    /// Plain http will do, and any certificate.
    insecure: bool,
    http: Http,
    auth: Auth,
    limits: Limits,
    base: OnceLock<Uri>,
    /// It has answered: then a refused connection is an outage, and no slip of the pen.
    answered: AtomicBool,
}

/// A manifest or index as the registry gives it.
pub struct Manifest {
    /// Not verified; at most one byte more than [`MAX_JSON`].
    pub bytes: Vec<u8>,
    /// The header `Content-Type`, without parameters.
    pub media_type: Option<String>,
}

impl Repository {
    /// The repository of `name`. Nothing is asked yet.
    ///
    /// # Errors
    /// The environment names a proxy that makes no sense.
    pub fn new(name: &Name, insecure: bool, keeper: Keeper, limits: Limits) -> Result<Self> {
        let host = if name.host == DOCKER_HUB { DOCKER_HUB_HOST } else { &name.host }.to_owned();
        let insecure = insecure || is_loopback(without_port(&host));
        Ok(Self {
            http: Http::new(limits.clone(), insecure.then_some(host.as_str()))?,
            auth: Auth::new(keeper, &name.host, &name.repository),
            path: name.repository.clone(),
            base: OnceLock::new(),
            answered: AtomicBool::new(false),
            host,
            insecure,
            limits,
        })
    }

    /// The manifest or index that `reference`, a tag or digest, names.
    ///
    /// # Errors
    /// No such image; no access; no answer. Each names registry, repository and what was asked.
    pub fn manifest(&self, reference: &str) -> Result<Manifest> {
        let path = format!("manifests/{reference}");
        self.retried(&path, || {
            let answer = self.get(&path, MANIFESTS, 0, Some(self.limits.answer)).map_err(no_such_image)?;
            let media_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let media_type = media_type.and_then(|t| t.split(';').next()).map(|t| t.trim().to_owned());
            let bytes = whole(answer, MAX_JSON + 1)?;
            Ok(Manifest { bytes, media_type })
        })
    }

    /// The bytes of `descriptor`, of which one more than it says may come: an index, manifest or config.
    ///
    /// # Errors
    /// As [`Repository::manifest`].
    pub fn json(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let (kind, accept) = match descriptor.media_type().as_ref() {
            kind if MANIFESTS.split(", ").any(|manifest| manifest == kind) => ("manifests", MANIFESTS),
            _ => ("blobs", "*/*"),
        };
        let path = format!("{kind}/{}", image::digest(descriptor)?);
        self.retried(&path, || {
            let answer = self.get(&path, accept, 0, Some(self.limits.answer))?;
            whole(answer, descriptor.size().min(MAX_JSON) + 1)
        })
    }

    /// A blob from its byte `from` on; or from the first, if the answer's status is not 206.
    ///
    /// # Errors
    /// As [`Repository::manifest`].
    pub fn blob_from(&self, digest: &Digest, from: u64) -> Result<Answer, Failure> {
        self.get(&blob_path(digest), "*/*", from, None)
    }

    /// What an error about `path` says first.
    pub fn cannot_get(&self, path: &str) -> String {
        format!("cannot get {}/{path} from {}", self.path, self.host)
    }

    /// The bounds of this conversation.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    fn retried<T>(&self, path: &str, get: impl Fn() -> Result<T, Failure>) -> Result<T> {
        let mut retry = Retry::new(&self.limits);
        loop {
            match get() {
                Ok(got) => return Ok(got),
                Err(failure) => retry.wait_after(failure).with_context(|| self.cannot_get(path))?,
            }
        }
    }

    /// One try: a token first, if need be, and then behind all redirects.
    fn get(&self, path: &str, accept: &str, from: u64, within: Option<Duration>) -> Result<Answer, Failure> {
        let base = self.base()?;
        let url = format!("{base}v2/{}/{path}", self.path).parse().context("a URL that HTTP cannot hold")?;
        let registry = Origin::of(&url)?;
        let mut renewed = false;
        loop {
            let header = self.auth.header();
            let ask = Ask { url: &url, accept, authorization: header.as_deref(), from, form: None, within };
            let (answer, origin) = follow(&self.http, &ask).map_err(|f| self.unless_unknown(f))?;
            self.answered.store(true, Ordering::Relaxed);
            match answer.status.as_u16() {
                200 | 206 => return Ok(answer),
                401 if origin == registry && !renewed => {
                    renewed = true;
                    self.auth.renew(&self.http, &self.limits, &registry, header.as_ref(), &answer.headers)?;
                }
                _ => return Err(self.refusal(answer, (origin != registry).then_some(origin))),
            }
        }
    }

    fn unless_unknown(&self, failure: Failure) -> Failure {
        match failure.again {
            Again::IfKnown if !self.answered.load(Ordering::Relaxed) => {
                Failure { again: Again::Never, ..failure }
            }
            _ => failure,
        }
    }

    fn refusal(&self, answer: Answer, led_to: Option<Origin>) -> Failure {
        let (code, headers) = (answer.status, answer.headers);
        let said = message::of(answer.body);
        match (code.as_u16(), led_to) {
            // Registries do not tell strangers what there is.
            (401 | 403, None) => status::failure(code, &headers, &format!("{said}; {}", self.auth.tried()))
                .context("no access, or no such repository".to_owned()),
            (_, None) => status::failure(code, &headers, &said),
            (_, Some(origin)) => {
                status::failure(code, &headers, &said).context(format!("redirected to {origin}"))
            }
        }
    }

    /// `https://HOST/`; where plain http will do, whatever answers.
    fn base(&self) -> Result<&Uri, Failure> {
        if let Some(base) = self.base.get() {
            return Ok(base);
        }
        let url =
            |scheme: &str| format!("{scheme}://{}/", self.host).parse().context("not a registry's name");
        let secure: Uri = url("https")?;
        let base = if self.insecure && !self.answers(&secure) { url("http")? } else { secure };
        Ok(self.base.get_or_init(|| base))
    }

    /// Any answer will do (distribution-spec, "Determining Support").
    fn answers(&self, base: &Uri) -> bool {
        let Ok(url) = format!("{base}v2/").parse() else { return false };
        let within = Some(PROBE.min(self.limits.answer));
        self.http
            .send(&Ask { url: &url, accept: "*/*", authorization: None, from: 0, form: None, within })
            .is_ok()
    }
}

/// Where a blob is, under its repository.
pub fn blob_path(digest: &Digest) -> String {
    format!("blobs/{digest}")
}

fn no_such_image(failure: Failure) -> Failure {
    let is_missing = failure.error.to_string().starts_with("404 ");
    if is_missing { failure.context("no such image".to_owned()) } else { failure }
}

/// The body, or its first `most` bytes.
fn whole(answer: Answer, most: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = answer.body.take(most).read_to_end(&mut bytes);
    read.map(|_| bytes).map_err(|e| Failure::transient(e.into()))
}

/// The repository as the place of an image's parts.
#[derive(Clone, Debug)]
pub struct RepositoryContent(pub Arc<Repository>);

impl Content for RepositoryContent {
    fn json(&self, descriptor: &Descriptor) -> Result<Stream> {
        Ok(Box::new(Cursor::new(self.0.json(descriptor)?)))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Arc<dyn Blob>> {
        let digest = image::digest(descriptor)?;
        Ok(Arc::new(RegistryBlob::new(self.0.clone(), digest, descriptor.size())))
    }
}
