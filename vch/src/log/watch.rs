//! When a log may have grown, for a reader in another process than its writer's.
//!
//! By inotify, since an attached terminal must see its echo at once, and polling in time for that would keep the
//! machine awake. It watches the folder, so rotation is seen, too. Where it is not to be had (each user has 128 by
//! default), a caller looks every 100 ms instead: it costs two system calls. A reader in the writer's process needs
//! neither.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::files;

/// Becomes readable when something has happened to a log, or to another file in its folder.
#[derive(Debug)]
pub struct Watch {
    inotify: Inotify,
}

impl Watch {
    /// Watches the log at `path`. What happened before is not seen: read to the end after this, before waiting.
    ///
    /// # Errors
    /// The user has too many of them, or the folder is not there.
    pub fn new(path: &Path) -> Result<Self> {
        let folder = files::folder(path);
        let inotify =
            Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).context("cannot use inotify")?;
        let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CREATE;
        inotify
            .add_watch(folder, events | AddWatchFlags::IN_ONLYDIR)
            .with_context(|| format!("cannot watch {}", folder.display()))?;
        Ok(Self { inotify })
    }

    /// Makes it unreadable until more happens. To be called before reading on.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn clear(&self) -> Result<()> {
        loop {
            match self.inotify.read_events() {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(e) => return Err(e).context("cannot read from inotify"),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}
