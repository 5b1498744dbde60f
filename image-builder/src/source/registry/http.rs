//! One request, one answer. Redirects are not followed, bodies not decoded, statuses not judged: that is the caller's.

use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Error, Result, anyhow, bail};
use ureq::config::AutoHeaderValue;
use ureq::http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RANGE};
use ureq::http::{HeaderMap, Method, Request, StatusCode, Uri};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, AsSendBody, Timeout};

use super::origin::{Origin, without_port};
use super::proxy::Proxies;
use super::retry::{Again, Failure, Limits};
use super::secret::Secret;

/// What is asked for.
#[derive(Debug)]
pub struct Ask<'a> {
    /// An http or https URL.
    pub url: &'a Uri,
    /// Media types, as the header `Accept` has them.
    pub accept: &'a str,
    /// The header `Authorization`.
    pub authorization: Option<&'a Secret>,
    /// Where to start, in bytes.
    pub from: u64,
    /// The fields of a form to POST; without them it is a GET.
    pub form: Option<&'a Secret>,
    /// For all of the answer; a blob's has none.
    pub within: Option<Duration>,
}

/// What came back.
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers, at most 64 KiB of them.
    pub headers: HeaderMap,
    /// The body as it comes: unbounded, unverified.
    pub body: Paced<Box<dyn Read + Send>>,
}

/// Connections, kept for further requests; used by many threads at once.
#[derive(Debug)]
pub struct Http {
    limits: Limits,
    proxies: Proxies,
    /// The host whose certificate nobody checks.
    unverified: Option<String>,
    /// For https.
    careful: OnceLock<Result<Agent, String>>,
    /// For plain http, and for the host whose certificate nobody checks.
    careless: OnceLock<Agent>,
}

impl Http {
    /// Checks the certificates of all hosts but `unverified`'s (a host with or without port).
    ///
    /// # Errors
    /// The environment names a proxy that makes no sense.
    pub fn new(limits: Limits, unverified: Option<&str>) -> Result<Self> {
        Ok(Self {
            limits,
            proxies: Proxies::from_environment()?,
            unverified: unverified.map(|host| without_port(host).to_ascii_lowercase()),
            careful: OnceLock::new(),
            careless: OnceLock::new(),
        })
    }

    /// Sends a request and waits for the answer's headers.
    ///
    /// # Errors
    /// No answer; the error does not name the server.
    pub fn send(&self, ask: &Ask) -> Result<Answer, Failure> {
        let origin = Origin::of(ask.url)?;
        let agent = self.agent(&origin)?;
        let method = if ask.form.is_some() { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri(ask.url).header(ACCEPT, ask.accept);
        if let Some(secret) = ask.authorization {
            request = request.header(AUTHORIZATION, secret.header()?);
        }
        if ask.from > 0 {
            request = request.header(RANGE, format!("bytes={}-", ask.from));
        }
        match ask.form {
            None => self.run(agent, &origin, request.body(()), ask.within),
            Some(form) => {
                let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
                self.run(agent, &origin, request.body(form.reveal()), ask.within)
            }
        }
    }

    fn run<S: AsSendBody>(
        &self,
        agent: &Agent,
        origin: &Origin,
        request: ureq::http::Result<Request<S>>,
        within: Option<Duration>,
    ) -> Result<Answer, Failure> {
        let request = request.context("a request that HTTP cannot hold")?;
        let configured = agent.configure_request(request);
        let proxy = self.proxies.for_origin(origin);
        // It may be the proxy that does not answer. Its URL may hold a password.
        let way =
            proxy.as_ref().map(|proxy| format!("by way of the proxy {}:{}", proxy.host(), proxy.port()));
        let request = configured.proxy(proxy).timeout_global(within).build();
        let answer = agent.run(request).map_err(|error| {
            let failure = self.failure(error);
            way.into_iter().fold(failure, Failure::context)
        });
        let (head, body) = answer?.into_parts();
        let body: Box<dyn Read + Send> = Box::new(body.into_reader());
        Ok(Answer { status: head.status, headers: head.headers, body: Paced::new(body, &self.limits) })
    }

    fn agent(&self, origin: &Origin) -> Result<&Agent> {
        if !origin.is_https || self.unverified.as_ref() == Some(&origin.host) {
            return Ok(self.careless.get_or_init(|| self.new_agent(None)));
        }
        let new = || system_roots().map(|roots| self.new_agent(Some(roots))).map_err(|e| format!("{e:#}"));
        self.careful.get_or_init(new).as_ref().map_err(|e| anyhow!(e.clone()))
    }

    fn new_agent(&self, roots: Option<RootCerts>) -> Agent {
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .disable_verification(roots.is_none());
        let tls = roots.into_iter().fold(tls, |tls, roots| tls.root_certs(roots)).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // What is compressed for the way has another digest.
            .accept_encoding("identity")
            .user_agent(concat!("containervm/", env!("CARGO_PKG_VERSION")))
            .accept(AutoHeaderValue::None)
            .timeout_resolve(Some(self.limits.connect))
            .timeout_connect(Some(self.limits.connect))
            .timeout_send_request(Some(self.limits.answer))
            .timeout_recv_response(Some(self.limits.answer))
            .timeout_per_read(Some(self.limits.stall))
            .timeout_per_write(Some(self.limits.stall));
        config.build().new_agent()
    }

    /// In our words: what ureq says would not tell how long it waited.
    fn failure(&self, error: ureq::Error) -> Failure {
        let (again, error) = judge(error, &self.limits);
        Failure { error, again }
    }
}

/// What went wrong, and whether it may go away.
fn judge(error: ureq::Error, limits: &Limits) -> (Again, Error) {
    let transient = Again::After(None);
    let seconds = |limit: Duration| format!("{} s", limit.as_secs_f64());
    match error {
        ureq::Error::Timeout(Timeout::PerRead) => {
            (transient, anyhow!("no byte came for {}", seconds(limits.stall)))
        }
        ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
            (Again::IfKnown, anyhow!("no connection within {}", seconds(limits.connect)))
        }
        ureq::Error::Timeout(_) => (transient, anyhow!("no whole answer within {}", seconds(limits.answer))),
        ureq::Error::HostNotFound => (Again::IfKnown, anyhow!("no such host")),
        ureq::Error::Io(error) => judge_io(error),
        ureq::Error::Rustls(error) => (Again::Never, distrust(&error)),
        ureq::Error::LargeResponseHeader(_, most) => {
            (Again::Never, anyhow!("the answer's headers are larger than {} KiB", most >> 10))
        }
        // Nothing else of ureq's holds a URL with its query, or a header.
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => (Again::Never, anyhow!("a malformed request")),
        ureq::Error::ConnectProxyFailed(_) => (Again::Never, anyhow!("the proxy refuses to connect")),
        other @ ureq::Error::Protocol(_) => {
            (Again::Never, Error::new(other).context("the answer is not HTTP"))
        }
        other => (transient, other.into()),
    }
}

