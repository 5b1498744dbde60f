//! A disk that may be a config disk, and the document on it. What is accepted is written and read again as the same.
#![cfg_attr(fuzzing, no_main)]

use fuzz::libfuzzer_sys::fuzz_target;
use protocol::Stored;
use protocol::stored::{HEADER, Header, MOST_STORED};

fuzz_target!(|input: &[u8]| {
    let mut start = [0; HEADER];
    let length = input.len().min(HEADER);
    start[..length].copy_from_slice(&input[..length]);
    if let Ok(Some(header)) = Header::read(&start) {
        assert!(header.length <= MOST_STORED);
        assert_eq!(Header::read(&header.bytes()), Ok(Some(header)));
        let document = input.get(HEADER..).and_then(|rest| rest.get(..header.length));
        assert!(!document.is_some_and(|document| header.tells_of(document)) || length == HEADER);
    }
    // Any document, behind no header: to guess a checksum is not the matter.
    if let Ok(stored) = serde_json::from_slice::<Stored>(input.get(HEADER..).unwrap_or(input)) {
        let again = serde_json::to_vec(&stored).expect("it was read");
        assert_eq!(serde_json::from_slice::<Stored>(&again).expect("we wrote it"), stored);
    }
});
