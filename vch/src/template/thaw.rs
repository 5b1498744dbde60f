//! What a copy of a template is started with.

use std::fs::File;
use std::io::{self, IoSlice, Seek, SeekFrom};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use serde_json::json;

use super::Record;

/// A template's files, open. They stay what they are, whatever becomes of the template.
#[derive(Debug)]
pub struct Thaw {
    /// What it is.
    pub record: Record,
    memory: File,
    state: File,
}

impl Thaw {
    pub(super) fn new(record: Record, memory: File, state: File) -> Result<Self> {
        Ok(Self { record, memory, state })
    }

    /// What QEMU must inherit.
    pub fn inherited(&self) -> [RawFd; 1] {
        [self.memory.as_raw_fd()]
    }

    /// What its arguments depend on.
    pub fn frozen(&self) -> Frozen {
        Frozen { disks: self.record.key.disks(), memory: self.memory.as_raw_fd(), copied: true }
    }

    /// What QEMU is to be told when it has started.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn restore(&self) -> Result<Restore> {
        // A VM before this one may have read it.
        (&self.state).seek(SeekFrom::Start(0)).context("cannot read a template's state")?;
        Ok(Restore(self.state.try_clone().context("cannot open a template's state")?))
    }
}

/// What a template and its copies have in common.
#[derive(Debug, Clone, Copy)]
pub struct Frozen {
    /// Disks in all: what there are not is blank ones.
    pub disks: usize,
    /// The file that is, or was, the template's memory.
    pub memory: RawFd,
    /// Whether it is a copy: then its memory is its own, and its state comes by QMP.
    pub copied: bool,
}

impl Frozen {
    /// The disks beside those of `layers` and the scratch disk: those of `volumes`, and blank ones.
    pub fn instead_of(self, volumes: usize, layers: usize) -> usize {
        volumes.max(self.disks.saturating_sub(1 + layers))
    }

    /// The memory of `size` MiB, and the wait for the state.
    pub fn arguments(self, size: u64, add: &mut impl FnMut(&[&str])) {
        // QEMU opens no memory by /dev/fdset.
        let (path, share) =
            (format!("/proc/self/fd/{}", self.memory), if self.copied { "off" } else { "on" });
        add(&[
            "-object",
            &format!("memory-backend-file,id=memory,size={size}M,mem-path={path},share={share}"),
        ]);
        if self.copied {
            add(&["-incoming", "defer"]);
        }
    }
}

/// A state for QEMU to go on from.
#[derive(Debug)]
pub struct Restore(File);

impl Restore {
    /// Tells QEMU, which has started and waits for it, and has been told that we can do without negotiating. Then the VM goes on.
    ///
    /// # Errors
    /// QEMU is gone.
    pub fn tell(&self, qmp: &UnixStream) -> io::Result<()> {
        with_state(qmp, &self.0, "migrate-incoming")
    }
}

/// Tells QEMU to migrate to, or from, the file `state`, and to leave the memory where it is. (It takes descriptors only by QMP; as
/// few bytes as this a socket takes at once.)
pub(super) fn with_state(qmp: &UnixStream, state: &File, command: &str) -> io::Result<()> {
    let capability = json!({"capability": "x-ignore-shared", "state": true});
    let text = [
        json!({"execute": "getfd", "arguments": {"fdname": "state"}}),
        json!({"execute": "migrate-set-capabilities", "arguments": {"capabilities": [capability]}}),
        json!({"execute": command, "arguments": {"uri": "fd:state"}}),
    ]
    .map(|command| format!("{command}\n"))
    .concat();
    let descriptors = [state.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(qmp.as_raw_fd(), &[IoSlice::new(text.as_bytes())], &rights, flags, None)?;
    Ok(())
}
