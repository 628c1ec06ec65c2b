//! One run of QEMU: from its start to its end.

use std::cell::RefCell;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::json;

use super::control::Control;
use super::host::Host;
use super::link::AgentLink;
use super::os;
use super::shape::{Parts, Shape, qemu_args};

/// How long QEMU may take until it has opened its channels.
const STARTS: Duration = Duration::from_secs(30);

/// A running machine; it ends when this is dropped.
pub struct Machine {
    child: RefCell<Child>,
    parts: Parts,
    control: Control,
    link: AgentLink,
}

impl Machine {
    /// Starts a machine in `network` and waits until its agent answers.
    pub fn start(
        host: &Host,
        shape: &Shape,
        parts: Parts,
        network: &OwnedFd,
        usable: Duration,
    ) -> anyhow::Result<Self> {
        // QEMU connects to us, so there is no moment at which its sockets are not there yet.
        let [agent, control] = [parts.agent_socket(), parts.control_socket()].map(|path| {
            let _ = std::fs::remove_file(&path);
            UnixListener::bind(&path).with_context(|| format!("listening at {}", path.display()))
        });
        let (agent, control) = (agent?, control?);
        let log = File::create(parts.qemu_log()).context("creating QEMU's log")?;
        let mut command = Command::new(&host.qemu);
        command.args(qemu_args(shape, host.accel, &parts, host.tsc_khz));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        os::bind_to(&mut command, network);
        let child = command.spawn().with_context(|| {
            format!("cannot run {}: install qemu-system-x86", host.qemu.display())
        })?;
        let mut starting = Starting { child: Some(child), parts: &parts };
        let end = Instant::now() + STARTS;
        let agent = starting.accept(&agent, end)?;
        let control = starting.accept(&control, end)?;
        let opened = Control::open(control).and_then(|mut control| {
            control.wait_running(usable)?;
            Ok((control, AgentLink::open(agent, usable)?))
        });
        let (control, link) = opened.map_err(|error| starting.blame(error))?;
        let child = starting.child.take().context("QEMU has gone")?;
        drop(starting);
        Ok(Self { child: RefCell::new(child), parts, control, link })
    }

    /// Its agent.
    pub fn link(&self) -> &AgentLink {
        &self.link
    }

    /// QEMU's control channel.
    pub fn control(&mut self) -> &mut Control {
        &mut self.control
    }

    /// QEMU's process id.
    pub fn pid(&self) -> u32 {
        self.child.borrow().id()
    }

    /// What its kernel printed.
    pub fn serial(&self) -> String {
        read(&self.parts.serial_log())
    }

    /// Why it has ended, when it has or is about to.
    pub fn end(&self, patience: Duration) -> Option<String> {
        let end = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.borrow_mut().try_wait().ok()? {
                return Some(why_ended(status, &self.parts));
            }
            if Instant::now() > end {
                return None;
            }
            // A process that is not waited for tells nobody.
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Writes its whole state to a file, and stops it. It must run meanwhile: a clone of a stopped
    /// machine is one.
    pub fn save(&mut self, state: &Path) -> anyhow::Result<()> {
        let uri = format!("exec:cat > '{}'", state.display());
        self.control.run("migrate-set-parameters", json!({"max-bandwidth": 1_u64 << 40}))?;
        self.control.run("migrate", json!({"uri": uri}))?;
        let ended = self.control.wait_event(
            "the machine's state to be written",
            Duration::from_secs(120),
            |event| {
                event["event"] == "MIGRATION"
                    && ["completed", "failed"].iter().any(|end| event["data"]["status"] == *end)
            },
        )?;
        if ended["data"]["status"] != "completed" {
            bail!(
                "QEMU could not write the machine's state to {}: is there room?",
                state.display()
            );
        }
        Ok(())
    }

    /// Its power is gone.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.get_mut().kill();
        let _ = self.child.get_mut().wait();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A machine on its way; its process ends when that fails.
struct Starting<'a> {
    child: Option<Child>,
    parts: &'a Parts,
}

impl Starting<'_> {
    /// Waits for QEMU at a socket.
    fn accept(&mut self, listener: &UnixListener, end: Instant) -> anyhow::Result<UnixStream> {
        loop {
            let mut fds = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
            // Short, to see as well when it has died; nothing else tells.
            if poll(&mut fds, PollTimeout::from(50_u16))? > 0 {
                return Ok(listener.accept()?.0);
            }
            if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().ok()?) {
                bail!("{}", why_ended(status, self.parts));
            }
            if Instant::now() > end {
                bail!("QEMU did not open its channels within {STARTS:?}");
            }
        }
    }

    /// Adds what happened to the machine to an error, when that is known.
    fn blame(&mut self, error: anyhow::Error) -> anyhow::Error {
        let ended = self.child.as_mut().and_then(|child| child.try_wait().ok()?);
        match ended {
            Some(status) => error.context(why_ended(status, self.parts)),
            None => error.context(format!(
                "it hangs; what its kernel printed last:\n{}",
                tail(&read(&self.parts.serial_log()), 20)
            )),
        }
    }
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// In words, with what helps to understand it.
fn why_ended(status: ExitStatus, parts: &Parts) -> String {
    let serial = read(&parts.serial_log());
    if serial.contains("Kernel panic") {
        let at = serial.rfind("Kernel panic").unwrap_or(0);
        let line = serial[at..].lines().next().unwrap_or_default();
        return format!("its kernel stopped: {line}\n{}", tail(&serial, 30));
    }
    if serial.contains("phantom: no root") {
        return format!("it found no root file system\n{}", tail(&serial, 15));
    }
    let how = match (status.code(), status.signal()) {
        (Some(0), _) => "it was switched off".to_owned(),
        (Some(code), _) => format!("QEMU ended with exit code {code}"),
        (_, Some(signal)) => format!("QEMU was ended by signal {signal}"),
        _ => "QEMU ended".to_owned(),
    };
    let printed = read(&parts.qemu_log());
    let advice = if printed.contains("No space left") {
        " (no room: free some in /var/tmp and /var/cache/phantom)"
    } else if printed.contains("/dev/net/tun") {
        " (no TUN device: `modprobe tun`)"
    } else {
        ""
    };
    format!("{how}{advice}\n{}", tail(&printed, 10))
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
