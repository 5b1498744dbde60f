//! The guest's end of the channel: PID 1 must not panic, whatever the host's device gives it.
#![cfg_attr(fuzzing, no_main)]

use fuzz::channel;
use fuzz::libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use protocol::GuestLink;

fuzz_target!(|input: &[u8]| channel::check(input, GuestLink::guest, channel::host, channel::guest_acts));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    let size = fuzzer_mutate(data, size, max_size);
    channel::repair(&mut data[..size], seed);
    size
});
