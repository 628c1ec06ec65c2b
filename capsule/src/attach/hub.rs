//! The shim's side of the user's terminals: it stands at home for all of an app's life, whether
//! the app is here ([`Hub::here`]), on its way ([`Hub::hold`]) or away ([`Hub::away`]).

//!
//! | file | what it does |
//! |---|---|
//! | [`driver`] | waits for whatever comes next and passes it on |
//! | [`app`] | the app's side of the terminal, wherever it is |
//! | [`terminals`] | the user's side: who is attached, who lags, who is let go |

mod app;
mod driver;
mod terminals;

use std::os::fd::OwnedFd;

use phantom_model::{Epoch, TermSize};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use crate::relay::RelayState;
use driver::Driver;

enum Command {
    Attach(UnixStream),
    Here { master: OwnedFd, arrival: Arrival },
    Resume { output: Vec<u8>, typed: Vec<u8> },
    Print(Vec<u8>),
    Hold(oneshot::Sender<()>),
    Away(Epoch),
    Stream(UnixStream, Epoch),
    Tell(String),
    Ended(i32, oneshot::Sender<()>),
}

/// What an app brings to its terminal when it is (back) at home.
#[derive(Debug, Default)]
pub struct Arrival {
    /// Printed before and read by somebody else.
    pub output: Vec<u8>,
    /// Typed before and not yet in the terminal.
    pub typed: Vec<u8>,
    /// Where its relay stood, after a move home; `None` if it never left.
    pub relay: Option<RelayState>,
}

/// What the hub tells its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HubEvent {
    /// The app has ended elsewhere, and all it printed has arrived. The terminals hear of it by
    /// [`Hub::ended`].
    EndedAway(i32),
}

/// A running hub. Dropping it ends it.
#[derive(Clone)]
pub struct Hub {
    commands: mpsc::Sender<Command>,
}

impl Hub {
    /// Starts a hub without an app.
    pub fn start(size: TermSize) -> (Self, mpsc::Receiver<HubEvent>) {
        let (commands, receiver) = mpsc::channel(32);
        let (events, event_receiver) = mpsc::channel(4);
        let driver = Driver::new(receiver, events, size);
        tokio::spawn(driver.run());
        (Self { commands }, event_receiver)
    }

    async fn send(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }

    /// A terminal attaches.
    pub async fn attach(&self, stream: UnixStream) {
        self.send(Command::Attach(stream)).await;
    }

    /// The app is here, behind this master.
    pub async fn here(&self, master: OwnedFd, arrival: Arrival) {
        self.send(Command::Here { master, arrival }).await;
    }

    /// Serves the app's terminal again after [`Hub::hold`]: `output` was read from it by somebody
    /// else, and `typed` is to be written to it before anything else.
    pub async fn resume(&self, output: Vec<u8>, typed: Vec<u8>) {
        self.send(Command::Resume { output, typed }).await;
    }

    /// Shows what somebody else has read from the app's terminal.
    pub async fn print(&self, output: Vec<u8>) {
        self.send(Command::Print(output)).await;
    }

    /// Leaves the app's terminal alone; what is typed waits. Completes when that is so.
    pub async fn hold(&self) {
        let (reply, held) = oneshot::channel();
        self.send(Command::Hold(reply)).await;
        let _ = held.await;
    }

    /// The app is away with this epoch.
    pub async fn away(&self, epoch: Epoch) {
        self.send(Command::Away(epoch)).await;
    }

    /// A stream from the shim of the copy with this epoch.
    pub async fn stream(&self, stream: UnixStream, epoch: Epoch) {
        self.send(Command::Stream(stream, epoch)).await;
    }

    /// One line for the user.
    pub async fn tell(&self, line: String) {
        self.send(Command::Tell(line)).await;
    }

    /// The app has ended. Completes when the terminals have been told.
    pub async fn ended(&self, code: i32) {
        let (reply, told) = oneshot::channel();
        self.send(Command::Ended(code, reply)).await;
        let _ = told.await;
    }
}

#[cfg(test)]
mod tests;
