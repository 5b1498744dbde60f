//! `vch run -t` and `vch exec -t` at a terminal: a pseudo-terminal with this test at its other end.

use crate::background::Background;
use crate::harness::{Test, command, store, vch};
use crate::tests;
use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{Pid, read, write};
use sha2::{Digest, Sha256};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub fn tests() -> Vec<Test> {
    tests![
        a_shell_at_a_terminal,
        a_command_beside_a_container,
        raw_mode_is_undone_when_killed_by_a_signal,
        detached_by_keys,
        no_terminal_no_it
    ]
}

/// How long anything may take on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(300);

/// A large paste, in bytes.
const PASTE: usize = 1 << 20;

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

/// A person at a terminal: types, and waits for what comes.
struct Person {
    keyboard: OwnedFd,
    terminal: OwnedFd,
    seen: String,
    vch: Child,
}

impl Drop for Person {
    /// A test that fails leaves no VM behind.
    fn drop(&mut self) {
        let _asked = kill(Pid::from_raw(self.vch.id().cast_signed()), Signal::SIGTERM);
        let _insisted = kill(Pid::from_raw(self.vch.id().cast_signed()), Signal::SIGTERM);
        let _reaped = self.vch.wait();
    }
}

impl Person {
    fn sit_down(name: &str, arguments: &[&str]) -> Result<Self> {
        Self::at(command(name, &["-t"], arguments))
    }

    fn at(mut command: Command) -> Result<Self> {
        let pty = openpty(Some(&size(24, 80)), None)?;
        fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let end = || pty.slave.try_clone().map(Stdio::from);
        let vch = command.stdin(end()?).stdout(end()?).stderr(end()?).spawn()?;
        Ok(Self { keyboard: pty.master, terminal: pty.slave, seen: String::new(), vch })
    }

    /// Types, and takes what comes meanwhile.
    fn types(&mut self, keys: &str) -> Result<()> {
        let mut rest = keys.as_bytes();
        self.until("all is typed", |person| {
            match write(&person.keyboard, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::EAGAIN) => {}
                error => drop(error?),
            }
            Ok(rest.is_empty().then_some(()))
        })
    }

    /// Tries again and again, and takes what comes meanwhile.
    fn until<T>(&mut self, what: &str, mut once: impl FnMut(&mut Self) -> Result<Option<T>>) -> Result<T> {
        let end = Instant::now() + PATIENCE;
        loop {
            let ended = self.vch.try_wait()?;
            if let Some(value) = once(self)? {
                return Ok(value);
            }
            let mut fds = [PollFd::new(self.keyboard.as_fd(), PollFlags::POLLIN)];
            // A signal, such as another test's child's end, interrupts it.
            let ready = match poll(&mut fds, PollTimeout::from(20_u8)) {
                Err(Errno::EINTR) => continue,
                ready => ready?,
            };
            if ready > 0 {
                let mut bytes = [0; 4096];
                let count = read(&self.keyboard, &mut bytes)?;
                self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
            } else if let Some(status) = ended {
                anyhow::bail!("not before the end, {status}: {what}; but {:?}", self.seen);
            }
            ensure!(Instant::now() < end, "not within {PATIENCE:?}: {what}; but {:?}", self.seen);
        }
    }

    /// Types a command for a shell at its prompt, and waits until that runs, which it says.
    fn starts(&mut self, script: &str) -> Result<()> {
        // What is typed is shown, too; the quotes keep it from looking like what the command says.
        self.types(&format!("sh -c \"echo runn''ing; {script}\"\r"))?;
        self.waits_for("running\r\n")
    }

    /// Has something run in the foreground that says so itself: busybox's shell, and what it starts as long as that is a shell,
    /// ignores `^\`.
    fn starts_to_wait(&mut self) -> Result<()> {
        self.types("echo runn''ing > /tmp/said; tail -f /tmp/said\r")?;
        self.waits_for("running\r\n")
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.vch.id().cast_signed()), signal)?)
    }

    /// Only a terminal's foreground processes are told by the kernel, and this one has none.
    fn resizes(&self, rows: u16, columns: u16) -> Result<()> {
        // SAFETY: TIOCSWINSZ reads a winsize, which outlives the call.
        unsafe { set_size(std::os::fd::AsRawFd::as_raw_fd(&self.keyboard), &size(rows, columns)) }?;
        self.signal(Signal::SIGWINCH)
    }

    /// Waits for `text` and forgets all up to its end.
    fn waits_for(&mut self, text: &str) -> Result<()> {
        self.until(&format!("{text:?}"), |person| {
            let Some(at) = person.seen.find(text) else { return Ok(None) };
            person.seen.drain(..at + text.len());
            Ok(Some(()))
        })
    }

    fn terminal_is_raw(&self) -> Result<bool> {
        Ok(!tcgetattr(&self.terminal)?.local_flags.contains(LocalFlags::ICANON))
    }
}

