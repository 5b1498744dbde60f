//! All streams of a link: the sessions, and the control messages. What frames say is done here, and what is to be said
//! is found here.

use crate::control;
use crate::error::ProtocolError;
use crate::frame::{Header, Kind, Lane, Stream};
use crate::incoming::Incoming;
use crate::line::{Line, Side};
use crate::outgoing::Outgoing;
use crate::resume::{MOST_SESSIONS, Resume};
use crate::session::{Flow, Session};
use std::collections::BTreeMap;

/// What a host has of each stream: bytes, by session and stream.
pub type Kept = BTreeMap<(u32, Stream), u64>;

pub(crate) struct Table {
    side: Side,
    /// By ascending ID; the container's own is always there, but at a host that has not adopted it yet.
    pub(crate) sessions: Vec<Session>,
    pub(crate) control_out: Outgoing,
    pub(crate) control_in: Incoming,
    /// The highest session ID used so far.
    last: u32,
    /// The host's: sessions that it has closed, and whether the guest was told; until the guest confirms it. The guest's:
    /// sessions that it is to confirm.
    closing: Vec<(u32, bool)>,
    /// A host that has not heard yet where the streams stand which it takes over.
    adopting: Option<Kept>,
    /// The stream that was sent of last: session's place, stream.
    turn: usize,
    /// Whether every byte that was used is confirmed at once.
    pub(crate) prompt: bool,
}

impl Table {
    pub(crate) fn new(side: Side, adopting: Option<Kept>) -> Self {
        let other = if side == Side::Host { Side::Guest } else { Side::Host };
        Self {
            side,
            sessions: if adopting.is_some() { vec![] } else { vec![Session::new(0, side)] },
            control_out: Outgoing::new(control::window_to(other)),
            control_in: Incoming::new(control::window_to(side)),
            last: 0,
            closing: Vec::new(),
            adopting,
            turn: 0,
            prompt: false,
        }
    }

    pub(crate) fn session(&self, id: u32) -> Option<&Session> {
        self.sessions.iter().find(|session| session.id == id)
    }

    pub(crate) fn session_mut(&mut self, id: u32) -> Option<&mut Session> {
        self.sessions.iter_mut().find(|session| session.id == id)
    }

    pub(crate) fn can_open(&self) -> bool {
        self.sessions.len() + self.closing.len() < MOST_SESSIONS && self.adopting.is_none()
    }

    /// Makes a session. None if there are too many, or the host does not know yet which there are.
    pub(crate) fn open(&mut self) -> Option<u32> {
        let id = self.last.checked_add(1).filter(|_| self.can_open())?;
        self.last = id;
        self.sessions.push(Session::new(id, self.side));
        Some(id)
    }

    pub(crate) fn close(&mut self, id: u32) {
        let Some(is_new) = self.session(id).filter(|_| id != 0).map(|session| session.is_new) else { return };
        self.sessions.retain(|session| session.id != id);
        if !is_new {
            self.closing.push((id, false));
        }
    }

    /// Whether anything was said that the other side has not confirmed.
    pub(crate) fn is_waiting(&self) -> bool {
        let flows = self.sessions.iter().flat_map(|session| &session.flows);
        self.control_out.is_waited_for()
            || (self.side == Side::Host && !self.closing.is_empty())
            || flows.into_iter().any(|flow| matches!(flow, Flow::Outgoing(flow) if flow.is_waited_for()))
    }

