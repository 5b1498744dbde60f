//! Those who have a process run beside the container's: each has a line, whose streams are those of a session of the guest's.
//!
//! Promises: each gets its own output as fast as it takes it, and slows nothing but its own process; one that goes leaves its
//! process running: stdin ends for it then, and its output goes nowhere.

use anyhow::Result;
use nix::poll::{PollFd, PollFlags};
use nix::sys::signal::Signal;
use protocol::oci::ConsoleSize;
use protocol::{Event, MOST_SESSIONS, Stream};

use super::asks_to_end;
use super::message::{Ended, Exec, ToClient, ToClientLine, ToMonitor};
use crate::conversation::{Conversation, Phase, SESSION};
use crate::execs::State;
use crate::exit::{End, OURS};
use crate::line::put;

const OUTPUTS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];
/// Of messages that the guest has not taken, in bytes: an exec's client that says more is not worth a queue.
const UNHEARD: usize = 64 << 10;
/// The most of an output that is kept when the container ends before its client has taken it, in bytes: more than an honest
/// guest can have had of it, in a pipe and on the way.
const REST: usize = 512 << 10;

/// All of them.
#[derive(Default)]
pub struct Execs {
    all: Vec<Client>,
    /// The session of one that the monitor runs for itself, and looks after.
    pub ours: Option<u32>,
}

/// How far one is.
enum Stage {
    /// The guest was not told yet.
    Wanted(Box<Exec>),
    /// It is this session's.
    Session(u32),
    /// It has ended so: to be said when all output is.
    Over { code: u8, error: Option<String> },
    /// That was said.
    Told,
}

struct Client {
    line: ToClientLine,
    stage: Stage,
    stdin: bool,
    started: bool,
    /// The last signal that was passed on.
    forwarded: Option<Signal>,
    /// Output that the guest need not keep any more, and that the client has not taken.
    rest: [Vec<u8>; 2],
    gone: bool,
}

impl Execs {
    /// Somebody wants `exec`.
    pub fn add(&mut self, mut line: ToClientLine, exec: Box<Exec>) {
        if !exec.stdin {
            line.link.stop(SESSION, Stream::Stdin);
        }
        let stdin = exec.stdin;
        let (stage, rest) = (Stage::Wanted(exec), Default::default());
        self.all.push(Client { line, stage, stdin, started: false, forwarded: None, rest, gone: false });
    }

    /// How many are there.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// What to poll, each by its place.
    pub fn interests(&self) -> impl Iterator<Item = PollFd<'_>> {
        self.all.iter().map(|client| client.line.interest(true))
    }

    /// Does what is possible with the line of one of them.
    pub fn handle(&mut self, place: usize, flags: PollFlags) {
        if let Some(client) = self.all.get_mut(place) {
            client.gone |= !client.line.turn(flags).unwrap_or(false);
        }
    }

    /// Moves everything on by a step. `name` is the container's.
    ///
    /// # Errors
    /// None that can be caused from outside.
    pub fn turn(&mut self, name: &str, talk: &mut Conversation) -> Result<()> {
        for client in &mut self.all {
            client.listen(talk)?;
            client.start(name, talk);
            client.stream(talk);
            client.report(talk);
        }
        self.all.retain(|client| !client.gone);
        self.look_after_orphans(talk);
        Ok(())
    }

    /// The container has ended, and nothing more will be heard of it: moves on what is left to be said.
    pub fn finish(&mut self) {
        for client in &mut self.all {
            while matches!(client.line.link.event(), Ok(Some(_))) {}
            match client.stage {
                Stage::Wanted(_) => client.refuse("the container is not running"),
                Stage::Session(_) => client.over(&End::WithContainer),
                Stage::Over { .. } | Stage::Told => {}
            }
            client.give_rest();
            client.tell();
        }
        self.all.retain(|client| !client.gone);
    }

    /// Sessions that nobody has a line to, here or any more. One of which an earlier monitor may have heard the end stays.
    fn look_after_orphans(&self, talk: &mut Conversation) {
        let sessions: Vec<u32> = talk.execs.sessions().collect();
        let is_known = |session| self.ours == Some(session) || self.all.iter().any(|one| one.is(session));
        for session in sessions.into_iter().filter(|session| !is_known(*session)) {
            talk.link.end(session, Stream::Stdin);
            for stream in OUTPUTS {
                talk.link.consume(session, stream, talk.link.pending(session, stream).len());
            }
            if talk.execs.ended(&talk.link, session).is_some() {
                talk.execs.close(&mut talk.link, session);
            }
        }
    }
}

impl Client {
    fn is(&self, session: u32) -> bool {
        matches!(self.stage, Stage::Session(own) if own == session)
    }

