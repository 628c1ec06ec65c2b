//! One desktop, and what a scenario does with it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail, ensure};
use serde_json::json;

use super::golden::Golden;
use super::lan::{Lan, Shared};
use super::link::{AgentLink, Channel, Next};
use super::machine::Machine;
use super::shape::{Init, Parts, Release, Shape, mac};
use super::wire::{Identity, Kind, Request, Run};
use super::{SOON, os};
use crate::node::{Node, Output};
use crate::terminal::Terminal;

/// How long a clone may take until it answers.
const CLONE: Duration = Duration::from_secs(60);
/// How long a boot may take.
const BOOT: Duration = Duration::from_secs(180);
/// How long an agent may take to do nothing, before its desktop is said to hang.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a command may take that a scenario gives no deadline.
const COMMAND: Duration = Duration::from_secs(120);

/// A desktop that is to be started.
pub struct DesktopPlan {
    shared: Rc<Shared>,
    name: String,
    shape: Shape,
    disk_gib: Option<u32>,
    people: Vec<(String, u32)>,
}

impl DesktopPlan {
    pub(super) fn new(shared: Rc<Shared>, name: &str) -> Self {
        let (name, shape) = (name.to_owned(), Shape::default());
        Self { shared, name, shape, disk_gib: None, people: Vec::new() }
    }

    /// With this system.
    pub fn release(mut self, release: Release) -> Self {
        self.shape.release = release;
        self
    }

    /// With systemd as process 1.
    pub fn systemd(mut self) -> Self {
        self.shape.init = Init::Systemd;
        self
    }

    /// With this many processors.
    pub fn cpus(mut self, cpus: u8) -> Self {
        self.shape.cpus = cpus;
        self
    }

    /// With this much memory.
    pub fn memory_mib(mut self, memory_mib: u32) -> Self {
        self.shape.memory_mib = memory_mib;
        self
    }

    /// With a disk of this size.
    pub fn disk_gib(mut self, disk_gib: u32) -> Self {
        self.disk_gib = Some(disk_gib);
        self
    }

    /// With a user who has a home directory there.
    pub fn person(mut self, name: &str, uid: u32) -> Self {
        self.people.push((name.to_owned(), uid));
        self
    }

    /// Clones it from the golden desktop of its shape and makes it one of its own.
    pub fn start(self) -> anyhow::Result<Desktop> {
        let name = self.name.clone();
        self.clone_golden().with_context(|| format!("starting the desktop `{name}`"))
    }

    fn clone_golden(self) -> anyhow::Result<Desktop> {
        let Self { shared, name, shape, disk_gib, people } = self;
        let golden = Golden::get(shared.host, &shape)?;
        let folder = shared.path().join(&name);
        std::fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
        let (tap, number) = shared.add_port()?;
        let disk = folder.join("disk.qcow2");
        golden.clone_disk(&disk)?;
        let parts = Parts {
            kernel: shared.host.image(shape.release)?.join("vmlinuz"),
            initrd: golden.initrd(),
            disk,
            delivery: shared.delivery.clone(),
            folder,
            tap,
            number,
            state: Some(golden.state()),
        };
        let machine = Machine::start(shared.host, &shape, parts.clone(), &shared.network, CLONE)?;
        let mut desktop =
            Desktop { shared, name, shape, parts, people, _golden: golden, machine: Some(machine) };
        desktop.become_itself()?;
        if let Some(disk_gib) = disk_gib {
            desktop.resize_disk(disk_gib)?;
        }
        Ok(desktop)
    }
}

/// A running desktop, or one without power. It ends when this is dropped.
pub struct Desktop {
    shared: Rc<Shared>,
    name: String,
    shape: Shape,
    parts: Parts,
    people: Vec<(String, u32)>,
    _golden: Golden,
    machine: Option<Machine>,
}