    /// Does what a frame says, other than [`Kind::Resume`].
    pub(crate) fn take(&mut self, header: &Header, payload: &[u8]) -> Result<(), ProtocolError> {
        let Header { kind, lane, session: id, .. } = *header;
        let unexpected = ProtocolError::Unexpected(kind, lane);
        match (kind, self.side) {
            (Kind::Open, Side::Guest) => return self.opened(id),
            (Kind::Close, Side::Guest) if id != 0 && self.session(id).is_some() => {
                self.close(id);
                return Ok(());
            }
            (Kind::Closed, Side::Host) if self.closing.contains(&(id, true)) => {
                self.closing.retain(|(closing, _)| *closing != id);
                return Ok(());
            }
            (Kind::Open | Kind::Close | Kind::Closed | Kind::Resume, _) => return Err(unexpected),
            _ => {}
        }
        let data = matches!(kind, Kind::Data | Kind::End);
        let Lane::Stream(stream) = lane else {
            return match kind {
                _ if id != 0 => Err(ProtocolError::Session(id)),
                Kind::Data => self.control_in.take(header, payload),
                Kind::Credit => self.control_out.take(header),
                _ => Err(unexpected),
            };
        };
        let side = self.side;
        let Some(session) = self.session_mut(id) else {
            // It may have been said before the guest knew that the session is closed.
            let late = side == Side::Host && self.closing.iter().any(|(closing, _)| *closing == id);
            return if late { Ok(()) } else { Err(ProtocolError::Session(id)) };
        };
        match session.flows.get_mut(stream as usize) {
            Some(Flow::Incoming(flow)) if data => flow.take(header, payload),
            Some(Flow::Outgoing(flow)) if !data => flow.take(header),
            _ => Err(unexpected),
        }
    }

    /// The guest's: the host has opened a session.
    fn opened(&mut self, id: u32) -> Result<(), ProtocolError> {
        if id <= self.last || self.sessions.len() + self.closing.len() >= MOST_SESSIONS {
            return Err(ProtocolError::Session(id));
        }
        self.last = id;
        self.sessions.push(Session::new(id, self.side));
        Ok(())
    }

    /// The frame that says where all streams stand.
    pub(crate) fn tell(&mut self, line: &mut Line) {
        self.control_in.rewind();
        match self.side {
            // What the host leaves out is closed with that; the guest still confirms it.
            Side::Host => self.closing.iter_mut().for_each(|(_, told)| *told = true),
            Side::Guest => self.closing.clear(),
        }
        let resume = Resume {
            control_sent: self.control_out.point(),
            control_received: self.control_in.point(),
            sessions: self.sessions.iter_mut().map(|session| (session.id, session.points())).collect(),
        };
        let lane = Lane::Stream(Stream::Stdin);
        let header = Header { kind: Kind::Resume, lane, session: 0, offset: u64::from(self.last), length: 0 };
        line.frame(header, &resume.encode());
    }

    /// Goes on from where the other side says that all streams stand.
    pub(crate) fn resume(&mut self, header: &Header, payload: &[u8]) -> Result<(), ProtocolError> {
        let theirs = Resume::decode(payload)?;
        let last = u32::try_from(header.offset).map_err(|_| ProtocolError::Session(u32::MAX))?;
        let highest = theirs.sessions.last().map_or(0, |(id, _)| *id);
        if highest > last {
            return Err(ProtocolError::Session(highest));
        }
        match (self.side, self.adopting.take()) {
            (Side::Host, Some(kept)) => self.adopt(&theirs, last, &kept),
            (Side::Host, None) => self.resume_host(&theirs, last),
            (Side::Guest, _) => self.resume_guest(&theirs, last),
        }
    }

    fn resume_control(&mut self, theirs: &Resume, adopting: bool) -> Result<(), ProtocolError> {
        let (sent, received) = (&theirs.control_sent, &theirs.control_received);
        self.control_in.rewind();
        if adopting {
            self.control_out.rebase(received);
            self.control_in.rebase(sent);
        }
        // What comes in pieces of messages is never ended, stopped, or kept half.
        let plain = sent.flags | received.flags == 0 && received.from == received.to;
        if plain && self.control_out.resume(received) && self.control_in.resume(sent) {
            return Ok(());
        }
        Err(ProtocolError::Resume { lane: Some(Lane::Control), session: 0 })
    }

    fn adopt(&mut self, theirs: &Resume, last: u32, kept: &Kept) -> Result<(), ProtocolError> {
        self.resume_control(theirs, true)?;
        for (id, points) in &theirs.sessions {
            let session = Session::adopt(*id, points, |stream| kept.get(&(*id, stream)).copied());
            self.sessions.push(session.map_err(|lane| inconsistent(*id)(lane))?);
        }
        self.last = last;
        Ok(())
    }

