//! One side of the relay, without I/O.

use std::collections::VecDeque;

use phantom_model::TermSize;
use serde::{Deserialize, Serialize};

/// Bytes of one direction that may be on their way: not yet taken for good by the other side.
pub const WINDOW_BYTES: usize = 256 << 10;
/// Bytes of one frame, small enough that a keystroke never waits behind much.
const FRAME_BYTES: usize = 16 << 10;

/// What travels between the two sides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame {
    /// First on every stream.
    Hello {
        /// Number of the next byte wanted.
        wanted: u64,
        /// The other direction is taken up to here.
        taken: u64,
    },
    /// Bytes, and what has been taken of the other direction.
    Data {
        /// Number of the first byte.
        offset: u64,
        /// The bytes.
        bytes: Vec<u8>,
        /// The other direction is taken up to here.
        taken: u64,
    },
    /// The other direction is taken up to here.
    Taken(u64),
    /// The window's size, user side to app side.
    Resize(TermSize),
    /// The app has ended and all its output has been sent, app side to user side.
    Exit(i32),
    /// The end has been noted, user side to app side.
    ExitTaken,
    /// Nothing; shows that the stream lives.
    Beat,
}

/// What the owner must deal with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The next bytes; say [`Relay::taken`] when they cannot be lost any more.
    Bytes(Vec<u8>),
    /// The window has this size now.
    Resize(TermSize),
    /// The app has ended with this code.
    Exit(i32),
    /// The other side has noted the app's end.
    ExitTaken,
}

/// The other side does what no honest side does; the stream must be given up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the terminal's stream is broken: {0}")]
pub struct Broken(&'static str);

/// Where the app side stands, to go on from elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayState {
    /// Number of the next input byte.
    pub taken: u64,
    /// Number of the first output byte in `unacked`.
    pub base: u64,
    /// Output the user side has not acknowledged.
    pub unacked: Vec<u8>,
}

/// One side.
#[derive(Debug, Default)]
pub struct Relay {
    // Outgoing: `unacked` holds the bytes from `base` on, of which those before `sent` have been
    // put on the present stream.
    base: u64,
    unacked: VecDeque<u8>,
    sent: u64,
    // Incoming: all before `received` has been given to the owner, all before `taken` is safe.
    received: u64,
    taken: u64,
    acked: u64,
    // Of the present stream.
    connected: bool,
    greeted: bool,
    hello_due: bool,
    size: Option<TermSize>,
    size_due: bool,
    exit: Option<i32>,
    exit_due: bool,
    exit_taken_due: bool,
    beat_due: bool,
    events: VecDeque<Event>,
}

impl Relay {
    /// A side at the beginning.
    pub fn new() -> Self {
        Self::default()
    }

    /// The app side, going on where it stood on another host.
    pub fn from_state(state: RelayState) -> Self {
        Self {
            base: state.base,
            sent: state.base,
            unacked: state.unacked.into(),
            received: state.taken,
            taken: state.taken,
            acked: state.taken,
            ..Self::default()
        }
    }

    /// Where this side stands. Bytes received but not yet taken are forgotten: the other side
    /// still has them.
    pub fn state(&self) -> RelayState {
        RelayState {
            taken: self.taken,
            base: self.base,
            unacked: self.unacked.iter().copied().collect(),
        }
    }

    /// The user side takes the app side in after a move home: gives the output not yet received
    /// and the input not yet taken.
    pub fn absorb(self, app_side: &RelayState) -> Result<(Vec<u8>, Vec<u8>), Broken> {
        let output = self.received.checked_sub(app_side.base).map(|skip| skip as usize);
        let output = output
            .and_then(|skip| app_side.unacked.get(skip..))
            .ok_or(Broken("output was lost on the way"))?;
        let input = app_side
            .taken
            .checked_sub(self.base)
            .map(|skip| skip as usize)
            .filter(|skip| *skip <= self.unacked.len())
            .ok_or(Broken("input was lost on the way"))?;
        Ok((output.to_vec(), self.unacked.into_iter().skip(input).collect()))
    }

    /// The user side when the app goes on where it was before this relay: gives the input that no
    /// copy has taken.
    pub fn into_untaken(self) -> Vec<u8> {
        self.unacked.into()
    }

    /// How many bytes may be pushed now.
    pub fn room(&self) -> usize {
        WINDOW_BYTES.saturating_sub(self.unacked.len())
    }

    /// Whether the other side has taken everything.
    pub fn is_drained(&self) -> bool {
        self.unacked.is_empty()
    }

    /// Bytes for the other side. More than [`Relay::room`] is allowed where it cannot be avoided.
    pub fn push(&mut self, bytes: &[u8]) {
        self.unacked.extend(bytes);
    }

