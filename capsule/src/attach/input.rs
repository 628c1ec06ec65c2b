//! What is typed, or what a pipe brings.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use libc::{O_NOCTTY, O_NONBLOCK};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::os::reactor;

/// Bytes read at once.
const CHUNK_BYTES: usize = 4096;

/// Standard input as it comes.
pub(super) enum Input {
    /// A terminal, opened anew: standard input itself may be shared with other programs, for which
    /// it must go on blocking. No thread stands between a key and its way.
    Terminal(AsyncFd<OwnedFd>),
    /// Read by a thread of its own, as a blocked read cannot be cancelled.
    Blocking(mpsc::Receiver<Vec<u8>>),
    /// Nothing comes any more.
    Ended,
}

impl Input {
    /// Standard input, which is a terminal or not.
    pub fn open(is_terminal: bool) -> Self {
        if is_terminal && let Ok(terminal) = open_terminal() {
            return Self::Terminal(terminal);
        }
        Self::Blocking(read_in_thread())
    }

    /// What came, no bytes at the end; `None` after it. May be cancelled.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        let read = match self {
            Self::Terminal(terminal) => read_some(terminal).await,
            Self::Blocking(chunks) => return chunks.recv().await,
            Self::Ended => return None,
        };
        if !read.as_ref().is_ok_and(|bytes| !bytes.is_empty()) {
            *self = Self::Ended;
        }
        read.ok()
    }
}

fn open_terminal() -> io::Result<AsyncFd<OwnedFd>> {
    let path = nix::unistd::ttyname(io::stdin())?;
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path)?;
    reactor::register_readable(file.into())
}

async fn read_some(terminal: &AsyncFd<OwnedFd>) -> io::Result<Vec<u8>> {
    let mut buffer = [0; CHUNK_BYTES];
    loop {
        let mut ready = terminal.readable().await?;
        let read = |fd: &AsyncFd<OwnedFd>| Ok(nix::unistd::read(fd.get_ref(), &mut buffer)?);
        match ready.try_io(read) {
            Ok(Ok(count)) => return Ok(buffer[..count].to_vec()),
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Err(_not_ready) => {}
        }
    }
}

fn read_in_thread() -> mpsc::Receiver<Vec<u8>> {
    let (sender, chunks) = mpsc::channel::<Vec<u8>>(8);
    std::thread::spawn(move || {
        let mut buffer = [0; CHUNK_BYTES];
        while let Ok(count) = io::Read::read(&mut io::stdin(), &mut buffer) {
            let sent = sender.blocking_send(buffer[..count].to_vec());
            if count == 0 || sent.is_err() {
                break;
            }
        }
    });
    chunks
}
