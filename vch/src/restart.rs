//! When a container that has ended is started again: docker's `--restart`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Error, bail};
use serde::{Deserialize, Serialize};

/// The wait before the first restart; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// A container that has run so long was well: the next wait is the first again.
const WELL: Duration = Duration::from_secs(10);

/// When to start it again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Policy {
    /// Never.
    #[default]
    No,
    /// When its exit status is not 0, so often at most.
    OnFailure(Option<u32>),
    /// Whenever it has ended, unless a user has ended it. (Docker's daemon tells `always` and `unless-stopped` apart when it
    /// starts itself; there is none here, so both are the same.)
    Always,
    /// The same.
    UnlessStopped,
}

impl FromStr for Policy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text.split_once(':') {
            None => match text {
                "no" | "" => Self::No,
                "always" => Self::Always,
                "unless-stopped" => Self::UnlessStopped,
                "on-failure" => Self::OnFailure(None),
                _ => bail!(
                    "{text:?} is no restart policy: no, on-failure[:MAX-RETRIES], always, unless-stopped"
                ),
            },
            Some(("on-failure", count)) => match count.parse() {
                // As for docker: as often as need be.
                Ok(0) => Self::OnFailure(None),
                Ok(count) => Self::OnFailure(Some(count)),
                Err(_) => bail!("{count:?} is no number of restarts, as in on-failure:3"),
            },
            Some((policy, _)) => bail!("the restart policy {policy:?} takes no number: only on-failure does"),
        })
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => out.write_str("no"),
            Self::OnFailure(None) => out.write_str("on-failure"),
            Self::OnFailure(Some(most)) => write!(out, "on-failure:{most}"),
            Self::Always => out.write_str("always"),
            Self::UnlessStopped => out.write_str("unless-stopped"),
        }
    }
}

impl TryFrom<String> for Policy {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Policy> for String {
    fn from(policy: Policy) -> Self {
        policy.to_string()
    }
}

/// The restarts of a container.
#[derive(Debug, Clone, Copy)]
pub struct Restarts {
    policy: Policy,
    /// How many there were.
    pub count: u32,
    wait: Duration,
}

impl Restarts {
    /// Of one that has been restarted `count` times.
    pub fn new(policy: Policy, count: u32) -> Self {
        Self { policy, count, wait: FIRST }
    }

    /// The container has ended with exit status `code`, `ran` after its start: how long to wait before the next start, if
    /// there shall be one.
    pub fn next(&mut self, code: u8, ran: Duration) -> Option<Duration> {
        let again = match self.policy {
            Policy::No => false,
            Policy::OnFailure(most) => code != 0 && most.is_none_or(|most| self.count < most),
            Policy::Always | Policy::UnlessStopped => true,
        };
        if !again {
            return None;
        }
        if ran >= WELL {
            self.wait = FIRST;
        }
        let wait = self.wait;
        self.wait = (wait * 2).min(LONGEST);
        self.count += 1;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_dockers() {
        for text in ["no", "always", "unless-stopped", "on-failure", "on-failure:3"] {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        assert_eq!("on-failure:0".parse::<Policy>().unwrap(), Policy::OnFailure(None));
        for bad in ["never", "always:3", "on-failure:", "on-failure:-1", "on-failure:x", "no:"] {
            assert!(bad.parse::<Policy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_the_policy_says() {
        let restarts = |policy| Restarts::new(policy, 0);
        assert_eq!(restarts(Policy::No).next(1, Duration::ZERO), None);
        assert_eq!(restarts(Policy::OnFailure(None)).next(0, Duration::ZERO), None);
        assert_eq!(restarts(Policy::Always).next(0, Duration::ZERO), Some(FIRST));
        let mut twice = restarts(Policy::OnFailure(Some(2)));
        let waits: Vec<_> = (0..3).map(|_| twice.next(1, Duration::ZERO)).collect();
        assert_eq!(waits, [Some(FIRST), Some(FIRST * 2), None]);
        assert_eq!(twice.count, 2);
    }

    #[test]
    fn waits_grow_until_it_is_well() {
        let mut restarts = Restarts::new(Policy::Always, 0);
        let longest = (0..20).filter_map(|_| restarts.next(1, Duration::ZERO)).max();
        assert_eq!(longest, Some(LONGEST));
        assert_eq!(restarts.next(1, WELL), Some(FIRST));
    }
}