/// Boots a machine that is not a clone.
pub(super) fn boot(
    lan: &Lan,
    shape: &Shape,
    initrd: PathBuf,
    disk: PathBuf,
    deadline: Duration,
) -> anyhow::Result<(Machine, Parts)> {
    let shared = lan.shared();
    let (tap, number) = shared.add_port()?;
    let parts = Parts {
        kernel: shared.host.image(shape.release)?.join("vmlinuz"),
        initrd,
        disk,
        delivery: shared.delivery.clone(),
        folder: shared.path().to_owned(),
        tap,
        number,
        state: None,
    };
    let machine = Machine::start(shared.host, shape, parts.clone(), &shared.network, deadline)?;
    Ok((machine, parts))
}

/// Has a machine come to rest before it is saved: what clones would all do again is done, and what
/// they do not need is given back.
pub(super) fn settle(machine: &Machine, shape: &Shape) -> anyhow::Result<()> {
    let modules = "fuse nf_tables nft_chain_nat nft_masq nft_ct nft_nat tun veth sch_netem overlay \
                   unix_diag udp_diag tcp_diag netlink_diag af_packet_diag kvm-amd kvm-intel";
    let mut script = format!("for module in {modules}; do modprobe -q $module || :; done\n");
    if shape.init == Init::Systemd {
        script += "systemctl is-system-running --wait >/dev/null || :\n";
    }
    // Programs that every scenario uses are read once, so that clones find them in memory.
    for warm in [
        "python3 -c 'import json, os, sys, time'",
        "vim --version",
        "ip addr",
        "nft list ruleset",
        "tc qdisc",
    ] {
        script += &format!("{warm} >/dev/null 2>&1 || :\n");
    }
    script += "sync; echo 1 > /proc/sys/vm/compact_memory; sync\n";
    let output = run(machine, shell(&script), Vec::new(), BOOT)?;
    ensure!(output.code == 0, "settling failed: {}", output.stderr.trim());
    Ok(())
}

impl Desktop {
    /// Its address.
    pub fn address(&self) -> String {
        format!("10.78.0.{}", self.parts.number)
    }

    /// Its port of the bridge.
    pub(super) fn tap(&self) -> &str {
        &self.parts.tap
    }

    /// QEMU's process id.
    pub fn qemu_pid(&self) -> anyhow::Result<u32> {
        Ok(self.machine()?.pid())
    }

    /// What its kernel has printed.
    pub fn serial(&self) -> String {
        self.machine.as_ref().map(Machine::serial).unwrap_or_default()
    }

