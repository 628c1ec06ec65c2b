//! Frames ([`frame`]) on a stream.

use std::io;

use phantom_model::frame;
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
    /// Too long, or not the message expected.
    #[error(transparent)]
    Frame(#[from] frame::FrameError),
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

/// Writes one frame.
///
/// # Errors
/// It is larger than `max` bytes, or the stream failed.
pub async fn write_frame<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    max: usize,
) -> Result<(), FrameError> {
    let mut bytes = Vec::new();
    frame::encode(message, max, &mut bytes)?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(())
}

/// Reads one frame.
///
/// # Errors
/// It is larger than `max` bytes or not a `T`, or the stream ended or failed.
pub async fn read_frame<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<T, FrameError> {
    Ok(frame::decode(&read_bytes(stream, max).await?)?)
}

/// Reads the bytes of one frame.
///
/// # Errors
/// As [`read_frame`], except that any content is taken.
pub async fn read_bytes(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<Vec<u8>, FrameError> {
    let mut head = [0; frame::HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let len = frame::body_bytes(head, max)?;
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
        assert!(matches!(error, FrameError::Frame(frame::FrameError::TooLong { max: 100, .. })));
        writer.await.unwrap();
        assert!(matches!(read_bytes(&mut b, 100).await, Err(FrameError::Ended)));
    }

    #[tokio::test]
    async fn a_short_frame_is_refused() {
        let mut short = &[9, 0, 0, 0, 1, 2][..];
        assert!(matches!(read_bytes(&mut short, 100).await, Err(FrameError::Ended)));
    }
}