fn a_shell_at_a_terminal() -> Result<()> {
    let mut person = Person::sit_down("terminal", &["sh", "-c", "stty size; exec sh"])?;
    person.waits_for("24 80\r\n")?;
    person.waits_for("# ")?;
    ensure!(person.terminal_is_raw()?, "the host's terminal is not raw");
    person.types("tty; echo $TERM\r")?;
    person.waits_for("/dev/pts/0\r\nxterm\r\n")?;
    person.waits_for("# ")?;
    person.types("echo helo\x1b[Dl\x1b[C\r")?; // arrows: the shell's line editing
    person.waits_for("hello\r\n")?;
    person.waits_for("# ")?;
    keys_that_are_signals(&mut person)?;
    person.resizes(50, 132)?;
    person.types("until stty size | grep 132; do sleep 0.1; done\r")?;
    person.waits_for("50 132\r\n")?;
    person.waits_for("# ")?;
    paste(&mut person)?;
    person.types("exit 3\r")?;
    let status = person.vch.wait()?;
    ensure!(status.code() == Some(3), "{status}");
    ensure!(!person.terminal_is_raw()?, "the terminal was left raw");
    Ok(())
}

/// At the prompt of a shell, which they do not end.
fn keys_that_are_signals(person: &mut Person) -> Result<()> {
    for key in ["\x03", "\x1c"] {
        person.starts_to_wait()?;
        person.types(key)?; // ^C, ^\\
        person.waits_for("# ")?;
    }
    person.starts_to_wait()?;
    person.types("\x1a")?; // ^Z
    person.waits_for("Stopped")?;
    person.waits_for("# ")?;
    person.types("kill -9 %1; wait; echo go''ne\r")?;
    person.waits_for("gone\r\n")?;
    person.waits_for("# ")
}

/// More than any buffer on the way holds, to a program that takes it byte by byte, as an editor does: a line is at most 4095 bytes.
fn paste(person: &mut Person) -> Result<()> {
    person.starts(&format!("stty raw -echo; echo re''ady; head -c {PASTE} | sha256sum; stty sane"))?;
    person.waits_for("ready")?;
    let line = "abcdefghijklmnopqrstuvwxyz0123456789\t\x03\x04\x1a\x1c\x7f\u{e9}\r\n";
    let text: String = line.chars().cycle().take(PASTE).collect();
    let text = text.get(..PASTE).context("not at a character's boundary")?;
    person.types(text)?;
    let digest = Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    person.waits_for(&digest)?;
    person.waits_for("# ")
}

