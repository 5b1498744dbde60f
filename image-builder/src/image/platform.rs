//! The platform an image is for (image-spec, image-index.md, "platform").

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use oci_spec::image::{Arch, ImageConfiguration, Os};

/// Operating system, architecture and, where it matters, variant. Shown and parsed as docker's `--platform` has them:
/// `linux/amd64`, `linux/arm64/v8`; an architecture alone is one of Linux.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// `linux`
    pub os: Os,
    /// `amd64`, `arm64`, ... (Go's GOARCH)
    pub architecture: Arch,
    /// `v7`, `v8`; none is the architecture's usual one.
    pub variant: Option<String>,
}

impl Default for Platform {
    /// What our virtual machines are: linux/amd64.
    fn default() -> Self {
        Self { os: Os::Linux, architecture: Arch::Amd64, variant: None }
    }
}

impl Platform {
    /// How well something for `os`, `architecture` and `variant` will do, 0 best; none: not at all. A CPU runs what was
    /// made for the versions before its own (containerd/platforms, `Only`), so the nearest is chosen.
    pub fn rank(&self, os: &Os, architecture: &Arch, variant: Option<&str>) -> Option<u32> {
        let version = |variant| version(architecture, variant);
        if &self.os != os || &self.architecture != architecture {
            return None;
        }
        match (version(self.variant.as_deref()), version(variant)) {
            (Some(ours), Some(theirs)) => ours.checked_sub(theirs),
            // A variant that we know nothing of is itself alone.
            _ => (self.variant.as_deref() == variant).then_some(0),
        }
    }

    /// Whether an image with this config will do. Configs often leave out the variant that an index names.
    pub fn accepts_config(&self, config: &ImageConfiguration) -> bool {
        let variant = config.variant().as_deref().or(self.variant.as_deref());
        self.accepts(config.os(), config.architecture(), variant)
    }

    /// Whether something for `os`, `architecture` and `variant` will do.
    pub fn accepts(&self, os: &Os, architecture: &Arch, variant: Option<&str>) -> bool {
        self.rank(os, architecture, variant).is_some()
    }
}

/// `linux/arm64/v8`, for messages: what an image says must not command a terminal.
pub fn shown(os: &Os, architecture: &Arch, variant: Option<&str>) -> String {
    let variant = variant.map_or(String::new(), |variant| format!("/{variant}"));
    format!("{os}/{architecture}{variant}").escape_debug().to_string()
}

/// A variant as a number that grows with what the CPU can do; without one, the architecture's usual version is meant.
fn version(architecture: &Arch, variant: Option<&str>) -> Option<u32> {
    let usual = match architecture {
        Arch::Amd64 => "1",
        Arch::ARM => "7",
        Arch::ARM64 => "8",
        _ => return None,
    };
    let variant = variant.filter(|v| !v.is_empty()).map_or(usual, |v| v.strip_prefix('v').unwrap_or(v));
    let (major, minor) = variant.split_once('.').unwrap_or((variant, "0"));
    match (architecture, major.parse().ok()?, u32::from(minor.parse::<u8>().ok()?)) {
        (Arch::Amd64, major @ 1..=4, 0) | (Arch::ARM, major @ 5..=8, 0) => Some(major),
        (Arch::ARM64, 8, minor) => Some(minor),
        // v9.0 has what v8.5 has.
        (Arch::ARM64, 9, minor) => Some(minor + 5),
        _ => None,
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

    /// The lists are those that containerd/platforms makes for `Only`.
    #[test]
    fn the_nearest_variant_that_the_cpu_can_run_is_best() {
        for (platform, best_first, never) in [
            ("amd64", &["amd64", "amd64/v1"][..], &["amd64/v2", "386", "arm64"][..]),
            ("amd64/v3", &["amd64/v3", "amd64/v2", "amd64"], &["amd64/v4", "amd64/v9", "amd64/x"]),
            ("arm", &["arm/v7", "arm/v6", "arm/v5"], &["arm/v8", "arm64"]),
            ("arm/v6", &["arm/v6", "arm/v5"], &["arm", "arm/v7"]),
            ("arm64", &["arm64/v8"], &["arm64/v8.1", "arm64/v9", "arm/v7"]),
            ("arm64/v9", &["arm64/v9", "arm64/v8.5", "arm64/8.4", "arm64"], &["arm64/v9.1", "arm64/v8.6"]),
            ("riscv64", &["riscv64"], &["riscv64/rva23"]),
            ("ppc64le/power9", &["ppc64le/power9"], &["ppc64le", "ppc64le/power8"]),
        ] {
            let parse = |text: &&str| format!("linux/{text}").parse::<Platform>().unwrap();
            let ours = parse(&platform);
            let rank = |p: Platform| ours.rank(&p.os, &p.architecture, p.variant.as_deref());
            let ranks: Vec<_> = best_first.iter().map(parse).map(|p| rank(p).expect(platform)).collect();
            assert!(ranks.is_sorted() && ranks[0] == 0, "{platform}: {ranks:?}");
            for other in never {
                assert_eq!(rank(parse(other)), None, "{other} for {platform}");
            }
        }
        assert!(!Platform::default().accepts(&Os::Windows, &Arch::Amd64, None));
    }
}
