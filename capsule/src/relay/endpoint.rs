//! The app side of the relay: between the pty's master here and the home's shim far away.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::link::{BEAT, Link};
use super::machine::{Event, Relay, RelayState};
use crate::os::{pty, reactor};

/// Makes a new stream to the home's shim.
pub type Connect = Box<dyn FnMut() -> Connecting + Send>;
type Connecting = Pin<Box<dyn Future<Output = io::Result<UnixStream>> + Send>>;

/// The first pause between two attempts to reach the home.
const RETRY_MIN: Duration = Duration::from_millis(20);
/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// What the app takes along when its terminal is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Where the relay stands.
    pub relay: RelayState,
    /// Of what [`Endpoint::release`] was to write first: what the terminal has not taken yet. It is
    /// nowhere else, and the endpoint has it no more.
    pub typed: Vec<u8>,
}

enum Command {
    Hold(oneshot::Sender<Held>),
    Release { output: Vec<u8>, typed: Vec<u8> },
    End(i32, oneshot::Sender<()>),
}

/// A running app side. Dropping it ends it.
pub struct Endpoint {
    commands: mpsc::Sender<Command>,
}

impl Endpoint {
    /// Starts it. It does not touch the terminal before [`Endpoint::release`].
    pub fn start(master: OwnedFd, state: RelayState, connect: Connect) -> io::Result<Self> {
        set_nonblocking(master.as_fd())?;
        let (commands, receiver) = mpsc::channel(8);
        let driver = Driver {
            master: reactor::register(master)?,
            relay: Relay::from_state(state),
            input: VecDeque::new(),
            own_input: 0,
            held: true,
            ended: None,
            connect,
            pause: RETRY_MIN,
            commands: receiver,
        };
        tokio::spawn(driver.run());
        Ok(Self { commands })
    }

    /// Leaves the terminal alone from now on. Bytes of the home that the terminal has not taken
    /// stay the home's.
    pub async fn hold(&self) -> Option<Held> {
        let (reply, held) = oneshot::channel();
        self.commands.send(Command::Hold(reply)).await.ok()?;
        held.await.ok()
    }

    /// Serves the terminal (again): `output` was read from it by somebody else, and `typed` is to
    /// be written to it before anything the home sends.
    pub async fn release(&self, output: Vec<u8>, typed: Vec<u8>) {
        let _ = self.commands.send(Command::Release { output, typed }).await;
    }

    /// The app has ended: sends the rest of its output, then its exit code. Completes when the
    /// home has noted both.
    pub async fn end(&self, code: i32) {
        let (reply, noted) = oneshot::channel();
        if self.commands.send(Command::End(code, reply)).await.is_ok() {
            let _ = noted.await;
        }
    }
}

struct Driver {
    master: AsyncFd<OwnedFd>,
    relay: Relay,
    /// For the terminal, not yet written.
    input: VecDeque<u8>,
    /// The first bytes of `input` that did not come from the home.
    own_input: usize,
    held: bool,
    ended: Option<oneshot::Sender<()>>,
    connect: Connect,
    /// Before the next attempt to reach the home.
    pause: Duration,
    commands: mpsc::Receiver<Command>,
}

