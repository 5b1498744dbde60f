//! Values whose errors have causes.

use anyhow::Result;

/// `parse`, with the causes of its error in the error's own sentence: clap shows nothing else.
pub(super) fn whole<T>(
    parse: impl Fn(&str) -> Result<T> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| parse(text).map_err(|error| format!("{error:#}"))
}
