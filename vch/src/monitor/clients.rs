//! All clients of a container: those that have connected, and the socket that others connect to.

use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Instant;

use anyhow::Result;
use nix::poll::{PollFd, PollFlags};
use protocol::{Stats, Stream};

use super::connection::{Connection, logged};
use super::exec::Execs;
use super::message::{Attach, Ended, ToClient, ToMonitor};
use super::wait;
use crate::log::{MOST_FILES, Offsets, Writer};

/// The most at once; others wait until one has gone.
const MOST: usize = 128;
/// The most files of the log that are kept for a client that is slow, before the container has to wait for it.
const HELD: usize = MOST_FILES / 2;

/// Who is there.
#[derive(Default)]
pub struct Clients {
    all: Vec<Connection>,
    /// Those who have something run beside the container's process; they are none of `all`.
    pub execs: Execs,
    socket: Option<UnixListener>,
}

/// Something to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Caller {
    /// A new one.
    New,
    /// The one at this place.
    Old(usize),
    /// The one at this place of those with an exec.
    Exec(usize),
}

impl Clients {
    /// With one that is there from the start.
    ///
    /// # Errors
    /// The system's.
    pub fn with(first: UnixStream) -> Result<Self> {
        Ok(Self { all: vec![Connection::new(first)?], ..Self::default() })
    }

    /// Others may connect here from now on.
    ///
    /// # Errors
    /// The system's.
    pub fn listen(&mut self, socket: UnixListener) -> Result<()> {
        socket.set_nonblocking(true)?;
        self.socket = Some(socket);
        Ok(())
    }

