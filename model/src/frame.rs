//! Messages on a byte stream: a length (32 bits, little endian), then that many bytes of postcard.
//! Only the codec; whoever has a stream reads [`HEAD_BYTES`], asks [`body_bytes`] how many follow,
//! and [`decode`]s those.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;

/// How long the length itself is.
pub const HEAD_BYTES: usize = 4;

/// A message that cannot be sent, or bytes that are none.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FrameError {
    /// Longer than its place allows.
    #[error("a message of {bytes} bytes where at most {max} are allowed")]
    TooLong {
        /// Its length, or what was announced.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// Not the message expected.
    #[error("a message that is not a {wanted}")]
    Malformed {
        /// The expected type.
        wanted: &'static str,
    },
}

impl From<FrameError> for std::io::Error {
    fn from(error: FrameError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Appends the frame of `message`, of at most `max` bytes, to `buffer`.
///
/// # Errors
/// It is longer; `buffer` is as it was then.
pub fn encode<T: Serialize>(
    message: &T,
    max: usize,
    buffer: &mut Vec<u8>,
) -> Result<(), FrameError> {
    let body = body(message, max)?;
    buffer.extend((body.len() as u32).to_le_bytes());
    buffer.extend(body);
    Ok(())
}

/// The bytes of `message` without a head, at most `max` (and never more than a head can tell).
///
/// # Errors
/// It is longer.
pub fn body<T: Serialize>(message: &T, max: usize) -> Result<Vec<u8>, FrameError> {
    let max = max.min(u32::MAX as usize);
    let bytes = postcard::to_stdvec(message).map_err(|_| malformed::<T>())?;
    if bytes.len() > max {
        return Err(FrameError::TooLong { bytes: bytes.len(), max });
    }
    Ok(bytes)
}

/// How many bytes follow a head.
///
/// # Errors
/// More than `max`.
pub fn body_bytes(head: [u8; HEAD_BYTES], max: usize) -> Result<usize, FrameError> {
    let bytes = u32::from_le_bytes(head) as usize;
    if bytes > max { Err(FrameError::TooLong { bytes, max }) } else { Ok(bytes) }
}

/// The message that fills `body`.
///
/// # Errors
/// It is none, or bytes are left over.
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        _ => Err(malformed::<T>()),
    }
}

fn malformed<T>() -> FrameError {
    let name = std::any::type_name::<T>();
    FrameError::Malformed { wanted: name.rsplit("::").next().unwrap_or(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_one_after_another() {
        let mut buffer = Vec::new();
        encode(&("hello".to_owned(), 7u64), 100, &mut buffer).unwrap();
        encode(&"next".to_owned(), 100, &mut buffer).unwrap();
        let (first, rest) = split(&buffer);
        assert_eq!(decode::<(String, u64)>(first), Ok(("hello".to_owned(), 7)));
        let (second, rest) = split(rest);
        assert_eq!(decode::<String>(second), Ok("next".to_owned()));
        assert!(rest.is_empty());
    }

    fn split(bytes: &[u8]) -> (&[u8], &[u8]) {
        let (head, rest) = bytes.split_first_chunk().unwrap();
        rest.split_at(body_bytes(*head, 100).unwrap())
    }

    #[test]
    fn what_is_too_long_or_no_message_is_refused() {
        let mut buffer = vec![1];
        let long = encode(&[0u8; 9], 8, &mut buffer);
        assert_eq!(long, Err(FrameError::TooLong { bytes: 9, max: 8 }));
        assert_eq!(buffer, [1]);
        assert!(matches!(body_bytes([0xff; 4], 1 << 20), Err(FrameError::TooLong { .. })));
        assert_eq!(decode::<u8>(&[1, 2]), Err(FrameError::Malformed { wanted: "u8" }));
        assert_eq!(decode::<String>(&[9, 9]), Err(FrameError::Malformed { wanted: "String" }));
    }
}
