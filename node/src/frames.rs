//! Messages between processes of one node: a 32-bit little-endian length, then postcard.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longer messages are refused; the longest carries an app's environment or a terminal's state.
const MAX_FRAME_BYTES: usize = 16 << 20;

/// Writes one message.
pub async fn write<T: Serialize>(to: &mut (impl AsyncWrite + Unpin), value: &T) -> io::Result<()> {
    let mut bytes = vec![0; 4];
    bytes = postcard::to_extend(value, bytes).map_err(invalid)?;
    let length = bytes.len() - 4;
    if length > MAX_FRAME_BYTES {
        return Err(invalid(format!("a message of {length} bytes is too long")));
    }
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    to.write_all(&bytes).await?;
    to.flush().await
}

/// Reads one message; `None` at a clean end.
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
        return Err(invalid(format!("a message of {length} bytes is too long")));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes).await?;
    postcard::from_bytes(&bytes).map(Some).map_err(invalid)
}

/// Writes one message from a thread that may block.
pub fn write_blocking<T: Serialize>(to: &mut impl io::Write, value: &T) -> io::Result<()> {
    let bytes = postcard::to_stdvec(value).map_err(invalid)?;
    to.write_all(&(bytes.len() as u32).to_le_bytes())?;
    to.write_all(&bytes)
}

/// Reads one message in a thread that may block.
pub fn read_blocking<T: DeserializeOwned>(from: &mut impl io::Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(invalid(format!("a message of {length} bytes is too long")));
    }
    let mut bytes = vec![0; length];
    from.read_exact(&mut bytes)?;
    postcard::from_bytes(&bytes).map_err(invalid)
}

fn invalid(error: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_arrives_as_it_was() {
        let (mut a, mut b) = tokio::io::duplex(64);
        let sent = vec!["x".repeat(1000), "y".to_owned()];
        let writer = async {
            write(&mut a, &sent).await.unwrap();
            drop(a);
        };
        let reader = async {
            let got: Vec<String> = read(&mut b).await.unwrap().unwrap();
            assert_eq!(got, sent);
            assert!(read::<Vec<String>>(&mut b).await.unwrap().is_none());
        };
        tokio::join!(writer, reader);
    }

    #[tokio::test]
    async fn lengths_and_contents_that_are_wrong_are_refused() {
        let mut huge: &[u8] = &[0xff; 64];
        assert!(read::<String>(&mut huge).await.is_err());
        let mut garbled: &[u8] = &[2, 0, 0, 0, 9, 9];
        assert!(read::<String>(&mut garbled).await.is_err());
        let mut cut: &[u8] = &[8, 0, 0, 0, 1];
        assert!(read::<String>(&mut cut).await.is_err());
    }
}
