//! What `cargo xtask bench image` holds the image builder against, as a program so that its CPU time is its own.
//!
//! - `floor layer BLOB`: the least that any builder of layer disks has to do: inflate the blob and hash the tar stream, in
//!   one thread, and throw both away.
//! - `floor tree DISK`: the hash tree of a disk that has none; what dm-verity costs on top.

use std::fs::File;
use std::io::{BufReader, Read};

use anyhow::{Context, Result, bail};
use image_builder::compression::decompress;
use image_builder::digest::Hasher;
use image_builder::verity;

fn main() -> Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["layer", blob] => layer(blob),
        ["tree", disk] => tree(disk),
        _ => bail!("usage: floor layer BLOB | floor tree DISK"),
    }
}

fn layer(blob: &str) -> Result<()> {
    let blob = File::open(blob).with_context(|| format!("cannot open {blob}"))?;
    let (_, mut tar) = decompress(BufReader::with_capacity(256 << 10, blob))?;
    let mut hash = Hasher::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match tar.read(&mut buffer)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    println!("{}", hash.finish().0);
    Ok(())
}

fn tree(disk: &str) -> Result<()> {
    let file =
        File::options().read(true).write(true).open(disk).with_context(|| format!("cannot open {disk}"))?;
    println!("{}", verity::append(&file, file.metadata()?.len(), [0; 16])?.root_hash);
    Ok(())
}
