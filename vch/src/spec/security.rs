//! Capabilities, privileges, devices, seccomp: the options of [`crate::options::security`].

use std::fs;

use anyhow::{Context, Result, bail, ensure};
use protocol::oci::{CAPABILITIES, DeviceRule, Seccomp, Spec};
use protocol::{GuestDevice, MachineSpec};

use crate::defaults;
use crate::options::security::Security;
use crate::seccomp::profile;

/// What `--security-opt` says.
#[derive(Debug, Default)]
struct Words {
    /// `unconfined`, `builtin`, or a file.
    seccomp: Option<String>,
    no_new_privileges: bool,
    bare_system_paths: bool,
    apparmor: Option<String>,
}

/// Applies the options.
///
/// # Errors
/// One of them means nothing, or cannot be had.
pub fn apply(machine: &mut MachineSpec, options: &Security) -> Result<()> {
    let words = words(&options.security_opt)?;
    let names = capabilities(options)?;
    machine.groups.clone_from(&options.group_add);
    machine.devices = options.device.iter().map(|text| device(text)).collect::<Result<_>>()?;
    let config = &mut machine.config;
    config.linux.resources.devices =
        vec![DeviceRule { allow: false, access: Some("rwm".to_owned()), ..DeviceRule::default() }];
    if options.privileged {
        unlock(config);
        let all = GuestDevice {
            source: "/dev".to_owned(),
            destination: "/dev".to_owned(),
            access: "rwm".to_owned(),
        };
        machine.devices.insert(0, all);
    }
    if words.bare_system_paths {
        config.linux.masked_paths.clear();
        config.linux.readonly_paths.clear();
    }
    config.process.no_new_privileges = words.no_new_privileges;
    config.process.apparmor_profile = words.apparmor;
    config.linux.seccomp = seccomp(words.seccomp.as_deref(), options.privileged, &names)?;
    config.process.capabilities = Some(defaults::capabilities(&names));
    Ok(())
}

/// `--privileged`: nothing is denied, hidden or read-only.
fn unlock(config: &mut Spec) {
    config.linux.masked_paths.clear();
    config.linux.readonly_paths.clear();
    config.linux.resources.devices.clear();
    for mount in config.mounts.iter_mut().filter(|mount| ["sysfs", "cgroup"].contains(&mount.kind.as_str())) {
        mount.options.retain(|option| option != "ro");
    }
}

/// By docker's rules: ALL added is all but the dropped; ALL dropped is the added alone.
fn capabilities(options: &Security) -> Result<Vec<String>> {
    let all = || CAPABILITIES.iter().map(|name| (*name).to_owned());
    let added = normal(&options.cap_add, "--cap-add")?;
    let dropped = normal(&options.cap_drop, "--cap-drop")?;
    let has_all = |names: &[String]| names.iter().any(|name| name == "ALL");
    let kept = |name: &String| !dropped.contains(name);
    Ok(if options.privileged {
        all().collect()
    } else if has_all(&added) {
        all().filter(kept).collect()
    } else if has_all(&dropped) {
        added
    } else {
        let mut names: Vec<String> =
            defaults::CAPABILITIES.iter().map(|name| (*name).to_owned()).filter(kept).collect();
        names.extend(added.into_iter().filter(|name| !defaults::CAPABILITIES.contains(&name.as_str())));
        names
    })
}

fn normal(names: &[String], option: &str) -> Result<Vec<String>> {
    let normal = |name: &String| {
        let upper = name.trim().to_ascii_uppercase();
        let full = if upper.starts_with("CAP_") { upper.clone() } else { format!("CAP_{upper}") };
        match upper.as_str() {
            "ALL" => Ok(upper),
            _ if CAPABILITIES.contains(&full.as_str()) => Ok(full),
            _ => bail!("{option}: there is no capability named {name:?}"),
        }
    };
    names.iter().map(normal).collect()
}

/// `PATH[:PATH][:rwm]`: the machine's path, the container's, what may be done.
fn device(text: &str) -> Result<GuestDevice> {
    let is_access = |text: &str| !text.is_empty() && text.bytes().all(|byte| b"rwm".contains(&byte));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, destination, access) = match parts[..] {
        [source] => (source, source, "rwm"),
        [source, access] if is_access(access) => (source, source, access),
        [source, destination] => (source, destination, "rwm"),
        [source, destination, access] if is_access(access) => (source, destination, access),
        _ => bail!("--device {text:?} is not PATH[:PATH][:rwm]"),
    };
    ensure!(
        source.starts_with("/dev/") && destination.starts_with('/'),
        "--device {text:?}: a device of the VM is below /dev, and in the container at an absolute path"
    );
    let [source, destination, access] = [source, destination, access].map(str::to_owned);
    Ok(GuestDevice { source, destination, access })
}

