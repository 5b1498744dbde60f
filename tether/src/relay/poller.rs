//! epoll, and what it looks at.

use crate::channel;
use crate::failure::{Context, Failure};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use protocol::{Stage, Stream};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// Events that are taken at once.
const AT_ONCE: usize = 64;

/// What epoll looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    Channel,
    Deaths,
    Damage,
    Leases,
    Routers,
    KernelLog,
    /// One of a session's lines.
    Of(u32, Part),
}

/// A session's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Reports,
    Stdin,
    Stdout,
    Stderr,
}

impl Part {
    const ALL: [Self; 4] = [Self::Reports, Self::Stdin, Self::Stdout, Self::Stderr];
}

impl From<Stream> for Part {
    fn from(stream: Stream) -> Self {
        match stream {
            Stream::Stdin => Self::Stdin,
            Stream::Stdout => Self::Stdout,
            Stream::Stderr => Self::Stderr,
        }
    }
}

impl Source {
    /// As a number that epoll keeps: which it is, and behind it the session.
    fn number(self) -> u64 {
        match self {
            Self::Channel => 4,
            Self::Deaths => 5,
            Self::Damage => 6,
            Self::Leases => 7,
            Self::Routers => 8,
            Self::KernelLog => 9,
            Self::Of(session, part) => u64::from(session) << 8 | part as u64,
        }
    }

    fn of_number(number: u64) -> Option<Self> {
        let session = u32::try_from(number >> 8).ok()?;
        match number & 0xff {
            4 => Some(Self::Channel),
            5 => Some(Self::Deaths),
            6 => Some(Self::Damage),
            7 => Some(Self::Leases),
            8 => Some(Self::Routers),
            9 => Some(Self::KernelLog),
            part => Some(Self::Of(session, Part::ALL.into_iter().find(|known| *known as u64 == part)?)),
        }
    }
}

/// epoll, and what it was told last about each source.
pub struct Poller {
    epoll: Epoll,
    /// Of those that it looks at.
    looking: BTreeMap<Source, EpollFlags>,
}

impl Poller {
    pub fn new() -> Result<Self, Failure> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).at(Stage::Run, || "making an epoll")?;
        Ok(Self { epoll, looking: BTreeMap::new() })
    }

    /// Looks for these events of a source. With none it is left out altogether: epoll tells of a hang-up
    /// even when nobody asks, again and again.
    pub fn look(&mut self, source: Source, fd: &impl AsFd, wanted: EpollFlags) -> Result<(), Failure> {
        let now = self.looking.get(&source).copied();
        let mut event = EpollEvent::new(wanted, source.number());
        let result = match (now, wanted.is_empty()) {
            _ if now.unwrap_or(EpollFlags::empty()) == wanted => return Ok(()),
            (None, _) => self.epoll.add(fd, event),
            (Some(_), true) => self.epoll.delete(fd),
            (Some(_), false) => self.epoll.modify(fd, &mut event),
        };
        if wanted.is_empty() {
            self.looking.remove(&source);
        } else {
            self.looking.insert(source, wanted);
        }
        result.at(Stage::Run, || format!("polling {source:?}"))
    }

    /// Closes a source's descriptor. (Closing alone does not take it out of the epoll where it has a duplicate,
    /// as a terminal's has.)
    pub fn forget(&mut self, source: Source, fd: &mut Option<OwnedFd>) -> Result<(), Failure> {
        match fd.take() {
            Some(fd) => self.look(source, &fd, EpollFlags::empty()),
            None => Ok(()),
        }
    }

    /// A source's descriptor was closed, and has no duplicate.
    pub fn lost(&mut self, source: Source) {
        self.looking.remove(&source);
    }

    /// Waits until there is something, or until that time; says where.
    pub fn wait(&self, until: Option<Instant>) -> Result<Vec<Source>, Failure> {
        let mut events = [EpollEvent::empty(); AT_ONCE];
        let count = match self.epoll.wait(&mut events, channel::timeout(until)) {
            Err(Errno::EINTR) => 0,
            count => count.at(Stage::Run, || "waiting for events")?,
        };
        let ready = events.iter().take(count).map(EpollEvent::data);
        Ok(ready.filter_map(Source::of_number).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_number() {
        let parts = Part::ALL.into_iter().flat_map(|part| [0, 1, u32::MAX].map(|id| Source::Of(id, part)));
        let others = [Source::Channel, Source::Deaths, Source::Damage, Source::Leases, Source::Routers];
        for source in parts.chain(others).chain([Source::KernelLog]) {
            assert_eq!(Source::of_number(source.number()), Some(source));
        }
    }
}
