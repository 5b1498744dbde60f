//! How blobs and archives are compressed: told by their first bytes, as docker and containerd do, for media types lie.
//!
//! gzip may have many members (eStargz has one a file), as in Go's reader: what follows the last one must be another, not
//! even zeros. zstd may have many frames, and skippable ones anywhere (zstd:chunked, pzstd).

use std::fmt;
use std::io::{self, BufRead, Cursor, Error, ErrorKind, Read};

use flate2::bufread::MultiGzDecoder;

/// What a stream is compressed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Nothing that we know: so a tar stream, or what is none.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "tar",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// The most memory that zstd may ask for its window, as a power of two: 128 MiB, the limit of its own command line.
const MAX_WINDOW_LOG: u32 = 27;
/// Bytes that tell everything that [`Compression::detect`] knows.
const MAGIC: usize = 10;

impl Compression {
    /// By the first bytes of a stream, ten if it has as many.
    ///
    /// # Errors
    /// Something that docker knows and we do not.
    pub fn detect(head: &[u8]) -> io::Result<Self> {
        let unsupported = |name: &str| {
            Err(Error::new(ErrorKind::Unsupported, format!("{name} is not supported, only gzip and zstd")))
        };
        match head {
            [0x1f, 0x8b, 8, ..] => Ok(Self::Gzip),
            // A frame; a skippable frame.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => unsupported("xz compression"),
            [b'B', b'Z', b'h', b'1'..=b'9', b'1', b'A', b'Y', b'&', b'S', b'Y', ..] => {
                unsupported("bzip2 compression")
            }
            _ => Ok(Self::None),
        }
    }
}

/// `stream` without its compression, and what that was.
///
/// # Errors
/// The first bytes cannot be read, or are of a compression that is not supported. Reading the result fails where the stream
/// is damaged or ends too soon.
///
/// ```
/// # use image_builder::{compression::{Compression, decompress}, testimage};
/// let blob = testimage::gzip(b"hello");
/// let (compression, stream) = decompress(&blob[..])?;
/// assert_eq!((compression, std::io::read_to_string(stream)?.as_str()), (Compression::Gzip, "hello"));
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn decompress<'a, R: BufRead + Send + 'a>(
    mut stream: R,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut head = Vec::with_capacity(MAGIC);
    stream.by_ref().take(MAGIC as u64).read_to_end(&mut head)?;
    let compression = Compression::detect(&head)?;
    let stream = Cursor::new(head).chain(stream);
    Ok((
        compression,
        match compression {
            Compression::None => Box::new(stream),
            Compression::Gzip => Box::new(MultiGzDecoder::new(stream)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(stream)?;
                decoder.window_log_max(MAX_WINDOW_LOG)?;
                Box::new(decoder)
            }
        },
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::testimage::gzip;

    fn inflate(bytes: &[u8]) -> io::Result<(Compression, Vec<u8>)> {
        let (compression, mut stream) = decompress(bytes)?;
        let mut all = Vec::new();
        stream.read_to_end(&mut all)?;
        Ok((compression, all))
    }

    /// As zstd's command line does it: with a checksum.
    fn zstd(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
        encoder.include_checksum(true).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn skippable(length: u32) -> Vec<u8> {
        [&[0x5a, 0x2a, 0x4d, 0x18][..], &length.to_le_bytes(), &vec![7; length as usize]].concat()
    }

    /// A frame that asks for a window of 2^`log` bytes.
    fn windowed(log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(b"ab").unwrap();
        encoder.flush().unwrap();
        encoder.write_all(b"cd").unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn the_content_decides() {
        let (gzip_of, zstd_of) = (Compression::Gzip, Compression::Zstd);
        for (blob, compression) in [
            (b"abcd".to_vec(), Compression::None),
            (gzip(b"abcd"), gzip_of),
            ([gzip(b"ab"), gzip(b""), gzip(b"cd")].concat(), gzip_of),
            (zstd(b"abcd"), zstd_of),
            ([zstd(b"ab"), zstd(b""), zstd(b"cd")].concat(), zstd_of),
            ([skippable(0), zstd(b"ab"), skippable(70_000), zstd(b"cd"), skippable(9)].concat(), zstd_of),
            (windowed(27), zstd_of),
        ] {
            assert_eq!(inflate(&blob).unwrap(), (compression, b"abcd".to_vec()));
        }
        assert_eq!(inflate(b"").unwrap(), (Compression::None, Vec::new()));
        assert_eq!(inflate(&skippable(5)).unwrap(), (zstd_of, Vec::new()));
    }

    #[test]
    fn damage_is_noticed() {
        let (gz, zst) =
            (gzip(&[7; 9000]), zstd(&(0..9000u32).flat_map(u32::to_le_bytes).collect::<Vec<_>>()));
        let mut flipped = gz.clone();
        flipped[gz.len() - 6] ^= 1; // in the checksum
        let mut corrupt = zst.clone();
        corrupt[zst.len() / 2] ^= 0x10;
        for (what, blob) in [
            ("gzip, truncated", &gz[..gz.len() - 1]),
            ("gzip, truncated header", &gz[..5]),
            ("gzip, wrong checksum", &flipped),
            ("gzip, then zeros", &[&gz[..], &[0; 512]].concat()),
            ("gzip, then text", &[&gz[..], b"text"].concat()),
            ("gzip, then zstd", &[&gz[..], &zst].concat()),
            ("zstd, truncated", &zst[..zst.len() - 1]),
            ("zstd, truncated header", &zst[..5]),
            ("zstd, corrupt", &corrupt),
            ("zstd, then zeros", &[&zst[..], &[0; 512]].concat()),
            ("zstd, then text", &[&zst[..], b"text"].concat()),
            ("zstd, truncated skippable frame", &[&zst[..], &skippable(99)[..50]].concat()),
            ("zstd, window of 256 MiB", &windowed(28)),
        ] {
            assert!(inflate(blob).is_err(), "{what}");
        }
        for (blob, part) in [(&b"\xfd7zXZ\0"[..], "xz"), (b"BZh91AY&SY", "bzip2")] {
            let error = inflate(blob).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("only gzip and zstd"), "{error}");
        }
    }
}
