//! One stream that carries a [`Relay`]'s frames: a task reads, a task writes, and the owner is
//! never held up by either.

use std::time::Duration;

use phantom_model::frame;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::machine::{Frame, Relay};
use crate::wire::{self, MAX_TERMINAL_BYTES};

/// Silence after which a sign of life is sent.
pub const BEAT: Duration = Duration::from_secs(5);
/// Silence after which a stream counts as dead.
const DEAD: Duration = Duration::from_secs(16);
/// Frames read ahead of the owner.
const READ_AHEAD: usize = 32;

/// The stream.
pub struct Link {
    frames: mpsc::Receiver<Frame>,
    // Unbounded, yet bounded by the relay's window.
    out: mpsc::UnboundedSender<Vec<u8>>,
    heard: Instant,
    tasks: [JoinHandle<()>; 2],
}

impl Link {
    /// Takes a stream into use.
    pub fn new(stream: UnixStream) -> Self {
        let (mut reader, mut writer) = stream.into_split();
        let (frame_sender, frames) = mpsc::channel(READ_AHEAD);
        let (out, mut outgoing) = mpsc::unbounded_channel::<Vec<u8>>();
        let reading = tokio::spawn(async move {
            while let Ok(Some(frame)) = wire::read(&mut reader, MAX_TERMINAL_BYTES).await {
                if frame_sender.send(frame).await.is_err() {
                    break;
                }
            }
        });
        let writing = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            while let Some(bytes) = outgoing.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        });
        Self { frames, out, heard: Instant::now(), tasks: [reading, writing] }
    }

    /// The next frame; `None` when the stream has ended.
    pub async fn next(&mut self) -> Option<Frame> {
        let frame = self.frames.recv().await;
        self.heard = Instant::now();
        frame
    }

    /// Sends what the relay has to say. False when the stream has ended.
    pub fn flush(&self, relay: &mut Relay) -> bool {
        let mut buffer = Vec::new();
        while let Some(frame) = relay.poll_frame() {
            if frame::encode(&frame, MAX_TERMINAL_BYTES, &mut buffer).is_err() {
                return false;
            }
        }
        buffer.is_empty() || self.out.send(buffer).is_ok()
    }

    /// Whether nothing has been heard for so long that the stream must be given up.
    pub fn is_dead(&self) -> bool {
        self.heard.elapsed() > DEAD
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
