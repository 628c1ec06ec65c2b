//! What waits in a terminal, taken out of one pseudo terminal and put into another: each byte
//! arrives once, is echoed once, and no signal is sent twice.
//!
//! [`drain`] is called when the app is frozen and no one else reads or writes the pair. Input is
//! taken from the slave as the app would have read it: whole lines and end-of-file marks first;
//! then the line being typed, which only shows once canonical mode is off. [`refill`] types it
//! into the new slave through the line discipline with everything switched off that would change,
//! echo or interpret a byte, so that the marks are made anew; then it gives the terminal the
//! settings of the old one. The switch between canonical and raw mode forgets the marks of lines,
//! so it only happens while the buffer is empty or holds nothing but the unfinished line.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use phantom_model::TermSize;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::os::pty;

#[cfg(test)]
mod tests;

/// What a terminal's input buffer holds at most, in bytes and marks.
pub const INPUT_LIMIT: usize = 4095;
/// More output than this never waits in a pseudo terminal.
const OUTPUT_LIMIT: usize = 1 << 20;
/// More input than this never waits in a pseudo terminal (64 KiB wait before the line discipline).
const DRAIN_LIMIT: usize = 1 << 17;
/// Longer than any line the kernel gives at once.
const LINE_BUFFER: usize = 2 * (INPUT_LIMIT + 1);

/// A terminal's settings, as termios(3) has them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// `c_iflag`
    pub input: u32,
    /// `c_oflag`
    pub output: u32,
    /// `c_cflag`
    pub control: u32,
    /// `c_lflag`
    pub local: u32,
    /// `c_cc`
    pub characters: Vec<u8>,
}

/// A piece of input that one read of the app would have given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// A line with its end.
    Line(Vec<u8>),
    /// What an end-of-file character ended; nothing when it was typed on an empty line.
    Ended(Vec<u8>),
    /// The line being typed. Only the last piece of a terminal in canonical mode.
    Unfinished(Vec<u8>),
    /// Bytes of a terminal in raw mode.
    Raw(Vec<u8>),
}

/// Whether output was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flow {
    /// It runs.
    Running,
    /// The user typed the stop character.
    StoppedByUser,
    /// A program stopped it with tcflow(3).
    StoppedByProgram,
}

/// All there is to carry from one terminal to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalState {
    /// Its settings.
    pub settings: Settings,
    /// Its size.
    pub size: TermSize,
    /// Whether output was stopped.
    pub flow: Flow,
    /// What was typed and not read.
    pub input: Vec<Input>,
    /// What was to be typed after it, but did not fit into the terminal.
    pub typed: Vec<u8>,
    /// What was put out (echo included) and not read at the master: goes to the user before
    /// anything of the new terminal does.
    pub output: Vec<u8>,
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Terminal { action, source }
}

/// Takes everything out of a terminal whose app is frozen. The pair keeps its settings and can be
/// filled again, should the app stay.
pub fn drain(master: BorrowedFd<'_>) -> Result<TerminalState, Error> {
    let slave = pty::open_slave(master)?;
    let slave = slave.as_fd();
    let termios = pty::get_termios(slave).map_err(failed("read the terminal's settings"))?;
    let mut output = Vec::new();
    let read_output = |output: &mut Vec<u8>| {
        read_all(master, output, OUTPUT_LIMIT).map_err(failed("read the app's waiting output"))
    };
    read_output(&mut output)?;
    let flow = resume_output(slave, &termios).map_err(failed("resume the terminal's output"))?;
    let input = drain_input(slave, &termios).map_err(failed("read what was typed ahead"))?;
    read_output(&mut output)?;
    Ok(TerminalState {
        settings: Settings::from(&termios),
        size: pty::size(slave)?,
        flow,
        input,
        typed: Vec::new(),
        output,
    })
}

