//! Health checks: commands that the monitor has run beside the container's process, for itself.

use std::time::Instant;

use anyhow::Result;
use protocol::oci::Process;
use protocol::{MOST_SESSIONS, Stream};

use super::relay::Relay;
use crate::conversation::Phase;
use crate::exit::End;
use crate::health::{Checked, Health, OUTPUT};

const OUTPUTS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// The checks of a container.
pub(super) struct Checks {
    health: Health,
    running: Option<Check>,
}

/// One that runs.
struct Check {
    session: u32,
    /// Seconds since 1970.
    start: u64,
    deadline: Instant,
    output: Vec<u8>,
}

impl Checks {
    /// When there is something to do, whatever else happens.
    pub(super) fn due(&self) -> Option<Instant> {
        self.running.as_ref().map(|check| check.deadline).or(self.health.due())
    }
}

impl Relay<'_> {
    /// Begins a check when one is due, takes its output, and writes down what comes of it.
    pub(super) fn check_health(&mut self) -> Result<()> {
        let container = self.container;
        let Some(check) = &container.record.health else { return Ok(()) };
        if *self.talk.phase() != Phase::Running {
            return Ok(());
        }
        let now = Instant::now();
        let mut checks = self.checks.take().unwrap_or_else(|| {
            let health = Health::new(check.clone(), now);
            container.keep_health(&health.report);
            Checks { health, running: None }
        });
        let checked = match &mut checks.running {
            Some(check) => self.look_at(check, &checks.health, now)?,
            None if checks.health.due().is_some_and(|due| due <= now) => {
                checks.running = self.begin(&checks.health, now);
                checks.health.begin();
                let start = super::now();
                let lost =
                    || Checked { start, end: start, exit_code: -1, output: "it could not be run".into() };
                checks.running.is_none().then(lost)
            }
            None => None,
        };
        if let Some(checked) = checked {
            // The session is looked after like those whose clients have gone.
            (checks.running, self.clients.execs.ours) = (None, None);
            checks.health.end(checked, now);
            container.keep_health(&checks.health.report);
        }
        self.checks = Some(checks);
        Ok(())
    }

    fn begin(&mut self, health: &Health, now: Instant) -> Option<Check> {
        if !self.talk.link.can_open() || self.talk.execs.count() >= MOST_SESSIONS - 1 {
            return None;
        }
        let machine = self.container.machine().ok()?;
        let process = Process {
            terminal: false,
            console_size: None,
            args: health.check.command.clone(),
            ..machine.config.process
        };
        let session = self.talk.exec(process, machine.user, false).ok()?;
        self.clients.execs.ours = Some(session);
        Some(Check { session, start: super::now(), deadline: now + health.check.timeout, output: vec![] })
    }

    /// Moves it on; what came of it, if it is over.
    fn look_at(&mut self, check: &mut Check, health: &Health, now: Instant) -> Result<Option<Checked>> {
        let Check { session, start, .. } = *check;
        for stream in OUTPUTS {
            let pending = self.talk.link.pending(session, stream);
            let room = OUTPUT - check.output.len();
            check.output.extend(pending.iter().take(room));
            let count = pending.len();
            self.talk.link.consume(session, stream, count);
        }
        let (exit_code, output) = match self.talk.execs.done(&self.talk.link, session) {
            Some(End::Failed(failure)) => (-1, failure.message.clone()),
            Some(end) => (i32::from(end.code()), String::from_utf8_lossy(&check.output).into_owned()),
            None if check.deadline <= now => {
                self.talk.execs.signal(&mut self.talk.link, session, libc::SIGKILL)?;
                (-1, format!("Health check exceeded timeout ({:?})", health.check.timeout))
            }
            None => return Ok(None),
        };
        Ok(Some(Checked { start, end: super::now(), exit_code, output }))
    }
}
