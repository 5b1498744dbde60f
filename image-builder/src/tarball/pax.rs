//! PAX extended headers (POSIX.1-2017, `pax`, "pax Extended Header"): records `LENGTH KEY=VALUE\n`.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};

use super::sparse::PaxSparse;
use super::{Mtime, Xattr, quoted};

/// What a PAX header says about the entry after it. `None` leaves the tar header's value.
#[derive(Default)]
pub struct Pax {
    pub path: Option<Vec<u8>>,
    pub linkpath: Option<Vec<u8>>,
    pub size: Option<i64>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub mtime: Option<Mtime>,
    pub xattrs: Vec<Xattr>,
    pub sparse: Option<PaxSparse>,
}

impl Pax {
    /// Parses a local (`x`) header. A key given twice: the last one counts; an empty value: the tar header's own.
    pub fn parse(data: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        each_record(data, |key, value| pax.apply(key, value))?;
        pax.drop_repeated_xattrs();
        Ok(pax)
    }

    fn apply(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            self.xattrs.push(Xattr { name: name.to_vec(), value: value.to_vec() });
            return Ok(());
        }
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.get_or_insert_default().apply(key, value);
        }
        let some = !value.is_empty();
        match key {
            b"path" => self.path = some.then(|| value.to_vec()),
            b"linkpath" => self.linkpath = some.then(|| value.to_vec()),
            b"size" => self.size = some.then(|| integer(key, value)).transpose()?,
            b"uid" => self.uid = some.then(|| integer(key, value)).transpose()?,
            b"gid" => self.gid = some.then(|| integer(key, value)).transpose()?,
            b"mtime" => self.mtime = some.then(|| seconds(value)).transpose()?,
            _ => {} // names, access times, comments: nothing that a filesystem image holds
        }
        Ok(())
    }

    /// Once, at the end: looking for each among those before it takes seconds for every header made to harm.
    fn drop_repeated_xattrs(&mut self) {
        let mut seen = BTreeSet::new();
        self.xattrs.reverse();
        self.xattrs.retain(|xattr| seen.insert(xattr.name.clone()));
        self.xattrs.reverse();
    }
}

/// Checks a global (`g`) header. Go's reader ignores all of it and GNU tar applies it to all entries that follow, so a
/// header that would make a difference is refused; a comment (`git archive` writes one) is fine.
pub fn check_global(data: &[u8]) -> Result<()> {
    each_record(data, |key, _| match key {
        b"path" | b"linkpath" | b"size" | b"uid" | b"gid" | b"mtime" => refuse_global(key),
        _ if key.starts_with(b"GNU.sparse.") || key.starts_with(b"SCHILY.xattr.") => refuse_global(key),
        _ => Ok(()),
    })
}

fn refuse_global(key: &[u8]) -> Result<()> {
    bail!("a global PAX header with {} is not supported", key.escape_ascii())
}

fn each_record(mut data: &[u8], mut record: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
    while !data.is_empty() {
        let (key, value, rest) = split_record(data).context("malformed PAX header")?;
        record(key, value)?;
        data = rest;
    }
    Ok(())
}

/// The first record's key and value, and the data after it.
fn split_record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|&b| b == b' ')?;
    let length: usize = digits(&data[..space])?.try_into().ok()?;
    let record = data.get(space + 1..length)?;
    let (&newline, record) = record.split_last()?;
    let equals = record.iter().position(|&b| b == b'=')?;
    (newline == b'\n' && equals > 0).then(|| (&record[..equals], &record[equals + 1..], &data[length..]))
}

fn integer(key: &[u8], value: &[u8]) -> Result<i64> {
    let number = match value.strip_prefix(b"-") {
        Some(rest) => digits(rest).map(|n| -n),
        None => digits(value),
    };
    number.with_context(|| format!("malformed PAX {} {}", key.escape_ascii(), quoted(value)))
}

fn digits(text: &[u8]) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0i64, |value, b| match b {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

/// A time as PAX writes it: `-1.25` is a second and a quarter before 1970; digits beyond nanoseconds are cut.
fn seconds(value: &[u8]) -> Result<Mtime> {
    parse_seconds(value).with_context(|| format!("malformed PAX mtime {}", quoted(value)))
}

fn parse_seconds(value: &[u8]) -> Option<Mtime> {
    let negative = value.starts_with(b"-");
    let value = if negative { &value[1..] } else { value };
    let dot = value.iter().position(|&b| b == b'.').unwrap_or(value.len());
    let whole = digits(&value[..dot])?;
    let fraction = value.get(dot + 1..).unwrap_or(b"");
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0u32, |n, i| n * 10 + u32::from(fraction.get(i).map_or(0, |b| b - b'0')));
    // Seconds since 1970 and nanoseconds *after* them: -1.25 is -2 s + 750 ms.
    Some(match (negative, nanos) {
        (false, _) => Mtime { seconds: whole, nanos },
        (true, 0) => Mtime { seconds: -whole, nanos },
        (true, _) => Mtime { seconds: -whole - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let table: &[(&str, Option<(i64, u32)>)] = &[
            ("0", Some((0, 0))),
            ("1700000000.123456789", Some((1_700_000_000, 123_456_789))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("5.", Some((5, 0))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.000000001", Some((-1, 999_999_999))),
            ("", None),
            (".5", None),
            ("1.x", None),
            ("9223372036854775808", None),
            ("-9223372036854775807.5", Some((i64::MIN, 500_000_000))),
        ];
        for (text, want) in table {
            let got = parse_seconds(text.as_bytes()).map(|m| (m.seconds, m.nanos));
            assert_eq!(got, *want, "{text:?}");
        }
    }

    #[test]
    fn records() {
        let pax = Pax::parse(b"12 path=a=b\n12 uid=1000\n12 uid=1001\n25 SCHILY.xattr.user.a=\n\n").unwrap();
        assert_eq!(pax.path.unwrap(), b"a=b");
        assert_eq!(pax.uid, Some(1001));
        assert_eq!((&pax.xattrs[0].name[..], &pax.xattrs[0].value[..]), (&b"user.a"[..], &b"\n"[..]));
        assert!(Pax::parse(b"").unwrap().path.is_none());
        assert!(Pax::parse(b"8 path=\n").unwrap().path.is_none());
        let bad: [&[u8]; 9] = [
            b"x",
            b"99 path=a\n",
            b"0 path=a\n",
            b"3 path=a\n",
            b"9 path=a\n\0",
            b"10 path=ab",
            b"4 =\n",
            b"99999999999999999999 path=a\n",
            b"14 size=1e99z\n",
        ];
        for bytes in bad {
            assert!(Pax::parse(bytes).is_err(), "{:?}", bytes.escape_ascii().to_string());
        }
    }
}
