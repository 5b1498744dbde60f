//! How a containerVM ended, and the exit status that users of docker expect for it.

use nix::errno::Errno;
use nix::sys::signal::Signal;
use protocol::{ExitStatus, Failure, Stage, Step, Stream};

use serde::{Deserialize, Serialize};

use crate::text::harmless;

/// Exit status for failures of our own.
pub const OURS: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// Added to a signal's number.
const SIGNALLED: u8 = 128;
/// The most of a guest's sentence that is shown, in characters.
const SENTENCE: usize = 1000;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The last signal that was passed on to the container's process.
    #[serde(with = "number")]
    pub forwarded: Option<Signal>,
    /// The guest's steps, from its kernel's start (guest `CLOCK_BOOTTIME`, nanoseconds).
    pub guest: Vec<Step>,
    /// The host's steps, from the start of [`crate::run`] (nanoseconds).
    pub host: Vec<Step>,
    /// The largest resident set that tether has had, in KiB; 0 if it did not say.
    pub peak_rss: u64,
}

/// The ways a containerVM ends that its machinery is not to blame for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum End {
    /// The container's process ended.
    Exited(ExitStatus),
    /// Tether could not start it.
    Failed(Failure),
    /// We got this signal and stopped the VM at once.
    #[serde(with = "number")]
    Killed(Signal),
    /// Nobody reads this stream any more, so we stopped the VM.
    Closed(Stream),
    /// The guest's kernel gave up.
    Panicked {
        /// What it said, after so many seconds on the host's clock.
        reason: String,
        /// The last lines of its console.
        log: Vec<String>,
    },
    /// Of an exec: the container has ended, and so its process was killed.
    WithContainer,
}

/// Signals by their numbers.
mod number {
    use nix::sys::signal::Signal;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// What has a number.
    pub trait Numbered: Sized {
        type Number: Serialize + for<'de> Deserialize<'de>;
        fn to(&self) -> Self::Number;
        fn from(number: Self::Number) -> Option<Self>;
    }

    impl Numbered for Signal {
        type Number = i32;
        fn to(&self) -> i32 {
            *self as i32
        }
        fn from(number: i32) -> Option<Self> {
            Self::try_from(number).ok()
        }
    }

    impl Numbered for Option<Signal> {
        type Number = Option<i32>;
        fn to(&self) -> Option<i32> {
            self.map(|signal| signal as i32)
        }
        fn from(number: Option<i32>) -> Option<Self> {
            number.map_or(Some(None), |number| Signal::try_from(number).ok().map(Some))
        }
    }

    pub fn serialize<T: Numbered, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        value.to().serialize(serializer)
    }

    pub fn deserialize<'de, T: Numbered, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let number = T::Number::deserialize(deserializer)?;
        T::from(number).ok_or_else(|| D::Error::custom("no such signal"))
    }
}

impl End {
    /// The exit status that stands for it.
    pub fn code(&self) -> u8 {
        match self {
            Self::Exited(ExitStatus::Code(code)) => *code,
            Self::Exited(ExitStatus::Signal { signal, .. }) => signalled(*signal),
            Self::Exited(ExitStatus::Oom) | Self::WithContainer => signalled(libc::SIGKILL),
            Self::Failed(Failure { stage: Stage::Exec, errno: Some(libc::ENOENT), .. }) => NOT_FOUND,
            Self::Failed(Failure { stage: Stage::Exec, .. }) => NOT_EXECUTABLE,
            Self::Failed(_) | Self::Panicked { .. } => OURS,
            Self::Killed(signal) => signalled(*signal as i32),
            Self::Closed(_) => signalled(libc::SIGPIPE),
        }
    }

    /// The sentence for the user, where it is how an exec ended; none when that ended by itself.
    pub fn of_exec(&self) -> Option<String> {
        match self {
            Self::Exited(ExitStatus::Oom) => Some("memory ran out, and the command was killed for it".into()),
            Self::Exited(_) => None,
            Self::Failed(failure) => Some(format!("could not run the command: {}", reason(failure))),
            Self::WithContainer | Self::Killed(_) | Self::Closed(_) | Self::Panicked { .. } => {
                Some("the container has ended, and the command with it".into())
            }
        }
    }
}

