//! The option strings of `mounts[]`, sorted into what the kernel takes. The names are runc's (libcontainer,
//! `specconv/spec_linux.go`) and mount(8)'s.

use nix::mount::MsFlags;

/// Options that are flags of mount(2): what they set, and what they clear. With an `r` before the name, those that
/// `attribute` knows go to all mounts below, too.
const FLAGS: [(&str, MsFlags, MsFlags); 35] = {
    const NONE: MsFlags = MsFlags::empty();
    [
        ("defaults", NONE, NONE),
        ("ro", MsFlags::MS_RDONLY, NONE),
        ("rw", NONE, MsFlags::MS_RDONLY),
        ("nosuid", MsFlags::MS_NOSUID, NONE),
        ("suid", NONE, MsFlags::MS_NOSUID),
        ("nodev", MsFlags::MS_NODEV, NONE),
        ("dev", NONE, MsFlags::MS_NODEV),
        ("noexec", MsFlags::MS_NOEXEC, NONE),
        ("exec", NONE, MsFlags::MS_NOEXEC),
        ("sync", MsFlags::MS_SYNCHRONOUS, NONE),
        ("async", NONE, MsFlags::MS_SYNCHRONOUS),
        ("dirsync", MsFlags::MS_DIRSYNC, NONE),
        ("noatime", MsFlags::MS_NOATIME, ATIME),
        ("atime", NONE, MsFlags::MS_NOATIME),
        ("relatime", MsFlags::MS_RELATIME, ATIME),
        ("norelatime", NONE, MsFlags::MS_RELATIME),
        ("strictatime", MsFlags::MS_STRICTATIME, ATIME),
        ("nostrictatime", NONE, MsFlags::MS_STRICTATIME),
        ("nodiratime", MsFlags::MS_NODIRATIME, NONE),
        ("diratime", NONE, MsFlags::MS_NODIRATIME),
        ("nosymfollow", NO_SYMLINKS, NONE),
        ("symfollow", NONE, NO_SYMLINKS),
        ("lazytime", MsFlags::MS_LAZYTIME, NONE),
        ("nolazytime", NONE, MsFlags::MS_LAZYTIME),
        ("acl", MsFlags::MS_POSIXACL, NONE),
        ("noacl", NONE, MsFlags::MS_POSIXACL),
        ("iversion", MsFlags::MS_I_VERSION, NONE),
        ("noiversion", NONE, MsFlags::MS_I_VERSION),
        ("mand", MsFlags::MS_MANDLOCK, NONE),
        ("nomand", NONE, MsFlags::MS_MANDLOCK),
        ("silent", MsFlags::MS_SILENT, NONE),
        ("loud", NONE, MsFlags::MS_SILENT),
        ("remount", MsFlags::MS_REMOUNT, NONE),
        ("bind", MsFlags::MS_BIND, NONE),
        ("rbind", MsFlags::MS_BIND.union(MsFlags::MS_REC), NONE),
    ]
};

const ATIME: MsFlags = MsFlags::MS_NOATIME.union(MsFlags::MS_RELATIME).union(MsFlags::MS_STRICTATIME);
/// `MS_NOSYMFOLLOW`, which nix does not know.
const NO_SYMLINKS: MsFlags = MsFlags::from_bits_retain(256);

/// Options about the propagation of mounts between namespaces, mount_namespaces(7).
const PROPAGATION: [(&str, MsFlags); 4] = [
    ("private", MsFlags::MS_PRIVATE),
    ("shared", MsFlags::MS_SHARED),
    ("slave", MsFlags::MS_SLAVE),
    ("unbindable", MsFlags::MS_UNBINDABLE),
];

/// What is known of runc's, and not supported.
const REFUSED: [&str; 2] = ["idmap", "ridmap"];

/// Mount options, sorted.
#[derive(Debug, PartialEq)]
pub struct Options {
    /// Of mount(2).
    pub flags: MsFlags,
    /// Those that were taken away.
    pub cleared: MsFlags,
    /// To be set after the mount, one by one.
    pub propagation: Vec<MsFlags>,
    /// Whether a tmpfs begins with what was at its place.
    pub copy_up: bool,
    /// What the mount and all below it get.
    pub recursive: Attributes,
    /// The filesystem's own, with commas.
    pub data: String,
}

/// What mount_setattr(2) sets and clears: `MOUNT_ATTR_*`.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Attributes {
    /// Set.
    pub set: u64,
    /// Cleared before.
    pub clear: u64,
}