/// Puts what was taken out of one terminal into another that is empty and that nobody uses yet,
/// and gives it the settings and the size. What did not fit comes back: bytes to be written to the
/// new master before anything else is. They waited before the old terminal, more than
/// [`INPUT_LIMIT`] bytes ahead, and were never echoed there.
pub fn refill(master: BorrowedFd<'_>, state: &TerminalState) -> Result<Vec<u8>, Error> {
    let slave = pty::open_slave(master)?;
    let slave = slave.as_fd();
    let wrong = failed("type ahead into the new terminal");
    let mut termios = pty::get_termios(slave).map_err(&wrong)?;
    state.settings.apply(&mut termios);
    pty::set_size(slave, state.size)?;
    // The stop character needs a place to get through.
    let room = INPUT_LIMIT - usize::from(state.flow == Flow::StoppedByUser);
    let (fits, rest) = split(&state.input, room);
    let quotes = Quotes::choose(&termios);
    pty::set_termios(slave, &quotes.settings(&termios)).map_err(&wrong)?;
    for piece in &fits {
        for byte in quotes.typed(piece) {
            pty::type_byte(slave, byte).map_err(&wrong)?;
        }
    }
    pty::set_termios(slave, &termios).map_err(failed("give the terminal its settings"))?;
    stop_output(slave, &termios, state.flow).map_err(failed("stop the terminal's output"))?;
    let quotes = Quotes::of(&termios);
    let rest = rest.iter().flat_map(|piece| quotes.typed(piece));
    Ok(rest.chain(state.typed.iter().copied()).collect())
}

/// Reads what is there; the descriptor is left in the mode it had.
fn read_all(fd: BorrowedFd<'_>, into: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    let _guard = NonBlocking::new(fd)?;
    let mut file = File::from(fd.try_clone_to_owned()?);
    let mut chunk = [0; LINE_BUFFER];
    while into.len() < limit {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => into.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // A master whose slaves are all closed.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => break,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Switches a descriptor to non-blocking and back.
struct NonBlocking<'a> {
    fd: BorrowedFd<'a>,
    before: nix::fcntl::OFlag,
}

impl<'a> NonBlocking<'a> {
    fn new(fd: BorrowedFd<'a>) -> io::Result<Self> {
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        let before = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
        fcntl(fd, FcntlArg::F_SETFL(before | OFlag::O_NONBLOCK))?;
        Ok(Self { fd, before })
    }
}

impl Drop for NonBlocking<'_> {
    fn drop(&mut self) {
        let _ = nix::fcntl::fcntl(self.fd, nix::fcntl::FcntlArg::F_SETFL(self.before));
    }
}

/// Output that is stopped holds echoes back that exist nowhere else, so it is resumed; it is
/// stopped again in the new terminal. A pair with room for output that takes none is stopped.
fn resume_output(slave: BorrowedFd<'_>, termios: &libc::termios) -> io::Result<Flow> {
    if pty::is_writable(slave)? {
        return Ok(Flow::Running);
    }
    let start = termios.c_cc[libc::VSTART];
    if termios.c_iflag & libc::IXON != 0 && start != 0 {
        pty::type_byte(slave, start)?;
        if !pty::is_writable(slave)? {
            // Nothing can be typed where the input is full; this resumes what the user stopped too.
            let mut freely = *termios;
            freely.c_iflag &= !libc::IXON;
            pty::set_termios(slave, &freely)?;
            pty::set_termios(slave, termios)?;
        }
        if pty::is_writable(slave)? {
            return Ok(Flow::StoppedByUser);
        }
    }
    pty::flow(slave, libc::TCOON)?;
    Ok(Flow::StoppedByProgram)
}

fn stop_output(slave: BorrowedFd<'_>, termios: &libc::termios, flow: Flow) -> io::Result<()> {
    let stop = termios.c_cc[libc::VSTOP];
    match flow {
        Flow::Running => Ok(()),
        Flow::StoppedByUser if termios.c_iflag & libc::IXON != 0 && stop != 0 => {
            pty::type_byte(slave, stop)
        }
        Flow::StoppedByUser | Flow::StoppedByProgram => pty::flow(slave, libc::TCOOFF),
    }
}