impl Outcome {
    /// The exit status of `vch run`.
    pub fn code(&self) -> u8 {
        self.end.code()
    }

    /// The sentence for the user; none when the container ended by itself.
    pub fn sentence(&self) -> Option<String> {
        match &self.end {
            End::Exited(ExitStatus::Signal { signal, .. })
                if self.forwarded.is_some_and(|sent| sent as i32 == *signal) =>
            {
                Some(format!("stopped by {}", self.forwarded?.as_str()))
            }
            End::Exited(ExitStatus::Oom) => {
                Some("the container ran out of memory and was killed; more can be given with -m".into())
            }
            End::Exited(_) => None,
            End::Failed(failure) => Some(failed(failure)),
            End::Killed(signal) => Some(format!("got {}; the VM was stopped", signal.as_str())),
            End::Closed(stream) => Some(format!("{} was closed; the VM was stopped", name(*stream))),
            End::Panicked { reason, .. } => Some(format!("the guest's kernel gave up {reason}")),
            End::WithContainer => self.end.of_exec(),
        }
    }
}

fn signalled(signal: i32) -> u8 {
    u8::try_from(signal).map_or(u8::MAX, |signal| SIGNALLED.saturating_add(signal))
}

fn name(stream: Stream) -> &'static str {
    match stream {
        Stream::Stdin => "stdin",
        Stream::Stdout => "stdout",
        Stream::Stderr => "stderr",
    }
}

fn failed(failure: &Failure) -> String {
    match failure.stage {
        Stage::Run => format!("the guest failed while {}", reason(failure)),
        _ => format!("could not start the container: {}", reason(failure)),
    }
}

/// Where it failed, and why.
fn reason(failure: &Failure) -> String {
    let message = match (failure.message.trim(), failure.errno) {
        ("", Some(errno)) => Errno::from_raw(errno).desc().to_owned(),
        (message, _) => harmless(message.as_bytes(), SENTENCE),
    };
    format!("{}: {message}", failure.stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(end: End) -> Outcome {
        Outcome { end, forwarded: None, guest: vec![], host: vec![], peak_rss: 0 }
    }

    fn failure(stage: Stage, errno: i32) -> End {
        End::Failed(Failure { stage, errno: Some(errno), message: "x".into() })
    }

    #[test]
    fn codes_are_dockers() {
        let signal = |signal| End::Exited(ExitStatus::Signal { signal, core: false });
        let rows = [
            (End::Exited(ExitStatus::Code(0)), 0),
            (End::Exited(ExitStatus::Code(255)), 255),
            (signal(9), 137),
            (signal(64), 192),
            (signal(-5), 255),
            (signal(1 << 20), 255),
            (End::Exited(ExitStatus::Oom), 137),
            (failure(Stage::Exec, libc::ENOENT), 127),
            (failure(Stage::Exec, libc::EACCES), 126),
            (failure(Stage::Exec, libc::ENOEXEC), 126),
            (failure(Stage::Exec, libc::EISDIR), 126),
            (failure(Stage::Disks, libc::ENOENT), 125),
            (failure(Stage::Run, libc::EIO), 125),
            (End::Killed(Signal::SIGINT), 130),
            (End::Killed(Signal::SIGHUP), 129),
            (End::Closed(Stream::Stdout), 141),
        ];
        for (end, code) in rows {
            assert_eq!(outcome(end.clone()).code(), code, "{end:?}");
        }
    }

    #[test]
    fn sentences() {
        assert_eq!(outcome(End::Exited(ExitStatus::Code(7))).sentence(), None);
        let mut stopped = outcome(End::Exited(ExitStatus::Signal { signal: 2, core: false }));
        assert_eq!(stopped.sentence(), None);
        stopped.forwarded = Some(Signal::SIGINT);
        assert_eq!(stopped.sentence().unwrap(), "stopped by SIGINT");
        stopped.forwarded = Some(Signal::SIGTERM);
        assert_eq!(stopped.sentence(), None);
        let nasty = Failure { stage: Stage::Root, errno: None, message: "bad\x1b[2J".into() };
        assert_eq!(
            outcome(End::Failed(nasty)).sentence().unwrap(),
            "could not start the container: assembling the root filesystem: bad?[2J"
        );
    }
}
