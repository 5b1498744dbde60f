//! Folders of NFS servers, mounted at `/nfs/N`.
//!
//! The kernel does all of it, without a program. A server may be dead, or die at any time: whatever waits for one is a child
//! ([`Call`]), and what cannot be ended otherwise is ended by `MNT_FORCE`, which makes the requests on their way fail. That loses
//! what was written and not yet sent, so it is done only when no server has answered anything for a while.

use crate::bounded::Call;
use crate::failure::{Context, Failure};
use crate::{mount_options, power};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use protocol::Stage::{Root, Run};
use protocol::{MachineSpec, Nfs};
use rustix::fs::{Mode, OFlags};
use std::cell::Cell;
use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How long a server may take until its folder is mounted.
const MOUNT: Duration = Duration::from_secs(30);
/// How long servers may say nothing while somebody waits for them who was killed.
const SILENCE: Duration = Duration::from_secs(30);
/// After that, how often their requests are made to fail, and how many times.
const AGAIN: Duration = Duration::from_secs(1);
const TIMES: u32 = 30;
/// How long taking leave of a server may take, when all has been written.
const LEAVE: Duration = Duration::from_secs(10);
/// How the client is called; the server takes two of one name for one that was started again.
const IDENTIFIER: &str = "/sys/module/nfs/parameters/nfs4_unique_id";

/// Where folder number `index` is mounted, in tether's own root.
pub fn place(index: usize) -> String {
    format!("/nfs/{index}")
}

/// What is mounted.
#[derive(Default)]
pub struct Exports {
    mounted: Vec<Export>,
    /// A server was asked for something.
    asked: bool,
    /// Requests were made to fail.
    lost: Cell<bool>,
}

struct Export {
    name: String,
    target: String,
    /// Keeps it mounted when its requests are made to fail, which is an unmount that then does not succeed.
    held: OwnedFd,
}

impl Exports {
    /// Mounts them. To be called when the network is up.
    pub fn mount(&mut self, machine: &MachineSpec) -> Result<(), Failure> {
        if machine.nfs.is_empty() {
            return Ok(());
        }
        fs::write(IDENTIFIER, machine.disks.scratch.to_string()).at(Root, || {
            format!("naming the NFS client by {IDENTIFIER}: the kernel has no NFS, if that is not there")
        })?;
        self.asked = true;
        machine.nfs.iter().enumerate().try_for_each(|(index, nfs)| self.add(nfs, place(index)))
    }

    fn add(&mut self, nfs: &Nfs, target: String) -> Result<(), Failure> {
        let what =
            || format!("mounting volume {:?}, {} of the NFS server {}", nfs.name, nfs.path, nfs.server);
        fs::create_dir(&target).at(Root, what)?;
        power::may_hang(true);
        let call = Call::begin(|| mount_export(nfs, &target)).at(Root, what)?;
        match call.wait(MOUNT) {
            Some(Ok(())) => {}
            Some(Err(errno)) => {
                return Err(Failure::system(Root, format!("{}{}", what(), hint(errno)), errno));
            }
            None => {
                call.give_up();
                let late = format!("{}: it does not answer within {} s", what(), MOUNT.as_secs());
                return Err(Failure::system(Root, late, Errno::ETIMEDOUT));
            }
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let held =
            rustix::fs::open(&*target, flags, Mode::empty()).map_err(std::io::Error::from).at(Root, what)?;
        self.mounted.push(Export { name: nfs.name.clone(), target, held });
        Ok(())
    }

    /// Whether a process may wait for a server.
    pub fn are_any(&self) -> bool {
        self.asked
    }

    /// Makes all requests that are on their way to servers fail.
    fn fail_requests(&self) {
        self.lost.set(true);
        for Export { target, .. } in &self.mounted {
            let _busy = umount2(target.as_str(), MntFlags::MNT_FORCE | MntFlags::UMOUNT_NOFOLLOW);
        }
    }

    /// Writes out what is not yet, and unmounts them. To be called when no process is left that uses them.
    pub fn unmount(self) -> Result<(), Failure> {
        if !self.asked {
            return Ok(());
        }
        self.write_out();
        let lost = self.lost.get();
        let names = self.mounted.iter().map(|export| export.name.as_str()).collect::<Vec<_>>().join(", ");
        let mut left = true;
        for Export { target, held, .. } in self.mounted.into_iter().rev() {
            drop(held);
            let leave = Call::begin(|| umount2(target.as_str(), MntFlags::UMOUNT_NOFOLLOW));
            left &= leave.is_ok_and(|call| match call.wait(LEAVE) {
                Some(result) => result.is_ok(),
                None => {
                    call.give_up();
                    false
                }
            });
        }
        power::may_hang(!left);
        if lost {
            let why = format!(
                "no server of the volumes {names} has answered for {} s: what was written last is not there",
                SILENCE.as_secs()
            );
            return Err(Failure::system(Run, why, Errno::ETIMEDOUT));
        }
        Ok(())
    }

    /// By sync(2): it needs no path, for which a server could be asked.
    fn write_out(&self) {
        let Ok(call) = Call::begin(|| {
            nix::unistd::sync();
            Ok(())
        }) else {
            return; // the unmount writes, too
        };
        let mut silence = Silence::begins();
        while call.wait(Duration::from_millis(200)).is_none() {
            if silence.look(self).is_err() {
                return call.give_up();
            }
        }
    }
}

/// How long servers have been silent, while somebody is to end who may wait for them.
pub struct Silence {
    /// How much they had answered.
    answers: u64,
    /// When something is to be done.
    due: Instant,
    /// How often their requests were made to fail.
    failed: u32,
}

impl Silence {
    /// From now on.
    pub fn begins() -> Self {
        Self { answers: answers(), due: Instant::now() + SILENCE, failed: 0 }
    }

