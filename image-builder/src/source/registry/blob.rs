//! A layer's blob, whose stream goes on where a connection broke off.
//!
//! Promises: never more bytes than the descriptor says; every byte once and in its place, as far as the server says the truth
//! about places: the digest, computed downstream over the whole, finds a server that does not. An error is final.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use ureq::http::HeaderMap;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE};

use super::http::{Answer, Paced};
use super::message::brief;
use super::repository::{Repository, blob_path};
use super::retry::{Failure, Retry};
use crate::digest::Digest;
use crate::image::{Blob, Stream};

/// As much progress makes up for the failures before it.
const PROGRESS: u64 = 1 << 20;

/// A blob in a registry.
pub struct RegistryBlob {
    repository: Arc<Repository>,
    digest: Digest,
    size: u64,
}

impl RegistryBlob {
    /// The blob that a descriptor with this digest and size names.
    pub fn new(repository: Arc<Repository>, digest: Digest, size: u64) -> Self {
        Self { repository, digest, size }
    }
}

impl fmt::Debug for RegistryBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegistryBlob({}, {})", self.repository.cannot_get(&blob_path(&self.digest)), self.size)
    }
}

impl Blob for RegistryBlob {
    fn open(&self) -> Result<Stream> {
        Ok(Box::new(BlobStream {
            retry: Retry::new(self.repository.limits()),
            repository: self.repository.clone(),
            digest: self.digest,
            size: self.size,
            done: 0,
            safe: 0,
            body: None,
            failed: None,
        }))
    }
}

/// Asks for the blob when it is first read.
struct BlobStream {
    repository: Arc<Repository>,
    digest: Digest,
    size: u64,
    /// Bytes given out.
    done: u64,
    /// Bytes that were done when the failures were last forgotten.
    safe: u64,
    retry: Retry,
    body: Option<Paced<Stream>>,
    /// The final error, for those who ask again.
    failed: Option<String>,
}

impl Read for BlobStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if let Some(message) = &self.failed {
            return Err(io::Error::other(message.clone()));
        }
        let most = buf.len().min(usize::try_from(self.size - self.done).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        loop {
            let failure = match self.read_once(&mut buf[..most]) {
                Ok(n) => return Ok(self.advance(n)),
                Err(failure) => failure,
            };
            self.body = None;
            self.retry.wait_after(failure).map_err(|error| self.give_up(&error))?;
        }
    }
}

impl BlobStream {
    fn read_once(&mut self, buf: &mut [u8]) -> Result<usize, Failure> {
        let body = match &mut self.body {
            Some(body) => body,
            empty => empty.insert(request(&self.repository, &self.digest, self.done, self.size)?),
        };
        match body.read(buf) {
            Ok(0) => Err(Failure::transient(anyhow!(
                "the connection ended after {} of {} bytes",
                self.done,
                self.size
            ))),
            Ok(n) => Ok(n),
            Err(e) => {
                let error = anyhow!(e).context(format!("after {} of {} bytes", self.done, self.size));
                Err(Failure::transient(error))
            }
        }
    }

    fn advance(&mut self, n: usize) -> usize {
        self.done += n as u64;
        if self.done - self.safe >= PROGRESS {
            self.safe = self.done;
            self.retry.reset();
        }
        n
    }

    fn give_up(&mut self, error: &anyhow::Error) -> io::Error {
        let message = format!("{}: {error:#}", self.repository.cannot_get(&blob_path(&self.digest)));
        self.failed = Some(message.clone());
        io::Error::other(message)
    }
}

/// The bytes of a blob of `size` bytes from `from` on.
fn request(repository: &Repository, digest: &Digest, from: u64, size: u64) -> Result<Paced<Stream>, Failure> {
    let Answer { status, headers, mut body } = repository.blob_from(digest, from)?;
    if status.as_u16() == 206 {
        check_range(&headers, from, size)?;
        return Ok(body);
    }
    if let Some(length) = header(&headers, CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok())
        && length != size
    {
        return Err(anyhow!("the registry has {length} bytes, the manifest says {size}").into());
    }
    // The server knows no ranges: what we have comes again.
    let skipped = io::copy(&mut (&mut body).take(from), &mut io::sink());
    match skipped {
        Ok(n) if n == from => Ok(body),
        Ok(n) => {
            Err(Failure::transient(anyhow!("the connection ended after {n} bytes, {from} had come before")))
        }
        Err(e) => Err(Failure::transient(e.into())),
    }
}

/// RFC 9110, section 14.4: `bytes FIRST-LAST/SIZE`.
fn check_range(headers: &HeaderMap, from: u64, size: u64) -> Result<()> {
    let range = header(headers, CONTENT_RANGE).context("a partial answer without Content-Range")?;
    let parse = || {
        let (bounds, whole) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (first, _last) = bounds.split_once('-')?;
        let whole = if whole == "*" { size } else { whole.parse().ok()? };
        Some((first.parse::<u64>().ok()?, whole))
    };
    if parse() != Some((from, size)) {
        return Err(anyhow!("asked for bytes {from}- of {size}, got Content-Range{}", brief(range)));
    }
    Ok(())
}

fn header(headers: &HeaderMap, name: impl ureq::http::header::AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}
