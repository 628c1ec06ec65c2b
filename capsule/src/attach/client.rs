//! The terminal's side: raw mode, window size, keys, until the app ends or the user detaches.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use nix::sys::termios::{self, SetArg, Termios};
use phantom_model::TermSize;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::input::Input;
use super::keys::{Keys, Typed};
use super::{ToShim, ToTerminal};
use crate::os::pty;
use crate::wire::{self, MAX_TERMINAL_BYTES};

/// Why a terminal came back to its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parted {
    /// The app has ended with this code.
    Exit(i32),
    /// The user detached; the app runs on.
    Detached,
    /// The shim went away without a word.
    Lost,
}

const HELP: &str = "Enter ~ d  detach, the program runs on\r\n\
                    Enter ~ ~  type one ~\r\n";

/// Serves this process's terminal until they part. Its settings are as before afterwards.
pub async fn attach(stream: UnixStream) -> io::Result<Parted> {
    let stdin = io::stdin();
    let is_terminal = stdin.is_terminal();
    let raw = if is_terminal { Some(RawMode::enter()?) } else { None };
    let parted = exchange(stream, is_terminal).await;
    drop(raw);
    parted
}

async fn exchange(stream: UnixStream, is_terminal: bool) -> io::Result<Parted> {
    let (mut reader, mut writer) = stream.into_split();
    let size = window_size();
    send(&mut writer, &ToShim::Hello(size.unwrap_or_default())).await;
    let mut typed = Input::open(is_terminal);
    let (frame_sender, mut frames) = mpsc::channel::<ToTerminal>(8);
    let reading = tokio::spawn(async move {
        while let Ok(Some(frame)) = wire::read(&mut reader, MAX_TERMINAL_BYTES).await {
            if frame_sender.send(frame).await.is_err() {
                break;
            }
        }
    });
    let mut resized = signal(SignalKind::window_change())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut hung_up = signal(SignalKind::hangup())?;
    let mut keys = Keys::default();
    let parted = loop {
        tokio::select! {
            frame = frames.recv() => match frame {
                Some(ToTerminal::Data(bytes)) => print(&bytes)?,
                Some(ToTerminal::Message { line, full_screen }) => {
                    print(message(&line, full_screen, is_terminal).as_bytes())?;
                }
                Some(ToTerminal::Exit(code)) => break Parted::Exit(code),
                None => break Parted::Lost,
            },
            Some(bytes) = typed.next() => {
                if !typed_on(&mut keys, bytes, is_terminal, &mut writer).await? {
                    break Parted::Detached;
                }
            }
            _ = resized.recv() => if let Some(size) = window_size() {
                send(&mut writer, &ToShim::Resize(size)).await;
            },
            _ = terminated.recv() => break Parted::Detached,
            _ = hung_up.recv() => break Parted::Detached,
        }
    };
    reading.abort();
    Ok(parted)
}

/// A shim that takes nothing any more has gone, and its last frames say why: they are still read.
async fn send(writer: &mut (impl tokio::io::AsyncWrite + Unpin), message: &ToShim) {
    if let Err(error) = wire::write(writer, message, MAX_TERMINAL_BYTES).await {
        tracing::debug!(%error, "the shim takes no more");
    }
}

/// Passes on what was typed; false when the user wants to detach.
async fn typed_on(
    keys: &mut Keys,
    bytes: Vec<u8>,
    is_terminal: bool,
    writer: &mut (impl tokio::io::AsyncWrite + Unpin),
) -> io::Result<bool> {
    if !is_terminal {
        // The end of a file or pipe is what ^D is on a terminal.
        let bytes = if bytes.is_empty() { vec![0x04] } else { bytes };
        send(writer, &ToShim::Data(bytes)).await;
        return Ok(true);
    }
    if bytes.is_empty() {
        return Ok(false);
    }
    for part in keys.feed(&bytes) {
        match part {
            Typed::Bytes(bytes) => send(writer, &ToShim::Data(bytes)).await,
            Typed::Detach => return Ok(false),
            Typed::Help => print(HELP.as_bytes())?,
        }
    }
    Ok(true)
}

/// Blocking: there is nothing to do for a terminal that takes nothing.
fn print(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// A line that is not the app's: between its lines, or on the last row of a screen it owns.
fn message(line: &str, full_screen: bool, is_terminal: bool) -> String {
    let clean: String = line.chars().filter(|c| !c.is_control()).collect();
    match window_size().filter(|_| is_terminal) {
        None => format!("phantom: {clean}\n"),
        Some(size) if full_screen => {
            let width = usize::from(size.cols).saturating_sub(1);
            let shown: String = format!(" phantom: {clean} ").chars().take(width).collect();
            format!("\x1b7\x1b[{};1H\x1b[7m{shown}\x1b[m\x1b8", size.rows)
        }
        Some(_) => format!("\r\n\x1b[2mphantom: {clean}\x1b[m\r\n"),
    }
}

/// The size of this process's terminal, whichever of its files it is on.
pub fn window_size() -> Option<TermSize> {
    let (input, output) = (io::stdin(), io::stdout());
    [input.as_fd(), output.as_fd()].into_iter().find_map(|fd| pty::size(fd).ok())
}

/// Raw mode of standard input, until dropped.
struct RawMode {
    before: Termios,
}

impl RawMode {
    fn enter() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(io::stdin(), SetArg::TCSANOW, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &self.before);
    }
}