/// What waits before a full terminal comes in as room is made, and is not echoed here: it does not
/// fit into the next one either, and is typed there.
fn drain_input(slave: BorrowedFd<'_>, termios: &libc::termios) -> io::Result<Vec<Input>> {
    let mut silent = *termios;
    silent.c_lflag &= !(libc::ECHO | libc::ECHONL);
    pty::set_termios(slave, &silent)?;
    let pieces = drain_silently(slave, &silent);
    pty::set_termios(slave, termios)?;
    pieces
}

fn drain_silently(slave: BorrowedFd<'_>, termios: &libc::termios) -> io::Result<Vec<Input>> {
    if termios.c_lflag & libc::ICANON == 0 {
        let mut raw = Vec::new();
        read_all(slave, &mut raw, DRAIN_LIMIT)?;
        return Ok(if raw.is_empty() { Vec::new() } else { vec![Input::Raw(raw)] });
    }
    let mut pieces = read_lines(slave, termios)?;
    // The unfinished line can only be seen without canonical mode. Nothing is echoed or
    // interpreted meanwhile.
    let mut raw = *termios;
    raw.c_lflag &= !(libc::ICANON | libc::ISIG);
    pty::set_termios(slave, &raw)?;
    let mut unfinished = Vec::new();
    let result = read_all(slave, &mut unfinished, DRAIN_LIMIT);
    pty::set_termios(slave, termios)?;
    result?;
    if !unfinished.is_empty() {
        pieces.push(Input::Unfinished(unfinished));
    }
    Ok(pieces)
}

