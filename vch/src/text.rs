//! Text from the guest, made harmless: it may hold anything, and must not reach a terminal as it is.

/// `bytes` as at most `limit` characters of one line: what is not UTF-8 and every control character (escape sequences
/// start with one) become `?`, and what is cut off is marked with `...`.
pub fn harmless(bytes: &[u8], limit: usize) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut characters = text.trim().chars();
    let mut line: String =
        characters.by_ref().take(limit).map(|c| if is_harmless(c) { c } else { '?' }).collect();
    if characters.next().is_some() {
        line.push_str("...");
    }
    line
}

/// Not a control character, nor one that changes the direction of the text after it.
fn is_harmless(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{fffd}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_a_terminal_would_act_on_is_left() {
        assert_eq!(harmless(b"plain \xc3\xa9\r\n", 80), "plain é");
        assert_eq!(harmless(b"a\x1b[2Jb\x07\x00c\xff", 80), "a?[2Jb??c?");
        assert_eq!(harmless("a\u{9b}31mb\u{202e}c".as_bytes(), 80), "a?31mb?c");
        assert_eq!(harmless(b"0123456789", 4), "0123...");
        assert_eq!(harmless(b"0123", 4), "0123");
    }
}
