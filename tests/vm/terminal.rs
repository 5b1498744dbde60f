//! `vch run -t` at a terminal: a pseudo-terminal with this test at its other end.

use crate::harness::{Test, command, store, vch};
use crate::tests;
use anyhow::{Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::{Pid, read, write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub fn tests() -> Vec<Test> {
    tests![
        a_shell_at_a_terminal,
        raw_mode_is_undone_when_killed_by_a_signal,
        detached_by_keys,
        no_terminal_no_it
    ]
}

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
        let pty = openpty(Some(&size(24, 80)), None)?;
        let end = || pty.slave.try_clone().map(Stdio::from);
        let vch = command(name, &["-t"], arguments).stdin(end()?).stdout(end()?).stderr(end()?).spawn()?;
        Ok(Self { keyboard: pty.master, terminal: pty.slave, seen: String::new(), vch })
    }

    fn types(&self, keys: &str) -> Result<()> {
        ensure!(write(&self.keyboard, keys.as_bytes())? == keys.len(), "a short write");
        Ok(())
    }

    /// Waits for `text` and forgets all up to its end.
    fn waits_for(&mut self, text: &str) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return Ok(());
            }
            ensure!(Instant::now() < end, "no {text:?} within 60 s, but {:?}", self.seen);
            let mut fds = [PollFd::new(self.keyboard.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(100_u8))? > 0 {
                let mut bytes = [0; 4096];
                let count = read(&self.keyboard, &mut bytes)?;
                self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        }
    }

    fn terminal_is_raw(&self) -> Result<bool> {
        Ok(!tcgetattr(&self.terminal)?.local_flags.contains(LocalFlags::ICANON))
    }
}

fn a_shell_at_a_terminal() -> Result<()> {
    let mut person = Person::sit_down("terminal", &["sh"])?;
    person.waits_for("# ")?;
    ensure!(person.terminal_is_raw()?, "the host's terminal is not raw");
    person.types("stty size; tty; echo $TERM\r")?;
    person.waits_for("24 80\r\n/dev/pts/0\r\nxterm\r\n")?;
    person.types("echo helo\x1b[Dl\x1b[C; sh -c 'echo asleep; exec sleep 1000'\r")?; // arrows: the shell's line editing
    person.waits_for("hello\r\nasleep\r\n")?;
    person.types("\x03")?; // ^C ends sleep, not the shell
    person.waits_for("# ")?;
    // SAFETY: TIOCSWINSZ reads a winsize, which outlives the call.
    unsafe { set_size(std::os::fd::AsRawFd::as_raw_fd(&person.keyboard), &size(50, 132)) }?;
    // Only a terminal's foreground processes are told by the kernel, and this one has none.
    kill(Pid::from_raw(person.vch.id().cast_signed()), Signal::SIGWINCH)?;
    person.types("until stty size | grep 132; do sleep 0.1; done\r")?;
    person.waits_for("50 132\r\n")?;
    person.types("exit 3\r")?;
    let status = person.vch.wait()?;
    ensure!(status.code() == Some(3), "{status}");
    ensure!(!person.terminal_is_raw()?, "the terminal was left raw");
    Ok(())
}

fn raw_mode_is_undone_when_killed_by_a_signal() -> Result<()> {
    let mut person = Person::sit_down("raw", &["sh", "-c", "trap '' TERM; echo up; sleep 1000"])?;
    person.waits_for("up")?;
    ensure!(person.terminal_is_raw()?, "the host's terminal is not raw");
    for _ in 0..2 {
        kill(Pid::from_raw(person.vch.id().cast_signed()), Signal::SIGTERM)?;
        std::thread::sleep(Duration::from_millis(500));
    }
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