fn words(options: &[String]) -> Result<Words> {
    let mut words = Words::default();
    for option in options {
        let refused = |why: &str| bail!("--security-opt {option}: {why}");
        // The colon is docker's old form.
        match option.split_once(['=', ':']).unwrap_or((option, "")) {
            ("seccomp", value) if !value.is_empty() => words.seccomp = Some(value.to_owned()),
            ("no-new-privileges", value) => {
                words.no_new_privileges = match value {
                    "" | "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return refused("true or false"),
                }
            }
            ("systempaths", "unconfined") => words.bare_system_paths = true,
            ("apparmor", value) if !value.is_empty() => words.apparmor = Some(value.to_owned()),
            ("label", "disable") => {}
            ("label", _) => return refused("not supported: the guest's kernel runs without SELinux"),
            _ => {
                return refused(
                    "not supported: seccomp=FILE|builtin|unconfined, no-new-privileges[=BOOL], systempaths=unconfined, \
                     apparmor=PROFILE and label=disable are",
                );
            }
        }
    }
    Ok(words)
}

/// The filter: docker's own if nothing is said, none for the privileged.
fn seccomp(said: Option<&str>, privileged: bool, capabilities: &[String]) -> Result<Option<Seccomp>> {
    match said {
        Some("unconfined") => Ok(None),
        None if privileged => Ok(None),
        None | Some("builtin") => profile::default(capabilities).map(Some),
        Some(path) => {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read seccomp={path}"))?;
            profile::parse(&text, capabilities).map(Some).with_context(|| format!("seccomp={path}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    fn capable(add: &[&str], drop: &[&str], privileged: bool) -> Result<Vec<String>> {
        let (cap_add, cap_drop) = (texts(add), texts(drop));
        capabilities(&Security { cap_add, cap_drop, privileged, ..Security::default() })
    }

    #[test]
    fn dockers_rules_of_capabilities() {
        let count = |add: &[&str], drop: &[&str], privileged| capable(add, drop, privileged).unwrap().len();
        assert_eq!(count(&[], &[], false), 14);
        assert_eq!(count(&["net_admin", "CAP_CHOWN"], &[], false), 15);
        assert_eq!(count(&["NET_ADMIN"], &["cap_chown", "sys_time"], false), 14);
        assert_eq!(count(&["ALL"], &["chown", "mknod"], false), 39);
        assert_eq!(count(&[], &["all"], true), 41);
        assert_eq!(capable(&["kill"], &["ALL"], false).unwrap(), ["CAP_KILL"]);
        for (add, drop) in [(&["FLY"][..], &[][..]), (&[], &["CAP_"]), (&[""], &[])] {
            let error = capable(add, drop, false).unwrap_err().to_string();
            assert!(error.contains("there is no capability named"), "{error}");
        }
    }

    #[test]
    fn devices() {
        let parts = |text: &str| {
            device(text)
                .map(|GuestDevice { source, destination, access }| [source, destination, access].join(" "))
        };
        for (text, wanted) in [
            ("/dev/vda", "/dev/vda /dev/vda rwm"),
            ("/dev/vda:r", "/dev/vda /dev/vda r"),
            ("/dev/vda:/dev/x", "/dev/vda /dev/x rwm"),
            ("/dev/vda:/x:rw", "/dev/vda /x rw"),
        ] {
            assert_eq!(parts(text).unwrap(), wanted);
        }
        for bad in [
            "",
            "/etc/passwd",
            "vda",
            "/dev/vda:x",
            "/dev/vda:/x:z",
            "/dev/vda:/x:",
            "/dev/vda:/x:r:w",
            "/dev/vda:x:r",
        ] {
            assert!(parts(bad).is_err_and(|error| error.to_string().contains("--device")), "{bad}");
        }
    }

    #[test]
    fn words_of_security() {
        let said =
            words(&texts(&["no-new-privileges:true", "seccomp:/x", "systempaths=unconfined", "apparmor=a"]))
                .unwrap();
        assert!(said.no_new_privileges && said.bare_system_paths);
        assert_eq!((said.seccomp.as_deref(), said.apparmor.as_deref()), (Some("/x"), Some("a")));
        assert!(!words(&texts(&["no-new-privileges", "no-new-privileges=false"])).unwrap().no_new_privileges);
        for bad in [
            "",
            "seccomp",
            "seccomp=",
            "no-new-privileges=perhaps",
            "systempaths=x",
            "label=type:x",
            "unknown=1",
        ] {
            let error = words(&texts(&[bad])).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--security-opt {bad}")), "{error}");
        }
    }

    #[test]
    fn filters() {
        let compiled = |said, privileged| seccomp(said, privileged, &[]).unwrap().is_some();
        assert!(compiled(None, false) && compiled(Some("builtin"), true));
        assert!(!compiled(None, true) && !compiled(Some("unconfined"), false));
        let error = format!("{:#}", seccomp(Some("/no/such/file"), false, &[]).unwrap_err());
        assert!(error.contains("/no/such/file"), "{error}");
    }
}
