//! What an answer's status means.

use anyhow::anyhow;
use ureq::http::{HeaderMap, StatusCode};

use super::retry::{Again, Failure, retry_after};

/// The failure of a request whose answer has a status that was not wanted; `said` is what else there is to say.
pub fn failure(status: StatusCode, headers: &HeaderMap, said: &str) -> Failure {
    let again = match status.as_u16() {
        408 | 429 | 500 | 502 | 503 | 504 => Again::After(retry_after(headers)),
        _ => Again::Never,
    };
    Failure { error: anyhow!("{}{said}", shown(status)), again }
}

/// `404 Not Found`
pub fn shown(status: StatusCode) -> String {
    match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    }
}
