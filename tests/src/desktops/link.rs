//! The host's end of a desktop's agent: many commands over one port.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::wire::{AGENT, Frame, Kind, MAX_PAYLOAD, Request};
use super::{SOON, os};

/// A connection to an agent.
#[derive(Clone)]
pub struct AgentLink(Arc<Inner>);

struct Inner {
    port: Mutex<UnixStream>,
    channels: Mutex<BTreeMap<u32, Sender<Frame>>>,
    next: AtomicU32,
}

impl AgentLink {
    /// Takes over the port and waits until the agent answers.
    pub fn open(port: UnixStream, deadline: Duration) -> anyhow::Result<Self> {
        let mut reader = port.try_clone()?;
        // A guest that takes nothing any more must not hold us.
        port.set_write_timeout(Some(SOON))?;
        let inner = Arc::new(Inner {
            port: Mutex::new(port),
            channels: Mutex::new(BTreeMap::new()),
            next: AtomicU32::new(AGENT + 1),
        });
        let link = Self(inner.clone());
        let nonce = os::random::<16>()?;
        let (sender, answers) = channel();
        link.channels().insert(AGENT, sender);
        std::thread::spawn(move || {
            while let Ok(frame) = Frame::read(&mut reader) {
                inner.deliver(frame);
            }
            // Whoever waits for a frame learns that none will come.
            lock(&inner.channels).clear();
        });
        link.send(&Frame::new(AGENT, Kind::Hello, nonce))?;
        let end = Instant::now() + deadline;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let frame = answers.recv_timeout(left).map_err(|error| match error {
                RecvTimeoutError::Timeout => {
                    anyhow::anyhow!("its agent did not answer within {deadline:?}")
                }
                RecvTimeoutError::Disconnected => anyhow::anyhow!("it ended"),
            })?;
            if frame.kind == Kind::Here && frame.payload == nonce {
                return Ok(link);
            }
        }
    }

    /// Has the agent do something.
    pub fn start(&self, request: &Request) -> anyhow::Result<Channel> {
        let id = self.0.next.fetch_add(1, Ordering::Relaxed);
        let (sender, frames) = channel();
        self.channels().insert(id, sender);
        let request = serde_json::to_vec(request)?;
        if request.len() > MAX_PAYLOAD {
            bail!("a command of {} bytes is too long: copy a file in", request.len());
        }
        let channel = Channel { link: self.clone(), id, frames, ended: false };
        self.send(&Frame::new(id, Kind::Start, request)).context("its agent takes nothing")?;
        Ok(channel)
    }

    fn send(&self, frame: &Frame) -> io::Result<()> {
        frame.write(&mut *lock(&self.0.port))
    }

    fn channels(&self) -> MutexGuard<'_, BTreeMap<u32, Sender<Frame>>> {
        lock(&self.0.channels)
    }
}

impl Inner {
    fn deliver(&self, frame: Frame) {
        let mut channels = lock(&self.channels);
        let (channel, last) = (frame.channel, frame.kind.is_last());
        // Nobody listens any more to a command that was given up.
        let heard = channels.get(&channel).is_some_and(|to| to.send(frame).is_ok());
        if last || !heard {
            channels.remove(&channel);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One command. It is killed when this is dropped before its end.
pub struct Channel {
    link: AgentLink,
    id: u32,
    frames: Receiver<Frame>,
    ended: bool,
}

/// What came of waiting for a frame.
#[derive(Debug)]
pub enum Next {
    /// This.
    Frame(Frame),
    /// Nothing in time.
    Late,
    /// The desktop has gone.
    Gone,
}

impl Channel {
    /// Waits for the next frame.
    pub fn next(&mut self, wait: Duration) -> Next {
        match self.frames.recv_timeout(wait) {
            Ok(frame) => {
                self.ended |= frame.kind.is_last();
                Next::Frame(frame)
            }
            Err(RecvTimeoutError::Timeout) => Next::Late,
            Err(RecvTimeoutError::Disconnected) => {
                self.ended = true;
                Next::Gone
            }
        }
    }

    /// Another hand that can give it input.
    pub fn keyboard(&self) -> Keyboard {
        Keyboard { link: self.link.clone(), id: self.id }
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if !self.ended {
            // The desktop may have gone as well.
            let _ = self.link.send(&Frame::new(self.id, Kind::Close, []));
        }
    }
}

/// What gives a command its input.
pub struct Keyboard {
    link: AgentLink,
    id: u32,
}

impl Keyboard {
    /// There will be no more input.
    pub fn end(&self) -> io::Result<()> {
        self.link.send(&Frame::new(self.id, Kind::InputEnd, []))
    }

    /// Hangs up: the command is killed.
    pub fn close(&self) -> io::Result<()> {
        self.link.send(&Frame::new(self.id, Kind::Close, []))
    }

    /// Changes the size of its terminal.
    pub fn resize(&self, rows: u16, cols: u16) -> io::Result<()> {
        let size = [rows.to_le_bytes(), cols.to_le_bytes()].concat();
        self.link.send(&Frame::new(self.id, Kind::Resize, size))
    }
}

impl Write for Keyboard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(MAX_PAYLOAD)];
        self.link.send(&Frame::new(self.id, Kind::Input, piece))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
