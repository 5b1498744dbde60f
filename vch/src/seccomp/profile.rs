//! Docker's seccomp profiles: OCI's `linux.seccomp` with rules for some capabilities, architectures, kernels only, which are
//! decided here.
//!
//! `default.json` is docker's own profile: the data of <https://github.com/moby/profiles>, `seccomp/default.json` at commit
//! 02e898b137ae, without the rules that are about other architectures.

use anyhow::{Context, Result, bail};
use protocol::oci::{Action, Argument, Seccomp, Syscalls};
use serde::Deserialize;

/// The architecture, in the profile's words and in libseccomp's.
const NATIVE: &str = "amd64";
const NATIVE_SECCOMP: &str = "SCMP_ARCH_X86_64";

/// The oldest kernel that a containerVM is booted with: what `minKernel` is compared with.
const KERNEL: (u32, u32) = (6, 1);

/// A profile, as `--security-opt seccomp=FILE` takes it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Profile {
    default_action: Action,
    #[serde(default)]
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<String>>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ArchMap {
    architecture: String,
    #[serde(default)]
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    names: Option<Vec<String>>,
    action: Action,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default, rename = "comment")]
    _comment: Option<String>,
    #[serde(default)]
    includes: Option<Conditions>,
    #[serde(default)]
    excludes: Option<Conditions>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Conditions {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    #[serde(default)]
    min_kernel: Option<String>,
}

impl Conditions {
    /// What holds of them, one by one.
    fn hold(&self, capabilities: &[String]) -> Result<Vec<bool>> {
        let mut hold: Vec<bool> =
            self.caps.iter().flatten().map(|capability| capabilities.contains(capability)).collect();
        if let Some(arches) = self.arches.as_ref().filter(|arches| !arches.is_empty()) {
            hold.push(arches.iter().any(|arch| arch == NATIVE));
        }
        if let Some(version) = &self.min_kernel {
            let numbers = version.split_once('.').and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            let numbers: (u32, u32) =
                numbers.with_context(|| format!("minKernel {version:?} is no version such as 4.8"))?;
            hold.push(KERNEL >= numbers);
        }
        Ok(hold)
    }
}

/// Docker's own profile, for a process with these capabilities in its bounding set.
///
/// # Errors
/// None: it is ours.
pub fn default(capabilities: &[String]) -> Result<Seccomp> {
    parse(include_str!("default.json"), capabilities)
}

/// The profile in `text`, for a process with these capabilities in its bounding set.
///
/// # Errors
/// It is none.
pub fn parse(text: &str, capabilities: &[String]) -> Result<Seccomp> {
    let profile: Profile = serde_json::from_str(text)?;
    let listed = profile.architectures.unwrap_or_default();
    let mapped = profile.arch_map.unwrap_or_default();
    if !listed.is_empty() && !mapped.is_empty() {
        bail!("it has both architectures and archMap");
    }
    let native = mapped.into_iter().find(|map| map.architecture == NATIVE_SECCOMP);
    let native = native.map(|map| {
        let mut all = vec![map.architecture];
        all.extend(map.sub_architectures.unwrap_or_default());
        all
    });
    let mut syscalls = vec![];
    for (index, rule) in profile.syscalls.into_iter().flatten().enumerate() {
        let rule = rule.applies(capabilities).with_context(|| format!("syscalls[{index}]"))?;
        syscalls.extend(rule);
    }
    Ok(Seccomp {
        default_action: profile.default_action,
        default_errno_ret: profile.default_errno_ret,
        architectures: native.unwrap_or(listed),
        flags: profile.flags,
        syscalls,
    })
}

impl Rule {
    fn applies(self, capabilities: &[String]) -> Result<Option<Syscalls>> {
        if let Some(excludes) = &self.excludes
            && excludes.hold(capabilities)?.contains(&true)
        {
            return Ok(None);
        }
        if let Some(includes) = &self.includes
            && includes.hold(capabilities)?.contains(&false)
        {
            return Ok(None);
        }
        let mut names = self.names.unwrap_or_default();
        match self.name {
            Some(_) if !names.is_empty() => bail!("it has both name and names"),
            name => names.extend(name),
        }
        let args = self.args.unwrap_or_default();
        Ok(Some(Syscalls { names, action: self.action, errno_ret: self.errno_ret, args }))
    }
}