    /// The window's size, told to the other side now and on every new stream.
    pub fn set_size(&mut self, size: TermSize) {
        self.size = Some(size);
        self.size_due = true;
    }

    /// The app has ended; told when all output has been sent, and again on every new stream.
    pub fn set_exit(&mut self, code: i32) {
        self.exit = Some(code);
        self.exit_due = true;
    }

    /// The owner has dealt with `count` more bytes for good.
    pub fn taken(&mut self, count: usize) {
        self.taken = (self.taken + count as u64).min(self.received);
    }

    /// Asks for a sign of life to be sent.
    pub fn beat(&mut self) {
        self.beat_due = true;
    }

    /// A new stream stands; an earlier one is gone.
    pub fn connected(&mut self) {
        self.connected = true;
        self.greeted = false;
        self.hello_due = true;
        self.size_due = self.size.is_some();
        self.exit_due = self.exit.is_some();
        self.exit_taken_due = false;
    }

    /// The stream is gone.
    pub fn disconnected(&mut self) {
        self.connected = false;
        self.greeted = false;
    }

    /// Takes in what came over the stream.
    pub fn handle(&mut self, frame: Frame) -> Result<(), Broken> {
        match frame {
            Frame::Hello { wanted, taken } => {
                if self.greeted {
                    return Err(Broken("it begins twice"));
                }
                self.acknowledge(taken)?;
                if !(self.base..=self.base + self.unacked.len() as u64).contains(&wanted) {
                    return Err(Broken("it wants what was never sent"));
                }
                self.sent = wanted;
                self.greeted = true;
            }
            _ if !self.greeted => return Err(Broken("it does not begin with where it stands")),
            Frame::Data { offset, bytes, taken } => {
                self.acknowledge(taken)?;
                self.receive(offset, bytes)?;
            }
            Frame::Taken(taken) => self.acknowledge(taken)?,
            Frame::Resize(size) => self.events.push_back(Event::Resize(size)),
            Frame::Exit(code) => {
                self.exit_taken_due = true;
                self.events.push_back(Event::Exit(code));
            }
            Frame::ExitTaken => self.events.push_back(Event::ExitTaken),
            Frame::Beat => {}
        }
        Ok(())
    }

    fn acknowledge(&mut self, taken: u64) -> Result<(), Broken> {
        let count = taken.checked_sub(self.base).map(|count| count as usize);
        match count {
            Some(count) if count <= self.unacked.len() => {
                self.unacked.drain(..count);
                self.base = taken;
                self.sent = self.sent.max(taken);
                Ok(())
            }
            _ => Err(Broken("it acknowledges what was never sent")),
        }
    }

    fn receive(&mut self, offset: u64, bytes: Vec<u8>) -> Result<(), Broken> {
        if offset > self.received {
            return Err(Broken("it leaves bytes out"));
        }
        let known = (self.received - offset) as usize;
        let Some(fresh) = bytes.get(known..).filter(|fresh| !fresh.is_empty()) else {
            return Ok(());
        };
        if (self.received - self.taken) as usize + fresh.len() > 2 * WINDOW_BYTES {
            return Err(Broken("it sends more than the window"));
        }
        self.received += fresh.len() as u64;
        self.events.push_back(Event::Bytes(fresh.to_vec()));
        Ok(())
    }

    /// The next thing for the owner to deal with.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next frame for the stream.
    pub fn poll_frame(&mut self) -> Option<Frame> {
        if !self.connected {
            return None;
        }
        if std::mem::take(&mut self.hello_due) {
            self.acked = self.taken;
            return Some(Frame::Hello { wanted: self.received, taken: self.taken });
        }
        if !self.greeted {
            return None;
        }
        if let Some(size) = self.size
            && std::mem::take(&mut self.size_due)
        {
            return Some(Frame::Resize(size));
        }
        let unsent = (self.base + self.unacked.len() as u64 - self.sent) as usize;
        if unsent > 0 {
            let start = (self.sent - self.base) as usize;
            let count = unsent.min(FRAME_BYTES);
            let bytes: Vec<u8> = self.unacked.range(start..start + count).copied().collect();
            let offset = self.sent;
            self.sent += count as u64;
            self.acked = self.taken;
            return Some(Frame::Data { offset, bytes, taken: self.taken });
        }
        if self.acked != self.taken {
            self.acked = self.taken;
            return Some(Frame::Taken(self.taken));
        }
        if let Some(code) = self.exit
            && std::mem::take(&mut self.exit_due)
        {
            return Some(Frame::Exit(code));
        }
        if std::mem::take(&mut self.exit_taken_due) {
            return Some(Frame::ExitTaken);
        }
        std::mem::take(&mut self.beat_due).then_some(Frame::Beat)
    }
}

#[cfg(test)]
mod tests;
