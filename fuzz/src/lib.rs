//! What the fuzz targets share: the checks of a channel's end, a disk in memory, and mutations that keep a format's
//! checksums and lengths right, without which nearly all damage would end at the first check.

#[cfg(fuzzing)]
pub use libfuzzer_sys;

#[cfg(not(fuzzing))]
pub mod standin;

/// As cargo-fuzz has it, on nightly.
#[cfg(not(fuzzing))]
pub mod libfuzzer_sys {
    pub use crate::standin::fuzzer_mutate;
    pub use crate::{fuzz_mutator, fuzz_target};
}

pub mod channel;
pub mod disk;
pub mod tarball;