impl Driver {
    async fn run(mut self) {
        let mut link: Option<Link> = None;
        let mut connecting = (self.connect)();
        let mut beat = tokio::time::interval(BEAT);
        loop {
            if let Some(present) = &link
                && (!present.flush(&mut self.relay) || present.is_dead())
            {
                link = None;
                self.relay.disconnected();
                connecting = self.again();
            }
            let serve = !self.held;
            tokio::select! {
                command = self.commands.recv() => match command {
                    Some(command) => {
                        let may_act_anew = matches!(command, Command::Release { .. });
                        self.obey(command);
                        if may_act_anew && link.is_none() {
                            self.pause = RETRY_MIN;
                            connecting = (self.connect)();
                        }
                    }
                    None => return,
                },
                frame = next(&mut link), if link.is_some() => {
                    let healthy = match frame {
                        Some(frame) => match self.relay.handle(frame) {
                            Ok(()) => {
                                self.pause = RETRY_MIN;
                                self.take_events()
                            }
                            Err(error) => {
                                tracing::warn!(%error, "the home's shim sent nonsense");
                                false
                            }
                        },
                        None => false,
                    };
                    if !healthy {
                        link = None;
                        self.relay.disconnected();
                        connecting = self.again();
                    }
                }
                stream = &mut connecting, if link.is_none() => match stream {
                    Ok(stream) => {
                        link = Some(Link::new(stream));
                        self.relay.connected();
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the home's shim cannot be reached");
                        connecting = self.again();
                    }
                },
                ready = self.master.readable(), if serve && self.relay.room() > 0 => {
                    if let Ok(mut guard) = ready {
                        let outcome = guard.try_io(|fd| read_into(fd, &mut self.relay));
                        if matches!(outcome, Ok(Err(_))) {
                            // The last slave is closed; the exit is told by other means.
                            self.held = true;
                        }
                    }
                }
                ready = self.master.writable(), if serve && !self.input.is_empty() => {
                    if let Ok(mut guard) = ready
                        && let Ok(Ok(count)) = guard.try_io(|fd| write_from(fd, &mut self.input))
                    {
                        let own = count.min(self.own_input);
                        self.own_input -= own;
                        self.relay.taken(count - own);
                    }
                }
                _ = beat.tick() => self.relay.beat(),
            }
        }
    }

    /// The next attempt, after a pause that grows until the home has said a word: a stream that it
    /// does not let in is made like any other, and ends at once.
    fn again(&mut self) -> Connecting {
        let pause = self.pause;
        self.pause = (pause * 2).min(RETRY_MAX);
        let connecting = (self.connect)();
        Box::pin(async move {
            tokio::time::sleep(pause).await;
            connecting.await
        })
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Hold(reply) => {
                self.held = true;
                let typed = self.input.drain(..std::mem::take(&mut self.own_input)).collect();
                let _ = reply.send(Held { relay: self.relay.state(), typed });
            }
            Command::Release { output, typed } => {
                self.relay.push(&output);
                self.own_input += typed.len();
                for byte in typed.into_iter().rev() {
                    self.input.push_front(byte);
                }
                self.held = false;
            }
            Command::End(code, noted) => {
                while matches!(read_into(&self.master, &mut self.relay), Ok(count) if count > 0) {}
                self.held = true;
                self.relay.set_exit(code);
                self.ended = Some(noted);
            }
        }
    }

    /// False when the stream must be given up.
    fn take_events(&mut self) -> bool {
        while let Some(event) = self.relay.poll_event() {
            match event {
                Event::Bytes(bytes) => self.input.extend(bytes),
                Event::Resize(size) => {
                    if let Err(error) = pty::set_size(self.master.as_fd(), size) {
                        tracing::debug!(%error, "the window's size cannot be set");
                    }
                }
                Event::ExitTaken => {
                    if let Some(noted) = self.ended.take() {
                        let _ = noted.send(());
                    }
                }
                Event::Exit(_) => return false,
            }
        }
        true
    }
}

async fn next(link: &mut Option<Link>) -> Option<super::Frame> {
    match link {
        Some(link) => link.next().await,
        None => std::future::pending().await,
    }
}

/// Reads what the terminal has, up to what the relay takes.
fn read_into(master: &AsyncFd<OwnedFd>, relay: &mut Relay) -> io::Result<usize> {
    let mut buffer = [0; 16 << 10];
    let most = relay.room().clamp(1, buffer.len());
    let count = read(master.get_ref(), &mut buffer[..most])?;
    relay.push(&buffer[..count]);
    Ok(count)
}

/// Reads a pty's master; a closed slave is an error like any other.
pub fn read(master: &OwnedFd, buffer: &mut [u8]) -> io::Result<usize> {
    match nix::unistd::read(master, buffer) {
        Ok(0) => Err(Errno::EIO.into()),
        Ok(count) => Ok(count),
        Err(errno) => Err(errno.into()),
    }
}

/// Writes what the terminal takes; gives how much that was.
pub fn write_from(master: &AsyncFd<OwnedFd>, input: &mut VecDeque<u8>) -> io::Result<usize> {
    let (front, _) = input.as_slices();
    let count = nix::unistd::write(master.get_ref(), front)?;
    input.drain(..count);
    Ok(count)
}

/// Makes reads and writes return at once.
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

#[cfg(test)]
mod tests;
