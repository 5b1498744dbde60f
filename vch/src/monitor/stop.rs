//! When the loop is over, and why.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use protocol::{Failure, Stage};

use super::message::ToClient;
use super::relay::{ERRORS, POWER_OFF, Relay, WRITE_OUT};
use crate::conversation::Phase;
use crate::exit::End;
use crate::text::harmless;

/// How long after its time a guest that always says something is listened to.
const NOISE: Duration = Duration::from_secs(10);

/// The VM has ended without saying how the container did, or does not come up.
#[derive(Debug)]
pub struct Gone {
    /// What is known of the reason.
    pub why: String,
    /// Whether the reason is the guest's own: then QEMU has nothing to add.
    pub known: bool,
}

impl fmt::Display for Gone {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.why)
    }
}

impl std::error::Error for Gone {}

impl Relay<'_> {
    /// Whether it is over. Called whenever something may have changed.
    pub(super) fn verdict(&mut self) -> Result<Option<End>> {
        let gone = self.open.is_empty();
        let drained = self.talk.drained();
        if self.talk.acknowledge()? {
            let patience = if self.has_volumes() { WRITE_OUT } else { POWER_OFF };
            self.deadline = Some(Instant::now() + patience);
        }
        // What has come in time may have waited for us, not the other way round; but not for ever.
        let over = self.deadline.map(|deadline| Instant::now().saturating_duration_since(deadline));
        let late = over.is_some_and(|over| (self.idle && !over.is_zero()) || over > NOISE);
        match self.talk.phase() {
            // Nothing is left to the guest but to power off, which takes it longer than it takes to kill QEMU.
            Phase::Stopping(status)
                if (gone && drained) || late || (self.brief && self.talk.has_stopped()) =>
            {
                Ok(Some(End::Exited(*status)))
            }
            Phase::Failed(failure) if drained && (gone || self.talk.finished()) => {
                Ok(Some(self.failed(failure)))
            }
            // It may have said how the container ended, but not all that the container did.
            Phase::Booting | Phase::Starting | Phase::Running | Phase::Draining(_) if gone && drained => {
                self.panicked().map_or_else(|| Err(self.gone().into()), |end| Ok(Some(end)))
            }
            Phase::Booting | Phase::Starting | Phase::Running if late => {
                self.panicked().map_or_else(|| Err(self.late().into()), |end| Ok(Some(end)))
            }
            _ => Ok(None),
        }
    }

    /// The guest's failure, with the names that the user knows.
    pub(super) fn failed(&self, failure: &Failure) -> End {
        let mut failure = failure.clone();
        for (tag, source) in &self.shared {
            failure.message = failure.message.replace(&format!("{tag:?}"), &format!("{source:?}"));
        }
        End::Failed(failure)
    }

    /// The end, if it is the kernel that has given up.
    fn panicked(&self) -> Option<End> {
        let reason = format!("after {:.1} s: {}", self.clock.seconds(), self.console.panic()?);
        Some(End::Panicked { reason, log: self.console.tail() })
    }

    /// Tells the clients what the guest's console said last, when that may be why it has ended so; unless they have seen it.
    pub(super) fn show_last_words(&mut self, end: &Result<End>) {
        if let Some(Failure { stage, message, .. }) = self.talk.afterwards.take() {
            self.clients
                .mention(&ToClient::Console(format!("after the container's end: {stage}: {message}")));
        }
        let of_use = match end {
            Ok(End::Failed(failure)) => !matches!(failure.stage, Stage::Spec | Stage::Config | Stage::Exec),
            Ok(End::Panicked { .. }) => true,
            Ok(_) => false,
            // The rest is the host's.
            Err(error) => error.is::<Gone>(),
        };
        if of_use && !self.debug {
            for line in self.console.tail() {
                self.clients.mention(&ToClient::Console(line));
            }
        }
    }

    /// Whether anything that the guest still does will be kept.
    pub(super) fn has_volumes(&self) -> bool {
        !self.container.record.volumes.is_empty()
    }

    /// Why the VM is gone: QEMU's word, or a guess.
    fn gone(&self) -> Gone {
        let errors = harmless(&self.errors, ERRORS);
        let whereabouts = self.talk.whereabouts();
        let seconds = self.clock.seconds();
        let (why, known) = match &self.shutdown {
            Some(reason) if reason.starts_with("guest-") => {
                let what = if reason == "guest-reset" { "reset itself" } else { "switched itself off" };
                (format!("the guest {what} after {seconds:.1} s: {whereabouts}{}", self.last_words()), true)
            }
            Some(reason) => (format!("QEMU stopped the VM ({reason}): {whereabouts}"), false),
            None if !errors.is_empty() => (format!("QEMU failed: {errors}"), true),
            None => (format!("the VM has ended by itself: {whereabouts}"), false),
        };
        Gone { why, known }
    }

    fn late(&self) -> Gone {
        let why = format!(
            "the container did not start within {} s: {}{}; --debug shows the kernel's log, --boot-timeout gives more time",
            self.boot_timeout.as_secs(),
            self.talk.whereabouts(),
            self.last_words(),
        );
        Gone { why, known: true }
    }

    fn last_words(&self) -> String {
        self.console.last().map_or_else(String::new, |line| format!("; the console's last line: {line}"))
    }
}
