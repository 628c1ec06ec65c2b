//! The bytes of one lane.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{BulkError, BulkTicket, MAX_LANES, MAX_PIECE, Progress};

/// A connection or stream that carries a lane.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The receiver's first answer: the lane is taken.
pub(super) const TAKEN: u8 = 1;
/// The receiver's first answer: there is no such transfer.
pub(super) const REFUSED: u8 = 2;
/// The receiver's last answer: all of the lane is stored.
pub(super) const DONE: u8 = 3;
/// The receiver, now and then: something still arrives. What a sender has written may lie in its
/// kernel for a minute on a slow line.
pub(super) const ARRIVING: u8 = 4;

/// What a lane begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneHead {
    pub ticket: BulkTicket,
    pub lane: u16,
    pub lanes: u16,
}

impl LaneHead {
    pub const LEN: usize = 20;

    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..16].copy_from_slice(&self.ticket.0);
        bytes[16..18].copy_from_slice(&self.lane.to_le_bytes());
        bytes[18..].copy_from_slice(&self.lanes.to_le_bytes());
        bytes
    }

    /// `None` for counts that make no sense.
    pub fn decode(bytes: [u8; Self::LEN]) -> Option<Self> {
        let mut ticket = [0; 16];
        ticket.copy_from_slice(&bytes[..16]);
        let lane = u16::from_le_bytes([bytes[16], bytes[17]]);
        let lanes = u16::from_le_bytes([bytes[18], bytes[19]]);
        let sensible = lane < lanes && lanes <= MAX_LANES;
        sensible.then_some(Self { ticket: BulkTicket(ticket), lane, lanes })
    }
}

/// What comes next on a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frame {
    /// `len` bytes of `object` at `offset` follow.
    Piece { object: u32, offset: u64, len: u32 },
    /// The sender lives, and has nothing to send at this moment.
    Alive,
    /// Nothing any more; this lane carried so many bytes.
    End { bytes: u64 },
}

impl Frame {
    pub const LEN: usize = 17;

    pub fn encode(self) -> [u8; Self::LEN] {
        let (kind, object, offset, len) = match self {
            Frame::Piece { object, offset, len } => (1, object, offset, len),
            Frame::Alive => (2, 0, 0, 0),
            Frame::End { bytes } => (3, 0, bytes, 0),
        };
        let mut bytes = [0; Self::LEN];
        bytes[0] = kind;
        bytes[1..5].copy_from_slice(&u32::to_le_bytes(object));
        bytes[5..13].copy_from_slice(&u64::to_le_bytes(offset));
        bytes[13..].copy_from_slice(&u32::to_le_bytes(len));
        bytes
    }

    /// `None` for what no sender says.
    pub fn decode(bytes: [u8; Self::LEN]) -> Option<Self> {
        let [kind, o0, o1, o2, o3, a, b, c, d, e, f, g, h, l0, l1, l2, l3] = bytes;
        let object = u32::from_le_bytes([o0, o1, o2, o3]);
        let offset = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        match kind {
            1 => {
                let fits = (1..=MAX_PIECE as u32).contains(&len)
                    && offset.checked_add(u64::from(len)).is_some();
                fits.then_some(Frame::Piece { object, offset, len })
            }
            2 => Some(Frame::Alive),
            3 => Some(Frame::End { bytes: offset }),
            _ => None,
        }
    }
}

/// Writes all of `bytes`; every part that moves counts as progress.
pub(super) async fn write_all(
    lane: &mut (dyn AsyncWrite + Send + Unpin),
    mut bytes: &[u8],
    progress: &Progress,
) -> Result<(), BulkError> {
    while !bytes.is_empty() {
        let written = progress.guard(lane.write(bytes)).await?.map_err(|e| progress.broken(e))?;
        if written == 0 {
            return Err(progress.broken(io::Error::from(io::ErrorKind::WriteZero)));
        }
        progress.touch();
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Flushes.
pub(super) async fn flush(
    lane: &mut (dyn AsyncWrite + Send + Unpin),
    progress: &Progress,
) -> Result<(), BulkError> {
    progress.guard(lane.flush()).await?.map_err(|e| progress.broken(e))
}

/// Fills `bytes`; every part that moves counts as progress.
pub(super) async fn read_exact(
    lane: &mut (dyn AsyncRead + Send + Unpin),
    bytes: &mut [u8],
    progress: &Progress,
) -> Result<(), BulkError> {
    let mut filled = 0;
    while filled < bytes.len() {
        let read = lane.read(&mut bytes[filled..]);
        let read = progress.guard(read).await?.map_err(|e| progress.broken(e))?;
        if read == 0 {
            return Err(progress.broken("the other side gave up"));
        }
        progress.touch();
        filled += read;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn frames_survive_and_odd_ones_are_refused(bytes in any::<[u8; Frame::LEN]>()) {
            if let Some(frame) = Frame::decode(bytes) {
                prop_assert_eq!(Frame::decode(frame.encode()), Some(frame));
            }
        }

        #[test]
        fn heads_survive_and_odd_ones_are_refused(bytes in any::<[u8; LaneHead::LEN]>()) {
            if let Some(head) = LaneHead::decode(bytes) {
                prop_assert_eq!(head.encode(), bytes);
                prop_assert!(head.lane < head.lanes && head.lanes <= MAX_LANES);
            }
        }
    }

    #[test]
    fn oversize_pieces_are_refused() {
        let piece = |offset, len| Frame::decode(Frame::Piece { object: 0, offset, len }.encode());
        assert!(piece(0, MAX_PIECE as u32).is_some());
        assert!(piece(0, MAX_PIECE as u32 + 1).is_none());
        assert!(piece(0, 0).is_none());
        assert!(piece(u64::MAX, 1).is_none());
    }
}
