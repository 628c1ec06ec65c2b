//! What a desktop's agent and its host say to each other: frames of `u32 length, u32 channel,
//! u8 kind, payload` in little-endian order, the length counting what follows it. Each channel is
//! one command; channel 0 is the agent itself.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// The longest payload.
pub const MAX_PAYLOAD: usize = 64 << 10;
/// Bytes of a frame before its payload.
pub const HEADER: usize = 9;
/// The channel of the agent itself.
pub const AGENT: u32 = 0;
/// The name of the virtio port, as udev would show it.
pub const PORT: &str = "phantom.agent";

/// What a frame says. The first eight go to the agent, the others come from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Ends all commands; asks for a [`Kind::Here`] with the same payload. Sent first.
    Hello = 1,
    /// Starts a command: a [`Request`] in JSON.
    Start = 2,
    /// Bytes for the command's input.
    Input = 3,
    /// Its input has ended.
    InputEnd = 4,
    /// Its terminal's size: `u16` rows, `u16` columns.
    Resize = 5,
    /// A signal for its process group: `i32`.
    Signal = 6,
    /// Nobody waits for it any more: it is killed.
    Close = 7,
    /// The answer to [`Kind::Hello`].
    Here = 32,
    /// What it wrote to its output or terminal.
    Output = 33,
    /// What it wrote to its error output.
    Errors = 34,
    /// It has ended: `i32`, 128 + signal when it was killed. The last frame of its channel.
    Exit = 35,
    /// It could not be started, and why. The last frame of its channel.
    Refused = 36,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Kind::Hello,
            2 => Kind::Start,
            3 => Kind::Input,
            4 => Kind::InputEnd,
            5 => Kind::Resize,
            6 => Kind::Signal,
            7 => Kind::Close,
            32 => Kind::Here,
            33 => Kind::Output,
            34 => Kind::Errors,
            35 => Kind::Exit,
            36 => Kind::Refused,
            _ => return None,
        })
    }

    /// Whether the channel ends with it.
    pub fn is_last(self) -> bool {
        matches!(self, Kind::Exit | Kind::Refused)
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Which command it belongs to.
    pub channel: u32,
    /// What it says.
    pub kind: Kind,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame; its payload must not be longer than [`MAX_PAYLOAD`].
    pub fn new(channel: u32, kind: Kind, payload: impl Into<Vec<u8>>) -> Self {
        let payload = payload.into();
        assert!(payload.len() <= MAX_PAYLOAD, "a frame of {} bytes", payload.len());
        Self { channel, kind, payload }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let length = (self.payload.len() + HEADER - 4) as u32;
        let mut bytes = Vec::with_capacity(HEADER + self.payload.len());
        bytes.extend(length.to_le_bytes());
        bytes.extend(self.channel.to_le_bytes());
        bytes.push(self.kind as u8);
        bytes.extend(&self.payload);
        bytes
    }

    /// Takes the first whole frame off `bytes`; `None` when there is none yet.
    pub fn take(bytes: &mut Vec<u8>) -> io::Result<Option<Self>> {
        let Some(head) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let (length, channel, kind) = read_header(head)?;
        if bytes.len() < HEADER + length {
            return Ok(None);
        }
        let payload = bytes[HEADER..HEADER + length].to_vec();
        bytes.drain(..HEADER + length);
        Ok(Some(Self { channel, kind, payload }))
    }

    /// Reads a frame.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        let mut head = [0; HEADER];
        from.read_exact(&mut head)?;
        let (length, channel, kind) = read_header(&head)?;
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Ok(Self { channel, kind, payload })
    }

    /// Writes it in one piece.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        to.write_all(&self.encode())
    }

    /// The number of an [`Kind::Exit`] or [`Kind::Signal`].
    pub fn number(&self) -> Option<i32> {
        self.payload.as_slice().try_into().ok().map(i32::from_le_bytes)
    }
}

fn read_header(head: &[u8; HEADER]) -> io::Result<(usize, u32, Kind)> {
    let [l0, l1, l2, l3, c0, c1, c2, c3, kind] = *head;
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let wrong = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let payload = length.checked_sub(HEADER - 4).filter(|payload| *payload <= MAX_PAYLOAD);
    let payload = payload.ok_or_else(|| wrong(format!("a frame of {length} bytes")))?;
    let kind = Kind::from_byte(kind).ok_or_else(|| wrong(format!("a frame of kind {kind}")))?;
    Ok((payload, u32::from_le_bytes([c0, c1, c2, c3]), kind))
}

/// What the agent is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Runs a command.
    Run(Run),
    /// Makes a cloned desktop one of its own.
    Become(Identity),
}

/// A command.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Program and arguments.
    pub args: Vec<String>,
    /// Login name of the user; root when absent.
    pub user: Option<String>,
    /// Rows and columns of a terminal of its own; pipes when absent.
    pub terminal: Option<(u16, u16)>,
}

/// What no two desktops may share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Name of the machine.
    pub hostname: String,
    /// 32 hexadecimal digits for `/etc/machine-id`.
    pub machine_id: String,
    /// What the random number generator is seeded with.
    pub seed: Vec<u8>,
    /// The time of day: nanoseconds since 1970.
    pub unix_ns: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_whole_from_any_pieces() {
        let frames = [
            Frame::new(AGENT, Kind::Hello, b"nonce"),
            Frame::new(7, Kind::Output, vec![0x5a; MAX_PAYLOAD]),
            Frame::new(u32::MAX, Kind::Exit, (-3_i32).to_le_bytes()),
            Frame::new(8, Kind::InputEnd, []),
        ];
        let all: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        for piece in [1, 3, HEADER, 4096, all.len()] {
            let (mut waiting, mut got) = (Vec::new(), Vec::new());
            for bytes in all.chunks(piece) {
                waiting.extend(bytes);
                while let Some(frame) = Frame::take(&mut waiting).unwrap() {
                    got.push(frame);
                }
            }
            assert_eq!(got, frames, "in pieces of {piece}");
            assert!(waiting.is_empty());
        }
        assert_eq!(frames[2].number(), Some(-3));
    }

    #[test]
    fn frames_out_of_bounds_are_refused() {
        let with_length = |length: u32| [&length.to_le_bytes()[..], &[0, 0, 0, 0, 1]].concat();
        for length in [0, 4, (MAX_PAYLOAD + HEADER - 4 + 1) as u32, u32::MAX] {
            assert!(Frame::take(&mut with_length(length)).is_err(), "{length}");
        }
        let mut unknown = [&5_u32.to_le_bytes()[..], &[0, 0, 0, 0, 99]].concat();
        assert!(Frame::take(&mut unknown).is_err());
    }
}