    /// When to look again.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Makes requests fail if that is due. Fails itself when that does not help.
    pub fn look(&mut self, exports: &Exports) -> Result<(), Failure> {
        let now = Instant::now();
        if now < self.due {
            return Ok(());
        }
        let answers = answers();
        if std::mem::replace(&mut self.answers, answers) != answers {
            self.due = now + SILENCE;
            return Ok(());
        }
        if self.failed >= TIMES {
            let why = "an NFS server does not answer, and a process that waits for it cannot be ended";
            return Err(Failure::system(Run, why, Errno::ETIMEDOUT));
        }
        exports.fail_requests();
        self.failed += 1;
        self.due = now + AGAIN;
        Ok(())
    }
}

/// How many answers have come from servers: the column `recvs` of their transports (the kernel's `net/sunrpc/xprtsock.c`).
fn answers() -> u64 {
    received(&fs::read_to_string("/proc/self/mountstats").unwrap_or_default())
}

fn received(mountstats: &str) -> u64 {
    let of = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let found = words.next() == Some("xprt:") && words.next().is_some();
        found.then(|| words.nth(6)?.parse::<u64>().ok())?
    };
    mountstats.lines().filter_map(of).fold(0, u64::wrapping_add)
}

fn mount_export(nfs: &Nfs, target: &str) -> nix::Result<()> {
    let parsed = mount_options::parse(&nfs.options).map_err(|_| Errno::EINVAL)?;
    let mut flags = parsed.flags;
    flags.set(MsFlags::MS_RDONLY, nfs.readonly || flags.contains(MsFlags::MS_RDONLY));
    let source = match nfs.server {
        IpAddr::V4(address) => format!("{address}:{}", nfs.path),
        IpAddr::V6(address) => format!("[{address}]:{}", nfs.path),
    };
    let mut outcome = Err(Errno::EINVAL);
    for version in &nfs.versions {
        let comma = if parsed.data.is_empty() { "" } else { "," };
        let data = format!("vers={version},addr={}{comma}{}", nfs.server, parsed.data);
        outcome = mount(Some(source.as_str()), target, Some("nfs"), flags, Some(data.as_str()));
        if outcome != Err(Errno::EPROTONOSUPPORT) {
            break;
        }
    }
    outcome
}

/// What an error of the mount mostly means.
fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => {
            ": the server refuses it (by --network user the client's port is above 1023, for which its export needs \"insecure\")"
        }
        Errno::ENOENT => ": it exports no such folder",
        Errno::EPROTONOSUPPORT => ": it speaks none of the versions wanted",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted() {
        let text = "device 1.2.3.4:/x mounted on /nfs/0 with fstype nfs4 statvers=1.1\n\
            \topts:\trw,vers=4.2\n\
            \txprt:\ttcp 1021 1 1 0 0 210 209 0 232 0 3 20 19\n\
            \txprt:\ttcp 1020 1 1 0 0 11 10 0 232 0 3 20 19\n\txprt:\ttcp 1 x\n\txprt:\n";
        assert_eq!(received(text), 219);
        assert_eq!(received(""), 0);
    }
}
