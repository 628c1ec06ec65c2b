//! The agent: what runs inside a desktop and does what its host asks, over a virtio port.
//!
//! One thread, one `poll`. It is process 1 where the desktop has no systemd, so it also collects
//! every process that ends. It never waits for a command: what one does not read yet is kept, up
//! to a bound.

mod command;
mod identity;
mod os;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{read, write};

use super::wire::{AGENT, Frame, Kind, MAX_PAYLOAD, PORT, Request};
use command::Command;

/// How much of commands' output may wait for the host before no more is read.
const MAX_WAITING: usize = 1 << 20;
/// How often to look whether the host has come when it is away.
const HOST_AWAY_MS: u16 = 100;

/// Serves the host for ever.
pub fn main() -> anyhow::Result<()> {
    if std::process::id() == 1 {
        os::boot()?;
    }
    let children = os::ended_children().context("listening for ended processes")?;
    let port = open_port()?;
    Agent { port, children, commands: BTreeMap::new(), coming: Vec::new(), going: Vec::new() }
        .serve()
}

/// Opens the port by its name.
fn open_port() -> anyhow::Result<OwnedFd> {
    let folder = "/sys/class/virtio-ports";
    for entry in std::fs::read_dir(folder).with_context(|| format!("reading {folder}"))? {
        let entry = entry?;
        let name = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim() == PORT {
            let device = PathBuf::from("/dev").join(entry.file_name());
            return os::open_port(&device).with_context(|| format!("opening {}", device.display()));
        }
    }
    anyhow::bail!("this machine has no virtio port named {PORT}")
}

struct Agent {
    port: OwnedFd,
    children: OwnedFd,
    commands: BTreeMap<u32, Command>,
    /// From the host, not yet a whole frame.
    coming: Vec<u8>,
    /// For the host.
    going: Vec<u8>,
}

/// What a descriptor belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Which {
    Port,
    Children,
    Output(u32, Kind),
    Input(u32),
}

impl Agent {
    fn serve(mut self) -> anyhow::Result<()> {
        let mut host_away = false;
        loop {
            let ready = self.wait(host_away)?;
            host_away = false;
            for (which, events) in ready {
                match which {
                    Which::Port if events.contains(PollFlags::POLLHUP) => host_away = true,
                    Which::Port => self.receive()?,
                    Which::Children => self.collect(),
                    Which::Output(channel, kind) => self.pass_output(channel, kind),
                    Which::Input(channel) => {
                        if let Some(command) = self.commands.get_mut(&channel) {
                            command.write_input();
                        }
                    }
                }
            }
            self.finish();
            if !host_away {
                self.send()?;
            }
        }
    }

