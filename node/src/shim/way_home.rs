//! A guest's ways to its home: streams that the daemon makes for it, through the switch socket.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use phantom_model::{AppId, Epoch};
use serde::{Deserialize, Serialize};

use crate::frames;

/// What a stream home is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// The app's terminal.
    Terminal,
    /// The app's files.
    Files,
}

/// First on a connection to the switch socket, and on the stream the daemon makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Whose home.
    pub app: AppId,
    /// The epoch of the copy that asks.
    pub epoch: Epoch,
    /// What for.
    pub purpose: Purpose,
}

/// The ways of one guest. Clones share the epoch.
#[derive(Debug, Clone)]
pub struct WayHome {
    switch: PathBuf,
    app: AppId,
    epoch: Arc<AtomicU64>,
}

impl WayHome {
    /// Ways through the daemon's switch socket.
    pub fn new(switch: PathBuf, app: AppId, epoch: Epoch) -> Self {
        Self { switch, app, epoch: Arc::new(AtomicU64::new(epoch.0)) }
    }

    /// The epoch this copy has.
    pub fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(Ordering::Acquire))
    }

    /// This copy has another epoch now.
    pub fn set_epoch(&self, epoch: Epoch) {
        self.epoch.store(epoch.0, Ordering::Release);
    }

    fn ask(&self, purpose: Purpose) -> Ask {
        Ask { app: self.app, epoch: self.epoch(), purpose }
    }

    /// A stream for the terminal.
    pub async fn terminal(self) -> io::Result<tokio::net::UnixStream> {
        let mut stream = tokio::net::UnixStream::connect(&self.switch).await?;
        frames::write(&mut stream, &self.ask(Purpose::Terminal)).await?;
        let answer: Option<Result<(), String>> = frames::read(&mut stream).await?;
        match answer {
            Some(Ok(())) => Ok(stream),
            Some(Err(reason)) => Err(io::Error::other(reason)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// A stream for the files, from a thread that may block.
    pub fn files(&self, timeout: Duration) -> io::Result<std::os::unix::net::UnixStream> {
        let mut stream = std::os::unix::net::UnixStream::connect(&self.switch)?;
        stream.set_read_timeout(Some(timeout.max(Duration::from_millis(1))))?;
        frames::write_blocking(&mut stream, &self.ask(Purpose::Files))?;
        let answer: Result<(), String> = frames::read_blocking(&mut stream)?;
        answer.map_err(io::Error::other)?;
        stream.set_read_timeout(None)?;
        Ok(stream)
    }
}