/// Each read gives one line, or what an end-of-file mark ended.
fn read_lines(slave: BorrowedFd<'_>, termios: &libc::termios) -> io::Result<Vec<Input>> {
    let ends = line_ends(termios);
    let mut file = File::from(slave.try_clone_to_owned()?);
    let mut buffer = [0; LINE_BUFFER];
    let (mut pieces, mut size) = (Vec::new(), 0);
    while size < DRAIN_LIMIT {
        match file.read(&mut buffer) {
            Ok(count) => {
                let bytes = buffer[..count].to_vec();
                size += count + 1;
                let is_line = bytes.last().is_some_and(|last| ends.contains(last));
                pieces.push(if is_line { Input::Line(bytes) } else { Input::Ended(bytes) });
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(pieces)
}

/// The characters that end a line and are part of it.
fn line_ends(termios: &libc::termios) -> Vec<u8> {
    let set = [termios.c_cc[libc::VEOL], termios.c_cc[libc::VEOL2]];
    [b'\n'].into_iter().chain(set.into_iter().filter(|character| *character != 0)).collect()
}

/// How many places of the input buffer a piece takes.
fn places(piece: &Input) -> usize {
    match piece {
        Input::Ended(bytes) => bytes.len() + 1,
        Input::Line(bytes) | Input::Unfinished(bytes) | Input::Raw(bytes) => bytes.len(),
    }
}

/// What fits into so many places, and the rest. A line at the border is cut: its beginning was in
/// the old terminal, and echoed there.
fn split(input: &[Input], mut room: usize) -> (Vec<Input>, Vec<Input>) {
    let (mut fits, mut rest) = (Vec::new(), Vec::new());
    for piece in input {
        if places(piece) <= room {
            room -= places(piece);
            fits.push(piece.clone());
            continue;
        }
        let cut = |bytes: &[u8]| {
            let (head, tail) = bytes.split_at(room.min(bytes.len()));
            (head.to_vec(), tail.to_vec())
        };
        let (head, tail) = match piece {
            Input::Raw(bytes) => {
                let (head, tail) = cut(bytes);
                (Input::Raw(head), Input::Raw(tail))
            }
            Input::Line(bytes) => {
                let (head, tail) = cut(bytes);
                (Input::Unfinished(head), Input::Line(tail))
            }
            Input::Ended(bytes) => {
                let (head, tail) = cut(bytes);
                (Input::Unfinished(head), Input::Ended(tail))
            }
            Input::Unfinished(bytes) => {
                let (head, tail) = cut(bytes);
                (Input::Unfinished(head), Input::Unfinished(tail))
            }
        };
        if room > 0 {
            fits.push(head);
        }
        room = 0;
        rest.push(tail);
    }
    (fits, rest)
}

/// How bytes are typed so that the line discipline takes them as they are.
struct Quotes {
    quote: Option<u8>,
    eof: Option<u8>,
    /// What means something when it is not quoted.
    special: Vec<u8>,
    ends: Vec<u8>,
}

impl Quotes {
    /// With control characters of our own, beside the line ends of `termios`.
    fn choose(termios: &libc::termios) -> Self {
        let ends = line_ends(termios);
        let mut free = (1u8..32).filter(|character| !ends.contains(character));
        let (quote, eof) = (free.next(), free.next());
        let special = ends.iter().copied().chain(quote).chain(eof).collect();
        Self { quote, eof, special, ends }
    }

    /// With the characters `termios` has.
    fn of(termios: &libc::termios) -> Self {
        let canonical = termios.c_lflag & libc::ICANON != 0;
        let set = |index: usize| Some(termios.c_cc[index]).filter(|character| *character != 0);
        let quotes = canonical && termios.c_lflag & libc::IEXTEN != 0;
        Self {
            quote: set(libc::VLNEXT).filter(|_| quotes),
            eof: set(libc::VEOF).filter(|_| canonical),
            special: (1u8..32).chain([127]).collect(),
            ends: line_ends(termios),
        }
    }

    /// Settings under which only the chosen characters mean something; the mode is that of
    /// `termios`.
    fn settings(&self, termios: &libc::termios) -> libc::termios {
        let mut quiet = *termios;
        let (eol, eol2) = (termios.c_cc[libc::VEOL], termios.c_cc[libc::VEOL2]);
        quiet.c_cc = [0; _];
        quiet.c_cc[libc::VMIN] = termios.c_cc[libc::VMIN];
        quiet.c_cc[libc::VTIME] = termios.c_cc[libc::VTIME];
        if termios.c_lflag & libc::ICANON != 0 {
            quiet.c_cc[libc::VEOL] = eol;
            quiet.c_cc[libc::VEOL2] = eol2;
            quiet.c_cc[libc::VLNEXT] = self.quote.unwrap_or(0);
            quiet.c_cc[libc::VEOF] = self.eof.unwrap_or(0);
        }
        quiet.c_iflag = termios.c_iflag & libc::IUTF8;
        quiet.c_lflag = (termios.c_lflag & libc::ICANON) | libc::IEXTEN;
        quiet
    }

    /// What to type for a piece.
    fn typed(&self, piece: &Input) -> Vec<u8> {
        let quoted = |bytes: &[u8]| -> Vec<u8> {
            bytes
                .iter()
                .flat_map(|byte| {
                    let quote = self.quote.filter(|_| self.special.contains(byte));
                    quote.into_iter().chain([*byte])
                })
                .collect()
        };
        match piece {
            Input::Raw(bytes) => bytes.clone(),
            Input::Unfinished(bytes) => quoted(bytes),
            Input::Ended(bytes) => quoted(bytes).into_iter().chain(self.eof).collect(),
            Input::Line(bytes) => match bytes.split_last() {
                Some((end, line)) if self.ends.contains(end) => {
                    quoted(line).into_iter().chain([*end]).collect()
                }
                // Not a line: from a state that was tampered with.
                _ => quoted(bytes),
            },
        }
    }
}

impl From<&libc::termios> for Settings {
    fn from(termios: &libc::termios) -> Self {
        Self {
            input: termios.c_iflag,
            output: termios.c_oflag,
            control: termios.c_cflag,
            local: termios.c_lflag,
            characters: termios.c_cc.to_vec(),
        }
    }
}

impl Settings {
    fn apply(&self, termios: &mut libc::termios) {
        termios.c_iflag = self.input;
        termios.c_oflag = self.output;
        termios.c_cflag = self.control;
        termios.c_lflag = self.local;
        for (to, from) in termios.c_cc.iter_mut().zip(&self.characters) {
            *to = *from;
        }
    }
}
