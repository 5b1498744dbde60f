//! What servers say, made fit for a terminal: it is untrusted, and may be long.

use std::io::Read;

use serde::Deserialize;

/// Bytes of an answer that are looked at for a message.
const MAX_BODY: u64 = 16 << 10;
/// Characters of it that are shown.
const MAX_SHOWN: usize = 200;

/// The distribution-spec's errors ("Error Codes"), and OAuth 2's (RFC 6749, section 5.2).
#[derive(Default, Deserialize)]
#[serde(default)]
struct Errors {
    errors: Vec<Entry>,
    error: Option<String>,
    error_description: Option<String>,
    details: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    code: Option<String>,
    message: Option<String>,
}

/// `: "..."` with what `body`, of an answer that is an error, says; nothing where it says nothing to a person.
pub fn of(body: impl Read) -> String {
    let mut bytes = Vec::new();
    // The status was told already: a body that breaks off says what it says.
    let _ = body.take(MAX_BODY).read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes);
    let Ok(it) = serde_json::from_str::<Errors>(&text) else {
        return if text.trim_start().starts_with(['<', '{']) { String::new() } else { brief(&text) };
    };
    let first = it.errors.into_iter().next().unwrap_or_default();
    let said = [first.message, first.code, it.details, it.error_description, it.error];
    brief(&said.into_iter().flatten().find(|text| !text.trim().is_empty()).unwrap_or_default())
}

/// `: "..."` with the start of `text`, control characters escaped; nothing for nothing.
pub fn brief(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    let start: String = text.chars().take(MAX_SHOWN).collect();
    let dots = if start.len() < text.len() { "..." } else { "" };
    format!(": {start:?}{dots}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_a_person_can_use() {
        let long = "x".repeat(1 << 20);
        for (body, shown) in [
            (
                r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":{"a":1}}]}"#,
                ": \"manifest unknown\"",
            ),
            (r#"{"errors":[{"code":"DENIED","message":""}]}"#, ": \"DENIED\""),
            (r#"{"errors":[]}"#, ""),
            (r#"{"details":"incorrect username or password"}"#, ": \"incorrect username or password\""),
            (r#"{"error":"invalid_grant","error_description":"expired"}"#, ": \"expired\""),
            ("404 page not found\n", ": \"404 page not found\""),
            ("<html><body>no</body></html>", ""),
            ("", ""),
            ("\u{1b}[2J\u{202e}evil\r\n\u{7}!", ": \"\\u{1b}[2J\\u{202e}evil\\r\\n\\u{7}!\""),
        ] {
            assert_eq!(of(body.as_bytes()), shown);
        }
        assert_eq!(of(&b"\xff\xfe!"[..]), ": \"\u{fffd}\u{fffd}!\"");
        assert_eq!(of(long.as_bytes()).len(), 200 + 4 + 3);
    }
}
