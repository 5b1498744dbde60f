//! The other end of a containerVM's wire: Ethernet frames in datagrams.

use anyhow::{Context, Result};
use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub struct End {
    socket: UnixDatagram,
    other: PathBuf,
}

impl End {
    /// Takes the second end; the VM takes the first. Waits so long for each frame.
    pub fn take(store: &Path, wire: &str, patience: Duration) -> Result<Self> {
        let wires = vch::network::wire::folder(store);
        std::fs::create_dir_all(&wires)?;
        let socket = UnixDatagram::bind(wires.join(format!("{wire}.1")))?;
        socket.set_read_timeout(Some(patience))?;
        Ok(Self { socket, other: wires.join(format!("{wire}.0")) })
    }

    /// The next frame.
    pub fn receive(&self) -> Result<Vec<u8>> {
        let mut frame = vec![0; 2048];
        loop {
            match self.socket.recv(&mut frame) {
                // A socket with a timeout is not restarted after a signal, such as a child's end (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                length => {
                    frame.truncate(length.context("nothing has come over the wire")?);
                    return Ok(frame);
                }
            }
        }
    }

    pub fn send(&self, frame: &[u8]) -> Result<()> {
        self.socket.send_to(frame, &self.other).context("sending over the wire")?;
        Ok(())
    }
}
