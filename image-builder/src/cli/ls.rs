//! `ls DISK [PATH]`: a folder on a disk, in long form. `ls` alone: the store's images.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use anyhow::{Context, Result};
use image_builder::disk::{Disk, Inode, Kind};
use serde_json::json;

use super::Common;
use super::names::{json_name, shown};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    images: super::images::Args,
    /// A disk: a layer disk, a scratch disk or a volume (EROFS or ext4, raw)
    disk: Option<PathBuf>,
    /// The folder or file on it
    #[arg(default_value = "/")]
    path: OsString,
    /// All that is below the folder, too
    #[arg(short = 'R', long, requires = "disk")]
    recursive: bool,
}

impl Args {
    pub fn run(&self, common: &Common) -> Result<()> {
        let Some(path) = &self.disk else { return self.images.run(common) };
        let disk = Disk::open(path)?;
        self.list(common, &disk)
            .with_context(|| format!("cannot list {:?} on disk {}", self.path, path.display()))
    }

    fn list(&self, common: &Common, disk: &Disk) -> Result<()> {
        let path = self.path.as_bytes();
        // A link is shown itself, unless its path ends with a slash: as with `ls -l`.
        let inode = disk.find(path, path.ends_with(b"/"))?;
        if inode.kind != Kind::Directory {
            return print(common, disk, path, &inode);
        }
        disk.walk(&inode, &mut |path, inode| {
            print(common, disk, path, inode)?;
            Ok(self.recursive)
        })
    }
}

fn print(common: &Common, disk: &Disk, path: &[u8], inode: &Inode) -> Result<()> {
    let target = if inode.kind == Kind::Symlink { Some(disk.target(inode)?) } else { None };
    let device = match inode.kind {
        Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => Some((major, minor)),
        _ => None,
    };
    let size = device.map_or_else(|| inode.size.to_string(), |(major, minor)| format!("{major}, {minor}"));
    let time = time::utc(inode.mtime.seconds);
    let Inode { links, uid, gid, .. } = inode;
    let head = format!("{} {links:3} {uid:5} {gid:5} {size:>10} {time} ", mode(inode));
    let arrow = target.as_ref().map(|target| [b" -> ", &*shown(target)].concat()).unwrap_or_default();
    let mut value = json!({
        "type": kind(inode.kind), "mode": format!("{:04o}", inode.mode), "uid": uid, "gid": gid, "size": inode.size,
        "mtime": format!("{}.{:09}", inode.mtime.seconds, inode.mtime.nanos), "links": links, "inode": inode.number,
    });
    json_name(&mut value, "path", path);
    if let Some((major, minor)) = device {
        value["device"] = json!([major, minor]);
    }
    if let Some(target) = target {
        json_name(&mut value, "target", &target);
    }
    common.print_bytes(&[head.as_bytes(), &shown(path), &arrow].concat(), &value)
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::File => "file",
        Kind::Directory => "directory",
        Kind::Symlink => "symlink",
        Kind::CharDevice(0, 0) => "whiteout",
        Kind::CharDevice(..) => "char-device",
        Kind::BlockDevice(..) => "block-device",
        Kind::Fifo => "fifo",
        Kind::Socket => "socket",
    }
}

/// `drwxr-xr-x`, as `ls -l` writes it.
fn mode(inode: &Inode) -> String {
    let letter = match inode.kind {
        Kind::File => '-',
        Kind::Directory => 'd',
        Kind::Symlink => 'l',
        Kind::CharDevice(..) => 'c',
        Kind::BlockDevice(..) => 'b',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
    };
    let bit = |bit: u16, yes: char| if inode.mode & bit != 0 { yes } else { '-' };
    let execute =
        |execute: u16, special: u16, letter: char| match (inode.mode & special, inode.mode & execute) {
            (0, _) => bit(execute, 'x'),
            (_, 0) => letter.to_ascii_uppercase(),
            _ => letter,
        };
    let letters = [
        [bit(0o400, 'r'), bit(0o200, 'w'), execute(0o100, 0o4000, 's')],
        [bit(0o040, 'r'), bit(0o020, 'w'), execute(0o010, 0o2000, 's')],
        [bit(0o004, 'r'), bit(0o002, 'w'), execute(0o001, 0o1000, 't')],
    ];
    std::iter::once(letter).chain(letters.concat()).collect()
}

mod time {
    //! Times, without the host's time zone: a listing is the same everywhere.

    /// `2026-11-23 22:59`, in UTC, of seconds since 1970. Years of more than four digits stay numbers of seconds.
    pub fn utc(seconds: i64) -> String {
        let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        if !(-719_528..2_932_897).contains(&days) {
            return format!("@{seconds}");
        }
        let (year, month, day) = civil(days);
        format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", second / 3600, second / 60 % 60)
    }

    /// Year, month and day of a day counted from 1970-01-01: the proleptic Gregorian calendar, year by year of 400.
    fn civil(days: i64) -> (i64, i64, i64) {
        // Years that begin in March, for then the leap day comes last.
        let days = days + 719_468;
        let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let year = era * 400 + year + i64::from(month >= 10);
        (year, if month < 10 { month + 3 } else { month - 9 }, day - (153 * month + 2) / 5 + 1)
    }

    #[test]
    fn days_and_years() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00"),
            (-1, "1969-12-31 23:59"),
            (951_782_400, "2000-02-29 00:00"),
            (1_700_000_000, "2023-11-14 22:13"),
            (4_107_542_400, "2100-03-01 00:00"),
            (i64::MAX, "@9223372036854775807"),
        ] {
            assert_eq!(utc(seconds), text);
        }
    }
}
