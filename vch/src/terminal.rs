//! The user's terminal: its size, and its raw mode, which ends however we end.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use nix::sys::termios::{self, SetArg, Termios};
use protocol::oci::ConsoleSize;

/// The terminal that is in raw mode, and how it was before.
static COOKED: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// Raw mode: lasts until this is dropped. A process has one terminal, and so one of these.
pub struct Raw(());

impl Raw {
    /// Puts the terminal into raw mode: every key goes to the container, ^C too.
    ///
    /// # Errors
    /// It is no terminal.
    pub fn enter(terminal: &impl AsFd) -> Result<Self> {
        let terminal = terminal.as_fd().try_clone_to_owned()?;
        let cooked = termios::tcgetattr(&terminal).context("cannot read the terminal's mode")?;
        let mut raw = cooked.clone();
        termios::cfmakeraw(&mut raw);
        *COOKED.lock().unwrap_or_else(PoisonError::into_inner) = Some((terminal.try_clone()?, cooked));
        termios::tcsetattr(&terminal, SetArg::TCSADRAIN, &raw)
            .context("cannot put the terminal into raw mode")?;
        Ok(Self(()))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// Makes a panic of this process end raw mode before it says anything: nothing is unwound in a release build, so nothing is
/// dropped.
pub fn restore_on_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        restore();
        before(panic);
    }));
}

/// Ends raw mode, if it is on.
fn restore() {
    // A hook that waits for its own thread would hang; then the terminal is being restored already.
    let Ok(mut cooked) = COOKED.try_lock() else { return };
    if let Some((terminal, cooked)) = cooked.take() {
        // The terminal may have gone away; there is nothing left to restore then.
        let _ = termios::tcsetattr(&terminal, SetArg::TCSADRAIN, &cooked);
    }
}

nix::ioctl_read_bad!(
    /// tty_ioctl(4)
    tiocgwinsz,
    libc::TIOCGWINSZ,
    libc::winsize
);

/// The terminal's size; none if it is no terminal or does not know.
pub fn size(terminal: &impl AsFd) -> Option<ConsoleSize> {
    use std::os::fd::AsRawFd;
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `struct winsize`, which `size` is.
    unsafe { tiocgwinsz(terminal.as_fd().as_raw_fd(), &raw mut size) }.ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(ConsoleSize { height: size.ws_row, width: size.ws_col })
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::pty::openpty;
    use nix::sys::termios::LocalFlags;

    #[test]
    fn raw_mode_ends_with_a_drop_and_with_a_panic() {
        let size_given = nix::pty::Winsize { ws_row: 33, ws_col: 99, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(Some(&size_given), None).unwrap();
        assert_eq!(size(&pty.slave), Some(ConsoleSize { height: 33, width: 99 }));
        let canonical = || termios::tcgetattr(&pty.slave).unwrap().local_flags.contains(LocalFlags::ICANON);
        let raw = Raw::enter(&pty.slave).unwrap();
        assert!(!canonical());
        drop(raw);
        assert!(canonical());
        // Not dropped: as where a panic ends the process at once.
        std::mem::forget(Raw::enter(&pty.slave).unwrap());
        assert!(!canonical());
        restore_on_panic();
        assert!(std::thread::spawn(|| panic!("of a test")).join().is_err());
        assert!(canonical());
        drop(std::panic::take_hook());
    }

    #[test]
    fn a_pipe_is_no_terminal() {
        let (reader, _writer) = nix::unistd::pipe().unwrap();
        assert!(Raw::enter(&reader).is_err());
        assert_eq!(size(&reader), None);
    }
}
