//! Text that must not be shown: passwords, tokens, and the headers made of them.

use std::fmt;

use anyhow::{Context, Result};
use serde::Deserialize;
use ureq::http::HeaderValue;

/// Shows nothing of itself, not even its length.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one who must send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// As the value of a header that nobody logs.
    ///
    /// # Errors
    /// It has bytes that a header cannot have; they are not told.
    pub fn header(&self) -> Result<HeaderValue> {
        let mut value =
            HeaderValue::from_str(&self.0).ok().context("a token or password with a line break")?;
        value.set_sensitive(true);
        Ok(value)
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
