//! A message on its stream: what is wanted (one byte), its length (32 bits, little endian), and that
//! many bytes. An answer is the same without the first byte.

use std::sync::Arc;

use phantom_model::frame::{self, FrameError as Malformed};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::MAX_ABROAD;
use crate::wire::FrameError;

/// So many bytes of messages may be here at once, read or being read.
pub(super) const ROOM: usize = 64 << 20;
/// So much of a message is read at once at most, when there is room for it, and at first.
const PIECE: usize = 64 << 10;
const FIRST_PIECE: usize = 512;

/// What is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nothing.
    Tell = 1,
    /// An answer.
    Ask = 2,
}

/// What has been read.
#[derive(Debug)]
pub(super) struct Message {
    pub kind: Kind,
    pub payload: Vec<u8>,
    /// Its part of the room, to be kept as long as it is.
    pub room: Option<OwnedSemaphorePermit>,
}

/// Writes a message, or an answer, and ends the stream in order: what has been written is not taken
/// back when the stream is dropped.
pub(super) async fn write(
    stream: &mut (impl AsyncWrite + Unpin),
    kind: Option<Kind>,
    payload: &[u8],
) -> Result<(), FrameError> {
    let length = (payload.len() as u32).to_le_bytes();
    let head: Vec<u8> = kind.iter().map(|kind| *kind as u8).chain(length).collect();
    stream.write_all(&head).await?;
    stream.write_all(payload).await?;
    stream.shutdown().await?;
    Ok(())
}

/// Reads a message, waiting while there is no room for what comes next. Room and memory follow what
/// has arrived, not what was announced: at most as much again is taken ahead.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    room: &Arc<Semaphore>,
) -> Result<Message, FrameError> {
    let kind = match stream.read_u8().await? {
        1 => Kind::Tell,
        2 => Kind::Ask,
        _ => return Err(Malformed::Malformed { wanted: "message abroad" }.into()),
    };
    let mut head = [0; frame::HEAD_BYTES];
    stream.read_exact(&mut head).await?;
    let length = frame::body_bytes(head, MAX_ABROAD)?;
    let mut payload = Vec::with_capacity(length.min(FIRST_PIECE));
    let mut taken: Option<OwnedSemaphorePermit> = None;
    while payload.len() < length {
        let piece = (length - payload.len()).min(payload.len().clamp(FIRST_PIECE, PIECE));
        let more = room.clone().acquire_many_owned(piece as u32).await;
        let more = more.map_err(|_| FrameError::Ended)?;
        match &mut taken {
            Some(taken) => taken.merge(more),
            none => *none = Some(more),
        }
        if (&mut *stream).take(piece as u64).read_to_end(&mut payload).await? < piece {
            return Err(FrameError::Ended);
        }
    }
    Ok(Message { kind, payload, room: taken })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::runtime::Builder;

    use super::*;

    fn room(bytes: usize) -> Arc<Semaphore> {
        Arc::new(Semaphore::new(bytes))
    }

    fn read_all(mut bytes: &[u8], room: &Arc<Semaphore>) -> Result<Message, FrameError> {
        Builder::new_current_thread().build().unwrap().block_on(read(&mut bytes, room))
    }

    fn written(kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let write = write(&mut bytes, Some(kind), payload);
        Builder::new_current_thread().build().unwrap().block_on(write).unwrap();
        bytes
    }

    #[test]
    fn the_longest_message_fits_and_nothing_longer_is_waited_for() {
        let room = room(ROOM);
        let read = read_all(&written(Kind::Ask, &vec![7; MAX_ABROAD]), &room).unwrap();
        assert_eq!((read.kind, read.payload.len()), (Kind::Ask, MAX_ABROAD));
        assert_eq!(room.available_permits(), ROOM - MAX_ABROAD);
        drop(read);
        assert_eq!(room.available_permits(), ROOM);
        let long = [&[1][..], &(MAX_ABROAD as u32 + 1).to_le_bytes()].concat();
        let error = read_all(&long, &room).unwrap_err();
        assert!(matches!(error, FrameError::Frame(Malformed::TooLong { max: MAX_ABROAD, .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_announced_and_does_not_come_takes_up_little_room() {
        let (room, (mut near, mut far)) = (room(2 * PIECE), tokio::io::duplex(4 * PIECE));
        near.write_all(&[1]).await.unwrap();
        near.write_all(&(MAX_ABROAD as u32).to_le_bytes()).await.unwrap();
        near.write_all(&vec![7; 3 * PIECE]).await.unwrap();
        let wait = std::time::Duration::from_secs(1);
        assert!(tokio::time::timeout(wait, read(&mut far, &room)).await.is_err(), "no room");
        assert_eq!(room.available_permits(), 2 * PIECE, "given back");
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_taken_for_what_comes() {
        let (room, (mut near, mut far)) = (room(ROOM), tokio::io::duplex(4 * PIECE));
        near.write_all(&[1]).await.unwrap();
        near.write_all(&(MAX_ABROAD as u32).to_le_bytes()).await.unwrap();
        let mut reading = std::pin::pin!(read(&mut far, &room));
        let wait = std::time::Duration::from_millis(1);
        for sent in [0, 1, 600, 5000, PIECE] {
            near.write_all(&vec![7; sent]).await.unwrap();
            assert!(tokio::time::timeout(wait, &mut reading).await.is_err());
        }
        let (sent, taken) = (5601 + PIECE, ROOM - room.available_permits());
        assert!((sent..=2 * sent).contains(&taken), "{taken} for {sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_only_was_announced_takes_next_to_no_room() {
        let (room, (mut near, mut far)) = (room(ROOM), tokio::io::duplex(PIECE));
        near.write_all(&[1]).await.unwrap();
        near.write_all(&(MAX_ABROAD as u32).to_le_bytes()).await.unwrap();
        let mut reading = std::pin::pin!(read(&mut far, &room));
        let wait = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(wait, &mut reading).await.is_err());
        assert_eq!(ROOM - room.available_permits(), FIRST_PIECE);
    }

    proptest! {
        #[test]
        fn messages_come_back(ask: bool, payload in proptest::collection::vec(any::<u8>(), 0..4000)) {
            let kind = if ask { Kind::Ask } else { Kind::Tell };
            let bytes = written(kind, &payload);
            let read = read_all(&bytes, &room(ROOM)).unwrap();
            prop_assert_eq!((read.kind, &read.payload), (kind, &payload));
            for cut in [0, 1, 4, bytes.len() - 1] {
                let cut = read_all(&bytes[..cut.min(bytes.len() - 1)], &room(ROOM));
                prop_assert!(matches!(cut, Err(FrameError::Ended)));
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let room = room(ROOM);
            if let Ok(read) = read_all(&bytes, &room) {
                prop_assert!(read.payload.len() + 5 <= bytes.len());
            }
            prop_assert_eq!(room.available_permits(), ROOM);
        }
    }
}
