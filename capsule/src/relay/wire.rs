//! Frames on a byte stream: a 32-bit little-endian length, then postcard.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longer frames are refused.
const MAX_FRAME_BYTES: usize = 1 << 20;

/// Appends one frame to `buffer`, which is written whole later.
pub fn encode<T: Serialize>(frame: &T, buffer: &mut Vec<u8>) -> io::Result<()> {
    let start = buffer.len();
    buffer.extend([0; 4]);
    *buffer = postcard::to_extend(frame, std::mem::take(buffer)).map_err(invalid)?;
    let length = buffer.len() - start - 4;
    if length > MAX_FRAME_BYTES {
        return Err(invalid("a frame is too long"));
    }
    buffer[start..start + 4].copy_from_slice(&(length as u32).to_le_bytes());
    Ok(())
}

/// Writes one frame.
pub async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), frame: &T) -> io::Result<()> {
    let mut buffer = Vec::new();
    encode(frame, &mut buffer)?;
    to.write_all(&buffer).await
}

/// Reads one frame; `None` at a clean end. Not to be cancelled in the middle.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(invalid("a frame is too long"));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    postcard::from_bytes(&bytes).map(Some).map_err(invalid)
}

fn invalid(reason: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.to_string())
}
