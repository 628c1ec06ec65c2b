//! One connection of a link: frames go out in the order they are posted.

use std::collections::VecDeque;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::proto::write_both;

/// A request as it goes over the stream, as often as needed.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) head: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

/// One connection. Whoever has a frame to send puts it into the outbox; the first to come writes
/// for all, so that nobody waits for a lock while another writes to a slow stream.
#[derive(Debug)]
pub(super) struct Conn {
    stream: UnixStream,
    outbox: Mutex<Outbox>,
}

#[derive(Debug, Default)]
struct Outbox {
    frames: VecDeque<Arc<Frame>>,
    busy: bool,
}

impl Conn {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, outbox: Mutex::default() }
    }

    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a frame, or has whoever is sending already send it.
    pub(super) fn post(&self, frame: Arc<Frame>) {
        {
            let mut outbox = self.outbox();
            outbox.frames.push_back(frame);
            if std::mem::replace(&mut outbox.busy, true) {
                return;
            }
        }
        loop {
            let frame = {
                let mut outbox = self.outbox();
                match outbox.frames.pop_front() {
                    Some(frame) => frame,
                    None => {
                        outbox.busy = false;
                        return;
                    }
                }
            };
            if write_both(&mut &self.stream, &frame.head, &frame.payload).is_err() {
                // What was not sent is sent again over the next connection.
                self.end();
            }
        }
    }

    /// Ends the connection; its reader notices.
    pub(super) fn end(&self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
