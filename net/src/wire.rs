//! Frames on a stream: a length (u32, little endian) and that many bytes of postcard.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The largest frame of a request or its answer, in bytes.
pub const MAX_FRAME: usize = 4 << 20;
/// The largest stream header, in bytes.
pub const MAX_HEADER: usize = 1 << 20;

/// A frame that could not be read or written.
#[derive(Debug, Error)]
pub enum FrameError {
    /// Larger than the place allows.
    #[error("a frame of {len} bytes where at most {max} are allowed")]
    TooLarge {
        /// Its announced size.
        len: usize,
        /// The bound.
        max: usize,
    },
    /// Not the message expected.
    #[error("a frame that is not a {wanted}")]
    Malformed {
        /// The expected type.
        wanted: &'static str,
    },
    /// The stream ended before or inside the frame.
    #[error("the stream ended before a whole frame")]
    Ended,
    /// The stream failed.
    #[error("{0}")]
    Io(io::Error),
}

impl From<io::Error> for FrameError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            FrameError::Ended
        } else {
            FrameError::Io(error)
        }
    }
}

fn name_of<T>() -> &'static str {
    std::any::type_name::<T>().rsplit("::").next().unwrap_or("message")
}

/// Encodes a message.
///
/// # Errors
/// It is larger than `max` bytes.
pub fn encode<T: Serialize>(message: &T, max: usize) -> Result<Vec<u8>, FrameError> {
    let bytes = postcard::to_stdvec(message)
        .map_err(|_| FrameError::Malformed { wanted: name_of::<T>() })?;
    if bytes.len() > max {
        return Err(FrameError::TooLarge { len: bytes.len(), max });
    }
    Ok(bytes)
}

/// Decodes a message that must fill `bytes`.
///
/// # Errors
/// It is not one.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(bytes) {
        Ok((message, [])) => Ok(message),
        _ => Err(FrameError::Malformed { wanted: name_of::<T>() }),
    }
}

/// Writes one frame.
///
/// # Errors
/// It is larger than `max` bytes, or the stream failed.
pub async fn write_frame<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    max: usize,
) -> Result<(), FrameError> {
    write_bytes(stream, &encode(message, max)?, max).await
}

/// Reads one frame.
///
/// # Errors
/// It is larger than `max` bytes or not a `T`, or the stream ended or failed.
pub async fn read_frame<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<T, FrameError> {
    decode(&read_bytes(stream, max).await?)
}

/// Writes already encoded bytes as one frame.
///
/// # Errors
/// As [`write_frame`].
pub async fn write_bytes(
    stream: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    max: usize,
) -> Result<(), FrameError> {
    let len = u32::try_from(bytes.len()).ok().filter(|_| bytes.len() <= max);
    let len = len.ok_or(FrameError::TooLarge { len: bytes.len(), max })?;
    let mut frame = Vec::with_capacity(4 + bytes.len());
    frame.extend(len.to_le_bytes());
    frame.extend(bytes);
    stream.write_all(&frame).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads the bytes of one frame.
///
/// # Errors
/// As [`read_frame`], except that any content is taken.
pub async fn read_bytes(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<Vec<u8>, FrameError> {
    let len = stream.read_u32_le().await? as usize;
    if len > max {
        return Err(FrameError::TooLarge { len, max });
    }
    // Memory follows what has arrived, not what was announced.
    let mut bytes = Vec::with_capacity(len.min(64 << 10));
    stream.take(len as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < len {
        return Err(FrameError::Ended);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_and_are_bounded() {
        let (mut a, mut b) = tokio::io::duplex(64);
        let writer = tokio::spawn(async move {
            write_frame(&mut a, &("hello".to_owned(), 7u64), 100).await.unwrap();
            a.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        });
        let got: (String, u64) = read_frame(&mut b, 100).await.unwrap();
        assert_eq!(got, ("hello".to_owned(), 7));
        let error = read_bytes(&mut b, 100).await.unwrap_err();
        assert!(
            matches!(error, FrameError::TooLarge { len, max: 100 } if len == u32::MAX as usize)
        );
        writer.await.unwrap();
        assert!(matches!(read_bytes(&mut b, 100).await, Err(FrameError::Ended)));
    }

    #[tokio::test]
    async fn a_short_frame_and_left_over_bytes_are_refused() {
        let mut short = &[9, 0, 0, 0, 1, 2][..];
        assert!(matches!(read_bytes(&mut short, 100).await, Err(FrameError::Ended)));
        assert!(matches!(decode::<u8>(&[1, 2]), Err(FrameError::Malformed { wanted: "u8" })));
        assert!(matches!(encode(&[0u8; 9], 8), Err(FrameError::TooLarge { len: 9, max: 8 })));
    }
}
