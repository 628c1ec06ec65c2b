//! How the shim, which is root, tells the process that serves files, which is not, what to do:
//! messages over a local socket pair, one file descriptor with each where one is needed.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use phantom_model::Epoch;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

use super::Server;
use crate::os;

/// Largest message in bytes: a path and little more.
const MAX_MESSAGE: usize = 8 << 10;

/// What can be asked for. `+ fd`: a descriptor comes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Order {
    /// Serve the connection. + fd
    Serve,
    /// Keep the inode at the path. + fd
    Pin { path: Vec<u8> },
    /// End all pins.
    UnpinAll,
    /// Serve no epoch below this one any more.
    Fence { epoch: Epoch },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Outcome {
    Done,
    Unpinned(u64),
    Fenced(bool),
    Failed(String),
}

/// Why the file server could not be told something.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket failed, or the process that serves has ended.
    #[error("the process that serves the app's files cannot be reached: {0}")]
    Socket(io::Error),
    /// What came is no message.
    #[error("the process that serves the app's files and this one do not understand each other")]
    Message,
    /// It was understood, and failed.
    #[error("{0}")]
    Failed(String),
}

impl From<rustix::io::Errno> for ControlError {
    fn from(error: rustix::io::Errno) -> Self {
        ControlError::Socket(error.into())
    }
}

/// The shim's end.
#[derive(Debug)]
pub struct ControlClient {
    socket: OwnedFd,
}

impl ControlClient {
    /// A pair: this end, and the socket for [`serve_control`] in the process that serves.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn pair() -> Result<(Self, OwnedFd), ControlError> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self { socket: ours }, theirs))
    }

    /// Has a connection served, in a thread of its own.
    ///
    /// # Errors
    /// When the process cannot be reached.
    pub fn serve(&self, stream: &UnixStream) -> Result<(), ControlError> {
        self.ask(&Order::Serve, Some(stream.as_fd())).map(drop)
    }

    /// See [`Server::pin`].
    ///
    /// # Errors
    /// When the process cannot be reached or the pin failed.
    pub fn pin(&self, path: &[u8], fd: impl AsFd) -> Result<(), ControlError> {
        self.ask(&Order::Pin { path: path.to_vec() }, Some(fd.as_fd())).map(drop)
    }

    /// See [`Server::unpin_all`].
    ///
    /// # Errors
    /// When the process cannot be reached.
    pub fn unpin_all(&self) -> Result<u64, ControlError> {
        match self.ask(&Order::UnpinAll, None)? {
            Outcome::Unpinned(count) => Ok(count),
            _ => Err(ControlError::Message),
        }
    }

    /// See [`Server::fence`].
    ///
    /// # Errors
    /// When the process cannot be reached.
    pub fn fence(&self, epoch: Epoch) -> Result<bool, ControlError> {
        match self.ask(&Order::Fence { epoch }, None)? {
            Outcome::Fenced(complete) => Ok(complete),
            _ => Err(ControlError::Message),
        }
    }

    fn ask(
        &self,
        order: &Order,
        fd: Option<std::os::fd::BorrowedFd<'_>>,
    ) -> Result<Outcome, ControlError> {
        send(&self.socket, order, fd)?;
        match receive::<Outcome>(&self.socket)? {
            Some((Outcome::Failed(why), _)) => Err(ControlError::Failed(why)),
            Some((outcome, _)) => Ok(outcome),
            None => Err(ControlError::Socket(io::ErrorKind::ConnectionReset.into())),
        }
    }
}

fn send<M: Serialize>(
    socket: impl AsFd,
    message: &M,
    fd: Option<std::os::fd::BorrowedFd<'_>>,
) -> Result<(), ControlError> {
    let bytes = postcard::to_stdvec(message).map_err(|_| ControlError::Message)?;
    if bytes.len() > MAX_MESSAGE {
        return Err(ControlError::Message);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        ancillary.push(SendAncillaryMessage::ScmRights(fds));
    }
    sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The next message; `None` when the other end has closed.
fn receive<M: serde::de::DeserializeOwned>(
    socket: impl AsFd,
) -> Result<Option<(M, Option<OwnedFd>)>, ControlError> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let len = loop {
        let slices = &mut [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
            Ok(message) => break message.bytes,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    let mut fd = None;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last();
        }
    }
    if len == 0 {
        return Ok(None);
    }
    let message = postcard::from_bytes(&bytes[..len]).map_err(|_| ControlError::Message)?;
    Ok(Some((message, fd)))
}

/// Obeys the shim until it closes its end, then ends all sessions: the main loop of the process
/// that serves an app's files. Lets the process have as many files open as it may.
///
/// # Errors
/// When the socket fails.
pub fn serve_control(server: &Server, socket: &OwnedFd) -> Result<(), ControlError> {
    if let Err(error) = os::raise_file_limit() {
        tracing::warn!(%error, "the number of open files stays limited");
    }
    while let Some((order, fd)) = receive::<Order>(socket)? {
        let outcome = match (order, fd) {
            (Order::Serve, Some(fd)) => serve_in_thread(server, UnixStream::from(fd)),
            (Order::Pin { path }, Some(fd)) => match server.pin(&path, fd) {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Failed(error.to_string()),
            },
            (Order::UnpinAll, _) => Outcome::Unpinned(server.unpin_all() as u64),
            (Order::Fence { epoch }, _) => Outcome::Fenced(server.fence(epoch)),
            (Order::Serve | Order::Pin { .. }, None) => {
                Outcome::Failed("the message came without its file descriptor".into())
            }
        };
        send(socket, &outcome, None)?;
    }
    server.close();
    Ok(())
}

fn serve_in_thread(server: &Server, stream: UnixStream) -> Outcome {
    let server = server.clone();
    let serve = move || {
        if let Err(error) = server.serve(stream) {
            tracing::info!(%error, "a connection for files ended");
        }
    };
    match std::thread::Builder::new().name("files".into()).spawn(serve) {
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::Failed(format!("no thread for the connection: {error}")),
    }
}
