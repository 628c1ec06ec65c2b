//! Messages ([`frame`]) over a stream between processes of one node, or of two by way of their
//! daemons.

use std::io;

use phantom_model::frame;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Longest message about a terminal.
pub(crate) const MAX_TERMINAL_BYTES: usize = 1 << 20;

/// Writes one message of at most `max` bytes.
pub async fn write<T: Serialize>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &T,
    max: usize,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    frame::encode(message, max, &mut bytes)?;
    to.write_all(&bytes).await?;
    to.flush().await
}

/// Reads one message of at most `max` bytes; `None` at a clean end. Not to be cancelled in the
/// middle.
pub async fn read<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> io::Result<Option<T>> {
    let mut head = [0; frame::HEAD_BYTES];
    match from.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut body = vec![0; frame::body_bytes(head, max)?];
    from.read_exact(&mut body).await?;
    Ok(Some(frame::decode(&body)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_message_arrives_as_it_was() {
        let (mut a, mut b) = tokio::io::duplex(64);
        let sent = vec!["x".repeat(1000), "y".to_owned()];
        let writer = async {
            write(&mut a, &sent, 2000).await.unwrap();
            drop(a);
        };
        let reader = async {
            let got: Vec<String> = read(&mut b, 2000).await.unwrap().unwrap();
            assert_eq!(got, sent);
            assert!(read::<Vec<String>>(&mut b, 2000).await.unwrap().is_none());
        };
        tokio::join!(writer, reader);
    }

    #[tokio::test]
    async fn lengths_and_contents_that_are_wrong_are_refused() {
        for bytes in [&[0xff; 64][..], &[2, 0, 0, 0, 9, 9], &[8, 0, 0, 0, 1]] {
            let mut stream = bytes;
            assert!(read::<String>(&mut stream, 1 << 20).await.is_err(), "{bytes:?}");
        }
    }
}
