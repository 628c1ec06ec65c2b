//! The description of a running capsule, kept by its shim on disk for all that comes later:
//! freezing, saving, serving files, cleaning up.

use phantom_model::app::OsText;
use serde::{Deserialize, Serialize};

use crate::ids::IdMaps;
use crate::plan::{CapsulePlan, External, Shown};

/// The terminal slave an app was started on, as a checkpoint names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TtyIdentity {
    /// `st_rdev` of the slave: which terminal it is.
    pub rdev: u64,
    /// `st_dev` of the slave: the devpts it is on.
    pub dev: u64,
}

/// One mount of the capsule as it was really made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindMount {
    /// Where, inside. The root comes first.
    pub inside: OsText,
    /// Where on the home it comes from.
    pub source: OsText,
    /// How the app sees it.
    pub shown: Shown,
    /// Whether the app may write.
    pub read_only: bool,
}

/// A running capsule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capsule {
    /// Its init, as this host numbers it.
    pub init_pid: i32,
    /// Start time of the init (`/proc/PID/stat`, field 22), so that the number is never mistaken.
    pub init_start: u64,
    /// The ids.
    pub ids: IdMaps,
    /// The app's user id inside.
    pub uid: u32,
    /// The app's group id inside.
    pub gid: u32,
    /// The app's further groups inside.
    pub groups: Vec<u32>,
    /// Working directory, inside.
    pub cwd: OsText,
    /// Pieces of the home's tree, the root first.
    pub binds: Vec<BindMount>,
    /// What a checkpoint must name and a restore must provide.
    pub externals: Vec<External>,
    /// The terminal it was started on.
    pub tty: TtyIdentity,
    /// What the user should know, one line each.
    pub notes: Vec<String>,
}

impl Capsule {
    pub(crate) fn new(
        plan: &CapsulePlan,
        (init_pid, init_start): (i32, u64),
        binds: Vec<BindMount>,
        tty: TtyIdentity,
        notes: Vec<String>,
    ) -> Self {
        // What could not be mounted is not there to be named.
        let made = |external: &&External| match external.kind {
            crate::plan::ExternalKind::UserFiles | crate::plan::ExternalKind::SystemFiles => {
                binds.iter().any(|bind| bind.inside == external.inside)
            }
            _ => true,
        };
        Self {
            init_pid,
            init_start,
            ids: plan.ids.clone(),
            uid: plan.uid,
            gid: plan.gid,
            groups: plan.groups.clone(),
            cwd: plan.cwd.clone(),
            externals: plan.externals.iter().filter(made).cloned().collect(),
            binds,
            tty,
            notes,
        }
    }

    /// The app's user id as this host sees it.
    pub fn host_uid(&self) -> u32 {
        self.ids.uid_outside(self.uid).unwrap_or(self.ids.base)
    }

    /// The app's group id as this host sees it.
    pub fn host_gid(&self) -> u32 {
        self.ids.gid_outside(self.gid).unwrap_or(self.ids.base)
    }
}
