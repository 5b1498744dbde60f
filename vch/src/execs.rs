//! What runs beside the container's process, each in a session of its own: what was asked for, and what came of it. Without
//! any I/O.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use protocol::oci::{ConsoleSize, Process};
use protocol::{Exec, HostLink, Report, Stream, ToGuest};

use crate::exit::End;

const OUTPUTS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// How far an exec is.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// The guest was told of it.
    Asked,
    /// Its process runs.
    Running,
    /// Its process has ended, or could not be started.
    Ended(End),
    /// Another host has started it: how far it is, is not known before the guest says more of it.
    Unknown,
}

/// An exec.
#[derive(Debug)]
struct Known {
    state: State,
    /// Bytes of stdout and of stderr that are its process's own, once that has ended.
    own: [u64; 2],
}

/// All that were not closed.
#[derive(Debug, Default)]
pub struct Execs {
    all: BTreeMap<u32, Known>,
    /// The highest session ID so far.
    last: u32,
}

impl Execs {
    /// Opens a session, and asks the guest to run `process` in it as `user`, in docker's form. Gives the session's ID. With
    /// `stdin`, the owner fills the session's stdin.
    ///
    /// # Errors
    /// There are too many at once, or it is too long to say.
    pub fn start(
        &mut self,
        link: &mut HostLink,
        process: Process,
        user: Option<String>,
        stdin: bool,
    ) -> Result<u32> {
        let session = link
            .open()
            .with_context(|| format!("at most {} execs run at once", protocol::MOST_SESSIONS - 1))?;
        if let Err(error) = link.send(&ToGuest::Exec(Box::new(Exec { session, process, user, stdin }))) {
            link.close(session);
            return Err(error.into());
        }
        self.adopt(session, State::Asked);
        Ok(session)
    }

    /// Knows of an exec that another host process has started.
    pub fn adopt(&mut self, session: u32, state: State) {
        self.all.insert(session, Known { state, own: [u64::MAX; 2] });
        self.last = self.last.max(session);
    }

    /// Takes the guest's word.
    ///
    /// # Errors
    /// It says what tether would not.
    pub fn take(&mut self, session: u32, report: Report) -> Result<()> {
        let Some(exec) = self.all.get_mut(&session) else {
            if session <= self.last {
                return Ok(()); // said before it knew that the session is closed
            }
            bail!("it speaks of session {session}, which does not exist");
        };
        exec.state = match (&exec.state, report) {
            (State::Asked | State::Unknown, Report::Started) => State::Running,
            (State::Running | State::Unknown, Report::Exited { status, stdout, stderr }) => {
                exec.own = [stdout, stderr];
                State::Ended(End::Exited(status))
            }
            (State::Running | State::Unknown, Report::ContainerEnded) => State::Ended(End::WithContainer),
            (State::Asked | State::Running | State::Unknown, Report::Failed(failure)) => {
                State::Ended(End::Failed(failure))
            }
            _ => bail!("it says of session {session} what cannot be"),
        };
        Ok(())
    }

    /// How many there are that were not closed.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The sessions of all that were not closed.
    pub fn sessions(&self) -> impl Iterator<Item = u32> {
        self.all.keys().copied()
    }

    /// How far an exec is; none if it is closed.
    pub fn state(&self, session: u32) -> Option<&State> {
        self.all.get(&session).map(|exec| &exec.state)
    }

    /// How it ended, once all that its process has written was used, too. What that has started may live on, and write more.
    pub fn done(&self, link: &HostLink, session: u32) -> Option<&End> {
        let exec = self.all.get(&session)?;
        let is_used = |(stream, own): (Stream, u64)| {
            link.finished(session, stream) || link.position(session, stream) >= own
        };
        match &exec.state {
            State::Ended(end) if OUTPUTS.into_iter().zip(exec.own).all(is_used) => Some(end),
            _ => None,
        }
    }

    /// How it ended, once all its output was used, too. (A process that it has left behind may hold its stdout for as long as
    /// the container runs: who does not want to wait for that looks at [`Execs::done`].)
    pub fn ended(&self, link: &HostLink, session: u32) -> Option<&End> {
        match self.state(session) {
            Some(State::Ended(end)) if is_finished(link, session) => Some(end),
            _ => None,
        }
    }

    /// Whether nothing is left to be read of any, when the container has ended: the guest has said before how each of them did,
    /// of those that were adopted perhaps to the monitor before.
    pub fn are_finished(&self, link: &HostLink) -> bool {
        self.all.iter().all(|(session, exec)| {
            matches!(exec.state, State::Ended(_) | State::Unknown) && is_finished(link, *session)
        })
    }

    /// Sends a signal to its process.
    ///
    /// # Errors
    /// None that can be caused from outside.
    pub fn signal(&self, link: &mut HostLink, session: u32, signal: i32) -> Result<()> {
        Ok(link.send(&ToGuest::Signal { session, signal })?)
    }

    /// Tells its terminal the new size.
    ///
    /// # Errors
    /// None that can be caused from outside.
    pub fn resize(&self, link: &mut HostLink, session: u32, size: ConsoleSize) -> Result<()> {
        let ConsoleSize { height, width } = size;
        Ok(link.send(&ToGuest::Resize { session, height, width })?)
    }

    /// Forgets it. The guest kills its process if it still runs; not what that has started.
    pub fn close(&mut self, link: &mut HostLink, session: u32) {
        if self.all.remove(&session).is_some() {
            link.close(session);
        }
    }
}

fn is_finished(link: &HostLink, session: u32) -> bool {
    OUTPUTS.iter().all(|stream| link.finished(session, *stream))
}
