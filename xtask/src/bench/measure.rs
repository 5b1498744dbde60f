//! What one run of a program costs.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::mem::MaybeUninit;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// CPU time of all its threads and the children it waited for, wall time, and the most memory of any one process.
///
/// Linux carries the memory of the process that started it into the figure, so this program has to stay small.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    pub cpu: Duration,
    pub wall: Duration,
    /// Bytes.
    pub peak: u64,
}

/// Runs `command`, without a terminal and with its output thrown away.
///
/// # Errors
/// It cannot be started, or fails: then with what it last said.
pub fn measure(command: &mut Command) -> Result<Cost> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut said = tempfile::tempfile().context("making a temporary file")?;
    let stderr = said.try_clone().context("duplicating a file")?;
    let start = Instant::now();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
    let (status, usage) = wait(child.with_context(|| format!("starting {name}"))?)?;
    let wall = start.elapsed();
    if !status.success() {
        bail!("{name} failed: {status}: {}", last_line(&mut said)?);
    }
    let cpu = duration(usage.ru_utime) + duration(usage.ru_stime);
    Ok(Cost { cpu, wall, peak: usage.ru_maxrss.unsigned_abs() * 1024 })
}

/// Waits for one child alone; the standard library and nix tell only what all have used together.
fn wait(child: Child) -> Result<(ExitStatus, libc::rusage)> {
    let pid = libc::pid_t::try_from(child.id())?;
    let mut status = 0;
    let mut usage = MaybeUninit::uninit();
    loop {
        // SAFETY: both pointers are valid for writing, for as long as the call lasts.
        let waited = unsafe { libc::wait4(pid, &raw mut status, 0, usage.as_mut_ptr()) };
        if waited == pid {
            // SAFETY: wait4 succeeded, so it wrote the structure.
            return Ok((ExitStatus::from_raw(status), unsafe { usage.assume_init() }));
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error).context("waiting for a program");
        }
    }
}

fn last_line(said: &mut File) -> Result<String> {
    let mut text = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).lines().last().unwrap_or("it says nothing").to_owned())
}

fn duration(time: libc::timeval) -> Duration {
    let (seconds, micros) = (time.tv_sec.unsigned_abs(), time.tv_usec.unsigned_abs());
    Duration::from_secs(seconds) + Duration::from_micros(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_child_has_its_own_figures() {
        let shell = |script: &str| measure(Command::new("sh").args(["-c", script]));
        let busy = shell("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done").unwrap();
        let idle = shell("true").unwrap();
        assert!(busy.cpu > idle.cpu && busy.wall > Duration::ZERO && idle.peak > 0);
        let error = shell("echo one >&2; echo two >&2; exit 3").unwrap_err().to_string();
        assert!(error.ends_with("exit status: 3: two"), "{error}");
    }
}
