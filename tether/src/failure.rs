//! Errors that reach the host: at which stage, what was tried, what the system said.

use nix::errno::Errno;
use protocol::Stage;
use std::fmt;

/// The longest message of a failure in a process that is not tether, in characters.
const MAX_MESSAGE: usize = 2000;

/// A [`protocol::Failure`] on its way up.
#[derive(Debug)]
pub struct Failure(pub protocol::Failure);

impl Failure {
    /// A failure that is no system call's.
    pub fn new(stage: Stage, message: impl Into<String>) -> Self {
        Self(protocol::Failure { stage, errno: None, message: message.into() })
    }

    /// A system call's failure: `what` was tried, and `errno` came back.
    pub fn system(stage: Stage, what: impl fmt::Display, errno: Errno) -> Self {
        let message = format!("{what}: {}", errno.desc());
        Self(protocol::Failure { stage, errno: Some(errno as i32), message })
    }

    /// As it may be told: what an image or a config is quoted with has no bound of its own.
    pub fn brief(self) -> protocol::Failure {
        let message = self.0.message.chars().take(MAX_MESSAGE).collect();
        protocol::Failure { message, ..self.0 }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "failed at {}: {}", self.0.stage, self.0.message)
    }
}

/// Turns system errors into [`Failure`]s.
pub trait Context<T> {
    /// Says at which stage it failed, and what was tried.
    fn at<D: fmt::Display>(self, stage: Stage, what: impl FnOnce() -> D) -> Result<T, Failure>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn at<D: fmt::Display>(self, stage: Stage, what: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|errno| Failure::system(stage, what(), errno))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn at<D: fmt::Display>(self, stage: Stage, what: impl FnOnce() -> D) -> Result<T, Failure> {
        self.map_err(|error| match error.raw_os_error() {
            Some(errno) => Failure::system(stage, what(), Errno::from_raw(errno)),
            None => Failure::new(stage, format!("{}: {error}", what())),
        })
    }
}
