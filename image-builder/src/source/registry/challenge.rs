//! The header `WWW-Authenticate` (RFC 9110, section 11.6.1; distribution-spec's token authentication).

/// One way of authentication that a registry offers.
#[derive(Debug, PartialEq, Eq)]
pub struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub scheme: String,
    /// Names in lower case.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The first parameter of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// The challenges of one header, which may hold several. What is malformed is passed over: the rest may still serve.
pub fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = rest.split_at(rest.find(|c| !is_token(c)).unwrap_or(rest.len()));
        if word.is_empty() {
            // Not where a name can start: go on behind the next comma.
            let Some((_, behind)) = rest.split_once(',') else { return challenges };
            rest = behind;
            continue;
        }
        let name = word.to_ascii_lowercase();
        match (after.trim_start_matches([' ', '\t']).strip_prefix('='), challenges.last_mut()) {
            (Some(value), Some(challenge)) => {
                let (value, behind) = read_value(value.trim_start_matches([' ', '\t']));
                challenge.parameters.push((name, value));
                rest = behind;
            }
            // A parameter of no scheme.
            (Some(value), None) => rest = value,
            (None, _) => {
                challenges.push(Challenge { scheme: name, parameters: Vec::new() });
                rest = after;
            }
        }
    }
}

/// A token or a quoted string, and what stands behind it.
fn read_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c| !is_token(c)).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[place + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

/// RFC 9110, section 5.6.2; and `/` and `:`, which some servers leave unquoted.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~/:".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(header: &str) -> String {
        let show = |c: &Challenge| format!("{}{:?}", c.scheme, c.parameters);
        parse(header).iter().map(show).collect::<Vec<_>>().join(" ").replace("\", \"", "=").replace('"', "")
    }

    #[test]
    fn challenges_as_servers_write_them() {
        for (header, expected) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:x/y:pull,push""#,
                "bearer[(realm=https://auth.docker.io/token), (service=registry.docker.io), (scope=repository:x/y:pull,push)]",
            ),
            (
                r#"Basic realm="a \"b\" \\c", Bearer realm=https://h/t , scope = "x""#,
                r#"basic[(realm=a \b\ \\c)] bearer[(realm=https://h/t), (scope=x)]"#,
            ),
            ("BASIC", "basic[]"),
            ("Negotiate, Basic realm=x", "negotiate[] basic[(realm=x)]"),
            ("Bearer error=\"invalid_token\",realm=\"r\"", "bearer[(error=invalid_token), (realm=r)]"),
            ("", ""),
            (",,, ,", ""),
            ("=x", ""),
            ("Bearer realm=\"unclosed", "bearer[(realm=unclosed)]"),
            ("Bearer realm=\"x\\", "bearer[(realm=x)]"),
            ("Bearer realm=", "bearer[(realm=)]"),
            ("Bearer \u{e9}=1, realm=\"\u{e9}\"", "bearer[(realm=\u{e9})]"),
        ] {
            assert_eq!(shown(header), expected, "{header:?}");
        }
    }

    #[test]
    fn any_damage_ends() {
        let good = r#"Bearer realm="https://h/t",service="s",scope="r:x:pull", Basic realm="é\"""#;
        for (place, _) in good.char_indices() {
            for inserted in ["\"", "=", ",", "\\", " ", "\u{0}", "é"] {
                parse(&format!("{}{inserted}{}", &good[..place], &good[place..]));
            }
            parse(&good[..place]);
        }
    }
}
