//! What IPv6 routers say in options that the guest reads: only what may be a word of resolv.conf is taken.
#![cfg_attr(fuzzing, no_main)]

use fuzz::libfuzzer_sys::fuzz_target;

#[allow(dead_code)]
#[path = "../../tether/src/network/routers/options.rs"]
mod options;

use options::Word;

fuzz_target!(|input: &[u8]| {
    for (word, _holds) in options::parse(input) {
        match word {
            Word::Server(ip) => assert!(!ip.is_unspecified() && !ip.is_multicast() && !ip.is_loopback()),
            Word::Domain(name) => {
                assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
                assert!(name.bytes().all(plain), "{name:?}");
            }
        }
    }
});
