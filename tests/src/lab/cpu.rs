//! A share of a processor for one node: nodes of a laboratory are otherwise all as fast as the
//! machine they are on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use super::{LabNode, Node, Output, wait_until};

/// Where version 1 of control groups has its cpu controller, as a rule.
const V1: &str = "/sys/fs/cgroup/cpu";
const V2: &str = "/sys/fs/cgroup";

/// A control group that gets one part of a processor. It goes when it is dropped, which must be
/// after the node's processes have.
pub struct CpuShare(PathBuf);

impl CpuShare {
    /// One part of `of`, given out in turns of a millisecond. `None` where the machine has no cpu
    /// controller to give.
    pub fn one_of(name: &str, of: u32) -> anyhow::Result<Option<Self>> {
        let name = format!("phantom-lab-{}-{name}", std::process::id());
        let made = |dir: PathBuf| -> anyhow::Result<Self> {
            std::fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
            Ok(Self(dir))
        };
        if Path::new(V1).join("cpu.cfs_quota_us").exists() || Path::new(V1).join("tasks").exists() {
            let share = made(Path::new(V1).join(name))?;
            std::fs::write(share.0.join("cpu.cfs_period_us"), (of * 1000).to_string())?;
            std::fs::write(share.0.join("cpu.cfs_quota_us"), "1000")?;
            return Ok(Some(share));
        }
        let given = std::fs::read_to_string(Path::new(V2).join("cgroup.subtree_control"));
        if !given.unwrap_or_default().split_whitespace().any(|one| one == "cpu") {
            return Ok(None);
        }
        let share = made(Path::new(V2).join(name))?;
        std::fs::write(share.0.join("cpu.max"), format!("1000 {}", of * 1000))?;
        Ok(Some(share))
    }

    /// Starts the node's daemon with this share: `phantom up` with these arguments.
    pub fn up(&self, node: &LabNode, args: &[&str]) -> anyhow::Result<Output> {
        let procs = self.0.join("cgroup.procs");
        let script = format!("echo $$ > {}; exec \"$@\"", procs.display());
        let phantom = [node.phantom_path(), "up"];
        node.enter(&[&["sh", "-euc", &script, "sh"], &phantom[..], args].concat())
            .with_context(|| format!("`phantom up` on {}", node.name()))
    }
}

impl Drop for CpuShare {
    fn drop(&mut self) {
        let gone = || Ok(std::fs::remove_dir(&self.0).is_ok() || !self.0.exists());
        let _ = wait_until("the end of a control group", Duration::from_secs(5), gone);
    }
}