const UNREACHABLE: [io::ErrorKind; 3] =
    [io::ErrorKind::ConnectionRefused, io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable];

fn judge_io(error: io::Error) -> (Again, Error) {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(tls) => (Again::Never, distrust(tls)),
        None if UNREACHABLE.contains(&error.kind()) || is_lookup(&error) => (Again::IfKnown, error.into()),
        None => (Again::After(None), error.into()),
    }
}

/// The standard library has no kind of its own for it.
fn is_lookup(error: &io::Error) -> bool {
    error.raw_os_error().is_none() && error.to_string().starts_with("failed to lookup address")
}

fn distrust(error: &rustls::Error) -> Error {
    let hint = match error {
        rustls::Error::InvalidCertificate(_) => {
            "; who trusts it adds its CA to the system's certificates (update-ca-certificates, $SSL_CERT_FILE), or says --insecure"
        }
        _ => "",
    };
    anyhow!("no TLS connection: {error}{hint}")
}

/// The certificates that the system trusts, or `$SSL_CERT_FILE` and `$SSL_CERT_DIR` name.
fn system_roots() -> Result<RootCerts> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let errors = found.errors.iter().map(|e| format!(": {e}")).collect::<String>();
        bail!("no CA certificates on this system (Debian's package: ca-certificates){errors}");
    }
    let certificates =
        found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect::<Vec<_>>();
    Ok(certificates.into())
}

/// A body that must keep coming: neither silence nor a trickle goes on for ever. Time in which the reader does not ask
/// does not count.
pub struct Paced<R> {
    inner: R,
    limits: Limits,
    waited: Duration,
    bytes: u64,
}

impl<R> Paced<R> {
    fn new(inner: R, limits: &Limits) -> Self {
        Self { inner, limits: limits.clone(), waited: Duration::ZERO, bytes: 0 }
    }
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let start = Instant::now();
        let n = self.inner.read(buf).map_err(|e| in_our_words(e, &self.limits))?;
        self.waited += start.elapsed();
        self.bytes += n as u64;
        if self.waited >= self.limits.stall {
            let rate = self.bytes as f64 / self.waited.as_secs_f64();
            if n > 0 && rate < self.limits.least_rate {
                let said = format!("only {} bytes came in {} s", self.bytes, self.waited.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, said));
            }
            (self.waited, self.bytes) = (Duration::ZERO, 0);
        }
        Ok(n)
    }
}

fn in_our_words(error: io::Error, limits: &Limits) -> io::Error {
    match error.downcast::<ureq::Error>() {
        Ok(error) => io::Error::other(format!("{:#}", judge(error, limits).1)),
        Err(error) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Slow;

    impl Read for Slow {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            std::thread::sleep(Duration::from_millis(2));
            buf[0] = 0;
            Ok(1)
        }
    }

    #[test]
    fn a_trickle_is_no_stream() {
        let limits = Limits { stall: Duration::from_millis(1), ..Limits::default() };
        let mut stream = Paced::new(Slow, &Limits { least_rate: 1e9, ..limits.clone() });
        let error = stream.read(&mut [0; 9]).unwrap_err().to_string();
        assert!(error.starts_with("only 1 bytes came in"), "{error}");
        let mut stream = Paced::new(Slow, &Limits { least_rate: 0.0, ..limits });
        stream.read_exact(&mut [0; 9]).unwrap();
    }
}
