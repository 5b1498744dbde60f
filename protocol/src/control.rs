//! Control messages on their byte streams: a length (u32, big-endian), then so many bytes of JSON.

use crate::error::ProtocolError;
use crate::frame::{MAX_TO_GUEST, MAX_TO_HOST};
use crate::line::Side;
use serde::Serialize;

const LENGTH: usize = 4;

/// The most JSON in a message to this side, in bytes.
pub(crate) fn most_to(side: Side) -> usize {
    match side {
        Side::Guest => MAX_TO_GUEST,
        Side::Host => MAX_TO_HOST,
    }
}

/// The window of the stream to this side: the largest message, for messages are taken as a whole.
pub(crate) fn window_to(side: Side) -> u64 {
    (LENGTH + most_to(side)) as u64
}

/// The message as it stands in the stream.
pub(crate) fn encode(message: &impl Serialize, most: usize) -> Result<Vec<u8>, ProtocolError> {
    let mut bytes = vec![0; LENGTH];
    serde_json::to_writer(&mut bytes, message).map_err(|error| ProtocolError::Message(error.to_string()))?;
    let json = bytes.len() - LENGTH;
    let length = u32::try_from(json).ok().filter(|_| json <= most);
    match (length, bytes.first_chunk_mut::<LENGTH>()) {
        (Some(length), Some(head)) => *head = length.to_be_bytes(),
        _ => return Err(too_long(json, most)),
    }
    Ok(bytes)
}

/// The JSON of the message that `bytes` begin with, and how many bytes it takes in the stream. None if it is not whole.
pub(crate) fn first(bytes: &[u8], most: usize) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > most {
        return Err(too_long(length, most));
    }
    Ok(rest.get(..length).map(|json| (json, LENGTH + length)))
}

fn too_long(length: usize, most: usize) -> ProtocolError {
    ProtocolError::Message(format!("a message of {length} bytes; at most {most} are allowed"))
}
