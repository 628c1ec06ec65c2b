//! A person's visit to a desktop: a shell in the person's own terminal, over a socket that speaks
//! the agent's frames. A scenario that failed can keep its desktops for that.

use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use signal_hook::consts::SIGWINCH;
use signal_hook::iterator::Signals;

use super::Desktop;
use super::link::{AgentLink, Channel, Keyboard, Next};
use super::wire::{Frame, Kind, Request, Run};
use crate::node::Node;
use crate::os;

/// Where kept desktops can be visited.
const FOLDER: &str = "/run/phantom-desktops";
/// How long failed desktops wait for a visitor.
const KEPT: Duration = Duration::from_secs(3600);
/// A channel has no deadline of its own: it ends with its desktop.
const EVER: Duration = Duration::from_secs(24 * 3600);

/// Where a desktop of this name can be visited, when one is kept.
pub fn kept(name: &str) -> Option<PathBuf> {
    let socket = Path::new(FOLDER).join(format!("{name}.sock"));
    // Nobody listens at what a killed run has left.
    UnixStream::connect(&socket).is_ok().then_some(socket)
}

/// The desktops that are kept.
pub fn all_kept() -> Vec<String> {
    let entries = std::fs::read_dir(FOLDER).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.path().file_stem()?.to_str().map(str::to_owned));
    names.filter(|name| kept(name).is_some()).collect()
}

/// With `PHANTOM_KEEP` set, keeps the desktops of a failed scenario for an hour, or until the test
/// is interrupted.
pub fn keep_failed(desktops: &[&Desktop]) -> anyhow::Result<()> {
    if std::env::var_os("PHANTOM_KEEP").is_none() {
        return Ok(());
    }
    std::fs::create_dir_all(FOLDER)?;
    for desktop in desktops {
        let Ok(link) = desktop.link() else { continue };
        let socket = Path::new(FOLDER).join(format!("{}.sock", desktop.name()));
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)
            .with_context(|| format!("listening at {}", socket.display()))?;
        std::thread::spawn(move || {
            for visitor in listener.incoming().flatten() {
                let link = link.clone();
                std::thread::spawn(move || serve(&link, visitor));
            }
        });
        println!("kept for {KEPT:?}: cargo xtask desktop shell {}", desktop.name());
    }
    println!("Ctrl+C ends them.");
    let end = Instant::now() + KEPT;
    while Instant::now() < end {
        // There is nothing to wait for but the end of the hour.
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// Lets a visitor run one command.
fn serve(link: &AgentLink, visitor: UnixStream) -> io::Result<()> {
    let mut reader = visitor.try_clone()?;
    let start = Frame::read(&mut reader)?;
    let request: Request = serde_json::from_slice(&start.payload)?;
    let command = link.start(&request).map_err(io::Error::other)?;
    let keyboard = command.keyboard();
    std::thread::spawn(move || pass_output(command, visitor));
    pass_input(reader, keyboard)
}

fn pass_output(mut command: Channel, mut visitor: UnixStream) {
    while let Next::Frame(frame) = command.next(EVER) {
        if frame.write(&mut visitor).is_err() || frame.kind.is_last() {
            break;
        }
    }
    // Ends the other direction, too.
    let _ = visitor.shutdown(std::net::Shutdown::Both);
}

fn pass_input(mut visitor: UnixStream, mut keyboard: Keyboard) -> io::Result<()> {
    loop {
        match Frame::read(&mut visitor) {
            Ok(Frame { kind: Kind::Input, payload, .. }) => keyboard.write_all(&payload)?,
            Ok(Frame { kind: Kind::Resize, payload, .. }) => {
                if let [r0, r1, c0, c1] = payload[..] {
                    let (rows, cols) = ([r0, r1], [c0, c1]);
                    keyboard.resize(u16::from_le_bytes(rows), u16::from_le_bytes(cols))?;
                }
            }
            Ok(_) => {}
            // The visitor has gone, and the command with it.
            Err(_) => return keyboard.close(),
        }
    }
}

/// Runs a shell on a desktop that this process has.
pub fn shell_on(desktop: &Desktop) -> anyhow::Result<i32> {
    let (ours, theirs) = UnixStream::pair()?;
    let link = desktop.link()?;
    std::thread::spawn(move || serve(&link, theirs));
    shell(ours)
}

/// Runs a shell on a desktop that another process keeps.
pub fn shell_at(socket: &Path) -> anyhow::Result<i32> {
    shell(UnixStream::connect(socket).with_context(|| format!("no one at {}", socket.display()))?)
}

/// Joins this process's terminal to a root shell; gives its exit code.
fn shell(mut desktop: UnixStream) -> anyhow::Result<i32> {
    let stdin = io::stdin();
    ensure!(stdin.is_terminal(), "a shell needs a terminal");
    let size = os::size(&stdin).unwrap_or((24, 80));
    let run =
        Run { args: ["bash", "-l"].map(str::to_owned).to_vec(), user: None, terminal: Some(size) };
    let request = serde_json::to_vec(&Request::Run(run))?;
    Frame::new(1, Kind::Start, request).write(&mut desktop)?;
    let before = tcgetattr(&stdin)?;
    let mut raw = before.clone();
    cfmakeraw(&mut raw);
    tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
    let code = converse(desktop);
    tcsetattr(&stdin, SetArg::TCSANOW, &before)?;
    code
}

fn converse(mut desktop: UnixStream) -> anyhow::Result<i32> {
    // Keys and sizes come from two threads, and leave through one.
    let (sender, frames) = channel();
    let keys = sender.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
            let _ = keys.send(Frame::new(1, Kind::Input, &buffer[..count]));
        }
    });
    let mut resized = Signals::new([SIGWINCH])?;
    std::thread::spawn(move || {
        for _ in resized.forever() {
            if let Some((rows, cols)) = os::size(&io::stdin()) {
                let size = [rows.to_le_bytes(), cols.to_le_bytes()].concat();
                let _ = sender.send(Frame::new(1, Kind::Resize, size));
            }
        }
    });
    let mut out = desktop.try_clone()?;
    std::thread::spawn(move || frames.into_iter().try_for_each(|frame| frame.write(&mut out)));
    loop {
        let frame = Frame::read(&mut desktop).context("the desktop ended")?;
        match frame.kind {
            Kind::Output | Kind::Errors => {
                io::stdout().write_all(&frame.payload)?;
                io::stdout().flush()?;
            }
            Kind::Exit => return Ok(frame.number().unwrap_or(-1)),
            Kind::Refused => anyhow::bail!("{}", String::from_utf8_lossy(&frame.payload)),
            _ => {}
        }
    }
}
