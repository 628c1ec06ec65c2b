//! Frames on a stream.

use std::io::{self, IoSlice, Read, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::MAX_IO;

/// Largest head in bytes.
pub const MAX_HEAD: usize = 512 << 10;
/// Largest frame in bytes, its length field not counted.
pub const MAX_FRAME: usize = MAX_IO as usize + MAX_HEAD;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed or ended.
    #[error("the file stream broke: {0}")]
    Stream(#[from] io::Error),
    /// The other side announced more than the protocol allows.
    #[error("the other side announced a frame of {frame} bytes with a head of {head}")]
    Bounds {
        /// Announced length of the frame.
        frame: usize,
        /// Announced length of the head.
        head: usize,
    },
    /// The head is no message.
    #[error("the other side sent a head that is no message: {0}")]
    Head(postcard::Error),
}

/// Writes `message` and `payload` as one frame.
///
/// # Errors
/// When the stream fails, or the frame would exceed [`MAX_FRAME`].
pub fn write_frame<M: Serialize>(
    stream: &mut impl Write,
    message: &M,
    payload: &[u8],
) -> Result<(), FrameError> {
    let head = encode_head(message, payload.len())?;
    write_both(stream, &head, payload)?;
    Ok(())
}

/// The lengths and the head of a frame whose payload has `payload` bytes, ready to be written,
/// more than once if need be.
///
/// # Errors
/// When the frame would exceed [`MAX_FRAME`].
pub(crate) fn encode_head<M: Serialize>(
    message: &M,
    payload: usize,
) -> Result<Vec<u8>, FrameError> {
    let mut head = Vec::with_capacity(256);
    head.extend_from_slice(&[0; 8]);
    let mut head = postcard::to_extend(message, head).map_err(FrameError::Head)?;
    let head_len = head.len() - 8;
    let frame_len = 4 + head_len + payload;
    if head_len > MAX_HEAD || payload > MAX_IO as usize {
        return Err(FrameError::Bounds { frame: frame_len, head: head_len });
    }
    head[..4].copy_from_slice(&(frame_len as u32).to_le_bytes());
    head[4..8].copy_from_slice(&(head_len as u32).to_le_bytes());
    Ok(head)
}

/// One system call where the stream takes both at once.
pub(crate) fn write_both(
    stream: &mut impl Write,
    mut head: &[u8],
    mut payload: &[u8],
) -> io::Result<()> {
    while !head.is_empty() {
        let n = stream.write_vectored(&[IoSlice::new(head), IoSlice::new(payload)])?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        let of_head = n.min(head.len());
        head = &head[of_head..];
        payload = &payload[n - of_head..];
    }
    stream.write_all(payload)
}

/// Reads one frame: the message and its payload.
///
/// # Errors
/// When the stream fails or ends, or what it carries is not a frame within bounds.
pub fn read_frame<M: DeserializeOwned>(stream: &mut impl Read) -> Result<(M, Vec<u8>), FrameError> {
    let mut lens = [0; 8];
    stream.read_exact(&mut lens)?;
    let frame = u32::from_le_bytes([lens[0], lens[1], lens[2], lens[3]]) as usize;
    let head = u32::from_le_bytes([lens[4], lens[5], lens[6], lens[7]]) as usize;
    let payload = frame.checked_sub(4).and_then(|rest| rest.checked_sub(head));
    let payload = match payload {
        Some(payload) if head <= MAX_HEAD && payload <= MAX_IO as usize => payload,
        _ => return Err(FrameError::Bounds { frame, head }),
    };
    let mut bytes = vec![0; head];
    stream.read_exact(&mut bytes)?;
    let message = postcard::from_bytes(&bytes).map_err(FrameError::Head)?;
    let mut data = vec![0; payload];
    stream.read_exact(&mut data)?;
    Ok((message, data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{HandleId, Name, NodeId, Op, RequestId, ToServer};
    use proptest::prelude::*;

    fn request(op: Op) -> ToServer {
        ToServer::Request { id: RequestId(7), answered_below: RequestId(3), op }
    }

    /// Takes at most three bytes at a time.
    struct Slow(Vec<u8>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(3);
            self.0.extend_from_slice(&bytes[..n]);
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn announced_sizes_are_bounded_before_anything_is_reserved() {
        for (frame, head) in [(u32::MAX, 4), (100, 200), (3, 0), (MAX_FRAME as u32, u32::MAX)] {
            let mut bytes = frame.to_le_bytes().to_vec();
            bytes.extend_from_slice(&head.to_le_bytes());
            let error = read_frame::<ToServer>(&mut &bytes[..]).unwrap_err();
            assert!(matches!(error, FrameError::Bounds { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn frames_survive_a_slow_stream(
            payload in proptest::collection::vec(any::<u8>(), 0..2000),
            name in "[^/\0]{3,80}",
            offset: u64,
        ) {
            let messages = [
                request(Op::Write { handle: HandleId(1), offset, append: false }),
                request(Op::Lookup { parent: NodeId(2), name: Name::new(name.as_bytes()).unwrap() }),
            ];
            let mut stream = Slow(Vec::new());
            for message in &messages {
                write_frame(&mut stream, message, &payload).unwrap();
            }
            let mut bytes = &stream.0[..];
            for message in messages {
                let (read, data) = read_frame::<ToServer>(&mut bytes).unwrap();
                prop_assert_eq!(read, message);
                prop_assert_eq!(&data, &payload);
            }
            prop_assert!(bytes.is_empty());
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut framed = ((bytes.len() + 4) as u32).to_le_bytes().to_vec();
            framed.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            framed.extend_from_slice(&bytes);
            let _ = read_frame::<ToServer>(&mut &framed[..]);
            let _ = read_frame::<crate::proto::ToClient>(&mut &framed[..]);
            let _ = read_frame::<ToServer>(&mut &bytes[..]);
        }
    }
}
