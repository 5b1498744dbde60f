//! What is bounded in time, and trying again.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Error, Result};
use ureq::http::HeaderMap;
use ureq::http::header::RETRY_AFTER;

/// How long to wait for what, and how often to try.
#[derive(Clone, Debug)]
pub struct Limits {
    /// For a name server's answer, and for a connection with its TLS.
    pub connect: Duration,
    /// Without any byte; and in each such time of waiting [`Limits::least_rate`] must hold.
    pub stall: Duration,
    /// Bytes a second below which a connection counts as stalled.
    pub least_rate: f64,
    /// For an answer's headers, and for all of an answer that is not a blob.
    pub answer: Duration,
    /// Failures in a row until we give up.
    pub attempts: u32,
    /// The wait after the first failure; it doubles with each.
    pub backoff: Duration,
    /// The longest wait; a server that asks for more is not waited for.
    pub longest_wait: Duration,
    /// For a credential helper, which may ask its user.
    pub helper: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(15),
            stall: Duration::from_secs(30),
            least_rate: 100.0,
            answer: Duration::from_secs(120),
            attempts: 6,
            backoff: Duration::from_millis(500),
            longest_wait: Duration::from_secs(60),
            helper: Duration::from_secs(120),
        }
    }
}

/// Why a request came to nothing, and whether to ask again.
#[derive(Debug)]
pub struct Failure {
    /// What went wrong.
    pub error: Error,
    /// What another try would bring.
    pub again: Again,
}

/// Whether another try makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The same answer.
    Never,
    /// Perhaps a better one, after this wait where the server named one.
    After(Option<Duration>),
    /// No connection: an outage where there was one before, else a slip of the pen.
    IfKnown,
}

impl Failure {
    /// One that another try may mend.
    pub fn transient(error: Error) -> Self {
        Self { error, again: Again::After(None) }
    }

    /// Says more about what was tried.
    #[must_use]
    pub fn context(self, text: String) -> Self {
        Self { error: self.error.context(text), ..self }
    }
}

impl From<Error> for Failure {
    /// What has no better name will not mend itself.
    fn from(error: Error) -> Self {
        Self { error, again: Again::Never }
    }
}

/// The wait that a server asks for (RFC 9110, section 10.2.3). Of the two forms only seconds are read, which is the one that
/// registries use; after a date we wait as if nothing had been said.
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().map(Duration::from_secs).ok()
}

/// Counts failures in a row.
#[derive(Debug)]
pub struct Retry {
    limits: Limits,
    failures: u32,
}

impl Retry {
    /// No failure so far.
    pub fn new(limits: &Limits) -> Self {
        Self { limits: limits.clone(), failures: 0 }
    }

    /// There was progress.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    /// Waits until it is time to try again.
    ///
    /// # Errors
    /// `failure`'s own, when it is no use or there were too many.
    pub fn wait_after(&mut self, failure: Failure) -> Result<()> {
        let asked = match failure.again {
            Again::Never => return Err(failure.error),
            Again::After(asked) => asked,
            Again::IfKnown => None,
        };
        self.failures += 1;
        if self.failures >= self.limits.attempts {
            let tried = format!("gave up after {} attempts", self.failures);
            return Err(failure.error).context(tried);
        }
        if let Some(asked) = asked.filter(|&asked| asked > self.limits.longest_wait) {
            return Err(failure.error).context(format!("asked to wait for {} s", asked.as_secs()));
        }
        thread::sleep(asked.unwrap_or_else(|| self.backoff()));
        Ok(())
    }

    /// Between half and all of a time that doubles, so that many clients do not come back at once.
    fn backoff(&self) -> Duration {
        let doubled = self.limits.backoff.saturating_mul(1 << (self.failures - 1).min(16));
        // The standard library seeds its hash maps from the system's random numbers.
        let random = (RandomState::new().hash_one(0) % 1024) as u32;
        doubled.min(self.limits.longest_wait).mul_f64(0.5 + f64::from(random) / 2048.0)
    }
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn waits_grow_and_are_bounded() {
        let limits = Limits {
            backoff: Duration::from_secs(1),
            longest_wait: Duration::from_secs(3),
            ..Limits::default()
        };
        for (failures, least, most) in [(1, 500, 1000), (2, 1000, 2000), (3, 1500, 3000), (60, 1500, 3000)] {
            let wait = Retry { limits: limits.clone(), failures }.backoff().as_millis();
            assert!((least..=most).contains(&wait), "{failures}: {wait}");
        }
    }

    #[test]
    fn gives_up_when_it_is_no_use() {
        let mut retry = Retry::new(&Limits { attempts: 2, backoff: Duration::ZERO, ..Limits::default() });
        assert!(retry.wait_after(anyhow!("no").into()).is_err());
        let message = |again| {
            let failure = Failure { error: anyhow!("busy"), again };
            Retry::new(&Limits::default()).wait_after(failure).map_err(|e| format!("{e:#}"))
        };
        assert_eq!(
            message(Again::After(Some(Duration::from_secs(61)))),
            Err("asked to wait for 61 s: busy".into())
        );
        retry.wait_after(Failure::transient(anyhow!("x"))).unwrap();
        let error = retry.wait_after(Failure::transient(anyhow!("x"))).unwrap_err();
        assert_eq!(format!("{error:#}"), "gave up after 2 attempts: x");
        retry.reset();
        retry.wait_after(Failure::transient(anyhow!("x"))).unwrap();
    }
}
