//! The platform an image is for (image-spec, image-index.md, "platform").

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use oci_spec::image::{Arch, Os};

/// Operating system, architecture and, where it matters, variant. Shown and parsed as docker's `--platform` has them:
/// `linux/amd64`, `linux/arm64/v8`; an architecture alone is one of Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`
    pub os: Os,
    /// `amd64`, `arm64`, ... (Go's GOARCH)
    pub architecture: Arch,
    /// `v7`, `v8`; none matches any.
    pub variant: Option<String>,
}

impl Default for Platform {
    /// What our virtual machines are: linux/amd64.
    fn default() -> Self {
        Self { os: Os::Linux, architecture: Arch::Amd64, variant: None }
    }
}

impl Platform {
    /// Whether something for `os`, `architecture` and `variant` will do. A variant counts only where both name one.
    pub fn accepts(&self, os: &Os, architecture: &Arch, variant: Option<&str>) -> bool {
        let variants = self.variant.as_deref().zip(variant);
        &self.os == os && &self.architecture == architecture && variants.is_none_or(|(a, b)| a == b)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let (os, architecture, variant) = match parts[..] {
            [architecture] => ("linux", architecture, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => bail!("{text:?} is not a platform (linux/amd64, linux/arm64/v8)"),
        };
        let architecture = match architecture {
            // uname's names, which docker takes too.
            "x86_64" | "x86-64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        if os.is_empty() || architecture.is_empty() || variant == Some("") {
            bail!("{text:?} is not a platform (linux/amd64, linux/arm64/v8)");
        }
        Ok(Self { os: os.into(), architecture: architecture.into(), variant: variant.map(str::to_owned) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_is_dockers() {
        for (text, shown) in [
            ("linux/amd64", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/aarch64/v8", "linux/arm64/v8"),
            ("x86_64", "linux/amd64"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), shown);
        }
        for bad in ["", "/", "linux/", "linux/arm64/", "a/b/c/d"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_variant_counts_where_both_name_one() {
        let v7: Platform = "linux/arm/v7".parse().unwrap();
        assert!(v7.accepts(&Os::Linux, &Arch::ARM, Some("v7")));
        assert!(v7.accepts(&Os::Linux, &Arch::ARM, None));
        assert!(!v7.accepts(&Os::Linux, &Arch::ARM, Some("v6")));
        assert!(!v7.accepts(&Os::Linux, &Arch::ARM64, Some("v7")));
    }
}
