//! The app's side of the hub: its terminal, when it is here, or the relay to where it is.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};

use phantom_model::{Epoch, TermSize};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use super::Arrival;
use crate::os::{pty, reactor};
use crate::relay::endpoint::{read, set_nonblocking, write_from};
use crate::relay::link::Link;
use crate::relay::{Event, Frame, Relay};

/// Typed bytes kept while the app cannot take them; then the terminals are not read.
const MAX_INPUT_BYTES: usize = 64 << 10;
/// What is read of its terminal at once.
const READ_BYTES: usize = 16 << 10;

/// Where the app is.
enum Place {
    Nowhere,
    Here { master: AsyncFd<OwnedFd>, held: bool },
    Away { relay: Box<Relay>, link: Option<Link>, epoch: Epoch },
}

/// The app, and what waits to be typed into it.
pub(super) struct App {
    place: Place,
    input: VecDeque<u8>,
    size: TermSize,
}

/// What the app's side has to say.
pub(super) enum Said {
    /// Printed here.
    Printed(Vec<u8>),
    /// The last slave of its terminal is closed; its end is told by other means.
    Closed,
    /// From where it is; `None` when the stream has ended.
    Frame(Option<Frame>),
    /// It has taken something.
    Nothing,
}

impl App {
    pub(super) fn new(size: TermSize) -> Self {
        Self { place: Place::Nowhere, input: VecDeque::new(), size }
    }

    /// Whether more can be typed.
    pub(super) fn takes_input(&self) -> bool {
        self.input.len() < MAX_INPUT_BYTES
    }

    /// Typed after what waits already.
    pub(super) fn type_next(&mut self, typed: Vec<u8>) {
        self.input.extend(typed);
    }

    /// Typed before what waits already.
    pub(super) fn type_first(&mut self, typed: Vec<u8>) {
        for byte in typed.into_iter().rev() {
            self.input.push_front(byte);
        }
    }

    /// The app is here, behind this master. Gives what it printed on its way.
    pub(super) fn here(&mut self, master: OwnedFd, arrival: Arrival) -> Vec<u8> {
        let mut printed = Vec::new();
        let before = std::mem::replace(&mut self.place, Place::Nowhere);
        if let Place::Away { relay, .. } = before {
            let brought = match arrival.relay {
                Some(state) => relay.absorb(&state),
                None => Ok((Vec::new(), relay.into_untaken())),
            };
            match brought {
                Ok((output, typed)) => {
                    printed = output;
                    self.type_first(typed);
                }
                Err(error) => tracing::error!(%error, "the terminal could not be taken home whole"),
            }
        }
        printed.extend(arrival.output);
        self.type_first(arrival.typed);
        match set_nonblocking(master.as_fd()).and_then(|()| reactor::register(master)) {
            Ok(master) => {
                self.place = Place::Here { master, held: false };
                self.resize(self.size);
            }
            Err(error) => tracing::error!(%error, "the app's terminal cannot be used"),
        }
        printed
    }

    /// The app is away with this epoch.
    pub(super) fn away(&mut self, to: Epoch) {
        if let Place::Away { link, epoch, .. } = &mut self.place {
            // From one host to the next: the relay goes on where it stands.
            *link = None;
            *epoch = to;
            return;
        }
        let mut relay = Relay::new();
        relay.set_size(self.size);
        self.place = Place::Away { relay: Box::new(relay), link: None, epoch: to };
    }

    /// A stream from the copy with this epoch; only the present one is let in.
    pub(super) fn connect(&mut self, stream: UnixStream, from: Epoch) {
        match &mut self.place {
            Place::Away { relay, link, epoch } if *epoch == from => {
                *link = Some(Link::new(stream));
                relay.connected();
            }
            _ => tracing::info!(%from, "refused the terminal of a copy that may not act"),
        }
    }

    /// Leaves its terminal alone, or serves it again.
    pub(super) fn set_held(&mut self, to: bool) {
        if let Place::Here { held, .. } = &mut self.place {
            *held = to;
        }
    }

    pub(super) fn size(&self) -> TermSize {
        self.size
    }

    /// Its window has this size from now on.
    pub(super) fn resize(&mut self, size: TermSize) {
        self.size = size;
        match &mut self.place {
            Place::Here { master, .. } => {
                if let Err(error) = pty::set_size(master.get_ref().as_fd(), size) {
                    tracing::debug!(%error, "the window's size cannot be set");
                }
            }
            Place::Away { relay, .. } => relay.set_size(size),
            Place::Nowhere => {}
        }
    }

    /// A sign of life may be due.
    pub(super) fn beat(&mut self) {
        if let Place::Away { relay, .. } = &mut self.place {
            relay.beat();
        }
    }

    /// Gives the relay what is typed and the stream what the relay has to say.
    pub(super) fn flush(&mut self) {
        let Place::Away { relay, link, .. } = &mut self.place else {
            return;
        };
        let count = relay.room().min(self.input.len());
        if count > 0 {
            let typed: Vec<u8> = self.input.drain(..count).collect();
            relay.push(&typed);
        }
        if let Some(stream) = link
            && (!stream.flush(relay) || stream.is_dead())
        {
            *link = None;
            relay.disconnected();
        }
    }

    /// Takes a frame in; gives what it brought.
    pub(super) fn take(&mut self, frame: Option<Frame>) -> Vec<Event> {
        let Place::Away { relay, link, .. } = &mut self.place else {
            return Vec::new();
        };
        let handled = frame.map(|frame| relay.handle(frame));
        if !matches!(handled, Some(Ok(()))) {
            *link = None;
            relay.disconnected();
            return Vec::new();
        }
        let mut events = Vec::new();
        while let Some(event) = relay.poll_event() {
            if let Event::Bytes(bytes) = &event {
                relay.taken(bytes.len());
            }
            events.push(event);
        }
        events
    }

    /// Reads what it printed last, here.
    pub(super) fn rest_of_output(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        if let Place::Here { master, .. } = &self.place {
            let mut buffer = [0; READ_BYTES];
            while let Ok(count) = read(master.get_ref(), &mut buffer) {
                rest.extend_from_slice(&buffer[..count]);
            }
        }
        rest
    }

    /// Waits for whatever it has to say, and types what waits while it takes it.
    pub(super) async fn said(&mut self) -> Said {
        let input = &mut self.input;
        match &mut self.place {
            Place::Here { master, held: false } => loop {
                tokio::select! {
                    ready = master.readable() => {
                        let mut buffer = [0; READ_BYTES];
                        let Ok(mut guard) = ready else { return Said::Nothing };
                        match guard.try_io(|fd| read(fd.get_ref(), &mut buffer)) {
                            Ok(Ok(count)) => return Said::Printed(buffer[..count].to_vec()),
                            Ok(Err(_)) => return Said::Closed,
                            Err(_) => {}
                        }
                    }
                    ready = master.writable(), if !input.is_empty() => {
                        let Ok(mut guard) = ready else { return Said::Nothing };
                        if guard.try_io(|fd| write_from(fd, input)).is_ok() {
                            return Said::Nothing;
                        }
                    }
                }
            },
            Place::Away { link: Some(link), .. } => Said::Frame(link.next().await),
            _ => std::future::pending().await,
        }
    }
}
