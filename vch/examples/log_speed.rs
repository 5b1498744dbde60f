//! How fast output is logged and read again, per second of CPU time, so that a busy machine does not show:
//! `cargo run --release -p vch --example log_speed [FOLDER]`.

use std::path::Path;
use std::time::SystemTime;

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use vch::log::{Limits, Reader, Stream, Writer};

/// What comes from a channel at a time.
const CHUNK: usize = 64 << 10;
const TOTAL: usize = 256 << 20;

fn main() -> Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| "/tmp".to_owned());
    let line = "2026-11-24 02:50:00,123 INFO  [main] org.example.Server: answered GET /index.html in 12 ms\n";
    let colours = "\u{1b}[32mINFO\u{1b}[0m \"GET /index.html\"\t200 ünïcödé\r\n";
    measure(&folder, "text, lines of 90 bytes", line.as_bytes())?;
    measure(&folder, "short lines of 10 bytes", b"123456789\n")?;
    measure(&folder, "escapes and quotes", colours.as_bytes())?;
    measure(&folder, "binary", &(0..=255u8).collect::<Vec<_>>())
}

fn measure(folder: &str, name: &str, line: &[u8]) -> Result<()> {
    let path = Path::new(folder).join(format!("log_speed.{}", std::process::id()));
    let output: Vec<u8> = line.iter().copied().cycle().take(CHUNK).collect();
    let mut log = Writer::open(&path, Limits::default())?;
    let start = cpu()?;
    for _ in 0..TOTAL / CHUNK {
        log.append(Stream::Stdout, &output, SystemTime::now())?;
    }
    let written = cpu()? - start;
    let start = cpu()?;
    let (mut reader, mut read) = (Reader::open(&path)?, 0);
    while let Some(entry) = reader.next()? {
        read += entry.output.len();
    }
    let speed = |bytes: usize, seconds: f64| bytes as f64 / 1e6 / seconds;
    let (write, read) = (speed(TOTAL, written), speed(read, cpu()? - start));
    println!("{name}: {write:.0} MB/s written, {read:.0} MB/s read");
    for number in 0..5 {
        let _ = std::fs::remove_file(vch::log::files::numbered(&path, number));
    }
    Ok(())
}

/// The CPU time of this process, in seconds, the kernel's included.
fn cpu() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}
