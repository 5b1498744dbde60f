//! Whom the process runs as: names looked up in the image's own `/etc/passwd` and `/etc/group`, in the forms
//! and by the rules that docker has (`docker run --user`).

use crate::failure::{Context, Failure};
use nix::fcntl::OFlag;
use protocol::Stage::Config;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

/// The longest that either file may be, in bytes: they are the image's, and may be anything.
const MAX_FILE: u64 = 4 << 20;

/// IDs above this are refused, as docker does.
const MAX_ID: u32 = i32::MAX as u32;

/// A user as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User ID.
    pub uid: u32,
    /// Group ID.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Home folder, if `/etc/passwd` knows one.
    pub home: Option<String>,
}

/// What the config names, completed from the files of the root that the caller is in. `groups` are further ones, names or
/// numbers.
pub fn resolve(name: Option<&str>, groups: &[String], user: &protocol::oci::User) -> Result<User, Failure> {
    let (passwd, group) = (read("/etc/passwd")?, read("/etc/group")?);
    let mut resolved = find(name, user, &passwd, &group)?;
    for name in groups {
        let gid = group_by_name(name, &group).map_err(|why| Failure::new(Config, why))?;
        if !resolved.groups.contains(&gid) {
            resolved.groups.push(gid);
        }
    }
    Ok(resolved)
}

fn find(name: Option<&str>, user: &protocol::oci::User, passwd: &str, group: &str) -> Result<User, Failure> {
    match name.filter(|name| !name.is_empty()) {
        Some(name) => {
            let mut found = by_name(name, passwd, group).map_err(|why| Failure::new(Config, why))?;
            found.groups.extend(&user.additional_gids);
            Ok(found)
        }
        None => {
            let home = passwd.lines().filter_map(PasswdEntry::parse).find(|entry| entry.uid == user.uid);
            Ok(User {
                uid: user.uid,
                gid: user.gid,
                groups: user.additional_gids.clone(),
                home: home.map(|entry| entry.home.to_string()),
            })
        }
    }
}

fn read(path: &str) -> Result<String, Failure> {
    // It is the image's: a FIFO shall not make us wait.
    let options =
        OpenOptions::new().read(true).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits()).open(path);
    let file = match options {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        file => file.at(Config, || format!("opening the image's {path}"))?,
    };
    let metadata = file.metadata().at(Config, || format!("looking at the image's {path}"))?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        let why = format!("the image's {path} is not a file of at most {} MiB", MAX_FILE >> 20);
        return Err(Failure::new(Config, why));
    }
    let mut bytes = vec![];
    file.take(MAX_FILE).read_to_end(&mut bytes).at(Config, || format!("reading the image's {path}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdEntry<'a> {
    /// `name:password:uid:gid:comment:home:shell`, passwd(5).
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _, uid, gid, _, home) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next(), fields.next());
        Some(Self { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: home.unwrap_or("/") })
    }
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupEntry<'a> {
    /// `name:password:gid:member,member`, group(5).
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let (name, _, gid, members) = (fields.next()?, fields.next()?, fields.next()?, fields.next());
        Some(Self { name, gid: gid.parse().ok()?, members: members.unwrap_or_default() })
    }
}

fn by_name(wanted: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (user, group_wanted) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number = parse_id(user)?;
    let entries = || passwd.lines().filter_map(PasswdEntry::parse);
    let entry = entries()
        .find(|entry| entry.name == user)
        .or_else(|| entries().find(|entry| Some(entry.uid) == number));
    let uid = match (&entry, number) {
        (Some(entry), _) => entry.uid,
        (None, Some(number)) => number,
        (None, None) => return Err(format!("user {user:?} is not in the image's /etc/passwd")),
    };
    let groups = || group.lines().filter_map(GroupEntry::parse);
    let (gid, supplementary) = match (group_wanted, &entry) {
        (Some(name), _) => (group_by_name(name, group)?, vec![]),
        (None, Some(entry)) => {
            let member = |group: &GroupEntry<'_>| group.members.split(',').any(|name| name == entry.name);
            (entry.gid, groups().filter(member).map(|group| group.gid).collect())
        }
        (None, None) => (0, vec![]),
    };
    Ok(User { uid, gid, groups: supplementary, home: entry.map(|entry| entry.home.to_string()) })
}

fn group_by_name(name: &str, group: &str) -> Result<u32, String> {
    let groups = || group.lines().filter_map(GroupEntry::parse);
    let number = parse_id(name)?;
    let found = groups()
        .find(|entry| entry.name == name)
        .or_else(|| groups().find(|entry| Some(entry.gid) == number));
    let gid = found.map(|entry| entry.gid).or(number);
    gid.ok_or_else(|| format!("group {name:?} is not in the image's /etc/group"))
}

/// A number, or none if this is a name.
fn parse_id(id: &str) -> Result<Option<u32>, String> {
    if !id.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match id.parse() {
        Ok(number) if number <= MAX_ID => Ok(Some(number)),
        _ => Err(format!("ID {id} is out of range: at most {MAX_ID}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(wanted: &str) -> Result<(u32, u32, Vec<u32>, Option<String>), String> {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:33:34::/srv:\n77:x:5:6::/five:\nshort:x:9:9";
        let group = "root:x:0:\nweb:x:34:\nlog:x:4:root,web\naudio:x:29:web\n::::";
        by_name(wanted, passwd, group).map(|user| (user.uid, user.gid, user.groups, user.home))
    }

    #[test]
    fn dockers_forms() {
        let home = |home: &str| Some(home.to_string());
        assert_eq!(look_up("web"), Ok((33, 34, vec![4, 29], home("/srv"))));
        assert_eq!(look_up("33"), Ok((33, 34, vec![4, 29], home("/srv"))));
        assert_eq!(look_up("web:log"), Ok((33, 4, vec![], home("/srv"))));
        assert_eq!(look_up("web:99"), Ok((33, 99, vec![], home("/srv"))));
        assert_eq!(look_up("1000"), Ok((1000, 0, vec![], None)));
        assert_eq!(look_up("1000:1000"), Ok((1000, 1000, vec![], None)));
        assert_eq!(look_up("77"), Ok((5, 6, vec![], home("/five"))), "a name of digits is a name first");
        assert_eq!(look_up(":log"), Ok((0, 4, vec![], home("/root"))));
        assert_eq!(look_up("short"), Ok((9, 9, vec![], home("/"))));
    }

    #[test]
    fn unknown_ones_are_named() {
        assert_eq!(look_up("nobody"), Err("user \"nobody\" is not in the image's /etc/passwd".into()));
        assert_eq!(look_up("web:nogroup"), Err("group \"nogroup\" is not in the image's /etc/group".into()));
        assert!(look_up("4294967295").is_err_and(|why| why.contains("out of range")));
    }
}