    fn resume_host(&mut self, theirs: &Resume, last: u32) -> Result<(), ProtocolError> {
        self.resume_control(theirs, false)?;
        if last > self.last {
            return Err(ProtocolError::Session(last));
        }
        for (id, _) in &theirs.sessions {
            if self.session(*id).is_none() && !self.closing.iter().any(|(closing, _)| closing == id) {
                return Err(ProtocolError::Session(*id));
            }
        }
        self.closing.retain(|(id, _)| theirs.session(*id).is_some());
        for session in &mut self.sessions {
            let id = session.id;
            match theirs.session(id) {
                Some(points) => session.resume(points).map_err(inconsistent(id))?,
                // It has not heard of it, so it cannot know anything of it.
                None if id > last => session.resume(&Default::default()).map_err(inconsistent(id))?,
                None => return Err(ProtocolError::Session(id)),
            }
        }
        Ok(())
    }

    fn resume_guest(&mut self, theirs: &Resume, last: u32) -> Result<(), ProtocolError> {
        self.resume_control(theirs, false)?;
        let gone = self.sessions.iter().map(|session| session.id).filter(|id| theirs.session(*id).is_none());
        for id in gone.collect::<Vec<_>>() {
            self.close(id);
        }
        for (id, points) in &theirs.sessions {
            if self.session(*id).is_none() {
                self.opened(*id)?;
            }
            if let Some(session) = self.session_mut(*id) {
                session.resume(points).map_err(inconsistent(*id))?;
            }
        }
        self.last = self.last.max(last);
        Ok(())
    }

    /// Queues the most urgent frame that there is; says whether there was any.
    pub(crate) fn emit(&mut self, line: &mut Line) -> bool {
        if let Some((kind, lane, session, offset)) = self.due(line.is_checked() || self.prompt) {
            line.frame(Header { kind, lane, session, offset, length: 0 }, &[]);
            return true;
        }
        if self.control_out.emit(0, Lane::Control, line) {
            return true;
        }
        let all = self.sessions.len() * Stream::ALL.len();
        for step in 1..=all {
            let turn = (self.turn + step) % all;
            let Some(session) = self.sessions.get_mut(turn / Stream::ALL.len()) else { continue };
            let Some(stream) = Stream::ALL.get(turn % Stream::ALL.len()) else { continue };
            let id = session.id;
            if let Some(flow) = session.outgoing_mut(*stream)
                && flow.emit(id, Lane::Stream(*stream), line)
            {
                self.turn = turn;
                return true;
            }
        }
        false
    }

    /// What of sessions and received streams the other side is to be told.
    fn due(&mut self, checked: bool) -> Option<(Kind, Lane, u32, u64)> {
        const NONE: Lane = Lane::Stream(Stream::Stdin);
        if let Some(session) = self.sessions.iter_mut().find(|session| session.is_new) {
            session.is_new = false;
            return Some((Kind::Open, NONE, session.id, 0));
        }
        if let Some((id, told)) = self.closing.iter_mut().find(|(_, told)| !told) {
            *told = true;
            let id = *id;
            if self.side == Side::Host {
                return Some((Kind::Close, NONE, id, 0));
            }
            self.closing.retain(|(_, told)| !told);
            return Some((Kind::Closed, NONE, id, 0));
        }
        if let Some((kind, offset)) = self.control_in.due(true) {
            return Some((kind, Lane::Control, 0, offset));
        }
        for session in &mut self.sessions {
            for (flow, stream) in session.flows.iter_mut().zip(Stream::ALL) {
                if let Flow::Incoming(flow) = flow
                    && let Some((kind, offset)) = flow.due(checked)
                {
                    return Some((kind, Lane::Stream(stream), session.id, offset));
                }
            }
        }
        None
    }
}

fn inconsistent(session: u32) -> impl FnOnce(Lane) -> ProtocolError {
    move |lane| ProtocolError::Resume { lane: Some(lane), session }
}