    /// The ends of its daemon's and shims' logs, of its journal where it has one, and of what its
    /// kernel printed, for a failed scenario.
    pub fn logs(&self) -> String {
        let script = "tail -n 60 /var/lib/phantom/daemon.log || :
                      tail -n 30 /run/phantom/apps/*/shim.log 2>/dev/null || :
                      [ ! -d /run/systemd/system ] || journalctl --sync || :
                      [ ! -d /run/systemd/system ] || journalctl -b -n 60 --no-pager";
        let logs = self.run(script).unwrap_or_else(|error| format!("{error:#}"));
        let console = super::machine::tail(&self.serial(), 100);
        format!("--- {} ---\n{logs}\n--- the console of {} ---\n{console}\n", self.name, self.name)
    }

    /// Runs a shell script as root; gives what it printed, and fails when it does.
    pub fn run(&self, script: &str) -> anyhow::Result<String> {
        self.checked(shell(script), script, COMMAND)
    }

    /// The same, with a deadline of the scenario's own.
    pub fn run_for(&self, script: &str, deadline: Duration) -> anyhow::Result<String> {
        self.checked(shell(script), script, deadline)
    }

    /// Runs a shell script as one of its users.
    pub fn run_as(&self, user: &str, script: &str) -> anyhow::Result<String> {
        self.checked(Run { user: Some(user.to_owned()), ..shell(script) }, script, COMMAND)
    }

    fn checked(&self, command: Run, shown: &str, deadline: Duration) -> anyhow::Result<String> {
        let output = self.output(command, deadline)?;
        let said = format!("{}{}", output.stdout, output.stderr);
        ensure!(
            output.code == 0,
            "on {}: `{shown}` ended with {}: {}",
            self.name,
            output.code,
            said.trim()
        );
        Ok(output.stdout)
    }

    /// Runs a command, whatever its exit code.
    pub fn output(&self, command: Run, deadline: Duration) -> anyhow::Result<Output> {
        let machine = self.machine()?;
        run(machine, command, Vec::new(), deadline).map_err(|error| self.blame(error))
    }

    /// Starts a command with a terminal of its own, for a user or for root.
    pub fn bare_terminal(
        &self,
        user: Option<String>,
        args: Vec<String>,
    ) -> anyhow::Result<Terminal> {
        let (rows, cols) = (24, 80);
        let run = Run { args, user, terminal: Some((rows, cols)) };
        let channel = self.machine()?.link().start(&Request::Run(run))?;
        Ok(Terminal::over(Box::new(super::line::AgentLine::new(channel)), rows, cols))
    }

    fn user(&self, as_user: bool) -> anyhow::Result<Option<String>> {
        if !as_user {
            return Ok(None);
        }
        let (name, _) =
            self.people.first().with_context(|| format!("nobody lives on {}", self.name))?;
        Ok(Some(name.clone()))
    }

    /// Writes a file, with these permissions, for root.
    pub fn write(&self, path: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let run = shell("cat > \"$0\"").with(path);
        let output = run_on(self, run, bytes.to_vec())?;
        ensure!(output.code == 0, "writing {path} on {}: {}", self.name, output.stderr.trim());
        Ok(())
    }

    /// Copies a file of this machine in.
    pub fn copy_in(&self, from: &Path, to: &str) -> anyhow::Result<()> {
        let bytes = std::fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        self.write(to, &bytes)
    }

    /// Reads a file.
    pub fn read(&self, path: &str) -> anyhow::Result<String> {
        self.checked(shell("exec cat \"$0\"").with(path), &format!("cat {path}"), COMMAND)
    }

    /// Its power is cut: nothing is written, said or closed.
    pub fn kill_power(&mut self) -> anyhow::Result<()> {
        let mut machine = self.machine.take().context("it has no power")?;
        machine.kill();
        Ok(())
    }

    /// It boots again from its disk, as what it was.
    pub fn power_on(&mut self) -> anyhow::Result<()> {
        ensure!(self.machine.is_none(), "{} is running", self.name);
        let parts = Parts { state: None, ..self.parts.clone() };
        let Shared { host, network, .. } = &*self.shared;
        let machine = Machine::start(host, &self.shape, parts, network, BOOT)
            .with_context(|| format!("booting {} again", self.name))?;
        self.machine = Some(machine);
        self.furnish()
    }

    /// It sleeps (suspend to memory, ACPI S3) this long, and wakes.
    pub fn sleep_for(&mut self, time: Duration) -> anyhow::Result<()> {
        self.fall_asleep()?;
        // The time asleep is what the scenario is about.
        std::thread::sleep(time);
        self.wake_up()
    }

    /// It goes to sleep; returns when it sleeps.
    pub fn fall_asleep(&mut self) -> anyhow::Result<()> {
        let name = self.name.clone();
        let machine = self.machine.as_mut().context("it has no power")?;
        // The command itself only returns after waking up.
        let sleeping = machine.link().start(&Request::Run(shell("echo mem > /sys/power/state")))?;
        let event = machine
            .control()
            .wait_event("it to fall asleep", SOON, |event| event["event"] == "SUSPEND");
        event.with_context(|| format!("{name} does not fall asleep"))?;
        std::mem::forget(sleeping);
        Ok(())
    }

    /// Somebody opens its lid; returns when it answers.
    pub fn wake_up(&mut self) -> anyhow::Result<()> {
        let machine = self.machine.as_mut().context("it has no power")?;
        machine.control().run("system_wakeup", json!({}))?;
        machine.control().wait_event("it to wake up", SOON, |event| event["event"] == "WAKEUP")?;
        self.run(":").with_context(|| format!("{} does not come back from sleep", self.name))?;
        Ok(())
    }

    /// Pulls its network cable, or puts it back.
    pub fn plug(&mut self, plugged: bool) -> anyhow::Result<()> {
        let machine = self.machine.as_mut().context("it has no power")?;
        machine.control().run("set_link", json!({"name": "net", "up": plugged})).map(drop)
    }

    /// Its agent.
    pub(super) fn link(&self) -> anyhow::Result<AgentLink> {
        Ok(self.machine()?.link().clone())
    }

    fn machine(&self) -> anyhow::Result<&Machine> {
        self.machine.as_ref().with_context(|| format!("{} has no power", self.name))
    }

    /// Whether its agent does anything at all.
    fn answers(&self) -> bool {
        self.machine().is_ok_and(|machine| run(machine, shell(":"), Vec::new(), ANSWER).is_ok())
    }

    /// Adds to an error what became of the desktop, or else what its kernel printed last.
    fn blame(&self, error: anyhow::Error) -> anyhow::Error {
        let patience = if error.is::<Gone>() { SOON } else { Duration::ZERO };
        let ended = self.machine.as_ref().and_then(|machine| machine.end(patience));
        let why = ended.unwrap_or_else(|| {
            let hangs = if error.is::<Late>() && !self.answers() { "it hangs; " } else { "" };
            let tail = super::machine::tail(&self.serial(), 8);
            format!("{hangs}the end of its console:\n{tail}\n")
        });
        error.context(format!("on {}: {why}", self.name))
    }

    /// What no clone may share with another.
    fn become_itself(&mut self) -> anyhow::Result<()> {
        let unix_ns = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos();
        let machine_id: String =
            os::random::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        let identity = Identity {
            hostname: self.name.clone(),
            machine_id,
            seed: os::random::<64>()?.to_vec(),
            unix_ns: i64::try_from(unix_ns)?,
        };
        let mut channel = self.machine()?.link().start(&Request::Become(identity))?;
        let output = finish(&mut channel, SOON)?;
        ensure!(output.code == 0, "{}", output.stderr);
        let mut script = format!(
            "mkdir -p /opt/phantom /usr/local/lib/phantom /etc/phantom\n\
             ln -s /opt/phantom/phantom /usr/local/bin/phantom\n\
             ln -s /opt/phantom /usr/local/lib/phantom/criu\n\
             printf 'name = \"%s\"\\nlisten = \"0.0.0.0:41610\"\\n' {} > /etc/phantom/phantom.toml\n",
            self.name
        );
        for (name, uid) in &self.people {
            script += &format!(
                "echo '{name}:x:{uid}:{uid}::/home/{name}:/bin/bash' >> /etc/passwd\n\
                 echo '{name}:x:{uid}:' >> /etc/group\n\
                 mkdir -p /home/{name}; chown {uid}:{uid} /home/{name}; chmod 750 /home/{name}\n"
            );
        }
        if self.shape.init == Init::Systemd {
            // It wrote for the machine that it was.
            script += "systemctl restart systemd-journald\n";
        }
        self.run(&script)?;
        self.furnish()
    }

    /// Gives it what is lost with its power: the delivered programs, its address and its link.
    fn furnish(&self) -> anyhow::Result<()> {
        let (mac, address) = (mac(self.parts.number), self.address());
        let mut script = format!(
            "blockdev --flushbufs /dev/vdb; mount -o ro /dev/vdb /opt/phantom\n\
             ip link set lo up; ip link set eth0 address {mac}\n\
             ip addr flush dev eth0; ip addr add {address}/24 dev eth0; ip link set eth0 up\n"
        );
        if let Some(netem) = self.shared.link().netem() {
            script += &format!("tc qdisc replace dev eth0 root {netem}\n");
        }
        self.run(&script).map(drop)
    }

    fn resize_disk(&mut self, disk_gib: u32) -> anyhow::Result<()> {
        let size = u64::from(disk_gib) << 30;
        let machine = self.machine.as_mut().context("it has no power")?;
        machine.control().run("block_resize", json!({"device": "disk", "size": size}))?;
        let wait = format!(
            "while [ $(blockdev --getsize64 /dev/vda) != {size} ]; do :; done; resize2fs /dev/vda"
        );
        self.run(&wait).map(drop)
    }
}

impl Node for Desktop {
    fn name(&self) -> &str {
        &self.name
    }

    fn phantom(&self, as_user: bool, args: &[&str]) -> anyhow::Result<Output> {
        let run = Run { user: self.user(as_user)?, terminal: None, args: phantom(args) };
        self.output(run, COMMAND)
    }

    fn terminal(&self, args: &[&str]) -> anyhow::Result<Terminal> {
        self.bare_terminal(self.user(true)?, phantom(args))
    }

    fn slowness(&self) -> u32 {
        self.shared.host.accel.slowness()
    }

    fn shell(&self, script: &str) -> anyhow::Result<String> {
        let user = self.user(true)?;
        self.checked(Run { user, ..shell(script) }, script, COMMAND)
    }
}

fn phantom(args: &[&str]) -> Vec<String> {
    std::iter::once("phantom").chain(args.iter().copied()).map(str::to_owned).collect()
}

/// A shell script as a command.
fn shell(script: &str) -> Run {
    let args = ["sh", "-euc", script].map(str::to_owned).to_vec();
    Run { args, ..Run::default() }
}

impl Run {
    fn with(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }
}

fn run_on(desktop: &Desktop, command: Run, input: Vec<u8>) -> anyhow::Result<Output> {
    let machine = desktop.machine()?;
    run(machine, command, input, COMMAND).map_err(|error| desktop.blame(error))
}

fn run(
    machine: &Machine,
    command: Run,
    input: Vec<u8>,
    deadline: Duration,
) -> anyhow::Result<Output> {
    let shown = command.args.last().cloned().unwrap_or_default();
    let mut channel = machine.link().start(&Request::Run(command))?;
    let mut keyboard = channel.keyboard();
    keyboard.write_all(&input).and_then(|()| keyboard.end()).context("its agent takes nothing")?;
    finish(&mut channel, deadline).with_context(|| format!("running `{shown}`"))
}

/// A desktop that ended in the middle of a command.
#[derive(Debug, thiserror::Error)]
#[error("the desktop ended meanwhile")]
struct Gone;

/// A command that took too long.
#[derive(Debug, thiserror::Error)]
#[error("it did not end within {deadline:?}; so far it printed {printed:?}")]
struct Late {
    deadline: Duration,
    printed: String,
}

/// Hears a command to its end.
fn finish(channel: &mut Channel, deadline: Duration) -> anyhow::Result<Output> {
    let end = Instant::now() + deadline;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        let frame = match channel.next(end.saturating_duration_since(Instant::now())) {
            Next::Frame(frame) => frame,
            Next::Late => {
                let printed = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
                return Err(Late { deadline, printed }.into());
            }
            Next::Gone => return Err(Gone.into()),
        };
        match frame.kind {
            Kind::Output => stdout.extend(frame.payload),
            Kind::Errors => stderr.extend(frame.payload),
            Kind::Exit => {
                return Ok(Output {
                    code: frame.number().unwrap_or(-1),
                    stdout: String::from_utf8_lossy(&stdout).into_owned(),
                    stderr: String::from_utf8_lossy(&stderr).into_owned(),
                });
            }
            Kind::Refused => bail!("{}", String::from_utf8_lossy(&frame.payload)),
            _ => {}
        }
    }
}