    /// Does what the client says.
    fn listen(&mut self, talk: &mut Conversation) -> Result<()> {
        loop {
            match self.line.link.event() {
                Ok(None) => return Ok(()),
                Ok(Some(Event::Connected(_))) => {}
                Ok(Some(Event::Message(ToMonitor::Signal { number, insists }))) => {
                    self.signal(number, insists, talk)?;
                }
                Ok(Some(Event::Message(ToMonitor::Resize { height, width }))) => {
                    if let Stage::Session(session) = self.stage
                        && talk.link.unheard() < UNHEARD
                    {
                        talk.execs.resize(&mut talk.link, session, ConsoleSize { height, width })?;
                    }
                }
                Ok(Some(Event::Message(_))) | Err(_) => {
                    self.gone = true;
                    return Ok(());
                }
            }
        }
    }

    fn signal(&mut self, number: i32, insists: bool, talk: &mut Conversation) -> Result<()> {
        let known = Signal::try_from(number).ok();
        let again = insists && known.is_some_and(asks_to_end) && self.forwarded.is_some_and(asks_to_end);
        self.forwarded = known;
        match self.stage {
            Stage::Session(session) if talk.link.unheard() < UNHEARD => {
                let number = if again { libc::SIGKILL } else { number };
                talk.execs.signal(&mut talk.link, session, number)
            }
            Stage::Wanted(_) if known.is_some_and(asks_to_end) => {
                self.refuse("it was interrupted before it could start");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Tells the guest of it, if it can be told now.
    fn start(&mut self, name: &str, talk: &mut Conversation) {
        let Stage::Wanted(exec) = &self.stage else { return };
        match talk.phase() {
            Phase::Running => {}
            Phase::Booting | Phase::Starting => {
                return self.refuse(&format!("container {name} is not running: it is starting"));
            }
            Phase::Draining(_) | Phase::Stopping(_) | Phase::Failed(_) => {
                return self.refuse(&format!("container {name} is not running"));
            }
        }
        if talk.execs.count() >= MOST_SESSIONS - 1 {
            return self.refuse(&format!("at most {} processes run beside a container's", MOST_SESSIONS - 1));
        }
        // Others are being closed, or the guest is still being looked for.
        if !talk.link.can_open() {
            return;
        }
        match talk.exec(exec.process.clone(), exec.user.clone(), exec.stdin) {
            Ok(session) => self.stage = Stage::Session(session),
            Err(error) => self.refuse(&format!("{error:#}")),
        }
    }

    /// Moves the streams on.
    fn stream(&mut self, talk: &mut Conversation) {
        self.give_rest();
        let Stage::Session(session) = self.stage else { return };
        let (ours, theirs) = (&mut self.line.link, &mut talk.link);
        if theirs.unwanted(session, Stream::Stdin) {
            ours.stop(SESSION, Stream::Stdin);
        }
        let count = put(theirs, session, Stream::Stdin, ours.pending(SESSION, Stream::Stdin));
        ours.consume(SESSION, Stream::Stdin, count);
        if self.stdin && ours.finished(SESSION, Stream::Stdin) {
            theirs.end(session, Stream::Stdin);
        }
        // The container's end is not held up by those who are slow.
        let ending = matches!(talk.phase(), Phase::Draining(_));
        for (stream, rest) in OUTPUTS.into_iter().zip(&mut self.rest) {
            let (ours, theirs) = (&mut self.line.link, &mut talk.link);
            if ours.unwanted(SESSION, stream) {
                theirs.stop(session, stream);
            }
            let pending = theirs.pending(session, stream);
            let mut count = if rest.is_empty() { put(ours, SESSION, stream, pending) } else { 0 };
            if ending {
                let room = REST.saturating_sub(rest.len());
                rest.extend(pending[count..].iter().take(room));
                count = pending.len();
            }
            theirs.consume(session, stream, count);
        }
    }

    fn give_rest(&mut self) {
        for (stream, rest) in OUTPUTS.into_iter().zip(&mut self.rest) {
            if self.line.link.unwanted(SESSION, stream) {
                rest.clear();
            }
            let count = put(&mut self.line.link, SESSION, stream, rest);
            rest.drain(..count);
        }
    }

    /// Says what has come of it.
    fn report(&mut self, talk: &Conversation) {
        if let Stage::Session(session) = self.stage {
            let state = talk.execs.state(session);
            if !self.started && matches!(state, Some(State::Running | State::Ended(End::Exited(_)))) {
                self.started = true;
                self.send(&ToClient::Started);
            }
            if let Some(end) = talk.execs.done(&talk.link, session) {
                self.over(end);
            }
        }
        self.tell();
    }

    fn over(&mut self, end: &End) {
        self.stage = Stage::Over { code: end.code(), error: end.of_exec() };
    }

    fn refuse(&mut self, why: &str) {
        self.stage = Stage::Over { code: OURS, error: Some(why.to_owned()) };
    }

    /// Says that it is over, once all output is said.
    fn tell(&mut self) {
        if let Stage::Over { code, error } = &mut self.stage
            && self.rest.iter().all(Vec::is_empty)
        {
            let ended = Ended::Exec { code: *code, error: error.take() };
            OUTPUTS.into_iter().for_each(|stream| self.line.link.end(SESSION, stream));
            self.stage = Stage::Told;
            self.send(&ToClient::Ended(Box::new(ended)));
        }
    }

    fn send(&mut self, message: &ToClient) {
        self.gone |= self.line.link.send(message).is_err();
    }
}