impl Attributes {
    /// These flags of mount(2), or none if one of them is no attribute of a mount.
    pub fn of(set: MsFlags, clear: MsFlags) -> Option<Self> {
        const CHOICE: u64 = 0x70; // MOUNT_ATTR__ATIME, a field of two bits
        const ALL: [(MsFlags, u64); 7] = [
            (MsFlags::MS_RDONLY, 1),
            (MsFlags::MS_NOSUID, 2),
            (MsFlags::MS_NODEV, 4),
            (MsFlags::MS_NOEXEC, 8),
            (MsFlags::MS_NODIRATIME, 0x80),
            (NO_SYMLINKS, 0x20_0000),
            (ATIME, 0),
        ];
        let known = ALL.iter().fold(MsFlags::empty(), |all, (flag, _)| all.union(*flag));
        if !known.contains(set.union(clear)) {
            return None;
        }
        let bits = |flags: MsFlags| {
            ALL.iter().filter(|(flag, _)| flags.contains(*flag)).fold(0, |bits, (_, bit)| bits | bit)
        };
        let mut attributes = Self { set: bits(set), clear: bits(clear) };
        if set.union(clear).intersects(ATIME) {
            attributes.clear |= CHOICE;
        }
        if set.contains(MsFlags::MS_NOATIME) {
            attributes.set |= 0x10;
        } else if set.contains(MsFlags::MS_STRICTATIME) {
            attributes.set |= 0x20;
        }
        Some(attributes)
    }

    fn and(self, later: Self) -> Self {
        Self { set: self.set & !later.clear | later.set, clear: self.clear | later.clear | later.set }
    }
}

/// Sorts options; or gives the one that is not supported.
pub fn parse(options: &[String]) -> Result<Options, &str> {
    let (flags, cleared) = (MsFlags::empty(), MsFlags::empty());
    let mut parsed = Options {
        flags,
        cleared,
        propagation: vec![],
        copy_up: false,
        recursive: Attributes::default(),
        data: String::new(),
    };
    let flag = |option: &str| FLAGS.iter().find(|(name, ..)| *name == option);
    for option in options {
        if let Some((_, set, clear)) = flag(option) {
            parsed.flags = parsed.flags.difference(*clear).union(*set);
            parsed.cleared = parsed.cleared.difference(*set).union(*clear);
        } else if option == "tmpcopyup" {
            parsed.copy_up = true;
        } else if let Some(flags) = propagation(option) {
            parsed.propagation.push(flags);
        } else if let Some(attributes) = option
            .strip_prefix('r')
            .and_then(flag)
            .filter(|(name, ..)| *name != "defaults")
            .and_then(|(_, set, clear)| Attributes::of(*set, *clear))
        {
            parsed.recursive = parsed.recursive.and(attributes);
        } else if REFUSED.iter().any(|name| option.split('=').next() == Some(name)) {
            return Err(option);
        } else {
            // The filesystem's own: the kernel refuses what it does not know.
            if !parsed.data.is_empty() {
                parsed.data.push(',');
            }
            parsed.data.push_str(option);
        }
    }
    Ok(parsed)
}

/// The flags of `private`, `rprivate` and so on.
pub fn propagation(option: &str) -> Option<MsFlags> {
    let find = |wanted: &str| PROPAGATION.iter().find(|(name, _)| *name == wanted).map(|(_, flags)| *flags);
    let below = || Some(find(option.strip_prefix('r')?)?.union(MsFlags::MS_REC));
    find(option).or_else(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(options: &[&str]) -> Options {
        let options: Vec<_> = options.iter().map(ToString::to_string).collect();
        parse(&options).map_err(str::to_owned).unwrap()
    }

    #[test]
    fn options_are_sorted() {
        let options = parsed(&["nosuid", "strictatime", "mode=755", "rprivate", "size=64k", "ro", "rw"]);
        assert_eq!(options.flags, MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME);
        assert_eq!(options.propagation, [MsFlags::MS_PRIVATE | MsFlags::MS_REC]);
        assert_eq!(options.data, "mode=755,size=64k");
        assert_eq!(options.recursive, Attributes::default());
    }

    #[test]
    fn with_an_r_they_are_for_all_below() {
        let options = parsed(&["rbind", "rro", "rnosuid", "rsuid", "rnoatime", "rnosymfollow"]);
        assert_eq!(options.flags, MsFlags::MS_BIND | MsFlags::MS_REC);
        assert_eq!(options.data, "");
        assert_eq!(
            options.recursive,
            Attributes { set: 1 | 0x10 | 0x20_0000, clear: 1 | 2 | 0x70 | 0x20_0000 }
        );
        // Of runc's names, all that have the r.
        for name in
            ["rrw", "rdev", "rexec", "ratime", "rrelatime", "rnorelatime", "rstrictatime", "rdiratime"]
        {
            assert_ne!(parsed(&[name]).recursive, Attributes::default(), "{name}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for option in ["idmap", "ridmap", "idmap=uids=0-1000-1"] {
            assert_eq!(parse(&["ro".to_owned(), option.to_owned()]), Err(option));
        }
    }
}