    /// Waits for something to do.
    fn wait(&self, host_away: bool) -> anyhow::Result<Vec<(Which, PollFlags)>> {
        let mut watched =
            vec![(Which::Children, PollFd::new(self.children.as_fd(), PollFlags::POLLIN))];
        // A port without a host is always ready.
        if !host_away {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, !self.going.is_empty());
            watched.push((Which::Port, PollFd::new(self.port.as_fd(), flags)));
        }
        for (&channel, command) in &self.commands {
            if self.going.len() < MAX_WAITING {
                watched.extend(command.outputs().map(|(kind, fd)| {
                    (Which::Output(channel, kind), PollFd::new(fd, PollFlags::POLLIN))
                }));
            }
            watched.extend(
                command
                    .wanting_input()
                    .map(|fd| (Which::Input(channel), PollFd::new(fd, PollFlags::POLLOUT))),
            );
        }
        let (which, mut fds): (Vec<Which>, Vec<PollFd<'_>>) = watched.into_iter().unzip();
        let timeout = if host_away { PollTimeout::from(HOST_AWAY_MS) } else { PollTimeout::NONE };
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(Errno::EINTR) => return Ok(Vec::new()),
            Err(error) => return Err(error).context("waiting"),
        }
        let events = fds.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        Ok(which.into_iter().zip(events).filter(|(_, events)| !events.is_empty()).collect())
    }

    /// Takes what the host has sent.
    fn receive(&mut self) -> anyhow::Result<()> {
        let mut buffer = vec![0; MAX_PAYLOAD];
        match read(&self.port, &mut buffer) {
            Ok(count) => self.coming.extend(&buffer[..count]),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error).context("reading from the host"),
        }
        loop {
            match Frame::take(&mut self.coming) {
                Ok(Some(frame)) => self.obey(frame),
                Ok(None) => return Ok(()),
                // A host that died in the middle of a frame: the next one begins with a hello.
                Err(_) => self.coming.clear(),
            }
        }
    }

    fn obey(&mut self, frame: Frame) {
        let channel = frame.channel;
        match frame.kind {
            Kind::Hello => {
                self.commands.clear();
                self.going.clear();
                self.say(AGENT, Kind::Here, frame.payload);
            }
            Kind::Start => {
                if let Err(error) = self.start(channel, &frame.payload) {
                    self.say(channel, Kind::Refused, format!("{error:#}"));
                }
            }
            Kind::Close => {
                if self.commands.remove(&channel).is_some() {
                    self.say(channel, Kind::Exit, (128 + Signal::SIGKILL as i32).to_le_bytes());
                }
            }
            // Frames for a command that has just ended come too late, which is nobody's fault.
            kind => {
                if let Some(command) = self.commands.get_mut(&channel) {
                    match kind {
                        Kind::Input => command.queue_input(&frame.payload),
                        Kind::InputEnd => command.end_input(),
                        Kind::Resize => command.resize(&frame.payload),
                        Kind::Signal => command.signal(frame.number().unwrap_or(0)),
                        _ => {}
                    }
                }
            }
        }
    }

    fn start(&mut self, channel: u32, request: &[u8]) -> anyhow::Result<()> {
        match serde_json::from_slice(request).context("reading the request")? {
            Request::Run(run) => {
                self.commands.insert(channel, Command::start(&run)?);
            }
            Request::Become(identity) => {
                identity::assume(&identity)?;
                self.say(channel, Kind::Exit, 0_i32.to_le_bytes());
            }
        }
        Ok(())
    }

    /// Collects processes that have ended: commands, and orphans where this is process 1.
    fn collect(&mut self) {
        os::forget_signals(&self.children);
        loop {
            let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if let Some(command) = self.commands.values_mut().find(|command| command.pid() == pid) {
                command.ended(code);
            }
        }
    }

    fn pass_output(&mut self, channel: u32, kind: Kind) {
        let Some(command) = self.commands.get_mut(&channel) else { return };
        let mut buffer = vec![0; MAX_PAYLOAD];
        if let Some(count) = command.read(kind, &mut buffer) {
            buffer.truncate(count);
            self.say(channel, kind, buffer);
        }
    }

    /// Reports commands that have ended and been heard to the end. What others still hold open
    /// (a daemon that a command has started) is not waited for.
    fn finish(&mut self) {
        let ended: Vec<u32> = self
            .commands
            .iter()
            .filter(|(_, command)| command.exit_code().is_some())
            .map(|(&channel, _)| channel)
            .collect();
        for channel in ended {
            if self.going.len() >= MAX_WAITING {
                return;
            }
            let Some(command) = self.commands.get_mut(&channel) else { continue };
            if command.has_more() {
                continue;
            }
            let code = command.exit_code().unwrap_or(-1);
            self.commands.remove(&channel);
            self.say(channel, Kind::Exit, code.to_le_bytes());
        }
    }

    fn say(&mut self, channel: u32, kind: Kind, payload: impl Into<Vec<u8>>) {
        let mut payload = payload.into();
        payload.truncate(MAX_PAYLOAD);
        self.going.extend(Frame::new(channel, kind, payload).encode());
    }

    fn send(&mut self) -> anyhow::Result<()> {
        while !self.going.is_empty() {
            match write(&self.port, &self.going) {
                Ok(count) => drop(self.going.drain(..count)),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(error) => return Err(error).context("writing to the host"),
            }
        }
        Ok(())
    }
}
