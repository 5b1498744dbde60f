//! Files of lines, and labels: the options of [`crate::options::process`].

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use oci_spec::image::Config;

/// The lines of files, without comments and empty ones, as docker reads them (`cli/opts/file.go`).
///
/// # Errors
/// A file cannot be read, or a line has no name.
pub fn lines(files: &[PathBuf], option: &str) -> Result<Vec<String>> {
    let mut all = vec![];
    for file in files {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {option} {}", file.display()))?;
        for line in text.strip_prefix('\u{feff}').unwrap_or(&text).lines() {
            all.extend(entry(line).with_context(|| format!("{option} {}", file.display()))?);
        }
    }
    Ok(all)
}

fn entry(line: &str) -> Result<Option<String>> {
    let line = line.trim_start();
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    match line.split_once('=').unwrap_or((line.trim_end(), "")).0 {
        "" => bail!("{line:?} has no name"),
        name if name.contains(char::is_whitespace) => bail!("{name:?} has a space in its name"),
        name if !line.contains('=') => Ok(Some(name.to_owned())),
        _ => Ok(Some(line.to_owned())),
    }
}

/// The image's labels, and over them the files' and the options'.
///
/// # Errors
/// A file cannot be read, or a label has no name.
pub fn labels(image: &Config, files: &[PathBuf], options: &[String]) -> Result<BTreeMap<String, String>> {
    let mut labels: BTreeMap<_, _> =
        image.labels().iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect();
    for entry in lines(files, "--label-file")?.iter().chain(options) {
        match entry.split_once('=').unwrap_or((entry, "")) {
            ("", _) => bail!("--label {entry:?} has no name"),
            (name, value) => labels.insert(name.to_owned(), value.to_owned()),
        };
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &std::path::Path, text: &str) -> PathBuf {
        let path = dir.join("lines");
        fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn files_of_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = write(dir.path(), "\u{feff}A=1\n# no\n\n  B=x y # z\nC\nD=\r\n");
        assert_eq!(lines(&[file], "--env-file").unwrap(), ["A=1", "B=x y # z", "C", "D="]);
        for bad in ["=x", "A B=1", "A B"] {
            let error = lines(&[write(dir.path(), bad)], "--env-file").unwrap_err();
            assert!(format!("{error:#}").contains("--env-file"), "{bad}");
        }
        assert!(lines(&[dir.path().join("none")], "--env-file").is_err());
    }
}
