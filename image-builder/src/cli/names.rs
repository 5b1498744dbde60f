//! Names of files, which are bytes, on stdout.

use std::borrow::Cow;
use std::io::{IsTerminal, stdout};

use serde_json::Value;

/// A name as it is written to stdout: as it is to a pipe, as `ls` does; to a terminal with escapes for what is not
/// printable, for a name must not command the terminal.
pub fn shown(name: &[u8]) -> Cow<'_, [u8]> {
    if stdout().is_terminal() { Cow::Owned(printable(name).into_bytes()) } else { Cow::Borrowed(name) }
}

/// Control characters and what is not UTF-8 escaped, as Rust writes them.
fn printable(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str(r"\\"),
                _ if character.is_control() => text.extend(character.escape_default()),
                _ => text.push(character),
            }
        }
        text.push_str(&chunk.invalid().escape_ascii().to_string());
    }
    text
}

/// Puts a name into a JSON object, as `key`. What is not UTF-8 is replaced there, and stands whole in `key_hex`.
pub fn json_name(object: &mut Value, key: &str, name: &[u8]) {
    object[key] = String::from_utf8_lossy(name).into();
    if std::str::from_utf8(name).is_err() {
        object[format!("{key}_hex")] = hex::encode(name).into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_not_commanded() {
        assert_eq!(printable("caf\u{e9} \u{1b}[2J\\n\n".as_bytes()), "café \\u{1b}[2J\\\\n\\n");
        assert_eq!(printable(b"caf\xe9"), r"caf\xe9");
    }

    #[test]
    fn a_name_in_json_loses_nothing() {
        let mut object = serde_json::json!({});
        json_name(&mut object, "path", b"caf\xe9");
        json_name(&mut object, "target", b"x");
        assert_eq!(
            object,
            serde_json::json!({ "path": "caf\u{fffd}", "path_hex": "636166e9", "target": "x" })
        );
    }
}
