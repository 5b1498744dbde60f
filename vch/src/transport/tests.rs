use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use protocol::HostLink;

use super::vsock::{Doors, Folder, NAME};
use super::*;

const CID: u32 = 70_000;

fn doors(dir: &Path) -> Line {
    Line::doors(Doors::open(Folder::Kept(dir.to_owned()), CID, Vhost::Helper).unwrap())
}

fn call(dir: &Path, bytes: &[u8]) -> UnixStream {
    let mut socket = UnixStream::connect(dir.join(format!("{NAME}_{CID}"))).unwrap();
    socket.write_all(bytes).unwrap();
    socket
}

fn read(line: &mut Line) -> (Arrival, Vec<u8>) {
    let mut chunk = [0; 100];
    let arrival = line.read(&mut chunk, protocol::State::Connected).unwrap();
    let bytes = if let Arrival::Bytes(count) = arrival { chunk[..count].to_vec() } else { vec![] };
    (arrival, bytes)
}

fn is_dropped(mut socket: UnixStream) -> bool {
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    !matches!(socket.read(&mut [0; 1]), Ok(1..))
}

#[test]
fn only_who_has_the_first_ones_key_is_the_guest() {
    let dir = tempfile::tempdir().unwrap();
    let mut line = doors(dir.path());
    assert!(!line.is_up() && line.due().is_none());
    // The key may come in pieces.
    let mut guest = call(dir.path(), b"the ");
    assert_eq!(read(&mut line).0, Arrival::Nothing);
    assert!(!line.is_up());
    guest.write_all(b"right key...and more").unwrap();
    assert_eq!(read(&mut line).0, Arrival::Came);
    assert_eq!(read(&mut line), (Arrival::Bytes(8), b"and more".to_vec()));
    let mode = std::fs::metadata(dir.path().join("channel.key")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let another = call(dir.path(), b"another key.....");
    let silent = call(dir.path(), b"");
    let short = call(dir.path(), b"the right");
    guest.write_all(b"still here").unwrap();
    assert_eq!(read(&mut line), (Arrival::Bytes(10), b"still here".to_vec()));
    assert!(is_dropped(another));
    // The same from one that comes anew; those that have shown nothing are no hindrance.
    let mut guest = call(dir.path(), b"the right key...");
    assert_eq!(read(&mut line).0, Arrival::Came);
    guest.write_all(b"again").unwrap();
    assert_eq!(read(&mut line), (Arrival::Bytes(5), b"again".to_vec()));
    drop((silent, short));

    // Another monitor knows the key.
    drop(line);
    let mut line = doors(dir.path());
    assert!(line.due().is_some(), "it does not wait for ever");
    let another = call(dir.path(), b"another key.....");
    assert_eq!(read(&mut line).0, Arrival::Nothing);
    assert!(is_dropped(another));
    let guest = call(dir.path(), b"the right key...");
    assert_eq!(read(&mut line).0, Arrival::Came);
    assert!(line.due().is_none());
    drop(guest);
    assert_eq!(read(&mut line).0, Arrival::Went);
    assert!(!line.is_up() && line.due().is_some());
}

#[test]
fn callers_without_a_key_do_not_pile_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut line = doors(dir.path());
    let calls: Vec<_> = (0..8)
        .flat_map(|_| {
            let calls: Vec<_> = (0..8).map(|_| call(dir.path(), b"")).collect();
            assert_eq!(read(&mut line).0, Arrival::Nothing);
            calls
        })
        .collect();
    assert_eq!(line.interests(false).len(), 9, "the door, and eight");
    assert!(calls.into_iter().take(56).all(is_dropped));
}

#[test]
fn a_lossy_line_begins_anew_when_nothing_moves() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let mut line = Line::stream(ours, true);
    let mut link = HostLink::adopting([1; 16], true, protocol::Kept::new());
    while line.flush(&mut link).unwrap() {}
    let greeting = 4144 + protocol::handshake::LEN;
    theirs.read_exact(&mut vec![0; greeting]).unwrap();
    line.turn(&mut link).unwrap();
    assert!(link.output().is_empty());
    let due = line.due().unwrap();
    std::thread::sleep(due.saturating_duration_since(std::time::Instant::now()));
    line.turn(&mut link).unwrap();
    assert_eq!(link.output().len(), greeting, "another hello");
}

#[test]
fn a_record_keeps_it() {
    let transports = [
        (Transport::VirtioSerial, "\"virtio-serial\""),
        (Transport::Serial, "\"serial\""),
        (
            Transport::Vsock { cid: 70_000, vhost: Vhost::Helper },
            r#"{"vsock":{"cid":70000,"vhost":"helper"}}"#,
        ),
    ];
    for (transport, json) in transports {
        assert_eq!(serde_json::to_string(&transport).unwrap(), json);
        assert_eq!(serde_json::from_str::<Transport>(json).unwrap(), transport);
    }
}
