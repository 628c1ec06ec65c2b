//! The capsule while its processes are on this node.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use phantom_capsule::Capsule;
use phantom_capsule::cgroup::Cgroup;
use phantom_capsule::net::{self, Network};
use phantom_capsule::os::pty;
use phantom_capsule::os::spawn::{self, Namespaces};
use phantom_capsule::plan::CapsulePlan;
use phantom_model::AppId;

use super::carry::Blueprint;
use super::control::Charge;

/// How long stopping or starting all processes may take.
pub const FREEZE_DEADLINE: Duration = Duration::from_secs(10);
/// Inside process id of the app itself; its init is 1.
const APP_PID_INSIDE: &str = "2";

/// The capsule and this node's side of it.
pub struct Here {
    /// Its description.
    pub capsule: Capsule,
    /// The shim's side of its terminal.
    pub master: OwnedFd,
    /// The app's side, kept open so that the terminal outlives the app's last write.
    pub _slave: OwnedFd,
    /// Readable when its init has ended.
    pub pidfd: OwnedFd,
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// Its network, where it has one.
    pub network: Option<Network>,
    /// Its control group.
    pub cgroup: Cgroup,
}

impl Here {
    /// Starts the app of `plan` at its home. What the plan has served is below `served`.
    pub fn start(
        charge: &Charge,
        plan: CapsulePlan,
        served: Option<&Path>,
    ) -> anyhow::Result<(Self, Blueprint)> {
        let owner = |id: Option<u32>| id.context("the user's ids do not fit the capsule's range");
        let uid = owner(plan.ids.uid_outside(plan.uid))?;
        let gid = owner(plan.ids.gid_outside(plan.gid))?;
        let pair = pty::open_pair(uid, gid, charge.spec.term_size)?;
        let cgroup = charge.make_cgroup()?;
        let folder = cgroup.open()?;
        let started = match spawn::start(&plan, served, pair.slave.as_fd(), Some(folder.as_fd())) {
            Ok(started) => started,
            Err(error) => {
                let _ = cgroup.remove();
                return Err(error.into());
            }
        };
        let blueprint = Blueprint { plan, capsule: started.capsule.clone() };
        let mut here = Self {
            capsule: started.capsule,
            master: pair.master,
            _slave: pair.slave,
            pidfd: started.pidfd,
            namespaces: started.namespaces,
            network: None,
            cgroup,
        };
        if charge.network {
            here.attach_network(charge.app, None, &charge.network_lock);
        }
        Ok((here, blueprint))
    }

    /// Gives the capsule a network, or notes why it has none.
    pub fn attach_network(&mut self, app: AppId, earlier: Option<&Network>, lock: &Path) {
        match net::attach(self.namespaces.network.as_fd(), app, earlier, lock) {
            Ok(network) => self.network = Some(network),
            Err(error) => {
                self.capsule.notes.push(format!("it has no network: {error}"));
            }
        }
    }

    /// Takes the network away; only loopback stays. Gives what it was.
    pub fn detach_network(&mut self, lock: &Path) -> Option<Network> {
        let network = self.network.take()?;
        if let Err(error) = net::detach(&network, lock) {
            tracing::warn!(%error, "the app's network could not be taken away whole");
        }
        Some(network)
    }

    /// Its init's process id.
    pub fn init(&self) -> Pid {
        Pid::from_raw(self.capsule.init_pid)
    }

    /// Sends a signal to the app itself; SIGKILL ends all of the capsule.
    pub fn signal(&self, number: i32) -> anyhow::Result<()> {
        let signal = Signal::try_from(number).context("no such signal")?;
        if signal == Signal::SIGKILL {
            return Ok(kill(self.init(), signal)?);
        }
        for pid in self.cgroup.processes()? {
            let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else {
                continue;
            };
            let inside = status
                .lines()
                .find_map(|line| line.strip_prefix("NSpid:"))
                .and_then(|list| list.split_whitespace().last());
            if inside == Some(APP_PID_INSIDE) {
                return Ok(kill(Pid::from_raw(pid), signal)?);
            }
        }
        bail!("the app has just ended")
    }

    /// Takes the init's exit status; to be called when the pidfd is readable.
    pub fn exit_code(&self) -> i32 {
        match waitpid(self.init(), None) {
            Ok(WaitStatus::Exited(_, code)) => code,
            Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
            other => {
                tracing::warn!(?other, "the app's exit status is not known");
                255
            }
        }
    }

    /// Ends whatever is left of it and removes its control group and network.
    pub fn clear_away(mut self, lock: &Path) {
        if let Err(error) = self.cgroup.kill() {
            tracing::warn!(%error, "the app's processes could not be killed");
        }
        if let Err(error) = self.cgroup.wait_empty(FREEZE_DEADLINE) {
            tracing::warn!(%error, "processes of the app are left");
        }
        // Its exit status, if nobody has taken it yet, so that no zombie stays.
        let _ = waitpid(self.init(), Some(nix::sys::wait::WaitPidFlag::WNOHANG));
        self.detach_network(lock);
        if let Err(error) = self.cgroup.remove() {
            tracing::warn!(%error, "the app's control group could not be removed");
        }
    }
}