fn a_command_beside_a_container() -> Result<()> {
    let web = Background::run("beside", &[], &["sleep", "100000"])?;
    let exec = |script| web.cli(&["exec", "-t", web.name, "sh", "-c", script]);
    let mut person = Person::at(exec("stty size; tty; echo $TERM; exec sh"))?;
    person.waits_for("24 80\r\n/dev/pts/0\r\nxterm\r\n")?;
    person.waits_for("# ")?;
    ensure!(person.terminal_is_raw()?, "the host's terminal is not raw");
    keys_that_are_signals(&mut person)?;
    person.resizes(50, 132)?;
    person.types("until stty size | grep 132; do sleep 0.1; done\r")?;
    person.waits_for("50 132\r\n")?;
    person.waits_for("# ")?;
    paste(&mut person)?;
    // Another has a terminal of its own, which its keys do not share.
    let mut other = Person::at(exec("tty; echo up; sleep 1000"))?;
    other.waits_for("/dev/pts/1\r\nup\r\n")?;
    other.types("\x03")?;
    let status = other.vch.wait()?;
    ensure!(status.code() == Some(130) && !other.terminal_is_raw()?, "{status}");
    person.types("exit 4\r")?;
    let status = person.vch.wait()?;
    ensure!(status.code() == Some(4) && !person.terminal_is_raw()?, "{status}");

    let mut leaving = Person::at(exec("echo up; sleep 1000"))?;
    leaving.waits_for("up\r\n")?;
    leaving.types("\x10\x11")?;
    let status = leaving.vch.wait()?;
    ensure!(status.success() && !leaving.terminal_is_raw()?, "{status}");
    let mut insisting = Person::at(exec("trap 'echo go''t' TERM; echo up; while :; do sleep 0.2; done"))?;
    insisting.waits_for("up\r\n")?;
    insisting.signal(Signal::SIGTERM)?;
    insisting.waits_for("got\r\n")?;
    insisting.signal(Signal::SIGTERM)?;
    let status = insisting.vch.wait()?;
    ensure!(status.code() == Some(137) && !insisting.terminal_is_raw()?, "{status}");
    let mut left = Person::at(exec("echo up; sleep 1000"))?;
    left.waits_for("up\r\n")?;
    ensure!(left.terminal_is_raw()?, "the host's terminal is not raw");
    web.kill_monitor()?;
    let status = left.vch.wait()?;
    ensure!(status.code() == Some(125) && !left.terminal_is_raw()?, "{status}");
    left.waits_for("the monitor of container beside has died")
}

fn raw_mode_is_undone_when_killed_by_a_signal() -> Result<()> {
    let script = "trap 'echo go''t' TERM; echo up; while :; do sleep 0.2; done";
    let mut person = Person::sit_down("raw", &["sh", "-c", script])?;
    person.waits_for("up\r\n")?;
    ensure!(person.terminal_is_raw()?, "the host's terminal is not raw");
    person.signal(Signal::SIGTERM)?;
    person.waits_for("got\r\n")?;
    person.signal(Signal::SIGTERM)?;
    let status = person.vch.wait()?;
    ensure!(status.code() == Some(143) && !person.terminal_is_raw()?, "{status}");
    Ok(())
}

fn detached_by_keys() -> Result<()> {
    let mut person = Person::sit_down("detached", &["sh"])?;
    person.waits_for("# ")?;
    person.types("echo a\x10b\r\x10")?; // the shell goes back in its history for ctrl-p: it runs nothing else
    std::thread::sleep(Duration::from_millis(300));
    person.types("\x11")?;
    let status = person.vch.wait()?;
    ensure!(status.success() && !person.terminal_is_raw()?, "{status}");
    let on = |arguments: &[&str]| Command::new(vch()).args(arguments).arg("--store").arg(store()).output();
    let listed = on(&["ps", "--format", "json"])?;
    let removed = on(&["rm", "-f", "detached"])?;
    ensure!(
        String::from_utf8_lossy(&listed.stdout).contains("\"Names\":\"detached\""),
        "it has ended: {listed:?}"
    );
    ensure!(removed.status.success(), "{removed:?}");
    Ok(())
}

fn no_terminal_no_it() -> Result<()> {
    let output = command("no-terminal", &["-i", "-t"], &["sh"]).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(125) && error.contains("not a TTY"), "{error}");
    Ok(())
}