    /// What to poll.
    pub fn interests(&self) -> Vec<(Caller, PollFd<'_>)> {
        let old = self.all.iter().map(Connection::interest).enumerate();
        let old = old.map(|(place, descriptor)| (Caller::Old(place), descriptor));
        let execs = self.execs.interests().enumerate();
        let execs = execs.map(|(place, descriptor)| (Caller::Exec(place), descriptor));
        let socket = self.socket.iter().filter(|_| self.all.len() + self.execs.count() < MOST);
        let new = socket.map(|socket| (Caller::New, PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
        old.chain(execs).chain(new).collect()
    }

    /// Does what is possible with one of them.
    pub fn handle(&mut self, caller: Caller, flags: PollFlags) {
        match caller {
            // A client may have gone again.
            Caller::New => {
                let line = self.socket.as_ref().and_then(|socket| socket.accept().ok());
                self.all.extend(line.and_then(|(line, _)| Connection::new(line).ok()));
            }
            Caller::Old(place) => {
                if let Some(client) = self.all.get_mut(place) {
                    client.turn(flags);
                }
            }
            Caller::Exec(place) => self.execs.handle(place, flags),
        }
    }

    /// All that they say; `now` is how much output there is. Those that have gone are forgotten.
    pub fn messages(&mut self, now: Offsets) -> Vec<ToMonitor> {
        let mut messages = vec![];
        for client in &mut self.all {
            messages.extend(std::iter::from_fn(|| client.message(now)));
        }
        for mut client in self.all.extract_if(.., |client| client.gone || client.exec.is_some()) {
            if let Some(exec) = client.exec.take() {
                self.execs.add(client.into_line(), exec);
            }
        }
        messages
    }

    /// Takes down what those want that have said it, and nothing that they have said after it.
    pub fn first_words(&mut self) {
        self.all.iter_mut().for_each(Connection::hello);
        self.all.retain(|client| !client.gone);
    }

    /// What the first client wants, once it has said so.
    pub fn first(&self) -> Option<Attach> {
        self.all.first().and_then(|client| client.attach)
    }

    /// Whether nobody is there.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether the one is there that the container is run for.
    pub fn has_owner(&self) -> bool {
        self.all.iter().any(|client| client.attach.is_some_and(|attach| attach.owner))
    }

    /// Tells all what they must know.
    pub fn tell(&mut self, message: &ToClient) {
        self.all.iter_mut().for_each(|client| client.send(message));
    }

    /// Writes what all were told, as far as their lines take it.
    pub fn flush(&mut self) {
        self.all.iter_mut().for_each(Connection::flush);
    }

    /// Tells all what they can do without.
    pub fn mention(&mut self, message: &ToClient) {
        self.all.iter_mut().for_each(|client| client.mention(message));
    }

    /// Whether the owner takes what it is told.
    pub fn are_attentive(&self) -> bool {
        self.all
            .iter()
            .all(|client| client.is_attentive() || client.attach.is_none_or(|attach| !attach.owner))
    }

    /// Tells those that do not know yet that the container runs.
    pub fn started(&mut self) {
        self.all.iter_mut().for_each(Connection::started);
    }

    /// Whether anyone wants to know what the container uses.
    pub fn want_stats(&self) -> bool {
        self.all.iter().any(|client| client.wants_stats)
    }

    /// Tells those what it uses.
    pub fn give_stats(&mut self, stats: Stats) {
        for client in self.all.iter_mut().filter(|client| client.wants_stats) {
            client.wants_stats = false;
            client.send(&ToClient::Stats(stats));
        }
    }

    /// How much more of a stream may come from the guest.
    pub fn capacity(&mut self, stream: Stream, now: Offsets) -> usize {
        let now = now.of(logged(stream));
        let capacities = self.all.iter_mut().map(|client| client.capacity(stream, now, HELD));
        capacities.min().unwrap_or(usize::MAX)
    }

    /// Gives all of them new output.
    pub fn give(&mut self, stream: Stream, offset: u64, bytes: &[u8]) {
        self.all.iter_mut().for_each(|client| client.give(stream, offset, bytes));
    }

    /// Lets those that are behind read the log.
    pub fn catch_up(&mut self, log: &Writer) {
        for client in &mut self.all {
            if let Err(error) = client.catch_up(log.path(), log.offsets()) {
                client.send(&ToClient::Warning(format!("{error:#}")));
                client.flush();
                client.gone = true;
            }
        }
    }

    /// Hands what they have sent as stdin to `take`, which says how much it took. Says whether it is at its end.
    pub fn stdin(&mut self, mut take: impl FnMut(&[u8]) -> usize) -> bool {
        let mut ended = false;
        for client in &mut self.all {
            while !client.stdin().is_empty() {
                let count = take(client.stdin());
                if count == 0 {
                    break;
                }
                client.consume(count);
            }
            ended |= client.stdin_ended() && client.attach.is_some_and(|attach| attach.owner);
        }
        ended
    }

    /// The container reads no more.
    pub fn stop_stdin(&mut self) {
        self.all.iter_mut().for_each(Connection::stop_stdin);
    }

    /// Tells all how the container ended, each when it has got all output, and returns when all have gone. `last` is called before
    /// the last one is told.
    ///
    /// # Errors
    /// The system's.
    pub fn finish(&mut self, ended: &Ended, log: Option<&Writer>, last: impl FnOnce()) -> Result<()> {
        let mut last = Some(last);
        loop {
            let now = log.map_or_else(Offsets::default, Writer::offsets);
            // What they still ask for comes too late.
            self.messages(now);
            self.execs.finish();
            let mut ready = vec![];
            for (place, client) in self.all.iter_mut().enumerate() {
                let complete = match log {
                    Some(log) => client.catch_up(log.path(), now).unwrap_or(true),
                    None => true,
                };
                if complete && !client.told && client.attach.is_some() {
                    ready.push(place);
                }
            }
            let waiting = self.all.iter().filter(|client| !client.told && client.attach.is_some()).count();
            if waiting <= ready.len()
                && let Some(last) = last.take()
            {
                last();
            }
            for place in ready {
                self.all[place].ended(ended.clone());
            }
            if self.all.is_empty() && self.execs.count() == 0 {
                return Ok(());
            }
            self.wait(None)?;
        }
    }

    /// Waits until something has happened with one of them, and does what is to be done.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&mut self, deadline: Option<Instant>) -> Result<()> {
        for (caller, flags) in wait::ready(&self.interests(), deadline)? {
            self.handle(caller, flags);
        }
        Ok(())
    }
}
