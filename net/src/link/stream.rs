//! Streams as the crate hands them out.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The sending half a [`super::Connection`] implements.
pub trait SendHalf: AsyncWrite + Send + Unpin {
    /// Streams of higher priority go first while both have something to send.
    fn set_priority(&mut self, _priority: i32) {}
    /// Gives up: what has not arrived yet may never, and the reader gets an error.
    fn reset(&mut self) {}
}

/// The receiving half a [`super::Connection`] implements.
pub trait RecvHalf: AsyncRead + Send + Unpin {
    /// Tells the writer that nobody reads on.
    fn stop(&mut self) {}
}

/// Sends to the other node. An orderly end is `shutdown()`; a stream dropped without it is reset,
/// so that the reader never takes a crash for an end.
pub struct SendStream {
    half: Box<dyn SendHalf>,
    ended: bool,
    _use: Option<Arc<dyn Send + Sync>>,
}

/// Receives from the other node. Dropping it tells the writer to stop.
pub struct RecvStream {
    half: Box<dyn RecvHalf>,
    ended: bool,
    _use: Option<Arc<dyn Send + Sync>>,
}

/// Both directions.
pub struct Stream {
    /// To the other node.
    pub send: SendStream,
    /// From the other node.
    pub recv: RecvStream,
}

impl Stream {
    /// Puts the two halves together.
    pub fn new(send: impl SendHalf + 'static, recv: impl RecvHalf + 'static) -> Self {
        Self {
            send: SendStream { half: Box::new(send), ended: false, _use: None },
            recv: RecvStream { half: Box::new(recv), ended: false, _use: None },
        }
    }

    /// The two halves, for two tasks.
    pub fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.recv)
    }

    /// Ties `mark` to the life of both halves.
    pub(crate) fn tied_to(mut self, mark: Arc<dyn Send + Sync>) -> Self {
        self.send._use = Some(mark.clone());
        self.recv._use = Some(mark);
        self
    }
}

impl SendStream {
    /// Streams of higher priority go first while both have something to send.
    pub fn set_priority(&mut self, priority: i32) {
        self.half.set_priority(priority);
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if !self.ended {
            self.half.reset();
        }
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if !self.ended {
            self.half.stop();
        }
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.half).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.half).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        Pin::new(&mut self.half).poll_shutdown(cx)
    }
}

impl AsyncRead for RecvStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining() > 0);
        let read = Pin::new(&mut self.half).poll_read(cx, buf);
        if matches!(read, Poll::Ready(Ok(()))) && room && buf.filled().len() == before {
            self.ended = true;
        }
        read
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.recv).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.send).poll_shutdown(cx)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl fmt::Debug for SendStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendStream")
    }
}

impl fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecvStream")
    }
}
